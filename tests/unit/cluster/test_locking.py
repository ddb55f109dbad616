"""The lock: of many runs one holds it, whatever dies meanwhile; by the gateways' real script, in folders."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fiefdom.cluster import audit, ledger, locking
from fiefdom.cluster.lock import APPLY, CANARY, SILENT_S, quorum
from fiefdom.desired.account import UID
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from helpers.clock import stopped
from helpers.inventories import VALID
from helpers.ledgers import APPS, GATEWAYS, Gateways, hold, no_warning, nothing


@pytest.fixture
def hosts(tmp_path: Path) -> Gateways:
    return Gateways(tmp_path)


def refused(hosts: Gateways, **options: Any) -> str:
    with pytest.raises(FiefdomError) as caught, hold(hosts, who="bob@lap", **options):
        pass
    return str(caught.value)


@contextmanager
def died(hosts: Gateways, silent_s: float) -> Iterator[locking.Held]:
    """A run whose process is gone: nobody gives its lock back."""
    with hold(hosts) as held:
        kept = {name: hosts.lock_file(name).read_text() for name in GATEWAYS}
    for name, text in kept.items():
        hosts.lock_file(name).write_text(text)
    hosts.silence(silent_s)
    yield held


def test_a_run_holds_every_gateway_and_gives_all_back(hosts: Gateways) -> None:
    with hold(hosts) as held:
        assert hosts.locked() == ["gw1", "gw2"]
        found = ledger.read(hosts, GATEWAYS).locks
        assert [lock.gateway for lock in found] == ["gw1", "gw2"]
        assert {(lock.run, lock.who, lock.why) for lock in found} == {
            (held.run, "ann@desk", "rollout predictor 1.0.0 -> 1.1.0")
        }
        assert all(lock.alive and not lock.person and lock.age_s < 60 for lock in found)
        held.beat()
        text = hosts.lock_file("gw1").read_text()
        assert text.count("\n") == 1 and json.loads(text)["run"] == held.run
        # The gateway's container reads lock and audit, and writes nothing; who opened the guard could hold it.
        folder = hosts.folder("gw1")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
        if os.getuid() == 0:
            assert modes == {"ledger": 0o750, "lock": 0o640, "guard": 0o600}
            assert {path.stat().st_gid for path in (folder, hosts.lock_file("gw1"))} == {UID}
        else:  # who may not give files to other groups shows it to none
            assert modes == {"ledger": 0o700, "lock": 0o600, "guard": 0o600}
        assert hosts.folder("gw1").parent.stat().st_mode & 0o777 == 0o755
    assert hosts.locked() == []
    assert not hosts.background


def test_a_second_run_is_told_who_is_at_work(hosts: Gateways) -> None:
    with hold(hosts):
        for take_over in (False, True):
            line = refused(hosts, take_over=take_over)
            assert line.startswith("gw1: locked by ann@desk ")
            assert ": rollout predictor 1.0.0 -> 1.1.0; last sign of life " in line
            assert line.endswith("so it is at work: wait for it; --take-over works after 15 s of silence")
        assert hosts.locked() == ["gw1", "gw2"]


def test_what_was_taken_is_given_back_when_a_later_gateway_is_held(hosts: Gateways) -> None:
    with hold(hosts):
        hosts.lock_file("gw1").unlink()
        assert refused(hosts).startswith("gw2: locked by ann@desk")
        assert hosts.locked() == ["gw2"]


def test_what_was_taken_is_given_back_when_a_later_gateway_is_down(hosts: Gateways) -> None:
    hosts.down.add("gw2")
    warnings: list[str] = []
    assert refused(hosts, warn=warnings.append) == "gw2: the connection broke off: gone"
    assert hosts.locked() == []
    assert len(warnings) == 1 and "gw2: the connection broke off" in warnings[0]


@pytest.mark.parametrize("verb", ["take", "beat"])
def test_an_interrupt_at_any_moment_leaves_no_lock(hosts: Gateways, verb: str) -> None:
    def interrupt(name: str, now: str) -> None:
        if (name, now) == ("gw2", verb):
            hosts.after = nothing
            raise KeyboardInterrupt

    hosts.after = interrupt
    with pytest.raises(KeyboardInterrupt), hold(hosts) as held:
        held.beat()
    assert hosts.locked() == []


def test_a_silent_run_is_taken_over_on_purpose_only_and_notices(hosts: Gateways) -> None:
    with hold(hosts) as slept:
        hosts.silence(90)
        line = refused(hosts)
        assert "last sign of life 1 minute ago: if it is dead, the same command with --take-over" in line
        with hold(hosts, who="bob@lap", why="mend it", take_over=True) as taker:
            with pytest.raises(FiefdomError, match=r"gw2: the lock was taken over by bob@lap \(mend it\)"):
                slept.beat()
            taker.beat()  # and what the other did takes nothing from it
            assert taker.note == "took over from ann@desk: rollout predictor 1.0.0 -> 1.1.0"
    assert hosts.locked() == []


def test_a_late_holder_never_removes_its_successors_lock(hosts: Gateways) -> None:
    with hold(hosts, who="bob@lap", why="mend it") as late:
        hosts.silence(31)
        with hold(hosts, take_over=True) as successor:
            ledger.ask_all(hosts, GATEWAYS, "release", late.token)
            ledger.ask_all(hosts, GATEWAYS, "beat", late.token)
            successor.beat()
            assert {found.run for found in ledger.read(hosts, GATEWAYS).locks} == {successor.run}


def test_a_dead_run_is_taken_over_and_leaves_nothing(hosts: Gateways) -> None:
    with died(hosts, 100), hold(hosts, take_over=True) as held:
        held.beat()
        assert hosts.locked() == ["gw1", "gw2"]
    assert hosts.locked() == []


def test_a_sign_of_life_on_one_gateway_protects_all(hosts: Gateways) -> None:
    with hold(hosts) as held:
        hosts.silence(100, "gw1")
        assert refused(hosts, take_over=True).startswith("gw2: ")
        held.beat()
        assert refused(hosts, take_over=True).startswith("gw1: ")


def test_a_sign_of_life_in_the_last_moment_stops_a_take_over(hosts: Gateways) -> None:
    """Between the look and the take: the script compares what was judged with what is there."""
    with hold(hosts) as held:
        hosts.silence(31)

        def wake(name: str, verb: str) -> None:
            if verb == "take":
                hosts.before = nothing
                held.beat()

        hosts.before = wake
        assert "so it is at work" in refused(hosts, take_over=True)
        held.beat()


def test_a_removed_lock_is_noticed(hosts: Gateways) -> None:
    with hold(hosts) as held:
        hosts.lock_file("gw2").unlink()
        with pytest.raises(FiefdomError, match="gw2: this run's lock was removed"):
            held.beat()


def test_the_background_beats_tells_of_silence_once_and_of_loss_at_the_next_stage(hosts: Gateways) -> None:
    warnings: list[str] = []
    with hold(hosts, warn=warnings.append) as held:
        [(seconds, beat)] = hosts.background
        assert seconds == locking.BEAT_S
        hosts.silence(60)
        beat()
        assert all(lock.silence_s < SILENT_S for lock in ledger.read(hosts, GATEWAYS).locks)
        hosts.down.add("gw2")
        beat()
        assert warnings == []  # one beat may be lost
        beat()
        held.beat()  # a gateway may be down for a while
        assert warnings == ["the lock has no sign of life: gw2: the connection broke off: gone"]
        hosts.down.clear()
        hosts.lock_file("gw1").unlink()
        beat()
        with pytest.raises(FiefdomError, match="removed"):
            held.beat()


def test_of_many_runs_at_once_one_wins(hosts: Gateways) -> None:
    def attempt(number: int) -> bool:
        body = locking._body_of_lock(str(number), "w", "y", "run")
        held = locking.Held(hosts, GATEWAYS, str(number), "w", locking._token(body), no_warning)
        try:
            locking._take(held, body, {})
        except FiefdomError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(24))) == 1
    assert len({lock.run for lock in ledger.read(hosts, GATEWAYS).locks}) == 1


@pytest.mark.parametrize(("settled", "left"), [(False, ["gw1", "gw2"]), (True, [])])
def test_a_lock_that_makes_way_comes_back_unless_it_is_over(hosts: Gateways, settled: bool, left: list[str]) -> None:
    """Nobody else can get in between: one lock takes the place of the other, there and back."""
    locking.lock(hosts, GATEWAYS, "ann@desk", "the canary", no_warning)
    seen: list[list[str]] = []
    hosts.after = lambda _name, _verb: seen.append(hosts.locked())
    with hold(hosts, "bob@lap", in_place_of=lambda found: found.why == "the canary") as held:
        assert {lock.who for lock in ledger.read(hosts, GATEWAYS).locks} == {"bob@lap"}
        assert held.note == "in place of the lock of ann@desk: the canary"
        before_the_end = len(seen)
        if settled:
            held.settle()
    assert all(locked == ["gw1", "gw2"] for locked in seen[: None if not settled else before_the_end])
    assert hosts.locked() == left
    assert {(lock.who, lock.why, lock.person) for lock in ledger.read(hosts, GATEWAYS).locks} == (
        set() if settled else {("ann@desk", "the canary", True)}
    )


def test_a_lock_that_makes_way_is_back_where_a_later_gateway_is_held(hosts: Gateways) -> None:
    locking.lock(hosts, GATEWAYS, "ann@desk", "the canary", no_warning)

    def steal(name: str, verb: str) -> None:
        if (name, verb) == ("gw1", "take"):
            hosts.after = nothing
            hosts.lock_file("gw2").write_text(hosts.lock_file("gw2").read_text().replace("ann@desk", "eve@den"))

    hosts.after = steal
    assert "locked by eve@den" in refused(hosts, in_place_of=lambda found: found.why == "the canary")
    assert [(lock.who, lock.why) for lock in ledger.read(hosts, GATEWAYS).locks] == [
        ("ann@desk", "the canary"),
        ("eve@den", "the canary"),
    ]


# --- Applies wait for each other


def apply(hosts: Gateways, said: list[str], who: str = "bob@lap", **options: Any) -> Any:
    act = locking.Held(hosts, GATEWAYS, ledger.new_run(), who, "", options.get("warn", no_warning))
    return locking.hold_for_apply(act, ["app1", "app2"], said.append)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens while an apply waits, look after look; it may not wait longer than that."""
    events: list[Callable[[], object]] = []

    def happens() -> None:
        events.pop(0)()

    stopped(monkeypatch, happens)
    return events


