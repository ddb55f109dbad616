"""A service of kind tcp with one instance: replaced and rebooted with a pause that is told, not refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fiefdom.cli import show
from fiefdom.cluster import answering
from fiefdom.cluster.views import Missing, alone, gateway_view
from fiefdom.converge import look, plan
from fiefdom.converge.run import Known, Say
from fiefdom.errors import FiefdomError
from fiefdom.procedures import reboot, release, retire, rollout, rotate_key
from fiefdom.procedures.rollout import Wish
from helpers.clock import stopped
from helpers.released import Said, known
from helpers.simulated import SimulatedHosts, answer, bring, broken_off, converged

PINNED = {"app3": {"address": "10.1.0.32", "groups": ["app_hosts", "middleware"]}}
PAUSE = "redis pauses: its one instance stops before the next one starts"


def wants(version: str = "7", **service: Any) -> Known:
    """The cluster with a redis on app3."""
    redis = {
        "kind": "tcp",
        "image": "redis",
        "version": version,
        "base_port": 6379,
        "container_port": 6379,
        "groups": ["middleware"],
        "user": "999:999",
        "volumes": [{"name": "data", "path": "/data"}],
    }
    return known(services={"redis": redis | service}, hosts=PINNED)


class Asked:
    """Answers what a host's supervisor is asked: each container is healthy, or ``why`` it is not; none on ``dead``."""

    def __init__(self, hosts: SimulatedHosts) -> None:
        self.why, self.asked, self.others = "", list[str](), hosts.script
        self.cut = hosts.cut
        self.dead: tuple[str, ...] = ()
        hosts.script = self.script  # type: ignore[method-assign]

    def script(self, name: str, text: str, arguments: Sequence[str] = (), *more: Any, **others: Any) -> Any:
        if "container answering" not in text:
            return self.others(name, text, arguments, *more, **others)
        if name in self.cut:
            raise broken_off(name)
        self.asked.append(f"{name} {' '.join(arguments)}")
        why = self.why or ("gone" if name in self.dead else "")
        return True, "".join(f"{one}: {why}\n" if why else f"{one}\n" for one in arguments), ""


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(wants(), tmp_path)


def planned(hosts: SimulatedHosts) -> plan.Plan:
    return plan.merge(look.plan_of(hosts.known, name, answer(h.now)) for name, h in hosts.hosts.items())


def released(
    hosts: SimulatedHosts, wish: Wish | None = None, hear: Say = lambda *_: None
) -> tuple[rollout.Report, Said]:
    wish, said = wish or Wish(), Said()
    wanted = rollout.prepare(hosts.known, hosts, frozenset(hosts.known.cluster.services), wish)
    for name, host in hosts.hosts.items():
        host.state = wanted.turns[name].state if name in wanted.turns else host.state

    def tell(who: str, what: str) -> None:
        said.append((who, what))
        hear(who, what)

    return rollout.perform(hosts.known, hosts, wanted, wish, tell), said


def test_a_converged_cluster_has_it_without_an_offer_and_nobody_waits_for_one(hosts: SimulatedHosts) -> None:
    assert planned(hosts).clean
    assert set(hosts.hosts["app3"].now.offers) == {"predictor"}
    cluster = hosts.known.cluster
    views = {name: gateway_view(hosts, name) for name in cluster.gateways}
    assert alone(views, cluster, ["app3"]) is None


def test_its_release_is_told_as_a_pause_by_plan_and_rollout_and_needs_no_option(hosts: SimulatedHosts) -> None:
    asked = Asked(hosts)
    bring(hosts, wants("8"))
    pending = planned(hosts)
    words = "redis 7 -> 8 on app3 (a pause: its one instance stops before the next one starts)"
    assert [str(p) for p in pending.pending] == [words]
    assert pending.as_data()["pending"] == [
        {"service": "redis", "from": "7", "to": "8", "hosts": ["app3"], "pauses": True}
    ]
    wanted = rollout.prepare(hosts.known, hosts, {"redis"}, Wish())
    assert wanted.pauses == ("redis",)
    assert [str(line) for line in show.release_plan(wanted)][1] == (
        "   -/+ redis x 1  7 -> 8 (a pause: its one instance stops before the next one starts)"
    )
    report, said = released(hosts)
    assert report.error is None and ("app3", PAUSE) in said
    assert hosts.hosts["app3"].now.containers["redis-6379"].version == "8"
    assert set(asked.asked) == {"app3 redis-6379"}, "no gateway could tell whether it is up"
    assert planned(hosts).clean


@pytest.mark.long
def test_with_a_gateway_port_it_is_offered_and_pauses_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(monkeypatch)
    hosts = converged(wants(route={"port": 6379}), tmp_path)
    assert set(hosts.hosts["app3"].now.offers) == {"predictor", "redis"}
    bring(hosts, wants("8", route={"port": 6379}))
    report, said = released(hosts)
    assert report.error is None and ("app3", PAUSE) in said
    assert hosts.hosts["app3"].now.offers["redis"] == "8;6379-6379"


def test_one_that_dies_right_after_its_start_goes_back(hosts: SimulatedHosts) -> None:
    asked = Asked(hosts)
    asked.why = "refused the connection"
    bring(hosts, wants("8"))
    report, _ = released(hosts)
    assert report.error is not None
    assert str(report.error) == "app3: fiefdom-redis@6379.service: refused the connection"
    assert hosts.hosts["app3"].now.containers["redis-6379"].version == "7"


