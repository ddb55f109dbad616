"""What keeps Prometheus from being answered."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.text import Problem


def monitoring_problems(cluster: Draft) -> Iterator[Problem]:
    """Exporters that nobody could ask, and who asks from a network that is a host's own."""
    monitoring = cluster.monitoring
    if monitoring.node_exporter and cluster.network.firewall and not monitoring.from_cidrs:
        says = "the firewall lets nobody ask the node exporters; name the network of your Prometheus"
        yield ("monitoring", "from_cidrs"), f"{says}, such as 10.20.0.9/32"
    own = {
        "docker.bridge_address": ipaddress.IPv4Interface(cluster.docker.bridge_address).network,
        "docker.address_pool": ipaddress.IPv4Network(cluster.docker.address_pool),
    }
    for i, cidr in enumerate(monitoring.from_cidrs):
        network = ipaddress.IPv4Network(cidr)
        for name, other in own.items():
            if network.prefixlen and network.overlaps(other):
                # What a host has on a bridge of its own it answers there, and not to who comes from outside.
                yield ("monitoring", "from_cidrs", i), f"{cidr} overlaps {name} {other}; choose a free network for that"
