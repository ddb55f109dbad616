"""Links on simulated hosts: another address is a release that waits, and nobody who links loses the old one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fiefdom.converge import look, plan
from fiefdom.converge.run import Known
from fiefdom.desired import firewall, links
from fiefdom.desired.containers import env_path
from helpers.clock import stopped
from helpers.released import APPS, known
from helpers.simulated import SimulatedHosts, answer, bring, converged

PINNED = {"app3": {"address": "10.1.0.32", "groups": ["app_hosts", "middleware"]}, "gw2": None}


def wants(**service: Any) -> Known:
    """The cluster with a redis on app3 that its service on every host links to."""
    redis = {"kind": "tcp", "image": "redis", "version": "7", "base_port": 6379, "container_port": 6379}
    redis |= {"groups": ["middleware"], "user": "999:999", "route": {"port": 6400}}
    return known(services={"redis": redis | service, "predictor": {"links": ["redis"]}}, hosts=PINNED)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(wants(), tmp_path)


def planned(hosts: SimulatedHosts) -> plan.Plan:
    return plan.merge(look.plan_of(hosts.known, name, answer(h.now)) for name, h in hosts.hosts.items())


def test_a_converged_cluster_is_clean_and_its_way_on_one_host_is_a_unit(hosts: SimulatedHosts) -> None:
    assert planned(hosts).clean
    assert hosts.hosts["app3"].now.units[links.UNIT].active == "active"
    assert links.UNIT not in hosts.hosts["app1"].now.units
    for name in APPS:
        assert b"REDIS_HOST=10.1.0.32\n" in hosts.hosts[name].contents[env_path("predictor-8000")]


def test_rules_that_somebody_took_away_are_drift(hosts: SimulatedHosts) -> None:
    hosts.hosts["app3"].now.live[links.UNIT] = "nothing"
    found = [(c.kind, c.name, c.why) for c in planned(hosts).hosts[list(hosts.hosts).index("app3")].changes]
    assert found == [("unit", links.UNIT, "reload: changed behind its back")]


def test_another_address_waits_for_the_rollout_of_who_links(hosts: SimulatedHosts) -> None:
    """An instance more, so that the gateway's is the one that stands for both."""
    before = hosts.hosts["app3"].contents[firewall.RULES].decode()
    bring(hosts, wants(instances=2))
    after = hosts.hosts["app3"].contents[firewall.RULES].decode()
    pending = planned(hosts)
    assert [(p.service, p.hosts) for p in pending.pending] == [("predictor", APPS)]
    assert pending.due.clean
    assert b"REDIS_HOST=10.1.0.32\n" in hosts.hosts["app1"].contents[env_path("predictor-8000")]
    way = "ip saddr { 10.1.0.30, 10.1.0.31, 10.1.0.33 } tcp dport"
    assert f"{way} {{ 6379 }} reject" in before and f"{way} {{ 6379-6380 }} reject" in after
