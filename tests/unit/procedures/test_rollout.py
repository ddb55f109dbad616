"""Releases on simulated hosts: in which order they go, and that every host ends wholly old or wholly new."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiefdom.cluster import audit, ledger, locking, views
from fiefdom.converge import look, plan, steps, steps_script, turn_steps
from fiefdom.converge.run import Known
from fiefdom.desired.containers import FAILED
from fiefdom.errors import FiefdomError
from fiefdom.images import build
from fiefdom.model import Registry
from fiefdom.procedures import batches, release, rollback, rollout, turn
from fiefdom.procedures.batches import RolloutError
from fiefdom.procedures.release import Order
from fiefdom.procedures.rollout import Report, Wish
from fiefdom.procedures.turn import Heard
from helpers.clock import Clock, stopped
from helpers.released import APPS, NEW, OLD, Said, known
from helpers.simulated import BROKEN_OFF, SimulatedHosts, Trouble, answer, bring, converged, copied


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch)


@pytest.fixture
def hosts(tmp_path: Path, clock: Clock) -> SimulatedHosts:
    """Hosts on the old version, whose inventory names the new one."""
    found = converged(known(), tmp_path)
    found.known = known(NEW)
    return found


def perform(hosts: SimulatedHosts, said: Said | None = None, **wish: Any) -> Report:
    """A whole release of everything, as the command makes it."""
    wish.setdefault("order", Order())
    wanted = rollout.prepare(hosts.known, hosts, frozenset(hosts.known.cluster.services), Wish(**wish))
    tell = said if said is not None else []
    return rollout.perform(hosts.known, hosts, wanted, Wish(**wish), lambda who, what: tell.append((who, what)))


def versions(hosts: SimulatedHosts) -> dict[str, str]:
    """Version of each app host; fails for one that is not wholly one, or not wholly up and told of."""
    found = {}
    for name, instances in hosts.versions("predictor").items():
        ((version, running),) = instances
        assert running
        assert hosts.tags[name]["svc:predictor"] == f"{version};8000-8001"
        assert hosts.hosts[name].contents["/etc/fiefdom/containers/predictor-8000.env"].count(version.encode()) == 1
        assert not hosts.hosts[name].unfinished
        found[name] = version
    return found


def all_on(version: str) -> dict[str, str]:
    return dict.fromkeys(APPS, version)


def pending(hosts: SimulatedHosts) -> list[str]:
    wanted = [look.plan_of(hosts.known, name, answer(host.now)) for name, host in hosts.hosts.items()]
    return [str(p) for p in plan.merge(wanted).pending]


def due(hosts: SimulatedHosts) -> list[tuple[str, str]]:
    wanted = [look.plan_of(hosts.known, name, answer(host.now)).due for name, host in hosts.hosts.items()]
    return [(h.host, c.name) for h in wanted for c in h.changes if not c.name.endswith(FAILED)]


# --- All goes well


def test_hosts_take_turns_and_all_are_new(hosts: SimulatedHosts) -> None:
    said: Said = []
    report = perform(hosts, said)
    assert report.error is None
    assert versions(hosts) == all_on(NEW)
    assert (pending(hosts), due(hosts)) == ([], [])
    turns = [line for line in hosts.log if line.endswith((" turn", " end"))]
    assert turns == [f"{name} {what}" for name in APPS for what in ("turn", "end")]
    stages = [what for who, what in said if who == "app2"]
    assert stages == ["image", "drain", "replace", "join", "soak", "done"]
    assert report.as_data() | {"seconds": 0, "stages": {}} == {
        "outcome": "ok",
        "services": {"predictor": {"from": OLD, "to": NEW}},
        "released": [*APPS],
        "on_new_version": [*APPS],
        "waiting": [],
        "put_back": [],
        "failures": [],
        "seconds": 0,
        "stages": {},
    }
    assert {name: set(stages) for name, stages in report.stages.items()} == {
        name: {"drain", "replace", "join", "soak"} for name in APPS
    }


def test_the_lock_comes_first_then_every_image_then_the_first_turn(hosts: SimulatedHosts) -> None:
    perform(hosts)
    log = hosts.log
    images = [i for i, line in enumerate(log) if line.endswith(" images")]
    assert [log[i] for i in images] == [f"{name} images" for name in APPS]
    first, last = log.index("app1 turn"), log.index("app4 end")
    assert log.index("gw1 ledger take") < log.index("gw2 ledger take") < images[0]
    assert images[-1] < first
    assert log.index("gw1 ledger release") > last
    # A sign of life before every batch, and a begin and an end in the audit of each gateway.
    beats = [i for i, line in enumerate(log) if line == "gw1 ledger beat"]
    assert all(any(b < log.index(f"{name} turn") for b in beats[n:]) for n, name in enumerate(APPS))
    for gateway in ("gw1", "gw2"):
        assert log.count(f"{gateway} ledger append") == 2
    (act,) = audit.acts(ledger.read(hosts, ("gw1", "gw2")).entries)
    assert (act.what, act.outcome, act.hosts, act.services) == ("rollout", "ok", APPS, {"predictor": (OLD, NEW)})


def test_no_host_begins_before_the_batch_before_it_is_up_and_soaked(hosts: SimulatedHosts, clock: Clock) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []
    up_at: dict[str, float] = {}

    def watch(who: str, what: str) -> None:
        if what == "drain":
            seen.append((who, tuple(name for name, at in up_at.items() if clock.now_s - at >= 2.0)))
        if what == "soak":
            assert views.not_up(views.views_of(hosts, ["gw1"]), CLUSTER, who) is None
            up_at[who] = clock.now_s

    wish = Wish(order=Order("2"))
    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), wish)
    rollout.perform(hosts.known, hosts, wanted, wish, watch)
    assert seen == [("app1", ()), ("app2", ()), ("app3", ("app1", "app2")), ("app4", ("app1", "app2"))]


CLUSTER = known(NEW).cluster


def test_the_audit_has_the_plan_and_the_report_its_time(hosts: SimulatedHosts, clock: Clock) -> None:
    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish())
    began_s = clock.now_s
    report = rollout.perform(hosts.known, hosts, wanted, Wish(), lambda *_: None)
    (act,) = audit.acts(ledger.read(hosts, ("gw1", "gw2")).entries)
    assert act.plan == plan.merge(wanted.turns.values()).hash
    assert report.seconds == clock.now_s - began_s > 0


def test_hosts_that_another_run_changed_meanwhile_are_left_alone(hosts: SimulatedHosts) -> None:
    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish())
    perform(hosts)
    before = len(hosts.log)
    with pytest.raises(FiefdomError, match=r"^the hosts changed since this run looked at them; run it again$"):
        rollout.perform(hosts.known, hosts, wanted, Wish(), lambda *_: None)
    assert not any(line.endswith((" images", " turn")) for line in hosts.log[before:])


@pytest.mark.long
def test_a_second_release_has_nothing_to_do(hosts: SimulatedHosts) -> None:
    perform(hosts)
    found = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish())
    assert (found.batches, dict(found.turns)) == ((), {})


@pytest.mark.long
def test_a_canary_waits_under_a_lock_that_only_going_on_or_back_lifts(hosts: SimulatedHosts) -> None:
    report = perform(hosts, order=Order(canary="app2"))
    assert report.error is None and report.release.left == ("app1", "app3", "app4")
    assert versions(hosts) == all_on(OLD) | {"app2": NEW}
    assert pending(hosts) == [f"predictor {OLD} -> {NEW} on app1, app3, app4"]
    with pytest.raises(FiefdomError, match="waits for `fiefdom rollout --continue`"):
        perform(hosts)
    assert perform(hosts, resume=True).error is None
    assert versions(hosts) == all_on(NEW)
    assert ledger.read(hosts, ("gw1", "gw2")).locks == ()


@pytest.mark.long
def test_a_canarys_lock_of_the_release_before_is_lifted_as_well(hosts: SimulatedHosts) -> None:
    """It has no kind, and is known by how its reason begins."""
    perform(hosts, order=Order(canary="app2"))
    for path in hosts.root.glob("gw*/lock"):
        written = json.loads(path.read_text())
        assert written.pop("kind") == "canary"
        path.write_text(json.dumps(written, separators=(",", ":")) + "\n")
    assert {lock.kind for lock in ledger.read(hosts, ("gw1", "gw2")).locks} == {"canary"}
    with pytest.raises(FiefdomError, match="waits for `fiefdom rollout --continue`"):
        perform(hosts)
    assert perform(hosts, resume=True).error is None
    assert ledger.read(hosts, ("gw1", "gw2")).locks == ()


@pytest.mark.long
def test_several_versions_before_are_each_told_and_the_first_is_gone_back_to(hosts: SimulatedHosts) -> None:
    perform(hosts, order=Order(canary="app1"))
    locking.unlock(hosts, ("gw1", "gw2"), "ann@desk", pytest.fail)
    hosts.known = known("2.0.0")
    report = perform(hosts)
    assert str(report.release) == f"predictor {NEW}, {OLD} -> 2.0.0"
    assert report.as_data()["services"] == {"predictor": {"from": f"{NEW}, {OLD}", "to": "2.0.0"}}
    # Not the last one: acts of one second stand in no order.
    acts = audit.acts(ledger.read(hosts, ("gw1", "gw2")).entries)
    assert {"predictor": (NEW, "2.0.0")} in [act.services for act in acts]


def lock_words(hosts: SimulatedHosts) -> set[str]:
    return {lock.why.partition(" `")[0] for lock in ledger.read(hosts, ("gw1", "gw2")).locks}


@pytest.mark.long
def test_the_canarys_lock_is_back_where_going_on_ends_before_a_turn(hosts: SimulatedHosts) -> None:
    perform(hosts, order=Order(canary="app2"))
    run_phase, waits = hosts.run, {"waits for"}
    assert lock_words(hosts) == waits

    def no_room(name: str, *_: Any) -> None:
        raise FiefdomError(f"{name}: no space left")

    hosts.run = no_room  # type: ignore[method-assign]
    with pytest.raises(FiefdomError, match="no space left"):
        perform(hosts, resume=True)
    assert lock_words(hosts) == waits
    hosts.run = run_phase  # type: ignore[method-assign]
    others_die = dies_after(hosts, "prepare", "app2", "app3", "app4")
    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish(resume=True))
    others_die("prepare", "done")
    report = rollout.perform(hosts.known, hosts, wanted, Wish(resume=True), lambda *_: None)
    assert report.error is not None and not report.begun
    assert lock_words(hosts) == waits
    assert versions(hosts) == all_on(OLD) | {"app2": NEW}


@pytest.mark.long
def test_the_canarys_lock_is_over_once_a_turn_began(hosts: SimulatedHosts) -> None:
    perform(hosts, order=Order(canary="app2"))
    hosts.log.clear()
    hosts.trouble["app1"] = Trouble("fail", STEPS - 1)
    report = perform(hosts, resume=True)
    assert report.error is not None and report.begun
    assert lock_words(hosts) == set()
    # One lock took the other's place: there was no moment without.
    assert "gw1 ledger release" not in hosts.log[: hosts.log.index("app1 turn")]


@pytest.mark.long
def test_going_on_unlocks_a_cluster_where_nothing_is_left_to_release(hosts: SimulatedHosts) -> None:
    perform(hosts, order=Order(canary="app2"))
    for wish, ends in ((Wish(), False), (Wish(resume=True), True), (Wish(resume=True), False)):
        assert rollout.end_canary(hosts.known, hosts, wish, pytest.fail) is ends
        assert lock_words(hosts) == (set() if wish.resume else {"waits for"})


def test_a_persons_own_lock_is_not_lifted_by_going_on(hosts: SimulatedHosts) -> None:
    locking.lock(hosts, ("gw1", "gw2"), "ann@desk", "inventory day", pytest.fail)
    with pytest.raises(FiefdomError, match="inventory day"):
        perform(hosts, resume=True)
    assert not rollout.end_canary(hosts.known, hosts, Wish(resume=True), pytest.fail)
    assert lock_words(hosts) == {"inventory day"}
    assert versions(hosts) == all_on(OLD)


@pytest.mark.long
def test_back_after_a_release(hosts: SimulatedHosts) -> None:
    perform(hosts)
    hosts.known = rollback.known_before(hosts.known, hosts, "predictor", None)
    assert hosts.known.cluster.services["predictor"].version == OLD
    assert perform(hosts, what="rollback").error is None
    assert versions(hosts) == all_on(OLD)


def test_back_needs_a_version_that_was_healthy(hosts: SimulatedHosts) -> None:
    with pytest.raises(FiefdomError, match=rf"^the audit knows no healthy version of predictor before {OLD}; name one"):
        rollback.known_before(hosts.known, hosts, "predictor", None)
    with pytest.raises(FiefdomError, match="cannot be a version"):
        rollback.known_before(hosts.known, hosts, "predictor", "a;b")
    with pytest.raises(FiefdomError, match="runs nowhere"):
        for host in hosts.hosts.values():
            host.now.containers.clear()
        rollback.known_before(hosts.known, hosts, "predictor", None)


# --- What keeps a release from beginning


@pytest.mark.long
def test_a_degraded_cluster_is_refused_unless_forced(hosts: SimulatedHosts) -> None:
    hosts.hosts["app3"].containers("stop", "fiefdom-predictor@8001.service")
    with pytest.raises(FiefdomError, match=r"^the cluster is not fit for a release: predictor at app3:8001 is stopped"):
        perform(hosts)
    assert not any(line.endswith((" turn", " ledger take")) for line in hosts.log)
    assert perform(hosts, force=True).error is None
    assert versions(hosts) == all_on(NEW)


def test_another_change_must_be_applied_first(hosts: SimulatedHosts) -> None:
    hosts.hosts["app1"].now.packages.pop("nftables")
    with pytest.raises(FiefdomError, match=r"app1: another change is pending, package nftables; `fiefdom apply`"):
        perform(hosts)


def test_an_image_without_room_is_refused_before_any_host_changes(hosts: SimulatedHosts) -> None:
    # The simulated hosts tell no free space; one that does has little.
    lines = hosts.snapshot_lines
    hosts.snapshot_lines = lambda q: {n: [*found, "free-kib\t1024"] for n, found in lines(q).items()}  # type: ignore[method-assign]
    with pytest.raises(FiefdomError, match="1 MiB are free where Docker has its images, and 200 MiB are needed"):
        perform(hosts)
    assert not any(line.endswith((" turn", " ledger take", " images")) for line in hosts.log)


@pytest.fixture
def without_registry(hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Images on this machine; the hosts have to get theirs from here."""
    here: set[str] = set()
    hosts.known = replace(hosts.known, cluster=hosts.known.cluster.model_copy(update={"registry": None}))
    bring(hosts, replace(known(), cluster=hosts.known.cluster.with_version("predictor", OLD)))
    hosts.known = replace(hosts.known, cluster=hosts.known.cluster.with_version("predictor", NEW))
    hosts.log.clear()
    monkeypatch.setattr(build, "identities", lambda _: dict.fromkeys(here, "sha256:1"))
    monkeypatch.setattr(build, "ensure", lambda *_: None)
    return here


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "key", "mend"),
    [
        ("rollout", "services.predictor.image: ", "build or pull it here, give the service a `build` folder"),
        ("rollback", "", "name a version that is"),
    ],
)
def test_a_version_that_nobody_has_is_refused_before_anything_is_locked(
    hosts: SimulatedHosts, without_registry: set[str], what: str, key: str, mend: str
) -> None:
    words = f"{key}team/predictor:{NEW} is not on this machine, and app1, app2, app3, app4 lack it as well; {mend}"
    with pytest.raises(FiefdomError, match=f"^{re.escape(words)}"):
        perform(hosts, what=what)
    assert not any("ledger" in line or line.endswith(" turn") for line in hosts.log)
    without_registry.add(f"team/predictor:{NEW}")
    assert perform(hosts, what=what).error is None