@pytest.mark.long
def test_a_service_on_several_hosts_does_not_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch)
    hosts = converged(wants(groups=["app_hosts"]), tmp_path)
    Asked(hosts)
    bring(hosts, wants("8", groups=["app_hosts"]))
    assert not any(p.pauses for p in planned(hosts).pending)
    report, said = released(hosts)
    assert report.error is None and not any("pauses" in what for _, what in said)


def test_a_host_reboots_with_it_and_is_not_retired_with_it(hosts: SimulatedHosts) -> None:
    cluster = hosts.known.cluster
    assert reboot.pausing(cluster, "app3") == ("redis",)
    assert reboot.pausing(cluster, "app1") == ()
    reboot.require_fit(hosts.known, hosts, ["app3"])
    with pytest.raises(FiefdomError, match="redis runs on app3 only"):
        retire._remaining(cluster, "app3", force=False)
    rotate_key._require_fit(hosts.known, hosts)


def test_one_of_kind_http_with_one_instance_is_refused_as_ever() -> None:
    cluster = wants(kind="http", route={"port": 8081}).cluster
    with pytest.raises(FiefdomError, match="redis runs on app3 only"):
        release.require_others(cluster, [s for s in cluster.services if not cluster.pauses(s)], [["app3"]])


def test_what_a_host_says_of_its_instances(hosts: SimulatedHosts) -> None:
    asked, cluster = Asked(hosts), hosts.known.cluster
    own = answering.unrouted(cluster, "app3")
    assert [i.container for i in own] == ["redis-6379"]
    assert answering.unrouted(cluster, "app3", ["predictor"]) == () == answering.unrouted(cluster, "app1")
    assert answering.missing(hosts, "app3", own) is None
    answering.await_answering(cluster, hosts, "app3")
    asked.why = "redis-cli ended with 1"
    assert answering.missing(hosts, "app3", own) == Missing("fiefdom-redis@6379.service", asked.why)
    with pytest.raises(FiefdomError, match=r"app3: fiefdom-redis@6379\.service: redis-cli ended with 1; the other"):
        answering.await_answering(cluster, hosts, "app3")
    assert answering.missing(hosts, "app3", ()) is None


# --- Of several hosts, one after the other


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    """A cluster with a redis on each app host, which no gateway has."""
    stopped(monkeypatch)
    return converged(wants(groups=["app_hosts"]), tmp_path)


def test_what_no_gateway_has_is_alone_where_no_other_host_says_that_it_answers(pair: SimulatedHosts) -> None:
    asked, cluster = Asked(pair), pair.known.cluster
    says = "redis is up nowhere else"
    assert answering.alone(cluster, pair, ["app1"]) is None
    asked.dead = ("app2", "app3")
    assert answering.alone(cluster, pair, ["app1"]) is None
    assert answering.alone(cluster, pair, ["app1", "app4"]) == says
    assert answering.alone(cluster, pair, ["app1", "app4"], services=["predictor"]) is None
    pair.cut.add("app4")
    assert answering.alone(cluster, pair, ["app1"]) == says, "who does not answer has said nothing"
    asked.dead = ("app1", "app2", "app3")
    assert answering.alone(cluster, pair, ["app1"]) == says
    assert answering.alone(cluster, pair, ["app1"], if_up=True) is None, "it loses nothing"


def test_its_only_host_leaves_nobody_alone(hosts: SimulatedHosts) -> None:
    Asked(hosts)
    assert answering.alone(hosts.known.cluster, hosts, ["app3"]) is None


def test_neither_a_reboot_nor_a_retirement_takes_the_last_one_that_answers(pair: SimulatedHosts) -> None:
    asked, cluster = Asked(pair), pair.known.cluster
    reboot._require_stand_in(cluster, pair, "app1")
    asked.dead = ("app2", "app3", "app4")
    with pytest.raises(FiefdomError, match=r"^app1: redis is up nowhere else; it was left alone"):
        reboot._require_stand_in(cluster, pair, "app1")
    with pytest.raises(FiefdomError, match=r"^app1: redis is up nowhere else; mend the others first, or say --force$"):
        retire._farewell(cluster, pair, "app1", ["gw1", "gw2"], force=False)
    assert retire._farewell(cluster, pair, "app1", ["gw1", "gw2"], force=True).host == "app1"


@pytest.mark.parametrize("force", [False, True])
def test_a_turn_that_would_take_the_last_one_is_not_begun(pair: SimulatedHosts, *, force: bool) -> None:
    asked = Asked(pair)
    bring(pair, wants("8", groups=["app_hosts"]))

    def hear(who: str, what: str) -> None:
        if (who, what) == ("app1", "done"):
            asked.dead = ("app1", "app3", "app4")

    report, _ = released(pair, Wish(force=force), hear)
    assert report.error is not None
    assert ("app2 turn" in pair.log) is force
    if not force:
        words = "the turn was not begun: redis is up nowhere else; --force begins it all the same"
        assert str(report.error) == f"app2: the gateways: {words}"


def test_what_failed_does_not_take_back_the_one_that_answers_in_its_place(pair: SimulatedHosts) -> None:
    asked = Asked(pair)
    bring(pair, wants("8", groups=["app_hosts"]))

    def hear(who: str, what: str) -> None:
        if who == "app2" and what not in ("image", "done"):
            asked.dead = ("app2", "app3", "app4")

    report, said = released(pair, hear=hear)
    assert report.error is not None
    assert ("app1", "not put back: redis is up nowhere else") in said
    assert pair.hosts["app1"].now.containers["redis-6379"].version == "8"
