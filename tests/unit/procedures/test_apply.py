"""Commands that change hosts, on simulated ones: who may be at work at once, and what a program reads of the end."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from fiefdom.cli import frame, main
from fiefdom.cluster import audit, ledger, lock, locking
from fiefdom.converge import look
from fiefdom.converge.steps import phases
from fiefdom.converge.waves import left_by_turns
from fiefdom.desired import concerns
from fiefdom.errors import FiefdomError
from fiefdom.procedures.apply import apply
from helpers.clock import Clock, stopped
from helpers.released import APPS, NEW, OLD, known
from helpers.simulated import SimulatedHosts, bring, converged

GATEWAYS = ("gw1", "gw2")
MORE_MEMORY = {"serf": {"memory_mib": 96}}
"""Restarts every agent, so that each host leaves for a moment."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> SimulatedHosts:
    found = converged(known(), tmp_path)
    found.known = known(**MORE_MEMORY)

    @contextmanager
    def connected(inventory: str, limit: tuple[str, ...], *_: Any, **__: Any) -> Iterator[frame.Run]:
        yield frame.Run(inventory, found.known, limit or found.names, found, frame.out())  # type: ignore[arg-type]

    monkeypatch.setattr(frame, "connected", connected)
    return found


def fiefdom(*arguments: str) -> Result:
    return CliRunner().invoke(main.main, [arguments[0], "inv.yaml", *arguments[1:]])


def words(result: Result) -> list[str]:
    """What it printed for a person, less what it always says."""
    assert result.exit_code == 0, result.output
    return [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]


def at_work(hosts: SimulatedHosts, who: str = "ann@desk") -> Any:
    """An apply of somebody else."""
    act = locking.Held(hosts, GATEWAYS, "run", who, "", pytest.fail)
    found = locking.hold_for_apply(act, ["app1"], pytest.fail)
    found.__enter__()
    return found


@pytest.mark.long
def test_an_apply_that_interrupts_hosts_holds_the_lock_meanwhile(hosts: SimulatedHosts) -> None:
    assert words(fiefdom("apply", "--yes")) == []
    log = hosts.log
    turns = [i for i, line in enumerate(log) if line.endswith(" containers")]
    assert len(turns) == len(APPS)
    assert log.index("gw2 ledger take") < turns[0] and log.index("gw1 ledger release") > turns[-1]
    # Each turn is preceded by a sign of life, and the first by the end of what another run left under way.
    assert [log[i - 1] for i in turns] == ["gw2 ledger beat"] * len(APPS)
    assert log.index("gw2 ledger take") < log.index("app1 awaited") < turns[0]
    found = ledger.read(hosts, GATEWAYS)
    (act,) = audit.acts(found.entries)
    assert (act.what, act.outcome, act.hosts, found.locks) == ("apply", "ok", APPS, ())
    assert len(act.plan) == 12


def test_an_apply_that_interrupts_nobody_takes_no_lock(hosts: SimulatedHosts) -> None:
    hosts.known = known()
    hosts.hosts["app1"].now.packages.pop("nftables")
    assert words(fiefdom("apply", "--yes")) == []
    assert [line for line in hosts.log if "ledger" in line and "append" not in line] == [
        "gw1 ledger show",
        "gw2 ledger show",
    ]


def test_an_apply_with_nothing_to_do_asks_the_ledger_nothing(hosts: SimulatedHosts) -> None:
    hosts.known = known()
    assert words(fiefdom("apply", "--yes")) == []
    assert hosts.log == []


def test_an_apply_says_how_many_hosts_it_converged(hosts: SimulatedHosts) -> None:
    hosts.hosts["app1"].now.packages.pop("nftables")
    assert "\nConverged 1 host in " in fiefdom("apply", "--yes", "--limit", "app1").stdout


@pytest.mark.long
@pytest.mark.parametrize("calm", [False, True], ids=["that interrupts", "that interrupts nobody"])
def test_an_apply_waits_for_another_one_and_does_what_that_left(
    hosts: SimulatedHosts, clock: Clock, calm: bool
) -> None:
    if calm:
        hosts.known = known()
    hosts.hosts["app1"].now.packages.pop("nftables")
    other = at_work(hosts)

    def ends() -> None:
        clock.meanwhile = lambda: None
        bring(hosts, known())  # it had an older inventory, and took the package along
        hosts.known = known() if calm else known(**MORE_MEMORY)
        hosts.log.clear()
        other.__exit__(None, None, None)

    clock.meanwhile = ends
    result = fiefdom("apply", "--yes")
    said = words(result)
    assert said[0] == "waits for the apply of ann@desk"
    assert said[1:] == [] and "Converged" in result.stdout
    assert "app1 packages" not in hosts.log
    assert ("app1 containers" in hosts.log) != calm