@pytest.mark.long
def test_a_version_that_all_hosts_have_need_not_be_here(hosts: SimulatedHosts, without_registry: set[str]) -> None:
    for name in APPS:
        hosts.hosts[name].take(steps.Phase("images", images=(f"team/predictor:{NEW}",)))
    assert perform(hosts, what="rollback").error is None
    assert versions(hosts) == all_on(NEW)


# --- Images of registries: pinned by a digest, behind a token

D, E = "sha256:" + "0a" * 32, "sha256:" + "0b" * 32
REGISTRY = {"server": "registry.example.org", "user": "ann", "password": {"command": ["print-token"]}}


def pinned(version: str, digest_of: str, token: str = "one") -> Known:  # noqa: S107
    """What is known of the cluster with an image that a digest pins, and of the token of the day."""
    service = {"image": f"team/predictor@{digest_of}", "version": version, "instances": 2}
    found = known(services={"predictor": service})
    cluster = found.cluster.model_copy(update={"registry": Registry.model_validate(REGISTRY)})
    values = {source: token for _, source in cluster.secret_sources()}
    return replace(found, cluster=cluster, secrets=replace(found.secrets, values=values))


def digests(hosts: SimulatedHosts) -> dict[str, str]:
    """Digest of the image that all of a host's instances run."""
    found = {}
    for name in APPS:
        now = hosts.hosts[name].now
        ids = {c.image_id for n, c in now.containers.items() if n.startswith("predictor-") and not n.endswith(FAILED)}
        ((of,),) = {tuple(i.digests) for i in hosts.hosts[name]._built.values() if {i.id} == ids}
        found[name] = of
    return found


