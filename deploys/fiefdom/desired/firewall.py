"""The firewall: one nftables table of ours, replaced whole, that lives beside Docker's tables.

A published port is never seen by an input chain, because Docker's DNAT forwards it, so the table has a forward chain
of its own ahead of Docker's, and a chain behind its address translation. A drop in any base chain is final, an accept
is not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from pathlib import PurePath

from fiefdom.desired.context import Context
from fiefdom.desired.cutting import Cutting
from fiefdom.desired.ports import ranges
from fiefdom.desired.render import render
from fiefdom.desired.state import Directory, File, HostState, Package, Unit
from fiefdom.model import Cluster, links
from fiefdom.model.once import once

RULES = "/etc/fiefdom/firewall.nft"
BASE_RULES = "/etc/fiefdom/firewall-base.nft"
"""The same without the inventory's own rules: what a host falls back to at boot."""
UNIT = "fiefdom-firewall.service"
SERVICE = f"/etc/systemd/system/{UNIT}"
NFTABLES_DROP_IN = "/etc/systemd/system/nftables.service.d/10-fiefdom.conf"
STANDS = "/run/fiefdom-firewall"
"""Is there from the moment that our rules stand, until the next boot."""

CUTTING = Cutting(
    paths=("/etc/fiefdom/firewall", SERVICE, f"{PurePath(NFTABLES_DROP_IN).parent}/"),
    units=(UNIT,),
    harmless={
        "/etc/fiefdom": "root reads what is in it, whatever its mode",
        STANDS: "it only says that the rules stand",
    },
)

_CHECK = ("unshare", "--net", "nft", "-c", "-f", "{}")


def desired(context: Context) -> HostState:
    """The host's firewall; nothing where the inventory keeps Fiefdom out of it.

    A rule that names an interface or a host is not to be had before the network is up, and nft takes all rules or none.
    So they are checked in a network namespace of their own, where there is as little as at boot; and where they cannot
    be loaded all the same, the unit fails but loads the rest.

    A host's own rules are its own: where Debian's nftables.service is enabled, it goes on loading them at boot, before
    ours. Later on its start, stop and reload run `flush ruleset`, which takes Docker's rules and ours with it, so our
    drop-in keeps it from that while ours stand.
    """
    if not context.cluster.network.firewall:
        return HostState()
    return HostState(
        packages=(Package("nftables"),),
        directories=(
            Directory("/etc/fiefdom"),
            Directory("/etc/systemd/system/nftables.service.d"),
            Directory(STANDS),
        ),
        files=(
            File(RULES, _rules(context, context.cluster.network.input_rules).encode(), check=_CHECK),
            File(BASE_RULES, _rules(context, ()).encode(), check=_CHECK),
            File(
                SERVICE,
                render(
                    "fiefdom-firewall.service.j2", rules=RULES, base=BASE_RULES, stands=PurePath(STANDS).name
                ).encode(),
            ),
            File(NFTABLES_DROP_IN, render("nftables.service.conf.j2", stands=STANDS).encode()),
        ),
        units=(
            Unit(
                UNIT,
                config=(RULES,),
                on_change=("reload",),
                live=("nft", "-s", "list", "table", "inet", "fiefdom"),
            ),
        ),
    )


def _rules(context: Context, own: tuple[str, ...]) -> str:
    cluster = context.cluster
    network = cluster.network
    return _text(
        admins=network.admin_cidrs,
        clients=network.clients,
        members=_members(cluster),
        gateways=tuple(cluster.hosts[name].address for name in cluster.gateways),
        rules=own,
        is_gateway=context.is_gateway,
        moves_with=_moves_with(context),
        watchers=_networks(cluster.monitoring.from_cidrs),
        exporter_port=cluster.monitoring.port if cluster.monitoring.node_exporter else None,
        ssh_port=cluster.ssh_of(context.name)[1],
        gossip_port=cluster.serf.port,
        stats_port=cluster.gateway.stats_port,
        route_ports=ranges(cluster.fronts),
        # This is in force before the host's turn, until which gateways send it requests for what it runs.
        instance_ports=ranges({*(port for i in cluster.routed(context.name) for port in i.ports), *context.going}),
        linked=_linked(context),
        linked_routes=_linked_routes(context),
        linked_within=ranges(links.ports_within(cluster, context.name)),
        bridge=str(links.bridge(cluster)),
    )


def _moves_with(context: Context) -> tuple[str, ...]:
    """On a gateway: the others, with which it has an address that moves; none where there is no such address."""
    cluster = context.cluster
    if not context.is_gateway or cluster.gateway.address is None:
        return ()
    return _addresses(cluster, (name for name in cluster.gateways if name != context.name))


def _linked(context: Context) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Ports of instances here that services elsewhere link to, and the addresses of these hosts.

    Also where links lead to the gateway: what has one instance more since then is reached as before, until who links to
    it had a rollout.
    """
    cluster, found = context.cluster, dict[tuple[str, ...], set[int]]()
    for instance in links.linked_to(cluster, context.name):
        hosts = [name for name in links.linking_hosts(cluster, instance.service) if name != context.name]
        if hosts:
            found.setdefault(_addresses(cluster, hosts), set()).add(instance.port)
    return tuple((addresses, ranges(ports)) for addresses, ports in found.items())


def _linked_routes(context: Context) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """On a gateway: ports of services that others link to, and the addresses of the hosts of these.

    Of containers of its own it sees their own addresses, for nothing translates what stays on a host.
    """
    cluster, found = context.cluster, dict[tuple[str, ...], set[int]]()
    for name, service in cluster.services.items() if context.is_gateway else ():
        hosts = links.linking_hosts(cluster, name)
        if hosts and service.gateway_port is not None:
            own = (str(links.bridge(cluster)),) if context.name in hosts else ()
            found.setdefault((*_addresses(cluster, hosts), *own), set()).add(service.gateway_port)
    return tuple((addresses, ranges(ports)) for addresses, ports in found.items())


def _addresses(cluster: Cluster, hosts: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(str, sorted(ipaddress.IPv4Address(cluster.hosts[name].address) for name in hosts)))


@lru_cache(maxsize=64)  # hosts of one role with the same services have the same
def _text(
    *,
    admins: tuple[str, ...],
    clients: tuple[str, ...],
    members: tuple[str, ...],
    gateways: tuple[str, ...],
    **others: object,
) -> str:
    return render(
        "firewall.nft.j2",
        admins=_networks(admins),
        clients=_networks(clients),
        members=_networks(members),
        gateways=sorted(map(ipaddress.IPv4Address, gateways)),
        **others,
    )


@once
def _members(cluster: Cluster) -> tuple[str, ...]:
    """Who may gossip: the cluster's network, so that a new host joins without a change here, or its hosts alone."""
    if not cluster.gateway.known_hosts_only:
        return (cluster.network.cidr,)
    return tuple(cluster.hosts[name].address for name in (*cluster.gateways, *cluster.app_hosts))


def _networks(cidrs: Iterable[str]) -> tuple[str, ...]:
    """Networks without overlaps, which nftables refuses."""
    return tuple(str(network) for network in ipaddress.collapse_addresses(ipaddress.IPv4Network(c) for c in cidrs))
