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


APP1 = {"address": "10.1.0.30", "groups": ["app_hosts"]}


def _redis(**service: Any) -> dict[str, Any]:
    redis = {"kind": "tcp", "image": "redis", "version": "7", "base_port": 6379, "container_port": 6379}
    redis |= {"groups": ["middleware"], "user": "999:999", "route": {"port": 6400}}
    return {"redis": redis | service}


def wants(**service: Any) -> Known:
    """The cluster with a redis on app3 that its service on every host links to."""
    return known(services=_redis(**service) | {"predictor": {"links": ["redis"]}}, hosts=PINNED)


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


def warned(hosts: SimulatedHosts, known: Known) -> dict[str, list[str]]:
    made = {name: look.plan_of(known, name, answer(h.now)) for name, h in hosts.hosts.items()}
    return {name: [str(f) for f in p.findings if f.what == "link"] for name, p in made.items() if p.findings}


def test_a_link_that_what_runs_still_has_is_told_while_its_way_closes(hosts: SimulatedHosts) -> None:
    assert warned(hosts, wants()) == {}
    without = known(services=_redis() | {"predictor": {"links": []}}, hosts=PINNED)
    says = (
        "predictor runs with a link to redis that the inventory has no more: apply closes the way, while what runs may "
        "still take it; keep the link until a version that does without it is rolled out"
    )
    assert warned(hosts, without) == {name: [says] for name in APPS}
    bring(hosts, without)
    assert warned(hosts, without) == {name: [says] for name in APPS}, "until the rollout"
    bring(hosts, without, hold=())
    assert warned(hosts, without) == {}


def test_so_is_one_of_a_service_that_leaves_its_host(hosts: SimulatedHosts) -> None:
    away = {"app1": APP1 | {"services": {"predictor": {"instances": 0}}}}
    services = _redis() | {"predictor": {"links": ["redis"]}, "web": {"groups": ["app_hosts"]}}
    found = warned(hosts, known(services=services, hosts=PINNED | away))
    (says,) = found.pop("app1")
    assert says.endswith("; until predictor is stopped here, requests that need redis fail") and found == {}
