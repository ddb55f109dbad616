"""Old images go with what made them old, and never what a rollback would choose by the audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from fiefdom.cluster import audit
from fiefdom.converge import look, plan
from fiefdom.converge.run import Known
from fiefdom.converge.snapshot import FoundImage
from fiefdom.procedures import rollback, rollout, tidy
from fiefdom.procedures.rollout import Wish
from helpers.clock import Clock, stopped
from helpers.released import APPS, OLD, Said, known
from helpers.simulated import SimulatedHost, SimulatedHosts, answer, converged


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch)


@pytest.fixture
def hosts(tmp_path: Path, clock: Clock) -> SimulatedHosts:
    return converged(known(), tmp_path)


def wants(version: str, keep_releases: int) -> Known:
    of = known(version)
    settings = of.cluster.rollout.model_copy(update={"keep_releases": keep_releases})
    return replace(of, cluster=of.cluster.model_copy(update={"rollout": settings}))


def release(hosts: SimulatedHosts, version: str, keep_releases: int = 1) -> Said:
    """A rollout that ends well, and what it said."""
    hosts.known = wants(version, keep_releases)
    said: Said = []
    wanted = rollout.prepare(hosts.known, hosts, frozenset(hosts.known.cluster.services), Wish())
    report = rollout.perform(hosts.known, hosts, wanted, Wish(), lambda who, what: said.append((who, what)))
    assert report.error is None
    return said


def versions_there(hosts: SimulatedHosts) -> dict[str, list[str]]:
    """By host the versions of the service's image."""
    refs = {name: [r for r in host.now.images if "predictor" in r] for name, host in hosts.hosts.items()}
    return {name: sorted(ref.rpartition(":")[2] for ref in of_host) for name, of_host in refs.items() if of_host}


def all_have(*versions: str) -> dict[str, list[str]]:
    return {name: [*versions] for name in APPS}


def left(hosts: SimulatedHosts) -> list[str]:
    """What a plan finds on the hosts, once the audit was asked."""
    found = plan.merge(look.plan_of(hosts.known, name, answer(host.now)) for name, host in hosts.hosts.items())
    _, wanted = tidy.with_spared(hosts.known, hosts, found)
    return [f"{h.host}: {c.kind} {c.name}" for h in wanted.hosts for c in h.changes]


@pytest.mark.long
def test_a_rollout_takes_away_what_it_made_old_and_no_run_finds_more(hosts: SimulatedHosts) -> None:
    release(hosts, "1.3.0")
    assert versions_there(hosts) == all_have(OLD, "1.3.0"), "a rollback would go there"
    assert left(hosts) == []
    said = release(hosts, "1.4.0")
    assert versions_there(hosts) == all_have("1.3.0", "1.4.0")
    assert left(hosts) == []
    assert [who for who, what in said if what == "old images"] == list(APPS)
    assert all(
        ("brought", f"registry.example.org/team/predictor:{OLD}") not in h.now.made for h in hosts.hosts.values()
    )


@pytest.mark.long
def test_as_many_stay_as_the_inventory_says(hosts: SimulatedHosts) -> None:
    for minor in range(3, 7):
        release(hosts, f"1.{minor}.0", keep_releases=3)
    assert versions_there(hosts) == all_have("1.4.0", "1.5.0", "1.6.0")


@pytest.mark.long
def test_a_rollback_finds_its_image_on_every_host(hosts: SimulatedHosts) -> None:
    for minor in range(3, 6):
        release(hosts, f"1.{minor}.0")
    chosen = rollback.known_before(hosts.known, hosts, "predictor", None)
    assert chosen.cluster.services["predictor"].version == "1.4.0"
    assert versions_there(hosts) == all_have("1.4.0", "1.5.0")