@pytest.mark.long
def test_another_digest_is_a_release_and_the_way_back_is_the_image_that_hosts_have(
    tmp_path: Path, clock: Clock
) -> None:
    hosts = converged(pinned(OLD, D), tmp_path)
    hosts.known = pinned(NEW, E)
    assert pending(hosts) == [f"predictor {OLD} -> {NEW} on app1, app2, app3, app4"]
    assert perform(hosts).error is None
    assert (versions(hosts), digests(hosts)) == (all_on(NEW), dict.fromkeys(APPS, E))
    assert (pending(hosts), due(hosts)) == ([], [])
    hosts.known = rollback.known_before(hosts.known, hosts, "predictor", None)
    assert perform(hosts, what="rollback").error is None
    assert (versions(hosts), digests(hosts)) == (all_on(OLD), dict.fromkeys(APPS, D))


@pytest.mark.long
def test_another_digest_of_the_same_version_is_a_release_as_well(tmp_path: Path, clock: Clock) -> None:
    hosts = converged(pinned(OLD, D), tmp_path)
    hosts.known = pinned(OLD, E)
    assert pending(hosts) == [f"predictor {OLD} with other settings on app1, app2, app3, app4"]
    assert due(hosts) == []
    assert perform(hosts).error is None
    assert (versions(hosts), digests(hosts)) == (all_on(OLD), dict.fromkeys(APPS, E))


