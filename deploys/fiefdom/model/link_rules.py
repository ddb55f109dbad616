"""What the links of services can contradict: what is there, each other, and the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.links import NoWayError, prefix_of, seen_from, variables, way
from fiefdom.model.text import Problem, twice
from fiefdom.wording import KeyPath, dotted


def link_problems(cluster: Draft) -> Iterator[Problem]:
    """Links to nothing, to nowhere, to no one address and in circles; and variables that somebody set already."""
    for name, service in cluster.services.items():
        key: KeyPath = ("services", name, "links")
        yield from twice(key, service.links)
        for i, link in enumerate(service.links):
            if link not in cluster.services:
                yield (*key, i), _unknown(cluster, link)
            elif cluster.runs_on(name) and name not in (link, *_reached(cluster, link)):
                yield from _way_problems(cluster, (*key, i), name, link)
            if link in cluster.services and prefix_of(link).split("_")[0] == "FIEFDOM":
                says = f"{link} would be told in variables that begin with FIEFDOM, which are Fiefdom's own; rename it"
                yield (*key, i), says
        yield from _variable_problems(cluster, name)
    yield from _circles(cluster)


def _unknown(cluster: Draft, link: str) -> str:
    if link in cluster.development.services:
        says = f"{link} is on laptops alone, in development.services; link to it in development.overrides.SERVICE.links"
        return f"{says}, or make it a service"
    return f"no such service as {link}; known are {', '.join(sorted(cluster.services))}"


def _way_problems(cluster: Draft, key: KeyPath, name: str, link: str) -> Iterator[Problem]:
    try:
        way(cluster, link)
    except NoWayError as error:
        yield key, str(error)
        return
    allowed = [ipaddress.IPv4Network(cidr) for cidr in cluster.services[link].route.allow_from]
    if not allowed or cluster.instances_of(link) == 1:
        return
    for host in cluster.runs_on(name):
        source = seen_from(cluster, host)
        if not any(source.subnet_of(network) for network in allowed):
            at = dotted(("services", link, "route", "allow_from"))
            says = f"{link} is reached through the gateway, which refuses {name} on {host}; add {source} to {at}"
            yield key, says
            return


def _variable_problems(cluster: Draft, name: str) -> Iterator[Problem]:
    told = {v: link for link in cluster.services[name].links for v in variables(link, "", 0)}
    places: list[tuple[KeyPath, dict[str, object]]] = [
        (("services", name, "environment"), dict(cluster.services[name].environment))
    ]
    for host, its in cluster.hosts.items():
        if (override := its.services.get(name)) is not None:
            places.append((("hosts", host, "services", name, "environment"), dict(override.environment)))
    for key, environment in places:
        for variable in environment:
            if variable in told:
                link = dotted(("services", name, "links"))
                says = f"the link to {told[variable]} in {link} says it already; take one of the two out"
                yield (*key, variable), says


def _circles(cluster: Draft) -> Iterator[Problem]:
    told: set[str] = set()
    for name in cluster.services:
        circle = _circle(cluster, name)
        if circle and not told & set(circle):
            told |= set(circle)
            way = " -> ".join((*circle, name))
            says = f"{way} is a circle, in which none could start after the others; take a link out"
            yield ("services", name, "links"), says


def _reached(cluster: Draft, name: str) -> set[str]:
    """Services that links lead to from ``name``."""
    found: set[str] = set()
    open_ends = [name]
    while open_ends:
        links = cluster.services[open_ends.pop()].links
        new = {link for link in links if link in cluster.services} - found
        found |= new
        open_ends += new
    return found


def _circle(cluster: Draft, name: str) -> tuple[str, ...]:
    """Services on a way of links from ``name`` back to it, beginning with it; nothing where there is none."""
    ways: list[tuple[str, ...]] = [(name,)]
    seen: set[str] = set()
    while ways:
        here = ways.pop(0)
        for link in cluster.services[here[-1]].links:
            if link == name:
                return here
            if link in cluster.services and link not in seen:
                seen.add(link)
                ways.append((*here, link))
    return ()
