"""Links: where a service finds another one, and which hosts may reach which for it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from fiefdom.model.draft import Draft
from fiefdom.model.hosts import Instance
from fiefdom.model.once import once


@dataclass(frozen=True)
class Way:
    """The one address at which hosts reach a service."""

    address: str
    port: int


class NoWayError(ValueError):
    """There is no such address; says why, and what to do."""


def variables(service: str, host: str, port: int) -> dict[str, str]:
    """What a link to ``service`` tells: `REDIS_HOST` and `REDIS_PORT`."""
    prefix = prefix_of(service)
    return {f"{prefix}_HOST": host, f"{prefix}_PORT": str(port)}


def prefix_of(service: str) -> str:
    """How the variables of a link to ``service`` begin, such as REDIS."""
    return service.upper().replace("-", "_")


def way(cluster: Draft, service: str) -> Way:
    """Where hosts reach ``service``: at its instance, where it has one; else at the gateway.

    Raises NoWayError where neither is one address.
    """
    wanted, count = cluster.services[service], cluster.instances_of(service)
    if not count:
        raise NoWayError(f"{service} runs nowhere; let it name a group that has hosts, and instances above 0")
    if count == 1:
        (host,) = cluster.runs_on(service)
        return Way(cluster.hosts[host].address, wanted.base_port)
    if wanted.gateway_port is None:
        raise NoWayError(
            f"{service} has {count} instances and no gateway port, so that none of its addresses stands for all; give "
            "it route.port, or one instance on one host"
        )
    if wanted.route.host:
        raise NoWayError(
            f"{service} has {count} instances, and gateways know it by the host name {wanted.route.host[0]} alone; "
            "give it a route.port of its own in place of route.host"
        )
    if cluster.is_over_tls_alone(service):
        raise NoWayError(
            f"{service} has {count} instances, and gateways have it over TLS alone, for host names and not for "
            "addresses; give it a route.port of its own"
        )
    if cluster.gateway.address is not None:
        return Way(cluster.gateway.address, wanted.gateway_port)
    if len(cluster.gateways) != 1:
        prefix = prefix_of(service)
        raise NoWayError(
            f"{service} has {count} instances behind {len(cluster.gateways)} gateways ({', '.join(cluster.gateways)}), "
            "and no address is that of all; give them one (gateway.address), or let `environment` say "
            f"{prefix}_HOST and {prefix}_PORT in place of the link"
        )
    return Way(cluster.hosts[cluster.gateways[0]].address, wanted.gateway_port)


def environment(cluster: Draft, service: str) -> dict[str, str]:
    """What the links of ``service`` tell its instances, on whichever host. Raises NoWayError."""
    found: dict[str, str] = {}
    for link in cluster.services[service].links:
        to = way(cluster, link)
        found |= variables(link, to.address, to.port)
    return found


def linking_hosts(cluster: Draft, service: str) -> tuple[str, ...]:
    """Names of the hosts that run a service which links to ``service``, in the inventory's order."""
    return _linking_hosts(cluster).get(service, ())


@once
def _linking_hosts(cluster: Draft) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for name, service in cluster.services.items():
        for link in service.links:
            found.setdefault(link, set()).update(cluster.runs_on(name))
    return {link: tuple(host for host in cluster.hosts if host in hosts) for link, hosts in found.items()}


def bridge(cluster: Draft) -> ipaddress.IPv4Network:
    """Addresses of containers, which is what their own host sees of them; every other one sees its address."""
    return ipaddress.IPv4Interface(cluster.docker.bridge_address).network


def seen_from(cluster: Draft, host: str) -> ipaddress.IPv4Network:
    """Where links from ``host`` come from, as the gateway has it that they lead through."""
    return bridge(cluster) if host in cluster.gateways else ipaddress.IPv4Network(cluster.hosts[host].address)


def linked_to(cluster: Draft, host: str) -> Iterator[Instance]:
    """Instances on ``host`` of services that others link to, wherever these run."""
    linked = {link for service in cluster.services.values() for link in service.links}
    return (instance for instance in cluster.instances(host) if instance.service in linked) if linked else iter(())


def ports_within(cluster: Draft, host: str) -> tuple[int, ...]:
    """Ports of instances on ``host`` that others on it link to, in order."""
    here = {n for n, service in cluster.services.items() if service.links and cluster.count(host, n)}
    linked = {link for name in here for link in cluster.services[name].links}
    return tuple(sorted(i.port for i in linked_to(cluster, host) if i.service in linked))


def beside(cluster: Draft, host: str, service: str) -> tuple[Instance, ...]:
    """Instances on ``host`` of what ``service`` links to."""
    to = cluster.services[service].links
    return tuple(i for i in cluster.instances(host) if i.service in to) if to else ()
