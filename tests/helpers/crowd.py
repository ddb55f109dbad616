"""Clusters of as many hosts as a measurement wants: two gateways, and twelve instances on each other one."""

from __future__ import annotations

from typing import Any

from fiefdom.converge.run import Known
from fiefdom.model import Cluster, Secrets
from helpers.example import GOSSIP_KEY

GATEWAYS = 2
"""Of all hosts, these are gateways; the rest are app hosts."""

SERVICES: dict[str, Any] = {
    "predictor": {
        "image": "team/predictor",
        "version": "1.2.0",
        "instances": 8,
        "environment": {"MODEL": "large"},
        "links": ["store"],
    },
    "web": {
        "image": "team/web",
        "version": "7",
        "base_port": 9000,
        "container_port": 3000,
        "instances": 4,
        "route": {"port": 8080, "host": "www.example.org"},
        "jobs": {"clean": {"command": ["clean"], "schedule": "daily"}},
    },
    "store": {
        "image": "team/store",
        "version": "3",
        "base_port": 6379,
        "instances": 1,
        "groups": ["store_hosts"],
        "kind": "tcp",
    },
}


def inventory(hosts: int, **changes: Any) -> dict[str, Any]:
    """``hosts`` hosts with 12 instances each, of two services that link to a third; keywords are keys."""

    def host(number: int) -> dict[str, Any]:
        groups = ["gateways"] if number < GATEWAYS else ["app_hosts"]
        if number == GATEWAYS:
            groups.append("store_hosts")
        return {"address": f"10.{1 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}", "groups": groups}

    return {
        "cluster": "crowd",
        "hosts": {f"h{number}": host(number) for number in range(hosts)},
        "services": SERVICES,
        "network": {"cidr": "10.0.0.0/8", "admin_cidrs": ["192.0.2.7/32"], "client_cidrs": ["172.16.0.0/16"]},
        "gateway": {"address": "10.200.0.1", "known_hosts_only": True},
    } | changes


def cluster(hosts: int, **changes: Any) -> Cluster:
    """The cluster of such an inventory."""
    return Cluster.model_validate(inventory(hosts, **changes))


def known(hosts: int, **changes: Any) -> Known:
    """What a run knows of such a cluster."""
    return Known(cluster(hosts, **changes), Secrets(GOSSIP_KEY), {})
