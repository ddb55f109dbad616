"""Commands on simulated hosts of which one is dead: what is shown, what goes on without it, what it gets afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fiefdom.cli import frame, main
from fiefdom.cluster import ledger
from fiefdom.converge import look
from fiefdom.inventory.groups import left_out
from fiefdom.model import Cluster
from helpers.clock import Clock, stopped
from helpers.released import APPS, NEW, OLD, known
from helpers.simulated import SimulatedHosts, converged, dying

GATEWAYS = ("gw1", "gw2")
DEAD = "app4"
GONE = "the connection broke off: gone"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> SimulatedHosts:
    """Hosts on the old version."""
    found = converged(known(), tmp_path)

    @contextmanager
    def connected(
        inventory: str, *rest: object, without: Sequence[str] | None = None, looks: bool = False, **_: object
    ) -> Iterator[frame.Run]:
        gone = left_out(found.known.cluster, without or ())
        check: Callable[[Cluster], object] = rest[1] if len(rest) > 1 else lambda _: None  # type: ignore[assignment]
        check(found.known.cluster)
        found.known = replace(found.known, without=gone)
        assert looks or not found.cut & set(found.names), "the session would have refused it"
        yield frame.Run(inventory, found.known, found.names, found, frame.out())  # type: ignore[arg-type]

    monkeypatch.setattr(frame, "connected", connected)
    return found


def fiefdom(*arguments: str) -> Result:
    return CliRunner().invoke(main.main, [arguments[0], "inv.yaml", *arguments[1:]])


def done(*arguments: str) -> str:
    result = fiefdom(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def dies(hosts: SimulatedHosts, name: str = DEAD) -> None:
    hosts.cut.add(name)
    hosts.gone.add(name)
    hosts.tags.pop(name, None)
    hosts.rings.pop(name, None)


def comes_back(hosts: SimulatedHosts, name: str = DEAD) -> None:
    """With whatever it ran."""
    hosts.gone.discard(name)
    hosts.connect_anew(name)
    hosts._gossip(name)


def running(hosts: SimulatedHosts) -> dict[str, str]:
    return {name: "".join({version for version, _ in found}) for name, found in hosts.versions("predictor").items()}


def test_status_shows_what_the_gateways_see_of_a_dead_host(hosts: SimulatedHosts) -> None:
    done("status", "--check")
    dies(hosts)
    result = fiefdom("status", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["serving"]) == (3, False)
    (host,) = [host for host in found["hosts"] if host["silence"]]
    assert (host["name"], host["silence"]) == (DEAD, GONE)
    assert {i["container"] for i in found["instances"] if i["host"] == DEAD} == {"unknown"}
    assert {i["container"] for i in found["instances"] if i["host"] != DEAD} == {"running"}
    assert found["problems"] == [f"{DEAD}: does not answer: {GONE}"]
    assert f"! {DEAD}: does not answer: {GONE}" in fiefdom("status").stdout


def test_a_dead_gateway_is_told_of_once(hosts: SimulatedHosts) -> None:
    dies(hosts, "gw2")
    found = json.loads(fiefdom("status", "--json").stdout)
    assert found["problems"] == [f"gw2: does not answer: {GONE}"]
    assert {tuple(i["servers"]) for i in found["instances"]} == {("up", "unknown")}


def test_plan_audit_and_lock_show_who_does_not_answer(hosts: SimulatedHosts) -> None:
    dies(hosts)
    result = fiefdom("plan")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[lines.index(DEAD) + 1] == f"  ! does not answer: {GONE}"
    assert lines[-1].startswith("no changes on the 5 that answer of 6 hosts. plan ")
    data = json.loads(fiefdom("plan", "--json").stdout)
    assert (set(data["hosts"]), data["silent"]) == ({*GATEWAYS, *APPS} - {DEAD}, {DEAD: GONE})
    dies(hosts, "gw2")
    for verb in ("audit", "lock"):
        result = fiefdom(verb)
        assert result.exit_code == 3 and f"gw2: does not answer: {GONE}" in result.stdout
        assert json.loads(fiefdom(verb, "--json").stdout)["silent"] == {"gw2": GONE}


def test_lock_shows_who_holds_it(hosts: SimulatedHosts) -> None:
    assert done("lock").splitlines() == ["gw1: not locked", "gw2: not locked"]
    done("lock", "--why", "the sale")
    assert "gw2: locked by " in done("lock") and "the sale" in done("lock")
    assert done("unlock").startswith("Unlocked: ")


def test_status_waits_until_a_host_is_back(hosts: SimulatedHosts, clock: Clock) -> None:
    dies(hosts)
    assert fiefdom("status", "--wait", "10").exit_code == 3 and clock.passed_s >= 10

    def back() -> None:
        if clock.slept[-1:] and clock.passed_s >= 20:
            comes_back(hosts)

    clock.meanwhile = back
    done("status", "--wait", "600")
    assert clock.passed_s < 60
    hosts.servers = lambda: []  # type: ignore[method-assign]
    assert fiefdom("status", "--wait", "5").exit_code == 2


@pytest.mark.long
def test_a_host_that_missed_a_release_gets_it_with_the_next_apply(hosts: SimulatedHosts) -> None:
    dies(hosts)
    hosts.known = known(NEW)
    said = done("rollout", "--without", DEAD)
    assert f"Done without {DEAD}: once it is back, `fiefdom apply inv.yaml` brings it this version." in said
    assert running(hosts) == {**dict.fromkeys(APPS, NEW), DEAD: OLD}
    assert f"without {DEAD}" in done("audit")
    assert "no changes on 5 hosts, without app4. plan " in done("plan", "--without", DEAD)

    comes_back(hosts)
    # Gateways take it up with what it says it runs; status and plan say that this is not to stay.
    (notice,) = json.loads(fiefdom("status", "--json").stdout)["notices"]
    assert (
        notice == f"predictor {OLD} runs on {DEAD}, and the inventory says {NEW}; `fiefdom plan` shows what brings it"
    )
    result = fiefdom("plan")
    assert result.exit_code == 2 and "with its rollout" not in result.stdout and f"-> {NEW}" in result.stdout
    done("apply", "--yes")
    assert running(hosts) == dict.fromkeys(APPS, NEW)
    done("plan")
    assert not hosts.hosts[DEAD].unfinished and hosts.tags[DEAD]["svc:predictor"].startswith(NEW)


@pytest.mark.long
def test_a_canarys_release_is_missed_by_nobody(hosts: SimulatedHosts) -> None:
    dies(hosts)
    hosts.known = known(NEW)
    done("rollout", "--without", DEAD, "--canary", "app1")
    comes_back(hosts)
    (pending,) = json.loads(fiefdom("plan", "--json").stdout)["pending"]
    assert pending["hosts"] == ["app2", "app3", DEAD]
    done("apply", "--yes")
    assert running(hosts) == {**dict.fromkeys(APPS, OLD), "app1": NEW}


@pytest.mark.long
def test_a_release_without_a_gateway_is_witnessed_by_all_others(hosts: SimulatedHosts) -> None:
    dies(hosts, "gw2")
    hosts.known = known(NEW)
    done("rollout", "--without", "gw2", "--canary", "app1")
    others = ("gw1", *APPS)
    assert [lock.gateway for lock in ledger.read(hosts, others, 0).locks] == list(others)
    comes_back(hosts, "gw2")
    # Going on with all gateways frees the witnesses as well.
    done("rollout", "--continue")
    assert running(hosts) == dict.fromkeys(APPS, NEW)
    assert ledger.read(hosts, (*GATEWAYS, *APPS), 0).locks == ()


def test_what_serves_alone_beside_the_dead_is_not_taken_out(hosts: SimulatedHosts) -> None:
    hosts.known = known(NEW)
    for name in ("app2", "app3"):
        hosts.hosts[name].now.offers.pop("predictor")
        hosts._gossip(name)
    dies(hosts)
    result = fiefdom("rollout", "--without", DEAD, "--force", "--batch", "3")
    assert result.exit_code == 1 and "takes all of it out at once" in result.stderr
    assert set(running(hosts).values()) == {OLD}


@pytest.mark.long
def test_apply_does_the_plan_that_was_named_or_nothing(hosts: SimulatedHosts) -> None:
    hosts.known = known(serf={"memory_mib": 96})
    shown = json.loads(fiefdom("plan", "--json").stdout)["hash"]
    hosts.hosts["app1"].now.files.pop("/etc/ssh/sshd_config.d/10-fiefdom.conf")
    result = fiefdom("apply", "--plan", shown)
    now = look.make_plan(hosts.known, hosts.names, hosts).hash
    assert result.exit_code == 1
    assert f"error: the plan is {now} by now, and not {shown}; nothing was done" in result.stderr
    assert not any(line.endswith((" containers", " access", " files")) for line in hosts.log)
    done("apply", "--plan", now)
    done("plan")


def test_a_plan_that_changes_before_the_lock_is_held_is_not_done(
    hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.known = known(serf={"memory_mib": 96})
    shown = json.loads(fiefdom("plan", "--json").stdout)["hash"]
    script = hosts.script

    def meanwhile(name: str, text: str, arguments: Sequence[str] = (), *rest: object, **more: object) -> object:
        if "take" in arguments:
            hosts.hosts["app1"].now.files.pop("/etc/ssh/sshd_config.d/10-fiefdom.conf", None)
        return script(name, text, arguments, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(hosts, "script", meanwhile)
    result = fiefdom("apply", "--plan", shown)
    assert result.exit_code == 1 and "; nothing was done" in result.stderr
    assert not any(line.endswith((" containers", " access", " files")) for line in hosts.log)


@pytest.mark.parametrize("verb", ["rollback predictor 1.0.0", "retire app1", "rotate-key"])
def test_what_cannot_be_undone_is_not_done_unasked(hosts: SimulatedHosts, verb: str) -> None:
    result = fiefdom(*verb.split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: no terminal to ask on; say --yes to let it go on unasked\n"
    assert not any("ledger" in line or line.endswith(" turn") for line in hosts.log)


SHOWN = {
    "retire app1": (
        "-   unit fiefdom-predictor@8000.service",
        "Would drain app1, take this away",
        "Nothing was changed.",
    ),
    "reboot --limit app2": ("Would reboot app2, one after the other", "Nothing was changed."),
    "rotate-key": ("2. each of gw1, gw2, app1, app2", "speaks with the new key", "Nothing was changed."),
}


@pytest.mark.parametrize(("verb", "words"), SHOWN.items())
def test_what_is_only_shown_asks_nobody_and_changes_nothing(
    hosts: SimulatedHosts, verb: str, words: Sequence[str]
) -> None:
    shown = done(*verb.split(), "--dry")
    assert all(line in shown for line in words), shown
    assert "file /etc/ssh/" not in shown  # what lets the operator in stays
    document = json.loads(fiefdom(*verb.split(), "--dry", "--json").stdout)
    assert document["dry"] is True and document["hosts"]
    assert not any("ledger" in line or line.endswith((" turn", " boot")) for line in hosts.log)


@pytest.mark.parametrize("verb", ["retire app1", "reboot", "rotate-key"])
def test_what_would_be_refused_is_refused_when_it_is_only_to_be_shown(hosts: SimulatedHosts, verb: str) -> None:
    dying(hosts, "app2", "app3", "app4")
    result = fiefdom(*verb.split(), "--dry")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_a_rollback_that_is_only_shown_asks_nobody(hosts: SimulatedHosts) -> None:
    assert f"predictor x 2  {OLD} -> 1.1.0" in done("rollback", "predictor", "1.1.0", "--dry")