@pytest.mark.long
@pytest.mark.parametrize("yes", [False, True])
def test_what_nobody_agreed_to_is_done_with_yes_only(hosts: SimulatedHosts, clock: Clock, yes: bool) -> None:
    """Without --yes a person saw a plan, and it is that or less."""
    seen = look.make_plan(hosts.known, hosts.names, hosts)
    other = at_work(hosts)

    def ends() -> None:
        hosts.hosts["app1"].now.packages.pop("nftables")
        other.__exit__(None, None, None)

    clock.meanwhile = ends
    words = r"^the hosts changed since this run looked at them \(app1: package nftables\); run it again$"
    with nullcontext() if yes else pytest.raises(FiefdomError, match=words):
        apply(hosts.known, hosts, seen, whatever=yes, say=lambda *_: None, tell=lambda _: None, warn=pytest.fail)
    assert ("app1 packages" in hosts.log) == ("app2 containers" in hosts.log) == yes
    assert ledger.read(hosts, GATEWAYS).locks == ()


@pytest.mark.long
def test_what_takes_nobody_out_is_done_before_the_lock_is_asked_for(hosts: SimulatedHosts) -> None:
    """Packages and images take long, and a new login may have to be waited for."""
    hosts.hosts["app1"].now.packages.pop("nftables")
    result = fiefdom("apply", "--yes")
    assert words(result) == []
    assert hosts.log.index("app1 packages") < hosts.log.index("gw1 ledger take") < hosts.log.index("app1 containers")
    done = [line.split()[2] for line in result.stdout.splitlines() if line.endswith(" done")]
    assert done == [*APPS]


def test_what_ran_where_dockerd_was_down_is_found_under_the_lock(hosts: SimulatedHosts) -> None:
    app1 = hosts.hosts["app1"]
    hosts.known = known()
    running, app1.now = app1.now.containers, replace(app1.now, docker="down", containers={})
    run_phase = hosts.run

    def run(name: str, phase: Any) -> None:
        if name == "app1" and app1.now.docker == "down":  # whatever comes first starts it
            app1.now = replace(app1.now, docker="up", containers=dict(running))
        run_phase(name, phase)

    hosts.run = run  # type: ignore[method-assign]
    app1.now.packages.pop("nftables")
    assert words(fiefdom("apply", "--yes")) == []
    assert "app1 containers" not in hosts.log and app1.now.containers == running


@pytest.mark.long
def test_an_apply_whose_lock_was_taken_over_begins_no_other_turn(hosts: SimulatedHosts) -> None:
    run_phase = hosts.run

    def run(name: str, phase: Any) -> None:
        run_phase(name, phase)
        if (name, phase.name) == ("app1", "containers"):
            for gateway in GATEWAYS:
                (hosts.root / gateway / "lock").unlink()

    hosts.run = run  # type: ignore[method-assign]
    result = fiefdom("apply", "--yes")
    assert result.exit_code == 1 and "this run's lock was removed meanwhile" in result.stderr
    assert "app2 containers" not in hosts.log


@pytest.mark.long
def test_an_apply_that_was_killed_is_run_again_without_a_flag(hosts: SimulatedHosts, clock: Clock) -> None:
    dead = at_work(hosts)
    for gateway in GATEWAYS:
        path = hosts.root / gateway / "lock"
        at = path.stat().st_mtime - lock.SILENT_S
        os.utime(path, (at, at))
    said = words(fiefdom("apply", "--yes"))
    assert said == ["took over from ann@desk: apply of app1, which was silent for more than 15 s"]
    del dead


# --- JSON


def answer(result: Result) -> tuple[str, str]:
    """Outcome and error of a command that failed, as one document and one line."""
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line == f"error: {data['error']}"
    return data["outcome"], data["error"]


