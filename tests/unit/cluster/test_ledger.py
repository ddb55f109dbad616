"""The ledger: its real script in folders that stand for gateways, and what is made of answers, good and hostile."""

from __future__ import annotations

import io
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fiefdom import wording
from fiefdom.cli import show
from fiefdom.cluster import audit, ledger
from fiefdom.cluster.audit import Act, Entry
from fiefdom.cluster.lock import APPLY, CANARY, SILENT_S, Kind, Lock, parse_answer, quorum, refusal
from fiefdom.desired.account import UID
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from helpers.clock import stopped
from helpers.inventories import VALID
from helpers.simulated import broken_off

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))

from fiefdom_gateway import ledger as gateways_ledger

GATEWAYS = ("gw1", "gw2")
APPS = ("app1", "app2")


def nothing(name: str, verb: str) -> None:
    """The usual thing that happens before and after a call."""


@dataclass
class Gateways:
    """Hosts whose /var/lib is a folder each, reached by a real sh; ``before`` and ``after`` see every call."""

    root: Path
    down: set[str] = field(default_factory=set)
    before: Callable[[str, str], None] = nothing
    after: Callable[[str, str], None] = nothing
    background: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    limit_file: int = resource.RLIM_INFINITY
    names: tuple[str, ...] = GATEWAYS

    def script(self, name: str, text: str, arguments: Sequence[str], stdin: str = "") -> tuple[bool, str, str]:
        verb, folder, *rest = arguments
        assert folder == "/var/lib/fiefdom/ledger"
        self.before(name, verb)
        if name in self.down:
            raise broken_off(name)
        done = subprocess.run(
            # engine.Session adds where the operator comes from as the last argument.
            ["sh", "-c", text, "fiefdom", verb, str(self.folder(name)), *rest, "10.0.0.1 5 10.0.0.2 22"],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=self.limit if self.limit_file != resource.RLIM_INFINITY else None,
        )
        self.after(name, verb)
        return done.returncode == 0, done.stdout.rstrip("\n"), done.stderr

    def limit(self) -> None:
        """Of the child alone. Python starts one that runs this by copying all of the worker's memory, not by vfork."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit_file, resource.RLIM_INFINITY))

    def on_all(self, function: Callable[[str], Any], names: Iterable[str] | None = None) -> dict[str, Any]:
        values, errors = {}, []
        for name in GATEWAYS if names is None else names:
            try:
                values[name] = function(name)
            except FiefdomError as error:
                errors.append(str(error))
        if errors:
            raise FiefdomError("; ".join(errors))
        return values

    @contextmanager
    def every(self, seconds: float, function: Callable[[], None]) -> Iterator[None]:
        self.background.append((seconds, function))
        yield
        self.background.pop()

    def folder(self, name: str) -> Path:
        return self.root / name / "fiefdom" / "ledger"

    def lock_file(self, name: str) -> Path:
        return self.folder(name) / "lock"

    def locked(self) -> list[str]:
        return [name for name in GATEWAYS if self.lock_file(name).exists()]

    def silence(self, seconds: float, *names: str) -> None:
        for name in names or GATEWAYS:
            path = self.lock_file(name)
            at = path.stat().st_mtime - seconds
            os.utime(path, (at, at))

    def audit(self, name: str) -> list[dict[str, Any]]:
        path = self.folder(name) / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def hosts(tmp_path: Path) -> Gateways:
    return Gateways(tmp_path)


def no_warning(text: str) -> None:
    raise AssertionError(text)


def hold(hosts: Gateways, who: str = "ann@desk", why: str = "rollout predictor 1.0.0 -> 1.1.0", **options: Any) -> Any:
    return ledger.hold(hosts, GATEWAYS, who, why, **{"warn": no_warning, **options})


def refused(hosts: Gateways, **options: Any) -> str:
    with pytest.raises(FiefdomError) as caught, hold(hosts, who="bob@lap", **options):
        pass
    return str(caught.value)


@contextmanager
def died(hosts: Gateways, silent_s: float) -> Iterator[ledger.Held]:
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


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to another group")
def test_an_audit_of_the_release_before_is_readable_after_the_next_line(hosts: Gateways) -> None:
    folder = hosts.folder("gw1")
    folder.mkdir(parents=True, mode=0o700)
    (folder / "audit.jsonl").touch(mode=0o600)
    ledger.append(hosts, ["gw1"], Entry("1", "ann@desk", "apply", "begin"), no_warning)
    about = (folder / "audit.jsonl").stat()
    assert (about.st_mode & 0o777, about.st_gid) == (0o640, UID)


def test_looking_leaves_no_trace(hosts: Gateways) -> None:
    assert ledger.read(hosts, GATEWAYS) == ledger.Ledger((), (), {})
    assert list(hosts.root.iterdir()) == []


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
            ledger._ask_all(hosts, GATEWAYS, "release", late.token)
            ledger._ask_all(hosts, GATEWAYS, "beat", late.token)
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
        assert seconds == ledger.BEAT_S
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
        body = ledger._body_of_lock(str(number), "w", "y", "run")
        held = ledger.Held(hosts, GATEWAYS, str(number), "w", ledger._token(body), no_warning)
        try:
            ledger._take(held, body, {})
        except FiefdomError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(24))) == 1
    assert len({lock.run for lock in ledger.read(hosts, GATEWAYS).locks}) == 1


@pytest.mark.parametrize(("settled", "left"), [(False, ["gw1", "gw2"]), (True, [])])
def test_a_lock_that_makes_way_comes_back_unless_it_is_over(hosts: Gateways, settled: bool, left: list[str]) -> None:
    """Nobody else can get in between: one lock takes the place of the other, there and back."""
    ledger.lock(hosts, GATEWAYS, "ann@desk", "the canary", no_warning)
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
    ledger.lock(hosts, GATEWAYS, "ann@desk", "the canary", no_warning)

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
    act = ledger.Held(hosts, GATEWAYS, ledger.new_run(), who, "", options.get("warn", no_warning))
    return ledger.hold_for_apply(act, ["app1", "app2"], said.append)


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
    assert ledger.is_applied_to(hosts, GATEWAYS)
    meanwhile += [lambda: None, lambda: None, lambda: first.__exit__(None, None, None)]
    with apply(hosts, said):
        assert said == ["waits for the apply of ann@desk"]
        assert [(lock.who, lock.why) for lock in ledger.read(hosts, GATEWAYS).locks] == [
            ("bob@lap", "apply of app1, app2")
        ] * 2
    assert hosts.locked() == [] and not ledger.is_applied_to(hosts, GATEWAYS)


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
        ledger.recorded(hosts, GATEWAYS, "apply", no_warning) as act,
        ledger.hold_for_apply(act, ["app1"], no_warning),
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
            ledger.is_applied_to(hosts, GATEWAYS)
        held.beat()
    ledger.lock(hosts, GATEWAYS, "ann@desk", "apply of the brakes", no_warning)
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
    with ledger.hold(hosts, ["gw2"], "ann@desk", "rollout", warn=no_warning, witnesses=APPS, without=["gw1"]) as held:
        held.beat()
        with held.recorded("rollout"):
            pass
        hosts.down = {"gw2"}
        with (
            pytest.raises(FiefdomError, match=r"^app1: locked by ann@desk"),
            ledger.hold(hosts, ["gw1"], "bob@lap", "rollout", warn=no_warning, witnesses=APPS),
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
    act = ledger.Held(hosts, ("gw2",), ledger.new_run(), "ann@desk", "", no_warning, witnesses=APPS, without=("gw1",))
    with pytest.raises(FiefdomError, match=r"^the lock cannot be taken: app1: "), ledger.hold_for_apply(act, [], print):
        pass
    assert not hosts.lock_file("gw2").exists()


def test_what_was_locked_without_a_gateway_is_unlocked_with_it(hosts: Gateways) -> None:
    ledger.lock(hosts, ["gw2"], "ann@desk", "the sale", no_warning, witnesses=APPS)
    assert all(hosts.lock_file(name).exists() for name in ("gw2", *APPS))
    assert len(ledger.unlock(hosts, GATEWAYS, "bob@lap", no_warning, witnesses=APPS)) == 3
    assert not any(hosts.lock_file(name).exists() for name in (*GATEWAYS, *APPS))


def test_a_persons_lock_stays_until_it_is_unlocked(hosts: Gateways) -> None:
    ledger.lock(hosts, GATEWAYS, "ann@desk", "the sale, call me first", no_warning)
    hosts.silence(1e6)
    assert all(found.alive and found.person for found in ledger.read(hosts, GATEWAYS).locks)
    for take_over in (False, True):
        line = refused(hosts, take_over=take_over)
        assert "locked by ann@desk" in line and ": the sale, call me first; when that is over: `fiefdom unlock" in line
    with pytest.raises(FiefdomError, match="locked by ann@desk"):
        ledger.lock(hosts, GATEWAYS, "bob@lap", "mine", no_warning)
    removed = ledger.unlock(hosts, GATEWAYS, "bob@lap", no_warning)
    assert [(lock.gateway, lock.who) for lock in removed] == [("gw1", "ann@desk"), ("gw2", "ann@desk")]
    assert hosts.locked() == []
    assert ledger.unlock(hosts, GATEWAYS, "bob@lap", no_warning) == ()
    for name in GATEWAYS:
        assert [(e["what"], e["who"], e["event"], e["outcome"], e["note"]) for e in hosts.audit(name)] == [
            ("lock", "ann@desk", "end", "ok", "the sale, call me first"),
            ("unlock", "bob@lap", "end", "ok", "removed the lock of ann@desk: the sale, call me first"),
        ]


def test_a_runs_lock_is_unlocked_only_on_purpose_and_only_when_silent(hosts: Gateways) -> None:
    with died(hosts, 5):
        for take_over in (False, True):
            with pytest.raises(FiefdomError, match="at work"):
                ledger.unlock(hosts, GATEWAYS, "bob@lap", no_warning, take_over=take_over)
        hosts.silence(30)
        with pytest.raises(FiefdomError, match="--take-over"):
            ledger.unlock(hosts, GATEWAYS, "bob@lap", no_warning)
        assert hosts.locked() == ["gw1", "gw2"]
        assert len(ledger.unlock(hosts, GATEWAYS, "bob@lap", no_warning, take_over=True)) == 2
        assert hosts.locked() == []


def test_a_lock_that_cannot_be_read_is_a_lock_and_can_be_removed(hosts: Gateways) -> None:
    with hold(hosts):
        pass
    hosts.lock_file("gw1").write_bytes(b"\x00\xff\x1b[31m{" * 2000)
    hosts.silence(90, "gw1")
    assert "locked by somebody 1 minute ago: the lock's text cannot be read" in refused(hosts)
    ledger.unlock(hosts, GATEWAYS, "bob@lap", no_warning, take_over=True)
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


def entry(n: int, event: str = "end", outcome: str = "ok", what: str = "rollout", **about: Any) -> Entry:
    at = f"2026-01-02T03:{n:02}:00Z"
    return replace(Entry(f"run{n}", "ann@desk", what, event, outcome if event == "end" else "", at=at), **about)


def test_a_gateway_that_was_down_misses_lines_without_harm(hosts: Gateways) -> None:
    warnings: list[str] = []
    for number, down in enumerate(["", "gw1", "gw2", ""]):
        hosts.down = {down}
        ledger.append(hosts, GATEWAYS, entry(number), warnings.append)
    assert warnings == [f"the audit misses a line: {name}: the connection broke off: gone" for name in ("gw1", "gw2")]
    assert [len(hosts.audit(name)) for name in GATEWAYS] == [3, 3]
    hosts.down = set()
    assert {e.run for e in ledger.read(hosts, GATEWAYS).entries} == {"run0", "run1", "run2", "run3"}
    hosts.down = {"gw1"}
    found = ledger.read(hosts, GATEWAYS)
    assert [e.run for e in found.entries] == ["run0", "run1", "run3"]
    assert found.silent == {"gw1": "the connection broke off: gone"}


def test_lines_of_many_writers_stay_whole(hosts: Gateways) -> None:
    names = tuple(f"app{n}.a-rather-long-name-of-a-host" for n in range(400))  # some 14 kB, more than a pipe's page
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: ledger.append(hosts, ["gw1"], entry(n, hosts=names), no_warning), range(40)))
    assert sorted(e["run"] for e in hosts.audit("gw1")) == sorted(f"run{n}" for n in range(40))


def test_a_torn_line_spoils_neither_its_neighbours_nor_the_reader(hosts: Gateways) -> None:
    ledger.append(hosts, ["gw1"], entry(0), no_warning)
    path = hosts.folder("gw1") / "audit.jsonl"
    whole = path.stat().st_size
    hosts.limit_file = whole + 40  # as on a full disk
    warnings: list[str] = []
    ledger.append(hosts, ["gw1"], entry(1), warnings.append)
    assert path.stat().st_size == whole + 40
    assert len(warnings) == 1 and "audit.jsonl cannot be written" in warnings[0]
    hosts.limit_file = resource.RLIM_INFINITY
    with path.open("ab") as file:
        file.write(b"\x00\xff\xfe\x1b]0;x")
    ledger.append(hosts, ["gw1"], entry(2), no_warning)
    assert [e.run for e in ledger.read(hosts, ["gw1"]).entries] == ["run0", "run2"]


def test_reading_gives_the_last_of_a_long_audit(hosts: Gateways) -> None:
    hosts.folder("gw1").mkdir(parents=True)
    entries = [ledger.asdict(entry(n)) for n in range(60)]
    lines = (json.dumps({**entries[n % 60], "run": f"run{n}"}) + "\n" for n in range(30_000))
    (hosts.folder("gw1") / "audit.jsonl").write_text("".join(lines))
    found = ledger.read(hosts, ["gw1"], last=5).entries
    assert sorted(e.run for e in found) == [f"run{n}" for n in range(29_990, 30_000)]


def test_audits_merge_in_time_order_and_once() -> None:
    one = [entry(1, "begin"), entry(1), entry(3)]
    two = [replace(e, at=e.at.replace(":00Z", ":07Z")) for e in (entry(1, "begin"), entry(1), entry(2))]
    merged = audit.merge([one, two])
    assert [(e.run, e.event, e.at[-3:]) for e in merged] == [
        ("run1", "begin", "00Z"),
        ("run1", "end", "00Z"),
        ("run2", "end", "07Z"),
        ("run3", "end", "00Z"),
    ]


def test_nothing_ends_before_it_began_though_clocks_differ() -> None:
    begin, end = entry(5, "begin"), replace(entry(5), at="2026-01-02T03:01:00Z")
    merged = audit.merge([[begin], [end]])
    assert [e.event for e in merged] == ["begin", "end"]
    [act] = audit.acts(merged)
    assert (act.outcome, act.took_s) == ("ok", 0)


def test_an_act_without_an_end_died_unless_its_run_is_alive() -> None:
    entries = [entry(1, "begin"), entry(2, "begin"), entry(2, outcome="failed"), entry(3, "begin")]
    assert [act.outcome for act in audit.acts(entries, live={"run3"})] == ["died", "failed", "running"]


PREDICTOR = "predictor"


def step(n: int, old: str, new: str, outcome: str = "ok", what: str = "rollout", event: str = "end") -> Entry:
    return entry(n, event, outcome, what, services={PREDICTOR: (old, new)})


@pytest.mark.parametrize(
    ("entries", "running", "expected"),
    [
        ([], "1.0", None),
        ([step(1, "", "1.0", what="apply")], "1.0", None),
        ([step(1, "1.0", "1.1")], "1.1", "1.0"),
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2")], "1.2", "1.1"),
        # a release that failed, was interrupted or died; the old version runs, or the new one was kept
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2", "failed")], "1.1", "1.0"),
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2", "failed")], "1.2", "1.1"),
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2", "interrupted")], "1.2", "1.1"),
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2", event="begin")], "1.1", "1.0"),
        ([step(1, "1.0", "1.1", "failed")], "1.1", None),
        # good once, but its newest release failed
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2"), step(3, "1.2", "1.1", "failed")], "1.2", "1.0"),
        # failed first, then mended
        ([step(1, "1.0", "1.1", "failed"), step(2, "1.0", "1.1"), step(3, "1.1", "1.2")], "1.2", "1.1"),
        # what was rolled back is not where a second rollback goes
        (
            [step(1, "1.0", "1.1"), step(2, "1.1", "1.2"), step(3, "1.2", "1.1", what="rollback")],
            "1.1",
            "1.0",
        ),
        ([entry(1, services={"web": ("7", "8")})], "1.0", None),
    ],
)
def test_the_last_healthy_version(entries: list[Entry], running: str, expected: str | None) -> None:
    assert audit.last_healthy(entries, PREDICTOR, running) == expected


def released(outcome: str, new: str, without: Iterable[str]) -> Entry:
    return replace(step(1, "1.0", new), outcome=outcome, without=tuple(without))


@pytest.mark.parametrize(
    ("entries", "missed"),
    [
        ([released("ok", "1.1", ["app2"])], {"app2": frozenset({PREDICTOR})}),
        ([released("ok", "1.1", [])], {}),
        ([released("failed", "1.1", ["app2"])], {}),
        # The inventory has moved on, so that the next release is everybody's.
        ([released("ok", "1.2", ["app2"])], {}),
        # It took part in a later one, or that one failed.
        ([released("ok", "1.1", ["app2"]), released("ok", "1.1", [])], {}),
        ([released("ok", "1.1", ["app2"]), released("failed", "1.1", [])], {}),
    ],
)
def test_a_host_is_behind_with_the_last_release_alone(entries: list[Entry], missed: dict[str, frozenset[str]]) -> None:
    assert audit.behind(entries, {PREDICTOR: "1.1", "api": "2"}) == missed


def lock(person: bool = False, age_s: float = 725, silence_s: float = 4) -> Lock:
    kind: Kind = "person" if person else "run"
    return Lock("gw1", "r", "ann@desk", "w", kind, "2026-01-02T03:04:05Z", age_s, silence_s, "0" * 64, "1.0")


def answer(seen: float, uptime_s: int = 10**6, now: int = 1_767_323_045, **more: object) -> Lock:
    about = {"since": "2026-01-02T03:04:05Z", "run": "r", "who": "a", "why": "w", "person": False}
    text = json.dumps(about | more)
    found = parse_answer("gw1", f"now\t{now}\t{uptime_s}\nlock\t{'0' * 64}\t{seen:.9f}\t{text}").lock
    assert found
    return found


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        *(({"kind": kind}, kind) for kind in ("run", "apply", "person", "canary")),
        # No prose, whoever wrote it, and no other word makes it another one.
        ({"kind": "run", "why": f"{APPLY}app1"}, "run"),
        ({"kind": "person", "person": True, "why": f"{CANARY}predictor 1 -> 2 on app1"}, "person"),
        ({"kind": "person", "person": True, "why": f"{APPLY}the brakes"}, "person"),
        ({"kind": "apply", "person": True}, "apply"),
        # The release before wrote none.
        ({}, "run"),
        ({"why": f"{APPLY}app1, app2"}, "apply"),
        ({"why": f"{CANARY}predictor 1 -> 2 on app1"}, "run"),
        ({"person": True}, "person"),
        ({"person": True, "why": f"{CANARY}predictor 1 -> 2 on app1"}, "canary"),
        ({"person": True, "why": f"{APPLY}the brakes"}, "person"),
        # One that nobody knows is none.
        *(({"kind": kind, "person": True}, "person") for kind in ("", "Canary", "people", None, 1, [], {}, ["run"])),
        ({"kind": "people", "person": 1}, "run"),
    ],
)
def test_a_lock_says_of_what_kind_it_is_or_is_known_by_its_reason(about: dict[str, object], kind: Kind) -> None:
    found = answer(1_767_323_045, **about)
    assert found.kind == kind
    assert (found.person, found.applies, found.waits) == (
        kind in ("person", "canary"),
        kind == "apply",
        kind == "canary",
    )
    assert list(found.as_data()) == ["gateway", "run", "who", "why", "person", "since", "age_s", "silence_s", "alive"]


def test_the_release_before_understands_a_lock(hosts: Gateways) -> None:
    """It looks for `person`, and at how a reason begins."""
    ledger.lock(hosts, GATEWAYS, "ann@desk", f"{CANARY}x", no_warning, "canary")
    for name in GATEWAYS:
        written = json.loads(hosts.lock_file(name).read_text())
        assert list(written) == ["since", "run", "who", "why", "kind", "person"]
        assert (written["kind"], written["person"]) == ("canary", True)
    ledger.unlock(hosts, GATEWAYS, "ann@desk", no_warning)
    for held, kind in ((apply(hosts, []), "apply"), (hold(hosts), "run")):
        with held:
            written = json.loads(hosts.lock_file("gw2").read_text())
            assert (written["kind"], written["person"]) == (kind, False)
            assert written["why"].startswith(APPLY) == (kind == "apply")


@pytest.mark.parametrize(
    ("seen_ago_s", "uptime_s", "silence_s", "alive"),
    [
        (14, 10**6, 14, True),
        (15, 10**6, 15, False),
        (3600, 10**6, 3600, False),
        (-3600, 10**6, 3600, False),  # the clock was put back
        (3600, 12, 12, True),  # it has just booted
    ],
)
def test_silence_is_what_the_gateway_could_have_heard(
    seen_ago_s: int, uptime_s: int, silence_s: int, alive: bool
) -> None:
    found = answer(1_767_323_045 - seen_ago_s, uptime_s)
    assert (found.silence_s, found.alive) == (silence_s, alive)


def test_ages_are_words() -> None:
    found = {wording.duration(s) for s in (-1, 0.9, 59, 60, 119, 3599, 3600, 7200, 172_799, 172_800)}
    assert found == {"0 s", "59 s", "1 minute", "59 minutes", "1 hour", "2 hours", "47 hours", "2 days"}
    assert refusal(lock()) == (
        "locked by ann@desk 12 minutes ago: w; last sign of life 4 s ago, so it is at work: wait for it; "
        "--take-over works after 15 s of silence"
    )


def test_an_answer_that_broke_off_is_one_line() -> None:
    with pytest.raises(FiefdomError, match=r"^gw1: its answer about the ledger broke off$"):
        parse_answer("gw1", "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
GOOD = json.dumps({**ledger.asdict(entry(1)), "services": {"predictor": ["1.0", "1.1"]}})


@pytest.mark.long
@given(st.text() | JSON.map(json.dumps))
def test_no_line_breaks_the_reader(line: str) -> None:
    assert audit.parse_entry(line) is None


@given(st.sampled_from(sorted(audit.Entry.__dataclass_fields__)), JSON)
def test_no_field_breaks_the_reader(key: str, value: object) -> None:
    found = audit.parse_entry(json.dumps({**json.loads(GOOD), key: value}))
    if found:
        assert all(word.isprintable() for word in (found.run, found.who, found.note, found.plan, *found.hosts))
        shown(*audit.acts([found]))
        audit.last_healthy([found], "predictor", "")


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"at":' * 50_000,
        GOOD.replace('"1.1"', '"1.1; reboot"'),
        GOOD.replace('"1.1"', '"1.1", "1.2"'),
        GOOD.replace("2026-01-02", "2026-1-2"),
        GOOD.replace("2026-01-02", "2026-13-02"),
        GOOD.replace("2026", "٢٠٢٦"),
        GOOD.replace('"end"', '"END"'),
        GOOD[:-1],
        GOOD + GOOD,
    ],
)
def test_what_fiefdom_did_not_write_is_passed_over(line: str) -> None:
    assert audit.parse_entry(GOOD)
    assert audit.parse_entry(line) is None


@given(
    st.lists(
        st.text()
        | st.text().map("entry\t".__add__)
        | st.builds("now\t{}\t{}".format, st.integers(), st.integers())
        | JSON.map(lambda value: f"lock\t{'a' * 64}\t1.5\t{json.dumps(value)}")
    ).map("\n".join)
)
def test_no_answer_breaks_the_reader(text: str) -> None:
    try:
        found = parse_answer("gw1", text)
    except FiefdomError:
        return
    if found.lock:
        assert (refusal(found.lock) or "").isprintable()
        list(show.lock_lines(found.lock))


def shown(*acts: Act) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(show.audit_table(acts))
    return out.getvalue()


def test_the_audit_is_a_table() -> None:
    begin = step(1, "1.0", "1.1", event="begin")
    end = replace(step(2, "1.0", "1.1"), run="run1", plan="abc", hosts=("app1", "app2"), note="[red]x")
    died = replace(begin, run="run9", at="2026-01-02T04:00:00Z")
    lines = [" ".join(line.split()) for line in shown(*audit.acts([begin, end, died])).splitlines()]
    assert lines == [
        "at took who what services hosts plan outcome note",
        "2026-01-02 03:01:00 1 minute ann@desk rollout predictor 1.0 -> 1.1 app1, app2 abc ok [red]x",
        "2026-01-02 04:00:00 ann@desk rollout predictor 1.0 -> 1.1 died",
    ]


def test_a_lock_is_lines() -> None:
    assert [line.plain for line in show.lock_lines(lock())] == [
        "gw1: locked by ann@desk 12 minutes ago: w",
        "  at work: last sign of life 4 s ago",
    ]
    assert [line.plain for line in show.lock_lines(lock(silence_s=90))][1:] == [
        "  silent, perhaps dead: last sign of life 1 minute ago"
    ]
    assert len(list(show.lock_lines(lock(person=True)))) == 1


# --- As the gateway's program reads it, which cannot import the library


def names_of(kind: type[Any]) -> set[str]:
    return {found.name for found in fields(kind)}


def read_by_gateway(hosts: Gateways) -> gateways_ledger.Ledger:
    return gateways_ledger.Reader(hosts.folder("gw1")).read(time.time())


@pytest.mark.parametrize("silent_s", [0, SILENT_S + 1])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_gateway_reads_a_lock_as_the_library_does(hosts: Gateways, kind: Kind, silent_s: float) -> None:
    ledger.lock(hosts, GATEWAYS, "ann@desk", "the disk is changed", no_warning, kind)
    hosts.silence(silent_s)
    own, there = ledger.read(hosts, GATEWAYS).locks[0], read_by_gateway(hosts).lock
    assert there is not None
    same = names_of(gateways_ledger.Lock) - {"silent_s"}
    # Whose lock it is, and what a command compares it by, nobody looks at on a page.
    assert same == names_of(Lock) - {"gateway", "age_s", "silence_s", "token", "seen"}
    assert {name: getattr(there, name) for name in same} == {name: getattr(own, name) for name in same}
    assert there.alive is own.alive
    assert there.silent_s == pytest.approx(own.silence_s, abs=5)


def test_a_gateway_reads_what_was_done_as_the_library_does(hosts: Gateways) -> None:
    with hold(hosts) as held:
        with held.recorded("rollout", plan="a1", names=APPS, services={"predictor": ("1.0.0", "1.1.0")}, note="why"):
            pass
        with suppress(FiefdomError), held.recorded("reboot", names=APPS):
            raise FiefdomError("app1 does not come back")
        with suppress(KeyboardInterrupt), held.recorded("apply"):
            raise KeyboardInterrupt
        ledger.append(hosts, GATEWAYS, Entry(held.run, held.who, "upgrade", "begin"), no_warning)
    own = {act.what: act for act in audit.acts(ledger.read(hosts, GATEWAYS).entries)}
    there = {act.what: act for act in read_by_gateway(hosts).acts}
    assert {what: act.outcome for what, act in own.items()} == {
        **{"rollout": "ok", "reboot": "failed", "apply": "interrupted", "upgrade": "died"},
    }
    # Who is at work tells the page whether an act goes on.
    assert {act.what: act.outcome.replace("died", "") for act in own.values()} == {
        what: act.outcome for what, act in there.items()
    }
    same = names_of(gateways_ledger.Act) - {"hosts_more", "outcome"}
    assert same == names_of(Act) - {"plan", "without", "outcome"}
    for what, act in own.items():
        assert {name: getattr(there[what], name) for name in same} == {name: getattr(act, name) for name in same}