@pytest.mark.long
def test_another_token_keeps_no_release_from_going_on_and_comes_with_its_images(tmp_path: Path, clock: Clock) -> None:
    hosts = converged(pinned(OLD, D), tmp_path)
    hosts.known = pinned(OLD, D, token="two")
    assert (pending(hosts), due(hosts)) == ([], [])
    hosts.known = pinned(NEW, E, token="three")
    assert perform(hosts).error is None
    shown = {name: hosts.hosts[name].contents["/etc/fiefdom/docker/config.json"] for name in (*APPS, "gw1")}
    auths = {n: base64.b64decode(json.loads(s)["auths"]["registry.example.org"]["auth"]) for n, s in shown.items()}
    # A gateway pulled nothing.
    assert auths == dict.fromkeys(APPS, b"ann:three") | {"gw1": b"ann:one"}
    assert due(hosts) == []


# --- A turn that fails


def steps_of(hosts: SimulatedHosts, name: str = "app2") -> tuple[steps_script.Step, ...]:
    return turn_steps.turn(rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish()).turns[name])


TEMPLATE = converged(known(), Path("/nowhere"))
TEMPLATE.known = known(NEW)
TURN = steps_of(TEMPLATE)
STEPS = len(TURN)


def fresh(tmp_path: Path) -> SimulatedHosts:
    """Hosts before a release."""
    hosts = copied(TEMPLATE)
    hosts.root = tmp_path
    return hosts


# A step of each kind: the first that stages, the first that keeps a file, and so on.
KINDS = {(s[0], s[1] if s[0] in ("keep", "containers", "say") else ""): i for i, s in reversed([*enumerate(TURN)])}


def run(hosts: SimulatedHosts, wanted: release.Release, keep: bool = False) -> RolloutError | None:
    try:
        batches.Rollout(hosts.known, hosts, wanted, lambda *_: None).run(keep)
    except RolloutError as error:
        return error
    return None


