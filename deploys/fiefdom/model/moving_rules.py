"""The address of all gateways together: one that nobody has, where their neighbours look for it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.text import Problem
from fiefdom.wording import KeyPath

# VRRP's priority is one byte, of which 255 and 0 say other things; each gateway has its own.
MOST_GATEWAYS = 200

_KEY: KeyPath = ("gateway", "address")


def moving_address_problems(cluster: Draft) -> Iterator[Problem]:
    if cluster.gateway.address is None:
        return
    address, network = ipaddress.IPv4Address(cluster.gateway.address), ipaddress.IPv4Network(cluster.network.cidr)
    if address not in network:
        # It moves by a word to the neighbours, who are those that think it is near.
        yield _KEY, f"{address} is outside network.cidr {network}; choose a free address in it"
    elif network.prefixlen < 31 and address in (network.network_address, network.broadcast_address):
        yield _KEY, f"{address} is an address that {network} keeps for itself; choose another"
    for name, host in cluster.hosts.items():
        if host.address == str(address):
            yield _KEY, f"{address} is the address of {name}, which it cannot leave; choose one that no host has"
        elif host.static is not None and str(address) in (host.static.gateway, *host.static.dns):
            yield _KEY, f"{address} is a router or DNS server to {name} (hosts.{name}.static); choose a free address"
        if host.ssh.address == str(address) or str(address) in host.ssh.listen:
            yield _KEY, f"{address} is where SSH finds {name}, and it may be another host's by then; choose a free one"
    if len(cluster.gateways) > MOST_GATEWAYS:
        yield _KEY, f"VRRP moves an address among {MOST_GATEWAYS} gateways at most; take it out"