def test_an_apply_waits_for_another_one_and_says_so_once(
    hosts: Gateways, meanwhile: list[Callable[[], object]]
) -> None:
    said: list[str] = []
    first = apply(hosts, said, "ann@desk")
    first.__enter__()
    assert locking.is_applied_to(hosts, GATEWAYS)
    meanwhile += [lambda: None, lambda: None, lambda: first.__exit__(None, None, None)]
    with apply(hosts, said):
        assert said == ["waits for the apply of ann@desk"]
        assert [(lock.who, lock.why) for lock in ledger.read(hosts, GATEWAYS).locks] == [
            ("bob@lap", "apply of app1, app2")
        ] * 2
    assert hosts.locked() == [] and not locking.is_applied_to(hosts, GATEWAYS)


def test_an_apply_takes_over_from_one_that_died_without_being_told_to(
    hosts: Gateways, meanwhile: list[Callable[[], object]]
) -> None:
    said: list[str] = []
    dead = apply(hosts, said, "ann@desk")
    dead.__enter__()  # and nobody gives it back
    meanwhile += [lambda: None, lambda: hosts.silence(SILENT_S)]
    with apply(hosts, said) as held:
        assert hosts.locked() == ["gw1", "gw2"]
    assert said == [
        "waits for the apply of ann@desk",
        "took over from ann@desk: apply of app1, app2, which was silent for more than 15 s",
    ]
    assert held.note == "took over from ann@desk: apply of app1, app2"
    assert hosts.locked() == []


