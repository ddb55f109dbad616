"""How clients reach services at the gateways: no two the same way, and none a way that leads nowhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.links import linking_hosts, seen_from
from fiefdom.model.text import Problem
from fiefdom.wording import KeyPath


def route_problems(cluster: Draft) -> Iterator[Problem]:
    seen: dict[tuple[int | None, str, str], str] = {}
    for name, service in cluster.services.items():
        route = service.route
        if service.kind == "tcp":  # which has a port for itself: see `kind_problems`
            continue
        ways = [
            (port, host.lower(), (route.path_prefix or "").rstrip("/"))
            for port in cluster.front_ports(name)
            for host in (*route.host, *route.redirect_from) or ("",)
        ]
        if taken := [seen[way] for way in ways if way in seen]:
            yield (
                ("services", name, "route"),
                f"{name} is reached the same way as {taken[0]}; give it its own port, host or path_prefix",
            )
        if len(set(ways)) < len(ways):
            yield ("services", name, "route", "host"), "a host name stands there twice; once is enough"
        for way in ways:
            seen.setdefault(way, name)


def tls_problems(cluster: Draft) -> Iterator[Problem]:
    tls = cluster.gateway.tls
    if tls is None:
        return
    if tls.port == tls.plain_port:
        yield ("gateway", "tls", "plain_port"), f"port {tls.port} is that of TLS; one port speaks one of the two"
    elif not any(tls.port in cluster.front_ports(n) for n, s in cluster.services.items() if s.kind == "http"):
        yield (
            ("gateway", "tls"),
            f"no service is reached at port {tls.plain_port} or {tls.port}, so that TLS would serve none; "
            "set plain_port to the port of a route",
        )


def way_problems(cluster: Draft) -> Iterator[Problem]:
    clients = [ipaddress.IPv4Network(cidr) for cidr in cluster.network.clients]
    for name, service in cluster.services.items():
        if service.kind == "tcp":
            continue
        key: KeyPath = ("services", name, "route")
        if service.route.strip_prefix and not (service.route.path_prefix or "").rstrip("/"):
            yield (*key, "strip_prefix"), "there is no path_prefix to be taken off; set one, or take this out"
        elif service.route.strip_prefix and cluster.gateway.dot_segments == "pass":
            yield (
                (*key, "strip_prefix"),
                "a path such as /a/../b would lead out of the prefix; set gateway.dot_segments: refuse",
            )
        if service.route.strip_prefix and "x-forwarded-prefix" in map(str.lower, service.route.headers.request):
            yield (*key, "headers", "request"), "with strip_prefix X-Forwarded-Prefix is the gateway's to say"
        if service.route.redirect_from and not (service.route.host and service.route.host[0][0] != "*"):
            yield (*key, "redirect_from"), "leads to the first `host`, which is none or a wildcard; write one there"
        for i, cidr in enumerate(service.route.allow_from):
            # Of clients behind a proxy the firewall knows nothing.
            known_to = (*clients, *(seen_from(cluster, host) for host in linking_hosts(cluster, name)))
            unseen = cluster.gateway.proxies or cluster.gateway.proxy_protocol
            if not unseen and not any(ipaddress.IPv4Network(cidr).overlaps(one) for one in known_to):
                known = ", ".join(cluster.network.clients)
                yield (
                    (*key, "allow_from", i),
                    f"the firewall lets nobody from {cidr} in, only {known}; mend one of the two",
                )
