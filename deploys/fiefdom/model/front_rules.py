"""What stands before gateways, and what instances behind them speak: keys that would break each other."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.text import Problem
from fiefdom.wording import KeyPath

PLAIN_BUFFER_KIB = 16
"""HAProxy's own size of a buffer, of which a request and its answer have one each."""


def front_problems(cluster: Draft) -> Iterator[Problem]:
    """Balancers and proxies before the gateways that could not come in, and buffers that would not fit."""
    gateway = cluster.gateway
    for i, cidr in enumerate(gateway.proxy_protocol):
        wrong = "begins no connection with a PROXY header, so that gateways would refuse it; name the balancers alone"
        yield from _before_problems(cluster, ("gateway", "proxy_protocol", i), cidr, wrong)
    for i, cidr in enumerate(gateway.proxies):
        wrong = "is no proxy, so that any program there could say that it is another client; name the proxies alone"
        # Behind a balancer, a proxy's own connection ends at that one.
        yield from _before_problems(
            cluster, ("gateway", "proxies", i), cidr, wrong, behind=bool(gateway.proxy_protocol)
        )
    needed_mib = 2 * gateway.maxconn * gateway.buffer_kib // 1024
    if gateway.buffer_kib > PLAIN_BUFFER_KIB and needed_mib > gateway.memory_mib:
        says = f"{gateway.maxconn} connections may take {needed_mib} MiB of buffers, and gateway.memory_mib is"
        yield ("gateway", "buffer_kib"), f"{says} {gateway.memory_mib}; raise that, or lower gateway.maxconn"


def _before_problems(cluster: Draft, key: KeyPath, cidr: str, wrong: str, *, behind: bool = False) -> Iterator[Problem]:
    network = ipaddress.IPv4Network(cidr)
    own = [name for name, host in cluster.hosts.items() if ipaddress.IPv4Address(host.address) in network]
    if own:
        yield key, f"{own[0]} is in {cidr} and {wrong}, such as 10.20.0.9/32"
    elif not behind and not any(network.overlaps(ipaddress.IPv4Network(one)) for one in cluster.network.clients):
        known = ", ".join(cluster.network.clients)
        yield key, f"the firewall lets nobody from {cidr} in, only {known}; add it to network.client_cidrs"


def sticky_problems(cluster: Draft) -> Iterator[Problem]:
    """A cookie of two services, each of which would take the other's for one of nobody; one that is taken away."""
    seen: dict[str, str] = {}
    for name, service in cluster.services.items():
        cookie = service.route.sticky_cookie
        if cookie is not None and "cookie" in map(str.lower, service.route.headers.request):
            says = "Cookie is what sticky_cookie is read from, after this; take one of the two out"
            yield ("services", name, "route", "headers", "request"), says
        if cookie in seen:
            says = f"{cookie} is the cookie of {seen[cookie]} as well; give each service its own"
            yield ("services", name, "route", "sticky_cookie"), says
        elif cookie is not None:
            seen[cookie] = name


def balancer_problems(cluster: Draft) -> Iterator[Problem]:
    """A path at which gateways would have to tell of two services."""
    seen: dict[tuple[int, str], str] = {}
    for name, service in cluster.services.items():
        path = service.route.balancer_path
        if service.kind == "tcp" or path is None:
            continue
        taken = [seen[port, path] for port in cluster.front_ports(name) if (port, path) in seen]
        if taken:
            says = f"{path} tells of {taken[0]} already at this port; give each service its own"
            yield ("services", name, "route", "balancer_path"), says
        seen.update(dict.fromkeys(((port, path) for port in cluster.front_ports(name)), name))


def h2c_problems(cluster: Draft) -> Iterator[Problem]:
    """What HTTP/2 in clear text leaves no room for."""
    for name, service in cluster.services.items():
        key: KeyPath = ("services", name)
        if service.h2c and service.kind == "tcp":
            yield (*key, "h2c"), "is for kind http, of which HTTP/2 is one; take it out, or the kind"
        elif service.h2c and service.route.max_body_kib is not None:
            says = "a call of gRPC tells no length, so that all would get 411; take it out"
            yield (*key, "route", "max_body_kib"), says