@pytest.mark.long
@pytest.mark.parametrize("earlier", [False, True], ids=["first release", "after another release"])
@pytest.mark.parametrize("kind", ["fail", "killed", "break"])
def test_a_turn_that_fails_anywhere_leaves_every_host_wholly_old_or_new(
    tmp_path: Path, clock: Clock, kind: str, earlier: bool
) -> None:
    """The second host's turn fails at each of its steps: it goes back, and so does the first unless it may stay.

    Where another release came before, its way back is still kept on the hosts, and must not be taken.
    """
    before = fresh(tmp_path)
    if earlier:
        before = converged(known("1.1.0"), tmp_path)
        before.known = known(OLD)
        assert perform(before).error is None
        before.known = known(NEW)
    wanted = rollout.prepare(before.known, before, frozenset({"predictor"}), Wish())
    rollout.ship(before, wanted, lambda *_: None)
    for step, keep in itertools.product(KINDS.values(), (False, True)):
        hosts = copied(before)
        hosts.log.clear()
        hosts.trouble["app2"] = Trouble(kind, step)
        error = run(hosts, wanted, keep)
        assert error is not None, f"step {step} failed and nobody noticed"
        assert versions(hosts) == all_on(OLD) | ({"app1": NEW} if keep else {}), f"step {step}"
        assert [(f.host, f.restored) for f in error.failures] == [("app2", True)]
        assert error.undone == (("app2",) if keep else ("app2", "app1"))
        assert error.released == (("app1",) if keep else ())
        assert not any(line.startswith(("app3 turn", "app4 turn")) for line in hosts.log)
        assert due(hosts) == []
        if not keep:  # and with the next try all are new
            assert run(hosts, wanted) is None, f"step {step}"
            assert versions(hosts) == all_on(NEW)


def test_the_audit_and_the_lock_after_a_failure(hosts: SimulatedHosts) -> None:
    hosts.trouble["app2"] = Trouble("fail", STEPS - 1)
    report = perform(hosts)
    assert report.error is not None
    data = report.as_data()
    assert (data["outcome"], data["released"], data["put_back"]) == ("failed", [], ["app2", "app1"])
    found = ledger.read(hosts, ("gw1", "gw2"))
    assert found.locks == ()
    assert [(a.what, a.outcome) for a in audit.acts(found.entries)] == [("rollout", "failed")]


def test_what_failed_is_kept_aside_and_told_with_its_last_words(hosts: SimulatedHosts) -> None:
    restart = next(i for i, s in enumerate(steps_of(hosts)) if s[:2] == ("containers", "restart"))
    hosts.trouble["app2"] = Trouble("fail", restart + 1)  # new containers are there
    report = perform(hosts)
    assert report.error is not None
    (failure,) = report.error.failures
    assert (failure.host, failure.unit, failure.reason) == ("app2", "say join", "out of luck")
    assert failure.log == ("last words",)
    assert failure.kept == ("predictor-8000.failed", "predictor-8001.failed")
    aside = [n for n in hosts.hosts["app2"].now.containers if n.endswith(FAILED)]
    assert aside == ["predictor-8000.failed", "predictor-8001.failed"]
    assert not any(n.endswith(FAILED) for n in hosts.hosts["app1"].now.containers)


def test_siblings_of_a_batch_go_back_as_well_or_stay_with_keep(tmp_path: Path, clock: Clock) -> None:
    for keep in (False, True):
        hosts = fresh(tmp_path / str(keep))
        hosts.root.mkdir()
        hosts.trouble["app4"] = Trouble("fail", STEPS - 1)
        report = perform(hosts, order=Order("2"), keep=keep)
        assert report.error is not None
        if keep:
            assert (report.error.undone, report.error.released) == (("app4",), ("app1", "app2", "app3"))
            assert versions(hosts) == all_on(NEW) | {"app4": OLD}
        else:
            assert (report.error.undone, report.error.released) == (("app4", "app3", "app2", "app1"), ())
            assert versions(hosts) == all_on(OLD)


def test_a_host_that_cannot_be_put_back_is_told_and_the_others_still_go_back(hosts: SimulatedHosts) -> None:
    said: Said = []
    hosts.trouble["app3"] = Trouble("killed", STEPS - 1)
    hosts.back_trouble = {"app3": Trouble("fail", 1), "app2": Trouble("dead", 0)}
    report = perform(hosts, said)
    assert report.error is not None
    assert report.error.undone == ("app1",)
    assert report.error.released == ("app2",)
    assert not report.error.failures[0].restored
    assert [who for who, what in said if what.startswith("not put back: ")] == ["app3", "app2"]
    assert hosts.versions("predictor")["app1"] == {(OLD, True)}


def test_a_host_whose_link_dropped_is_put_back_over_another_one_once_its_turn_has_ended(hosts: SimulatedHosts) -> None:
    hosts.trouble["app2"] = Trouble("cut", 9)
    report = perform(hosts)
    assert report.error is not None
    assert report.error.undone == ("app2", "app1")
    assert versions(hosts) == all_on(OLD)
    here = hosts.log[hosts.log.index("app2 end") :]
    steps = ["app2 connected anew", "app2 awaited", "app2 back"]
    assert [line for line in here if line in steps] == steps


def test_a_host_that_no_connection_leads_to_is_told_with_both_reasons(hosts: SimulatedHosts) -> None:
    hosts.trouble["app2"] = Trouble("cut", 9)
    said: Said = []

    def tell(who: str, what: str) -> None:
        said.append((who, what))
        if who == "app2":
            hosts.gone.add(who)

    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish())
    report = rollout.perform(hosts.known, hosts, wanted, Wish(), tell)
    assert report.error is not None and report.error.undone == ("app1",)
    (why,) = [what for who, what in said if who == "app2" and what.startswith("not put back: ")]
    assert why.removeprefix("not put back: ").startswith("app2: ")
    assert why.endswith("; and no other one opens: no answer")