def test_an_apply_under_way_is_known_by_its_lock(hosts: Gateways) -> None:
    with (
        locking.recorded(hosts, GATEWAYS, "apply", no_warning) as act,
        locking.hold_for_apply(act, ["app1"], no_warning),
    ):
        found = ledger.read(hosts, GATEWAYS)
        assert [a.outcome for a in audit.acts(found.entries, found.live)] == ["running"]


def test_a_dead_apply_keeps_nobody_out(hosts: Gateways) -> None:
    """What it left undone, every next run sees."""
    dead = apply(hosts, [], "ann@desk")
    dead.__enter__()
    assert "so it is at work" in refused(hosts)
    hosts.silence(SILENT_S)
    with hold(hosts):
        pass
    assert hosts.locked() == []


def test_an_apply_is_refused_while_anything_else_is_at_work(hosts: Gateways) -> None:
    with hold(hosts) as held:
        with pytest.raises(FiefdomError, match=r"^gw1: locked by ann@desk .* so it is at work"), apply(hosts, []):
            pass
        with pytest.raises(FiefdomError, match=r"^gw1: locked by ann@desk"):
            locking.is_applied_to(hosts, GATEWAYS)
        held.beat()
    locking.lock(hosts, GATEWAYS, "ann@desk", "apply of the brakes", no_warning)
    hosts.silence(1e6)
    with pytest.raises(FiefdomError, match=r"when that is over: `fiefdom unlock"), apply(hosts, []):
        pass
    assert len(hosts.locked()) == 2