@pytest.mark.parametrize(
    "command",
    ["apply --yes", "rollout", "rollback predictor 1.0.0 --yes", "reboot", "retire app1 --yes", "rotate-key --yes"],
)
def test_a_program_is_told_why_a_command_was_refused(hosts: SimulatedHosts, command: str) -> None:
    hosts.known = known(NEW, **MORE_MEMORY) if command == "apply --yes" else known(NEW)
    locking.lock(hosts, GATEWAYS, "ann@desk", "the sale", pytest.fail)
    outcome, error = answer(fiefdom(*command.split(), "--json"))
    assert outcome == "refused" and "the sale" in error
    assert not any(line.endswith((" turn", " containers")) for line in hosts.log)


def test_a_program_is_told_that_a_command_failed(hosts: SimulatedHosts) -> None:
    def run(name: str, *_: Any) -> None:
        raise FiefdomError(f"{name}: out of\nluck")

    hosts.run = run  # type: ignore[method-assign]
    result = fiefdom("apply", "--yes", "--json")
    outcome, error = answer(result)
    assert outcome == "failed" and "app1: out of luck" in error
    assert set(json.loads(result.stdout)["hosts"]) == set(hosts.names)


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "has"),
    [
        ("apply --yes", {"hosts", "hash"}),
        ("plan", {"hosts", "hash"}),
        ("rollout", {"outcome", "on_new_version"}),
        ("retire app1 --yes", {"outcome", "seconds"}),
    ],
)
def test_what_goes_well_is_one_document_as_well(hosts: SimulatedHosts, command: str, has: set[str]) -> None:
    hosts.known = known(NEW)
    result = fiefdom(*command.split(), "--json")
    assert has <= set(json.loads(result.stdout))
    assert "error" not in json.loads(result.stdout)


def test_without_json_nothing_of_it_is_printed(hosts: SimulatedHosts) -> None:
    hosts.known = known(NEW)
    locking.lock(hosts, GATEWAYS, "ann@desk", "the sale", pytest.fail)
    result = fiefdom("rollout")
    assert (result.exit_code, result.stdout) == (1, "")
    assert OLD not in result.stderr


@pytest.mark.long
def test_ports_that_instances_leave_stay_open_until_their_turn(hosts: SimulatedHosts) -> None:
    """The rules are there before the first turn, and gateways send requests to old ports until the last one."""
    hosts.known = known(services={"predictor": {"version": OLD, "base_port": 8500}, "web": None})
    for name in APPS:
        hosts.hosts[name].state = concerns.states_of(hosts.known.cluster, name, hosts.known.secrets)["trixie"]
    agreed = look.make_plan(hosts.known, hosts.names, hosts)
    run, seen = hosts.run, []

    def watched(name: str, *rest: Any) -> None:
        run(name, *rest)
        if name in APPS:
            rules = hosts.hosts[name].contents["/etc/fiefdom/firewall.nft"].decode()
            (ports,) = set(re.findall(r"proto-dst { (.*?) }", rules))
            seen.append((name, rest[0].name, ports, set(hosts.hosts[name].now.containers) - {"serf-agent"}))

    hosts.run = watched  # type: ignore[method-assign]
    assert words(fiefdom("apply", "--yes")) == []
    old, new = ({f"predictor-{base + i}" for i in range(2)} for base in (8000, 8500))
    by_host = {name: [each[1:] for each in seen if each[0] == name] for name in APPS}
    for found in by_host.values():
        both = "8000-8001, 8500-8501"
        assert [each for each in found if each[0] in ("access", "containers")] == [
            ("access", both, old),
            ("containers", both, new),
            ("access", "8500-8501", new),
        ]
    assert look.make_plan(hosts.known, hosts.names, hosts).clean
    # What somebody else changes meanwhile is not a part of that.
    hosts.hosts["app1"].now.files.pop("/etc/ssh/sshd_config.d/10-fiefdom.conf")
    left = look.make_plan(hosts.known, hosts.names, hosts)
    assert not left.clean and left_by_turns(left, agreed).clean


@pytest.mark.long
def test_instances_that_listen_where_their_host_is_no_more_wait_for_no_release(hosts: SimulatedHosts) -> None:
    """Nor once the host has moved, be it that the run died there: nobody would ever reach them."""
    hosts.known = known(hosts={"app1": {"address": "10.1.0.99"}})
    hosts.hosts["app1"].state = concerns.states_of(hosts.known.cluster, "app1", hosts.known.secrets)["trixie"]

    def replaced() -> set[str]:
        (host,) = [h for h in look.make_plan(hosts.known, hosts.names, hosts).hosts if h.host == "app1"]
        assert host.pending == {}
        return {c.name for c in host.due.of("container", "-/+")}

    instances = {"predictor-8000", "predictor-8001"}
    assert instances <= replaced()
    (access,) = [p for p in phases(look.make_plan(hosts.known, ["app1"], hosts).hosts[0].due) if p.name == "access"]
    hosts.run("app1", access)
    assert instances <= replaced()
    assert words(fiefdom("apply", "--yes")) == []
    assert {hosts.hosts["app1"].now.containers[name].listens for name in instances} == {"10.1.0.99"}
    assert look.make_plan(hosts.known, hosts.names, hosts).clean