def test_what_is_kept_aside_is_told_only_where_something_is(hosts: SimulatedHosts) -> None:
    hosts.trouble["app2"] = Trouble("fail", 1)  # before anything is replaced
    report = perform(hosts)
    assert report.error is not None
    (failure,) = report.error.failures
    assert (failure.restored, failure.kept, failure.log) == (True, (), ("last words",))


# --- Others that die meanwhile


def dies_after(hosts: SimulatedHosts, done: str, *dead: str) -> Callable[[str, str], None]:
    """Hosts whose servers the gateways see down once ``done`` is through."""
    whole, down = hosts.servers, set[str]()
    hosts.servers = lambda: [  # type: ignore[method-assign]
        r | {"state": "down"} if r["name"].rpartition("-")[0] in down else r for r in whole()
    ]

    def tell(who: str, what: str) -> None:
        if (who, what) == (done, "done"):
            down.update(dead)

    return tell


@pytest.mark.parametrize("careless", [None, "force", "all_at_once"])
def test_a_turn_that_would_take_a_service_down_by_now_is_not_begun(hosts: SimulatedHosts, careless: str | None) -> None:
    tell = dies_after(hosts, "app2", "app1", "app2")
    wish = Wish(order=Order("2", all_at_once=careless == "all_at_once"), force=careless == "force")
    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), wish)
    report = rollout.perform(hosts.known, hosts, wanted, wish, tell)
    assert ("app3 turn" in hosts.log) == bool(careless)
    if not careless:
        assert report.error is not None
        words = "the turn was not begun: gw1 has predictor up nowhere else; --force begins it all the same"
        assert str(report.error) == f"app3: the gateways: {words}; app4: the gateways: {words}"
        # Those that were done go back, for the others serve.
        assert report.error.undone == ("app2", "app1")
        assert not any(f.begun or f.kept for f in report.error.failures)


@pytest.mark.long
def test_a_host_goes_back_though_another_service_of_it_is_up_nowhere_else(tmp_path: Path, clock: Clock) -> None:
    services = {"web": {"groups": ["app_hosts"], "instances": 1}}
    hosts = converged(known(services=services), tmp_path)
    hosts.known = known(services={"predictor": {"version": NEW, "instances": 2}, **services})
    whole, dead = hosts.servers, set[str]()
    hosts.servers = lambda: [  # type: ignore[method-assign]
        r | {"state": "down"} if r["service"] in dead and not r["name"].startswith("app1-") else r for r in whole()
    ]

    def tell(who: str, what: str) -> None:
        if (who, what) == ("app1", "done"):
            dead.add("web")

    hosts.trouble["app2"] = Trouble("fail", STEPS - 1)
    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish())
    report = rollout.perform(hosts.known, hosts, wanted, Wish(), tell)
    assert report.error is not None
    # Its turn takes nothing of the other one out, on the way there and back.
    assert report.error.undone == ("app2", "app1")
    assert versions(hosts) == all_on(OLD)


@pytest.mark.long
def test_a_canary_that_a_failure_leaves_on_the_new_version_is_told(hosts: SimulatedHosts) -> None:
    perform(hosts, order=Order(canary="app2"))
    hosts.trouble["app3"] = Trouble("fail", STEPS - 1)
    report = perform(hosts, resume=True)
    assert report.error is not None
    assert versions(hosts) == all_on(OLD) | {"app2": NEW}
    data = report.as_data()
    assert (data["on_new_version"], data["released"], data["put_back"]) == (["app2"], [], ["app3", "app1"])


def test_a_gateway_that_breaks_off_is_one_that_does_not_answer(hosts: SimulatedHosts, clock: Clock) -> None:
    """The release is undone; it is not left where it stands."""

    def break_off() -> None:
        hosts.views["gw2"] = BROKEN_OFF

    clock.meanwhile = break_off
    report = perform(hosts)
    assert report.error is not None
    assert "gw2 does not answer" in report.error.failures[0].reason
    assert versions(hosts) == all_on(OLD)


def test_a_host_that_gateways_do_not_see_is_put_back_after_its_time(hosts: SimulatedHosts, clock: Clock) -> None:
    whole = hosts.servers

    def without_8001() -> list[dict[str, Any]]:
        return [r | {"state": "down"} if (r["version"], r["port"]) == (NEW, 8001) else r for r in whole()]

    hosts.servers = without_8001  # type: ignore[method-assign]
    began_s = clock.now_s
    report = perform(hosts)
    assert report.error is not None
    assert str(report.error) == "app1: fiefdom-predictor@8001.service: gw1 has predictor at app1:8001 down"
    # Of what was kept aside, the one to blame tells why.
    (failure,) = report.error.failures
    assert failure.kept == ("predictor-8001.failed", "predictor-8000.failed")
    assert failure.log == ("words of predictor-8001.failed",)
    limit_s = hosts.known.cluster.serf.join_timeout_s
    assert limit_s < clock.now_s - began_s < limit_s + 2
    assert versions(hosts) == all_on(OLD)


# --- Watching


def serve(hosts: SimulatedHosts, errors: dict[str, int], requests: int = 100) -> Callable[[], None]:
    """Traffic for every server while time passes; ``errors`` go wrong on hosts with the new version."""

    def passes() -> None:
        for row in hosts.servers():
            host = row["name"].rpartition("-")[0]
            hosts.counted[row["name"], "requests"] += requests
            hosts.counted[row["name"], "errors"] += errors.get(host, 0) * (row["version"] == NEW)

    return passes