def test_a_gateway_that_is_down_keeps_no_apply_from_work(hosts: Gateways) -> None:
    hosts.down.add("gw1")
    warnings: list[str] = []
    with apply(hosts, [], warn=warnings.append) as held:
        assert (held.gateways, hosts.locked()) == (("gw2",), ["gw2"])
    assert warnings == []  # the audit tells of it
    hosts.down.add("gw2")
    with apply(hosts, [], warn=warnings.append) as held:
        assert held.gateways == ()


def test_of_two_applies_that_see_other_gateways_one_waits(
    hosts: Gateways, meanwhile: list[Callable[[], object]]
) -> None:
    """bob sees gw2 alone and has it before ann comes there: she gives gw1 back and tries again."""
    said: list[str] = []
    second = apply(hosts, [], "bob@lap", warn=lambda _: None)

    def overtake(name: str, verb: str) -> None:
        if (name, verb) == ("gw1", "take"):
            hosts.after = nothing
            hosts.down.add("gw1")
            second.__enter__()
            hosts.down.clear()

    hosts.after = overtake
    meanwhile += [lambda: None, lambda: second.__exit__(None, None, None)]
    with apply(hosts, said, "ann@desk"):
        assert {lock.who for lock in ledger.read(hosts, GATEWAYS).locks} == {"ann@desk"}
    assert said == ["waits for the apply of bob@lap"]
    assert hosts.locked() == []


# --- A gateway that is left out


def cluster_of(gateways: int, apps: int) -> Any:
    hosts = {f"gw{n}": {"address": f"10.0.0.{n}", "groups": ["gateways"]} for n in range(1, gateways + 1)}
    hosts |= {f"app{n}": {"address": f"10.0.0.{20 + n}", "groups": ["app_hosts"]} for n in range(1, apps + 1)}
    return Cluster.model_validate(VALID | {"hosts": hosts, "services": {"web": VALID["services"]["web"]}})


@pytest.mark.parametrize(("gateways", "apps"), [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2)])
def test_any_two_runs_meet_on_a_host_whatever_each_takes_for_dead(gateways: int, apps: int) -> None:
    cluster = cluster_of(gateways, apps)
    names = tuple(cluster.hosts)
    found: list[set[str]] = []
    for dead in (set(c) for count in range(len(names)) for c in itertools.combinations(names, count)):
        try:
            gates, others = quorum(cluster, [name for name in names if name in dead])
        except FiefdomError as error:
            assert "the lock wants a gateway and more than half of the hosts" in str(error)
        else:
            assert not {*gates, *others} & dead
            found.append({*gates, *others})
    assert set(cluster.gateways) in found
    assert all(one & other for one in found for other in found)
    # The dead do not keep all others from work.
    assert gateways == 1 or any(cluster.gateways[0] not in one for one in found)


