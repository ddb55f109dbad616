"""What a Prometheus is to ask of a cluster: a configuration for it, from the inventory alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fiefdom.model import APP_HOSTS, GATEWAYS, Cluster

INTERVAL = "15s"
HAPROXY, GATEWAY, HOST = "fiefdom-haproxy", "fiefdom-gateway", "fiefdom-host"
"""Jobs: HAProxy's own metrics, those of the gateway around it, and those of hosts. The alerts know these names."""


def scrape_config(cluster: Cluster) -> dict[str, Any]:
    """A configuration for Prometheus with one job for each kind of target that the cluster has."""
    stats = cluster.gateway.stats_port
    jobs = [
        {
            **_job(cluster, HAPROXY, "/metrics", cluster.gateways, stats),
            # HAProxy calls it a proxy what is a service here, beside its own.
            "metric_relabel_configs": [
                {
                    "source_labels": ["proxy"],
                    "regex": "|".join(map(re.escape, sorted(filter(cluster.is_routed, cluster.services)))),
                    "target_label": "service",
                    "replacement": "$0",
                }
            ],
        },
        _job(cluster, GATEWAY, "/fiefdom/metrics", cluster.gateways, stats),
    ]
    if cluster.monitoring.node_exporter:
        jobs.append(_job(cluster, HOST, "/metrics", cluster.hosts, cluster.monitoring.port))
    return {"scrape_configs": jobs}


def _job(cluster: Cluster, name: str, path: str, hosts: Iterable[str], port: int) -> dict[str, Any]:
    return {
        "job_name": name,
        "metrics_path": path,
        "scrape_interval": INTERVAL,
        "static_configs": [
            {
                "targets": [f"{cluster.hosts[host].address}:{port}"],
                "labels": {"cluster": cluster.cluster, "host": host, "role": _role(cluster, host)},
            }
            for host in hosts
        ],
    }


def _role(cluster: Cluster, host: str) -> str:
    groups = cluster.hosts[host].groups
    return "gateway" if GATEWAYS in groups else "app" if APP_HOSTS in groups else "other"
