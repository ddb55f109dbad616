"""What runs once before a rollout's first turn: where, in what, when again; and its failure changes nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from fiefdom.cluster import audit, ledger
from fiefdom.converge.one_off import BEGUN, ERR, LATE, OUT, Hear
from fiefdom.converge.run import Known
from fiefdom.errors import FiefdomError
from fiefdom.procedures import release_command, rollback, rollout
from fiefdom.procedures.release import Order, Release
from fiefdom.procedures.rollout import Report, Wish
from helpers.clock import Clock, stopped
from helpers.released import APPS, NEW, OLD, Said, known
from helpers.simulated import SimulatedHosts, Trouble, converged


def wants(version: str = NEW, **changes: Any) -> Known:
    """The cluster with a release command in its service."""
    command = {"release": ["manage", "migrate", "a b"], "release_timeout_s": 90}
    return known(services={"predictor": {"version": version, "instances": 2, **command, **changes}})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch)


@pytest.fixture
def hosts(tmp_path: Path, clock: Clock) -> SimulatedHosts:
    """Hosts on the old version, whose inventory names the new one and a command before it."""
    found = converged(known(), tmp_path)
    found.known = wants()
    return found


@pytest.fixture
def ran(hosts: SimulatedHosts) -> list[tuple[str, tuple[str, ...]]]:
    """Each command that ran: where, its limit and its words."""
    return answers(hosts, 0)


def answers(hosts: SimulatedHosts, code: int, *pieces: tuple[int, bytes]) -> list[tuple[str, tuple[str, ...]]]:
    found = []

    def attend(host: str, arguments: tuple[str, ...], hear: Hear) -> int:
        found.append((host, arguments[3:]))
        hear(OUT, BEGUN)
        for which, piece in pieces:
            hear(which, piece)
        return code

    hosts.one_off = attend
    return found


def perform(hosts: SimulatedHosts, said: Said | None = None, **wish: Any) -> Report:
    wish.setdefault("order", Order())
    wanted = rollout.prepare(hosts.known, hosts, {"predictor"}, Wish(**wish))
    tell = said if said is not None else []
    return rollout.perform(hosts.known, hosts, wanted, Wish(**wish), lambda who, what: tell.append((who, what)))


def acts(hosts: SimulatedHosts) -> list[tuple[str, tuple[str, ...], str, str]]:
    found = audit.acts(ledger.read(hosts, hosts.known.gateways, 1000).entries)
    return [(act.what, act.hosts, act.note, act.outcome) for act in found if act.what not in ("lock", "unlock")]


def turns(hosts: SimulatedHosts) -> list[str]:
    return [line for line in hosts.log if line.endswith((" turn", " attended"))]


RAN = ("app1", ("90", "manage", "migrate", "a b"))
DONE = ("release-predictor", ("app1",), NEW, "ok")


def test_it_runs_once_on_the_first_host_before_its_turn_in_the_new_version(
    hosts: SimulatedHosts, ran: list[object]
) -> None:
    said: Said = []
    answers_with = answers(hosts, 0, (OUT, b"migrating 0007"), (ERR, b"slow\n"), (OUT, b" ok\n"))
    report = perform(hosts, said)
    assert report.error is None
    assert answers_with == [RAN] and not ran
    assert turns(hosts) == ["app1 attended", *(f"{name} turn" for name in APPS)]
    assert [what for who, what in said if who == "app1"][:5] == [
        *("image", "release: predictor", "release: slow", "release: migrating 0007 ok", "drain")
    ]
    placed = {path: text for path, text in hosts.hosts["app1"].contents.items() if "/one-off/" in path}
    assert {Path(path).name: f"FIEFDOM_VERSION={NEW}\n".encode() in text for path, text in placed.items()} == {
        "0": True,
        "predictor-8000.conf": False,
    }
    assert acts(hosts) == [("rollout", APPS, "", "ok"), DONE]
    assert report.stages["app1"].keys() == {"release", "drain", "replace", "join", "soak"}


def test_a_volume_that_is_new_is_there_before_it(hosts: SimulatedHosts) -> None:
    """The host's turn would make it, which comes later; and the mount makes no folder."""
    hosts.known = wants(user="990:990", volumes=[{"name": "data", "path": "/data"}])
    own, seen = "/var/lib/fiefdom/volumes/predictor/data", []

    def attend(host: str, _arguments: tuple[str, ...], hear: Hear) -> int:
        seen.append(own in hosts.hosts[host].now.files)
        hear(OUT, BEGUN)
        return 0

    hosts.one_off = attend
    assert perform(hosts).error is None and seen == [True]


def test_one_that_fails_ends_the_rollout_with_nothing_changed(
    hosts: SimulatedHosts, command: Callable[..., Result]
) -> None:
    before = hosts.versions("predictor")
    answers(hosts, 3, (OUT, b"".join(b"line %d\n" % n for n in range(12))), (ERR, b"no table"))
    done = command("rollout", "predictor")
    assert done.exit_code == 1
    assert done.output.partition("app1: the")[2].splitlines() == [
        " release command of predictor: ended with exit code 3; no host began its turn",
        *(f"    line {n}" for n in range(3, 12)),
        "    no table",
        "Mend that, then: fiefdom rollout inv.yaml predictor",
    ]
    assert hosts.versions("predictor") == before and turns(hosts) == ["app1 attended"]
    assert acts(hosts) == [("rollout", APPS, "", "failed"), ("release-predictor", ("app1",), NEW, "failed")]
    assert not ledger.read(hosts, hosts.known.gateways).locks