def test_runs_that_see_other_gateways_do_not_both_hold_the_lock(hosts: Gateways) -> None:
    hosts.down.add("gw1")
    with locking.hold(hosts, ["gw2"], "ann@desk", "rollout", warn=no_warning, witnesses=APPS, without=["gw1"]) as held:
        held.beat()
        with held.recorded("rollout"):
            pass
        hosts.down = {"gw2"}
        with (
            pytest.raises(FiefdomError, match=r"^app1: locked by ann@desk"),
            locking.hold(hosts, ["gw1"], "bob@lap", "rollout", warn=no_warning, witnesses=APPS),
        ):
            pass
        # Nor an apply that goes on with the gateways it sees, on a host of that run.
        with pytest.raises(FiefdomError, match=r"^app1: locked by ann@desk"), apply(hosts, [], warn=lambda _: None):
            pass
        hosts.down.clear()
        held.beat()
    assert not any(hosts.lock_file(name).exists() for name in (*GATEWAYS, *APPS))
    assert [line["without"] for line in hosts.audit("gw2")] == [["gw1"], ["gw1"]]
    assert not hosts.audit("app1")


def test_a_witness_that_does_not_answer_is_no_witness(hosts: Gateways) -> None:
    hosts.down |= {"gw1", "app1"}
    act = locking.Held(hosts, ("gw2",), ledger.new_run(), "ann@desk", "", no_warning, witnesses=APPS, without=("gw1",))
    with (
        pytest.raises(FiefdomError, match=r"^the lock cannot be taken: app1: "),
        locking.hold_for_apply(act, [], print),
    ):
        pass
    assert not hosts.lock_file("gw2").exists()


def test_what_was_locked_without_a_gateway_is_unlocked_with_it(hosts: Gateways) -> None:
    locking.lock(hosts, ["gw2"], "ann@desk", "the sale", no_warning, witnesses=APPS)
    assert all(hosts.lock_file(name).exists() for name in ("gw2", *APPS))
    assert len(locking.unlock(hosts, GATEWAYS, "bob@lap", no_warning, witnesses=APPS)) == 3
    assert not any(hosts.lock_file(name).exists() for name in (*GATEWAYS, *APPS))


def test_a_persons_lock_stays_until_it_is_unlocked(hosts: Gateways) -> None:
    locking.lock(hosts, GATEWAYS, "ann@desk", "the sale, call me first", no_warning)
    hosts.silence(1e6)
    assert all(found.alive and found.person for found in ledger.read(hosts, GATEWAYS).locks)
    for take_over in (False, True):
        line = refused(hosts, take_over=take_over)
        assert "locked by ann@desk" in line and ": the sale, call me first; when that is over: `fiefdom unlock" in line
    with pytest.raises(FiefdomError, match="locked by ann@desk"):
        locking.lock(hosts, GATEWAYS, "bob@lap", "mine", no_warning)
    removed = locking.unlock(hosts, GATEWAYS, "bob@lap", no_warning)
    assert [(lock.gateway, lock.who) for lock in removed] == [("gw1", "ann@desk"), ("gw2", "ann@desk")]
    assert hosts.locked() == []
    assert locking.unlock(hosts, GATEWAYS, "bob@lap", no_warning) == ()
    for name in GATEWAYS:
        assert [(e["what"], e["who"], e["event"], e["outcome"], e["note"]) for e in hosts.audit(name)] == [
            ("lock", "ann@desk", "end", "ok", "the sale, call me first"),
            ("unlock", "bob@lap", "end", "ok", "removed the lock of ann@desk: the sale, call me first"),
        ]