@pytest.mark.long
def test_a_port_of_checks_is_offered_with_the_release_and_not_before(hosts: SimulatedHosts) -> None:
    """Gateways that asked for it at once would find nobody there, on any host."""

    def offers() -> set[str]:
        return {hosts.tags[name]["svc:predictor"] for name in APPS}

    def opened() -> set[str]:
        rules = [hosts.hosts[name].contents["/etc/fiefdom/firewall.nft"].decode() for name in APPS]
        return {ports for text in rules for ports in re.findall(r"proto-dst { (.*?) }", text)}

    for before, after, suffix in ((None, 9100, ""), (9100, 9200, ";9100")):
        health = {"health": {"container_port": 9000, "base_port": after}}
        hosts.known = known(services={"predictor": {"version": OLD, **health}})
        for name in APPS:
            hosts.hosts[name].state = concerns.states_of(hosts.known.cluster, name, hosts.known.secrets)["trixie"]
        assert words(fiefdom("apply", "--yes")) == []
        left = look.make_plan(hosts.known, hosts.names, hosts)
        assert left.due.clean and [str(p) for p in left.pending] == [
            f"predictor {OLD} with other settings on {', '.join(APPS)}"
        ]
        assert offers() == {f"{OLD};8000-8001{suffix}"}
        both = [f"{first}-{first + 1}" for first in (before, after) if first is not None]
        assert all(all(span in ports for span in both) for ports in opened())
        assert fiefdom("rollout").exit_code == 0
        assert offers() == {f"{OLD};8000-8001;{after}"}


@pytest.mark.parametrize(
    "ends, words",
    [
        (KeyboardInterrupt, "interrupted; what was done stays, and the next run finishes the rest"),
        (click.Abort, "interrupted"),
    ],
    ids=["at work", "asked"],
)
def test_a_plan_that_was_made_is_a_document_also_where_somebody_interrupts(
    hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch, ends: type[BaseException], words: str
) -> None:
    def asks(*_: Any, **__: Any) -> None:
        raise ends

    monkeypatch.setattr("fiefdom.cli.frame.is_terminal", lambda _: True)
    monkeypatch.setattr("click.confirm", asks)
    result = fiefdom("apply", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["hash"] == look.make_plan(hosts.known, hosts.names, hosts).hash
    assert result.stderr.endswith(f"error: {words}\n")


@pytest.mark.parametrize("idle", [False, True], ids=["with changes", "with nothing to do"])
def test_an_apply_does_not_end_well_where_gossip_passes_in_one_direction_only(
    hosts: SimulatedHosts, clock: Clock, idle: bool
) -> None:
    if idle:
        hosts.known = known()
    else:
        hosts.hosts["app2"].now.packages.pop("nftables")
    hosts.closed.add(("gw2", "app2"))
    result = fiefdom("apply", "--yes")
    addresses = {name: host.address for name, host in hosts.known.cluster.hosts.items()}
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: app2: port 7946/tcp of {addresses['app2']} cannot be reached from gw2 ({addresses['gw2']}): "
        "no answer within 3 s"
    )
    assert "Converged" not in result.stdout


def test_a_host_has_its_turn_only_once_the_one_before_is_heard(hosts: SimulatedHosts, clock: Clock) -> None:
    hosts.closed.add(("app1", "gw1"))
    result = fiefdom("apply", "--yes")
    assert result.exit_code == 1 and "error: gw1: port 7946/tcp of " in result.stderr
    assert [line for line in hosts.log if line.endswith(" containers")] == ["app1 containers"]


@pytest.mark.long
def test_agents_that_find_each_other_late_are_waited_for(hosts: SimulatedHosts, clock: Clock) -> None:
    hosts.closed.add(("gw1", "app3"))
    clock.meanwhile = hosts.closed.clear
    assert words(fiefdom("apply", "--yes")) == []
