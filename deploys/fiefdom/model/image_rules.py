"""What images, their versions and their registries can contradict each other in."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.model import references
from fiefdom.model.draft import Draft
from fiefdom.model.settings import Registry
from fiefdom.model.text import LAST_PORT, Problem
from fiefdom.wording import KeyPath, dotted


def image_problems(cluster: Draft) -> Iterator[Problem]:
    """Of services: a registry that is not there, and digests of what is in no registry or has another tag."""
    seen: dict[str, tuple[str, str]] = {}
    for name, service in cluster.services.items():
        key: KeyPath = ("services", name, "image")
        image = references.parse(service.image)
        if service.registry is not None:
            registry = cluster.registries.get(service.registry)
            if registry is None:
                known = ", ".join(sorted(cluster.registries)) or "none"
                yield ("services", name, "registry"), f"{service.registry} is not in `registries`; known are {known}"
                continue
            if image.named and image.domain != (domain := references.domain_of(registry.server)):
                says = f"the image is at {image.domain} by its name, and {service.registry} is {domain}; leave one out"
                yield ("services", name, "registry"), says
        if image.tag and image.tag != service.version:
            says = f"its tag {image.tag} is not the version {service.version}; make them equal, or leave the tag out"
            yield key, says
        if image.digest and service.build is not None:
            yield key, f"a digest is a registry's, and services.{name}.build says how it is built here; take one out"
        elif image.digest and cluster.registry_of(name) is None:
            yield (
                key,
                "a digest is a registry's, and this image is sent from the operator's machine; name its registry in "
                "`registries`, or leave the digest out",
            )
        if wrong := _no_port(image.domain):
            yield key, wrong
        whole = references.parse(cluster.image_ref(name))
        if (size := len(f"{whole.domain}/{whole.path}")) > references.NAME_MAX:
            yield key, f"with its registry the name has {size} characters, and Docker takes {references.NAME_MAX}"
            continue
        ref = whole.familiar
        other, digest = seen.setdefault(ref, (name, image.digest))
        if digest != image.digest:
            yield key, f"is {ref} with another digest than services.{other}; give one of the two another version"


def registry_problems(cluster: Draft) -> Iterator[Problem]:
    """Of registries: half a login, and two logins for one host."""
    found: dict[KeyPath, Registry] = {("registries", name): registry for name, registry in cluster.registries.items()}
    if cluster.registry is not None:
        found = {("registry",): cluster.registry, **found}
    logins: dict[str, KeyPath] = {}
    for key, registry in found.items():
        if wrong := _no_port(registry.server.partition("/")[0]):
            yield (*key, "server"), wrong
        if (registry.user is None) != (registry.password is None):
            yield key, "user and password go together; add the other one"
        elif registry.password is not None:
            domain = references.domain_of(registry.server)
            other = found[first := logins.setdefault(domain, key)]
            if (other.user, other.password) != (registry.user, registry.password):
                yield key, f"Docker keeps one login for {domain}, and {dotted(first)} has another; give both the same"


def _no_port(domain: str) -> str:
    port = references.port_of(domain)
    return "" if port is None or 1 <= port <= LAST_PORT else f"{domain} has no port from 1 to {LAST_PORT}; mend it"