def test_a_runs_lock_is_unlocked_only_on_purpose_and_only_when_silent(hosts: Gateways) -> None:
    with died(hosts, 5):
        for take_over in (False, True):
            with pytest.raises(FiefdomError, match="at work"):
                locking.unlock(hosts, GATEWAYS, "bob@lap", no_warning, take_over=take_over)
        hosts.silence(30)
        with pytest.raises(FiefdomError, match="--take-over"):
            locking.unlock(hosts, GATEWAYS, "bob@lap", no_warning)
        assert hosts.locked() == ["gw1", "gw2"]
        assert len(locking.unlock(hosts, GATEWAYS, "bob@lap", no_warning, take_over=True)) == 2
        assert hosts.locked() == []


def test_a_lock_that_cannot_be_read_is_a_lock_and_can_be_removed(hosts: Gateways) -> None:
    with hold(hosts):
        pass
    hosts.lock_file("gw1").write_bytes(b"\x00\xff\x1b[31m{" * 2000)
    hosts.silence(90, "gw1")
    assert "locked by somebody 1 minute ago: the lock's text cannot be read" in refused(hosts)
    locking.unlock(hosts, GATEWAYS, "bob@lap", no_warning, take_over=True)
    assert hosts.locked() == []


def test_words_are_data(hosts: Gateways) -> None:
    hostile = 'it\'s "$(touch /pwned)" `touch /pwned`; \\n %s \t\n\x1b[31m ünï \ud800 {} -n'
    with hold(hosts, why=hostile) as held, held.recorded("rollout"):
        held.note = hostile
        line = refused(hosts)
        assert 'it\'s "$(touch /pwned)" `touch /pwned`; \\n %s \\x1b[31m ünï \\ud800 {} -n;' in line
        assert line.isprintable()
    [act] = audit.acts(ledger.read(hosts, GATEWAYS).entries)
    assert act.note == 'it\'s "$(touch /pwned)" `touch /pwned`; \\n %s \\x1b[31m ünï \\ud800 {} -n'


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "ok"), (FiefdomError("app2: log: password=x"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_an_act_is_recorded_however_it_ends(hosts: Gateways, error: BaseException | None, outcome: str) -> None:
    try:
        with (
            hold(hosts) as held,
            held.recorded("rollout", plan="abc123", names=["app1", "app2"], services={"predictor": ("1.0.0", "1.1.0")}),
        ):
            if error:
                raise error
    except (FiefdomError, KeyboardInterrupt) as raised:
        assert raised is error
        assert not isinstance(raised, FiefdomError) or raised.recorded
    begin, end = hosts.audit("gw2")
    about = {
        "run": held.run,
        "who": "ann@desk",
        "what": "rollout",
        "plan": "abc123",
        "hosts": ["app1", "app2"],
        "services": {"predictor": ["1.0.0", "1.1.0"]},
        "without": [],
        "note": "",
    }
    assert begin == {"at": begin["at"], "event": "begin", "outcome": "", **about}
    assert end == {"at": end["at"], "event": "end", "outcome": outcome, **about}
    [act] = audit.acts(ledger.read(hosts, GATEWAYS).entries)
    assert act.outcome == outcome and act.took_s is not None and act.took_s < 60


def test_the_release_before_understands_a_lock(hosts: Gateways) -> None:
    """It looks for `person`, and at how a reason begins."""
    locking.lock(hosts, GATEWAYS, "ann@desk", f"{CANARY}x", no_warning, "canary")
    for name in GATEWAYS:
        written = json.loads(hosts.lock_file(name).read_text())
        assert list(written) == ["since", "run", "who", "why", "kind", "person"]
        assert (written["kind"], written["person"]) == ("canary", True)
    locking.unlock(hosts, GATEWAYS, "ann@desk", no_warning)
    for held, kind in ((apply(hosts, []), "apply"), (hold(hosts), "run")):
        with held:
            written = json.loads(hosts.lock_file("gw2").read_text())
            assert (written["kind"], written["person"]) == (kind, False)
            assert written["why"].startswith(APPLY) == (kind == "apply")