@pytest.mark.long
def test_a_cleanup_that_fails_fails_no_release(hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    release(hosts, "1.3.0")
    monkeypatch.setattr(SimulatedHost, "remove_image", lambda *_: None)
    said = release(hosts, "1.4.0")
    ref = f"registry.example.org/team/predictor:{OLD}"
    words = f"app1: the old image {ref} stays; `docker image rm {ref}` there says why"
    assert ("images", words) in said
    # The next one goes on all the same, for it is no change that has to be applied first.
    release(hosts, "1.5.0")


@pytest.mark.long
def test_where_no_gateway_tells_what_a_rollback_could_want_all_stay(hosts: SimulatedHosts) -> None:
    for minor in range(3, 6):
        release(hosts, f"1.{minor}.0", keep_releases=9)
    hosts.known = wants("1.5.0", 1)
    assert sorted(left(hosts)) == sorted(
        f"{name}: image registry.example.org/team/predictor:{version}" for name in APPS for version in (OLD, "1.3.0")
    )
    hosts.cut |= {"gw1", "gw2"}
    assert left(hosts) == []


@pytest.mark.long
def test_an_apply_takes_away_what_the_inventory_keeps_no_more(
    hosts: SimulatedHosts, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for minor in range(3, 6):
        release(hosts, f"1.{minor}.0", keep_releases=9)
    hosts.known = wants("1.5.0", 1)
    seen = command("plan")
    assert seen.exit_code == 2
    assert seen.output.count(f"image registry.example.org/team/predictor:{OLD}") == len(APPS)
    assert seen.output.count("  1 newer is kept") == 2 * len(APPS)
    with monkeypatch.context() as broken:
        broken.setattr(SimulatedHost, "remove_image", lambda *_: None)
        done = command("apply", "--yes")
    assert done.exit_code == 0, "a clean-up that fails fails no apply"
    assert f"warning: app1: the old image registry.example.org/team/predictor:{OLD} stays; " in done.stderr
    assert command("apply", "--yes").exit_code == 0
    assert versions_there(hosts) == all_have("1.4.0", "1.5.0")
    assert command("plan").exit_code == 0


@pytest.mark.long
def test_an_apply_that_replaces_an_agent_takes_away_its_image(
    hosts: SimulatedHosts, command: Callable[..., Result]
) -> None:
    ref, now = "registry.example.org/fiefdom/serf:0.0.1", hosts.hosts["app1"].now
    now.images[ref] = FoundImage("sha256:before")
    now.containers["serf-agent"] = replace(now.containers["serf-agent"], image_id="sha256:before", version="0.0.1")
    hosts.hosts["app1"].now = replace(now, made=now.made | {("brought", ref)})
    assert left(hosts) == ["app1: container serf-agent"]
    assert command("apply", "--yes").exit_code == 0
    assert ref not in hosts.hosts["app1"].now.images
    assert command("plan").exit_code == 0


def entry(versions: Mapping[str, tuple[str, str]], outcome: str = "ok", what: str = "rollout") -> audit.Entry:
    return audit.Entry("run", "ann", what, "end", outcome, services=versions)


@pytest.mark.parametrize(
    ("entries", "spared"),
    [
        ([], set()),
        ([("1", "2", "ok")], {"1", "2"}),
        ([("1", "2", "ok"), ("2", "3", "failed")], {"1", "2"}),
        ([("1", "2", "ok"), ("2", "3", "ok"), ("3", "4", "ok")], {"3", "4"}),
        ([("", "1", "ok")], {"1"}),
    ],
)
def test_a_rollback_could_want_the_last_two_that_were_healthy(
    entries: list[tuple[str, str, str]], spared: set[str]
) -> None:
    cluster = known().cluster
    told = [entry({"predictor": (old, new), "gone": ("8", "9")}, outcome) for old, new, outcome in entries]
    assert tidy.spared(cluster, told) == {f"registry.example.org/team/predictor:{version}" for version in spared}
    for running in ("1", "2", "3", "4"):
        wanted = audit.last_healthy(told, "predictor", running)
        assert wanted is None or wanted in spared