def test_errors_on_the_new_version_end_a_release_early(hosts: SimulatedHosts, clock: Clock) -> None:
    clock.meanwhile = serve(hosts, {"app2": 5})
    report = perform(hosts)
    assert report.error is not None
    (failure,) = report.error.failures
    assert (failure.host, failure.unit) == ("app2", "fiefdom-predictor@8000.service, fiefdom-predictor@8001.service")
    assert failure.log == ("words of predictor-8000.failed",)
    assert failure.reason == "20 of 400 requests went wrong on the new version, as the gateways count"
    assert report.stages["app2"]["soak"] < 2.0
    assert report.error.undone == ("app2", "app1")
    assert versions(hosts) == all_on(OLD)


def test_a_few_errors_and_old_ones_do_not(hosts: SimulatedHosts, clock: Clock) -> None:
    hosts.counted["app1-8000", "errors"] = 5000
    hosts.counted["app1-8000", "requests"] = 6000
    clock.meanwhile = serve(hosts, {"app2": 1})
    assert perform(hosts).error is None
    assert versions(hosts) == all_on(NEW)


def test_only_the_bad_one_of_a_batch_is_kept_aside(hosts: SimulatedHosts, clock: Clock) -> None:
    clock.meanwhile = serve(hosts, {"app2": 50})
    report = perform(hosts, order=Order("2"))
    assert report.error is not None
    assert [f.host for f in report.error.failures] == ["app2"]
    aside = {n for n in APPS for c in hosts.hosts[n].now.containers if c.endswith(FAILED)}
    assert aside == {"app2"}
    assert versions(hosts) == all_on(OLD)


def test_without_a_soak_nobody_waits(tmp_path: Path, clock: Clock) -> None:
    hosts = fresh(tmp_path)
    hosts.known = known(NEW, soak_s=0)
    assert perform(hosts).error is None
    assert clock.slept == []


# --- An operator who goes away


class Gone(BaseException):
    """The operator's process ended."""


@pytest.mark.long
def test_an_operator_who_goes_away_at_any_word_leaves_whole_hosts(tmp_path: Path, clock: Clock) -> None:
    before = fresh(tmp_path)
    wanted = rollout.prepare(before.known, before, frozenset({"predictor"}), Wish())
    rollout.ship(before, wanted, lambda *_: None)
    for moment in itertools.count():
        hosts, words = copied(before), itertools.count()

        def tell(who: str, what: str, moment: int = moment, words: Any = words) -> None:
            if next(words) == moment:
                raise Gone

        try:
            batches.Rollout(hosts.known, hosts, wanted, tell).run()
        except Gone:
            found = [*versions(hosts).values()]
        else:
            break
        assert found == sorted(found, reverse=True), "hosts went out of order"
        assert set(found) <= {OLD, NEW}
        again = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish())
        assert run(hosts, again) is None
        assert versions(hosts) == all_on(NEW)
    assert moment == len(APPS) * len(("drain", "replace", "join", "soak", "done"))


def test_an_operator_who_goes_away_is_in_the_audit_and_leaves_no_lock(hosts: SimulatedHosts) -> None:
    def tell(who: str, what: str) -> None:
        if (who, what) == ("app2", "replace"):
            raise Gone

    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish())
    with pytest.raises(Gone):
        rollout.perform(hosts.known, hosts, wanted, Wish(), tell)
    found = ledger.read(hosts, ("gw1", "gw2"))
    assert audit.acts(found.entries)[-1].outcome == "interrupted"
    assert found.locks == ()


def test_a_lock_that_was_taken_over_ends_the_release_before_the_next_batch(hosts: SimulatedHosts) -> None:
    def tell(who: str, what: str) -> None:
        if (who, what) == ("app1", "done"):
            for gateway in ("gw1", "gw2"):
                for path in (hosts.root / gateway).iterdir():
                    if path.name.startswith("lock"):
                        path.unlink() if path.is_file() else None

    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish())
    with pytest.raises(FiefdomError, match="lock was removed meanwhile; nothing more is changed"):
        rollout.perform(hosts.known, hosts, wanted, Wish(), tell)
    assert versions(hosts) == all_on(OLD) | {"app1": NEW}


# --- What a host says


def heard(*lines: str) -> tuple[Heard, list[tuple[Any, ...]]]:
    told: list[tuple[Any, ...]] = []
    found = Heard("app1", lambda *words: told.append(words))
    for line in lines:
        found(line)
    found.end()
    return found, told


def test_stages_and_notes_are_told_and_each_stage_ends_once(clock: Clock) -> None:
    _, told = heard("fiefdom-stage\tdrain", "fiefdom-note\tgoing on after 60 s", "fiefdom-stage\tjoin")
    assert told == [
        ("app1", "drain"),
        ("app1", "going on after 60 s"),
        ("app1", "drain", 1000.0),
        ("app1", "join"),
        ("app1", "join", 1000.0),
    ]


def test_the_first_failure_counts_with_the_last_ten_lines_before_it() -> None:
    lines = [f"fiefdom-log\tx.service\tline {i}" for i in range(12)]
    found, _ = heard(*lines, "fiefdom-failed\tx.service\tdid not start", "fiefdom-failed\ty\tlater")
    assert found.failure is not None
    assert (found.failure.unit, found.failure.reason, found.failure.restored) == ("x.service", "did not start", False)
    assert found.failure.log == tuple(f"line {i}" for i in range(2, 12))
    assert not found.restored


