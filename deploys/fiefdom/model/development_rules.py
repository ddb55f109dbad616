"""What `development` and the services of an inventory can contradict each other in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.text import Problem


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
                yield ("development", "overrides", name, "links", i), says
        if twice := [link for link, count in Counter(override.links).items() if count > 1]:
            yield ("development", "overrides", name, "links"), f"{twice[0]} stands there twice; once is enough"
    for name, middleware in found.services.items():
        if name in cluster.services:
            says = "a service of the inventory has this name; override that, or choose another name"
            yield ("development", "services", name), says
        if middleware.image is None and middleware.build is None:
            says = "has no image; add `image` with a tag, or `build` with the folder of a Dockerfile"
            yield ("development", "services", name), says
