"""What no gateway has, in the picture of a cluster: its container alone counts, and nobody waits for its offer."""

from __future__ import annotations

import json
from typing import Any

from fiefdom.cluster import gossip, status
from fiefdom.cluster.status import Status
from fiefdom.cluster.views import missing, parse_view, up
from fiefdom.converge.snapshot import FoundContainer, FoundUnit, Snapshot
from fiefdom.model import Cluster
from helpers.example import context

REDIS: dict[str, Any] = {"kind": "tcp", "image": "redis", "version": "7", "base_port": 6379, "groups": ["web_hosts"]}


def cluster(**redis: Any) -> Cluster:
    """app2 runs a redis beside one instance of `predictor`."""
    hosts = {"gw2": None, "app1": None, "app2": {"services": {"predictor": {"instances": 1}}}}
    return context("gw1", services={"web": None, "redis": REDIS | redis}, hosts=hosts).cluster


def view() -> Any:
    offers = [{"service": "predictor"}]
    members = [{"name": "app2", "address": "10.1.0.22", "status": "alive", "offers": offers}]
    servers = [{"service": "predictor", "name": "app2-8000", "port": 8000, "state": "up"}]
    said = {"serf": {"ok": True}, "config": {"ok": True}, "members": members, "servers": servers, "rejected": []}
    return parse_view(json.dumps(said))


def seen(made: Cluster, *, running: bool = True) -> Status:
    def found(version: str, *, runs: bool = True) -> FoundContainer:
        return FoundContainer(runs, "sha256:1", "spec", "instance", version, True, "facts")

    app2 = Snapshot(
        0,
        "debian",
        "trixie",
        containers={"predictor-8000": found("1.2.0"), "redis-6379": found("7", runs=running)},
        units={"fiefdom-offer-predictor.service": FoundUnit("loaded", "active", says="offered: 1 of 1 instances")},
        offers={"predictor": "1.2.0;8000-8000"},
    )
    return status.combine(
        made, ("gw1", "app2"), {"gw1": Snapshot(0, "debian", "trixie"), "app2": app2}, {"gw1": view()}
    )


def test_it_is_up_by_its_container_alone_and_has_no_offer() -> None:
    found = seen(cluster())
    assert found.serving and status.degraded(found) == []
    assert [(i.service, i.servers) for i in found.instances] == [
        ("predictor", ("up",)),
        ("redis", (status.NOT_ROUTED,)),
    ]
    assert [o.service for o in found.offers] == ["predictor"]


def test_one_that_is_down_is_told() -> None:
    found = seen(cluster(), running=False)
    assert not found.serving
    assert status.degraded(found) == ["redis at app2:6379 is stopped"]


def test_with_a_gateway_port_it_is_waited_for() -> None:
    made = cluster(route={"port": 6379})
    found = seen(made)
    assert not found.serving and [o.service for o in found.offers] == ["predictor", "redis"]
    assert gossip.not_offered(made, ["app2"], {"gw1": view()}) == ["app2: gw1 does not have its offer of redis"]
    lacking = missing({"gw1": view()}, made, "app2")
    assert lacking is not None and lacking.reason == "gw1 has redis at app2:6379 out of rotation"


def test_without_one_no_gateway_lacks_it() -> None:
    made = cluster()
    assert gossip.not_offered(made, ["app2"], {"gw1": view()}) == []
    assert missing({"gw1": view()}, made, "app2") is None
    assert [i.service for i in up({"gw1": view()}, made, "app2")] == ["predictor"]