@pytest.mark.long
def test_what_failed_runs_again_and_what_ended_well_does_not(hosts: SimulatedHosts) -> None:
    answers(hosts, 1)
    assert perform(hosts).error is not None
    again = answers(hosts, 0)
    hosts.trouble["app2"] = Trouble("fail", 12)
    assert perform(hosts).error is not None, "and is put back"
    assert again == [RAN]
    assert perform(hosts).error is None
    assert again == [RAN]


@pytest.mark.long
def test_after_a_canary_it_does_not_run_again(hosts: SimulatedHosts, ran: list[object]) -> None:
    assert perform(hosts, order=Order(canary="app3")).error is None
    assert ran == [("app3", RAN[1])]
    assert perform(hosts, resume=True).error is None
    assert len(ran) == 1 and len(turns(hosts)) == 5


@pytest.mark.long
def test_a_way_back_runs_none_and_the_next_way_on_runs_it_again(hosts: SimulatedHosts, ran: list[object]) -> None:
    assert perform(hosts).error is None
    hosts.known = rollback.known_before(wants(), hosts, "predictor", OLD)
    assert perform(hosts, what="rollback").error is None
    assert ran == [RAN]
    hosts.known = wants()
    assert perform(hosts).error is None
    assert ran == [RAN, RAN]


def test_a_way_back_that_nobody_ended_counts_as_one() -> None:
    ran = audit.Entry("r1", "me", "release-predictor", "end", "ok", note=NEW)
    begun = audit.Entry("r2", "me", "rollback", "begin", services={"predictor": (NEW, OLD)})
    assert audit.was_prepared([ran], "predictor", NEW)
    assert not audit.was_prepared([ran, begun], "predictor", NEW)
    assert audit.was_prepared([ran, begun, ran], "predictor", NEW)


def asked(hosts: SimulatedHosts, **changes: Any) -> Release:
    hosts.known = wants(**changes)
    return rollout.prepare(hosts.known, hosts, {"predictor"}, Wish(order=Order()))


@pytest.mark.long
def test_a_gateway_that_may_know_better_is_waited_for(hosts: SimulatedHosts, ran: list[object]) -> None:
    wanted = asked(hosts)
    hosts.cut.add("gw2")
    words = f"; its audit may tell that the release command of predictor {NEW} has run"
    with pytest.raises(FiefdomError, match=rf"^gw2: .*{words}$"):
        release_command.due(hosts.known, hosts, wanted)
    hosts.cut.clear()
    assert perform(hosts).error is None
    wanted = asked(hosts, stop_grace_s=31)
    hosts.cut.add("gw2")
    assert release_command.due(hosts.known, hosts, wanted) == (), "gw1 knows that it has"


@pytest.mark.long
def test_each_version_has_its_own(hosts: SimulatedHosts, ran: list[object]) -> None:
    assert perform(hosts).error is None
    hosts.known = wants("2.0.0")
    assert perform(hosts).error is None
    assert ran == [RAN, RAN]
    hosts.known = wants("2.0.0", stop_grace_s=31)
    assert perform(hosts).error is None
    assert ran == [RAN, RAN], "other settings of a version that has it behind it"


@pytest.mark.parametrize(
    ("code", "took_s", "reason"),
    [
        (LATE, 90.0, "was not at its end after 90 s, and was stopped; no host began its turn"),
        (LATE, 1.0, f"ended with exit code {LATE}; no host began its turn"),
    ],
)
def test_one_that_takes_too_long_is_told_from_one_that_says_so(
    hosts: SimulatedHosts, clock: Clock, code: int, took_s: float, reason: str
) -> None:
    def attend(_host: str, _arguments: tuple[str, ...], hear: Hear) -> int:
        hear(OUT, BEGUN)
        clock.now_s += took_s
        return code

    hosts.one_off = attend
    report = perform(hosts)
    assert report.error is not None
    assert [(f.unit, f.reason, f.begun) for f in report.error.failures] == [
        ("the release command of predictor", reason, False)
    ]


def test_what_did_not_begin_and_a_link_that_drops_are_told_as_such(hosts: SimulatedHosts) -> None:
    def attend(_host: str, _arguments: tuple[str, ...], hear: Hear) -> int:
        hear(ERR, b"the image is not here\n")
        return 1

    hosts.one_off = attend
    error = perform(hosts).error
    assert error is not None and error.failures[0].reason == "the image is not here; no host began its turn"


def test_what_would_run_is_said_beforehand(
    hosts: SimulatedHosts, command: Callable[..., Result], ran: list[object]
) -> None:
    line = f"first, in predictor {NEW} on app1: manage migrate 'a b'\n"
    done = command("rollout", "--dry")
    assert done.exit_code == 0 and line in done.output
    assert ran == []
    assert perform(hosts).error is None
    hosts.known = rollback.known_before(wants(), hosts, "predictor", OLD)
    assert line not in command("rollback", "predictor", OLD, "--dry").output


def test_without_a_command_the_audit_is_not_asked(hosts: SimulatedHosts) -> None:
    hosts.known = known(NEW)
    assert perform(hosts).error is None
    assert not any(line.endswith("attended") for line in hosts.log)
    assert acts(hosts) == [("rollout", APPS, "", "ok")]


def test_secrets_travel_in_steps_that_no_log_shows(hosts: SimulatedHosts, ran: list[object]) -> None:
    assert perform(hosts).error is None
    stages = [step for step in hosts.hosts["app1"].log if step[0] == "stage" and "/one-off/" in step[1]]
    assert [step[2] for step in stages] == ["0600", "0600"]
    assert b"TOKEN=s3cret" in base64.b64decode(stages[0][-1])
