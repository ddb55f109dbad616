"""What `development` and the services of an inventory can contradict each other in."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.model.development import DevelopmentOverride
from fiefdom.model.draft import Draft
from fiefdom.model.links import variables
from fiefdom.model.text import Problem, twice
from fiefdom.wording import dotted


def development_problems(cluster: Draft) -> Iterator[Problem]:
    """Overrides of what is not there, links to nothing, one name for two, and middleware of no image."""
    found = cluster.development
    known = ", ".join(sorted(found.services)) or "none"
    for name, override in found.overrides.items():
        if name not in cluster.services:
            services = ", ".join(sorted(cluster.services))
            yield ("development", "overrides", name), f"no such service; known are {services}"
        for i, link in enumerate(override.links):
            if link not in found.services:
                says = f"{link} is not in development.services; known are {known}"
                if link in cluster.services:
                    says = (
                        f"{link} is a service; link to it in {dotted(('services', name, 'links'))}, for hosts as well"
                    )
                yield ("development", "overrides", name, "links", i), says
        yield from twice(("development", "overrides", name, "links"), override.links)
    for name in cluster.services:
        yield from _links_left_out(cluster, name, found.overrides.get(name))
    for name, middleware in found.services.items():
        if name in cluster.services:
            says = "a service of the inventory has this name; override that, or choose another name"
            yield ("development", "services", name), says
        if middleware.image is None and middleware.build is None:
            says = "has no image; add `image` with a tag, or `build` with the folder of a Dockerfile"
            yield ("development", "services", name), says


def _links_left_out(cluster: Draft, name: str, override: DevelopmentOverride | None) -> Iterator[Problem]:
    """Links of a service to one that a laptop leaves out, unless its environment there says where that is."""
    said = set[str]() if override is None else override.environment.keys()
    for link in cluster.services[name].links if override is None or override.instances else ():
        its = cluster.development.overrides.get(link)
        if its is not None and not its.instances and not variables(link, "", 0).keys() <= said:
            environment = dotted(("development", "overrides", name, "environment"))
            says = f"{name} links to {link}, of which a laptop has none with this; give it one, or {environment} say "
            yield ("development", "overrides", link, "instances"), says + " and ".join(variables(link, "", 0))