def test_restored_is_said_by_the_host_alone() -> None:
    found, _ = heard("fiefdom-failed\tx\twhy", "fiefdom-stage\trestore", "fiefdom-restored\tapp1")
    assert found.restored and found.failure is not None and found.failure.restored
    found, _ = heard("fiefdom-failed\tx\twhy", "fiefdom-not-restored\ty\tdid not start")
    assert not found.restored and found.failure is not None and not found.failure.restored
    found, _ = heard("fiefdom-not-restored\ty\tdid not start")
    assert found.failure is not None and (found.failure.unit, found.failure.reason) == ("y", "did not start")


words = ("stage", "log", "note", "failed", "not-restored", "restored")
kinds = st.sampled_from([*(f"fiefdom-{word}" for word in words), "done"])
lines = st.builds("\t".join, st.tuples(kinds | st.text(max_size=5), *[st.text(max_size=5)] * 2)) | st.text(max_size=20)


@given(st.lists(lines, max_size=8))
def test_any_line_is_heard_without_a_traceback(said: list[str]) -> None:
    found, told = heard(*said)
    assert found.failure is None or isinstance(found.failure.reason, str)
    assert all(words[0] == "app1" for words in told)


def test_an_error_of_a_release_names_every_host() -> None:
    failures = [turn.Failure(name, "x.service", "did not start") for name in ("app1", "app2")]
    assert str(RolloutError(failures, [], [])) == "app1: x.service: did not start; app2: x.service: did not start"


def test_apply_after_a_failed_release_only_clears_what_was_kept_aside(hosts: SimulatedHosts) -> None:
    hosts.trouble["app1"] = Trouble("fail", STEPS - 1)
    assert perform(hosts).error is not None
    before = hosts.versions("predictor")
    bring(hosts, hosts.known)
    assert hosts.versions("predictor") == before
    assert not any(n.endswith(FAILED) for n in hosts.hosts["app1"].now.containers)


def test_apply_leaves_a_pending_release_alone_and_agents_keep_telling_what_runs(hosts: SimulatedHosts) -> None:
    bring(hosts, hosts.known)
    assert hosts.log == []
    assert versions(hosts) == all_on(OLD)
    assert pending(hosts) == [f"predictor {OLD} -> {NEW} on {', '.join(APPS)}"]


def test_more_instances_beside_a_pending_release_are_told_of_in_the_version_that_runs(hosts: SimulatedHosts) -> None:
    app1 = {"address": "10.1.0.30", "groups": ["app_hosts"], "services": {"predictor": {"instances": 3}}}
    more = known(NEW, hosts={"app1": app1})
    bring(hosts, more)
    assert hosts.tags["app1"]["svc:predictor"] == f"{OLD};8000-8002"
    assert due(hosts) == []
    assert pending(hosts) == [f"predictor {OLD} -> {NEW} on {', '.join(APPS)}"]


def test_an_instance_started_by_hand_does_not_make_its_host_tell_of_no_version(hosts: SimulatedHosts) -> None:
    bring(hosts, known(OLD))
    containers = hosts.hosts["app1"].now.containers
    for name in ("predictor-8000", "predictor-8001"):
        containers[name] = replace(containers[name], ours=False, spec="", version="")
    hosts.log.clear()
    bring(hosts, known(OLD))
    assert hosts.log == []
    assert hosts.tags["app1"]["svc:predictor"] == f"{OLD};8000-8001"


def test_a_rollback_after_a_canary_goes_back_to_what_the_others_run(hosts: SimulatedHosts) -> None:
    perform(hosts, order=Order(canary="app2"))
    known_then = rollback.known_before(hosts.known, hosts, "predictor", None)
    assert known_then.cluster.services["predictor"].version == OLD


@pytest.mark.long
def test_a_rollback_that_failed_is_tried_again_and_not_gone_beyond(hosts: SimulatedHosts) -> None:
    perform(hosts)
    hosts.known = known("3.0.0")
    perform(hosts)
    hosts.known = rollback.known_before(hosts.known, hosts, "predictor", None)
    hosts.trouble["app2"] = Trouble("fail", 9)
    assert perform(hosts, what="rollback").error is not None
    hosts.trouble.clear()
    again = rollback.known_before(known("3.0.0"), hosts, "predictor", None)
    assert again.cluster.services["predictor"].version == NEW


def test_what_a_host_says_of_containers_kept_aside(tmp_path: Path) -> None:
    """Which are there, and the last words of the first that said any."""
    docker = """#!/bin/sh
case "$*" in
"inspect "*b.failed | "inspect "*c.failed) ;;
"logs --tail 10 b.failed") ;;
"logs --tail 10 c.failed") printf 'one\\n\\ntwo\\tthree\\n' >&2 ;;
*) exit 1 ;;
esac
"""
    (tmp_path / "docker").write_text(docker)
    (tmp_path / "docker").chmod(0o755)
    command = ["sh", "-c", batches._KEPT, "fiefdom", "a.failed", "b.failed", "c.failed"]
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": path})
    assert done.stdout.splitlines() == ["kept\tb.failed", "kept\tc.failed", "log\tone", "log\t", "log\ttwo\tthree"]
