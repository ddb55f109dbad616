"""What a service's kind has no use for, and what it needs."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.hosts import APP_HOSTS, Service
from fiefdom.model.text import Problem
from fiefdom.wording import KeyPath

_HEALTH = {
    "path": "nobody speaks HTTP to kind tcp; take it out, or check with health.command",
    "status": "kind tcp answers with no status; take it out, or check with health.command",
    "host": "nobody speaks HTTP to kind tcp; take it out",
}
_ROUTE = {
    "host": "a connection of kind tcp names no host; take it out, and let route.port be its own",
    "path_prefix": "a connection of kind tcp names no path; take it out, and let route.port be its own",
}


def kind_problems(cluster: Draft) -> Iterator[Problem]:
    """Keys of one kind on a service of the other, a gateway port for two, and gateways that could not reach it."""
    for name, service in cluster.services.items():
        above: KeyPath = ("services", name)
        if service.kind == "http":
            if service.health.command:
                says = "is for kind tcp; of kind http the gateways ask health.path, and so does the host"
                yield (*above, "health", "command"), says
            continue
        for key, says in _HEALTH.items():
            if key in service.health.model_fields_set:
                yield (*above, "health", key), says
        for key in sorted(service.route.model_fields_set - {"port"}):
            yield (*above, "route", key), _ROUTE.get(key, "is for HTTP, of which kind tcp knows nothing; take it out")
        if service.health.command and service.health.base_port is not None:
            says = "is asked in the container; take health.base_port and health.container_port out"
            yield (*above, "health", "command"), says
        yield from _port_problems(cluster, name, service)
        yield from _host_problems(cluster, name)


def _port_problems(cluster: Draft, name: str, service: Service) -> Iterator[Problem]:
    port, tls = service.gateway_port, cluster.gateway.tls
    if tls is not None and port == tls.port:
        yield ("services", name, "route", "port"), f"{port} is gateway.tls.port, which speaks HTTP; give it its own"
    for other, its in cluster.services.items():
        # Two of kind tcp are told of once.
        if port is not None and other != name and its.gateway_port == port and (its.kind == "http" or other < name):
            says = f"{port} leads to {other}, and a gateway port of kind tcp is for one service; give each its own"
            yield ("services", name, "route", "port"), says


def _host_problems(cluster: Draft, name: str) -> Iterator[Problem]:
    if not cluster.is_routed(name):
        return
    for host in cluster.runs_on(name):
        if APP_HOSTS not in cluster.hosts[host].groups:
            says = f"gateways learn of services from app hosts alone, and {host}, which runs it, is none; "
            mend = f"add app_hosts to hosts.{host}.groups, of which other services may be, or take the port out"
            yield ("services", name, "route", "port"), says + mend
