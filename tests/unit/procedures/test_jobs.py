"""Jobs on simulated hosts: what an apply, a rollout and a removal change of them, and what doctor tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fiefdom.converge import look
from fiefdom.converge.run import Known
from helpers.released import NEW, OLD, known
from helpers.simulated import SimulatedHosts, bring, converged

JOB = {"command": ["manage", "tidy"], "schedule": "*-*-* 03:00"}
NAME = "fiefdom-job-predictor.tidy"
CONF = "/etc/fiefdom/jobs/predictor.tidy.conf"
TIMER_FILE, UNIT_FILE = (f"/etc/systemd/system/{NAME}.{kind}" for kind in ("timer", "service"))


def wanted(version: str = OLD, **job: Any) -> Known:
    return known(version, services={"predictor": {"jobs": {"tidy": {**JOB, **job}}}})


@pytest.fixture
def hosts(tmp_path: Path) -> SimulatedHosts:
    return converged(wanted(), tmp_path)


def changes(hosts: SimulatedHosts, wanted: Known) -> dict[str, list[str]]:
    """What an apply changes, by host, less the hosts where that is nothing."""
    found = look.make_plan(wanted, hosts.names, hosts).due.hosts
    return {h.host: [f"{c.sign} {c.kind} {c.name}" for c in h.changes] for h in found if h.changes}


def test_a_job_comes_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    hosts = converged(known(), tmp_path)
    found = changes(hosts, wanted())
    assert found.keys() == set(hosts.names) - {"gw1", "gw2"}
    assert {f"+ file {CONF}", f"+ file {TIMER_FILE}", f"+ file {UNIT_FILE}", f"+ unit {NAME}.timer"} <= set(
        found["app1"]
    )
    assert not [c for of_host in found.values() for c in of_host if " container " in c or " offer " in c]
    bring(hosts, wanted())
    assert changes(hosts, wanted()) == {}
    assert hosts.hosts["app1"].now.units[f"{NAME}.timer"].active == "active"


@pytest.mark.parametrize(
    ("job", "drift"),
    [
        ({"schedule": "*-*-* 04:00"}, [f"~ file {TIMER_FILE}", f"~ unit {NAME}.timer"]),
        ({"command": ["manage", "clean"]}, [f"~ file {CONF}"]),
        ({"timeout_s": 60}, [f"~ file {CONF}", f"~ file {UNIT_FILE}"]),
    ],
)
def test_a_changed_job_is_an_apply_without_a_release(
    hosts: SimulatedHosts, job: dict[str, Any], drift: list[str]
) -> None:
    assert changes(hosts, wanted(**job))["app1"] == drift
    bring(hosts, wanted(**job))
    assert changes(hosts, wanted(**job)) == {}


def test_a_timer_that_somebody_stopped_or_turned_off_is_drift(hosts: SimulatedHosts) -> None:
    host = hosts.hosts["app1"]
    timer = host.now.units[f"{NAME}.timer"]
    for broken in (replace(timer, active="inactive"), replace(timer, enabled="disabled")):
        host.now.units[f"{NAME}.timer"] = broken
        assert changes(hosts, wanted()) == {"app1": [f"~ unit {NAME}.timer"]}
        bring(hosts, wanted())
        assert changes(hosts, wanted()) == {}


@pytest.mark.parametrize("state", ["activating", "failed", "inactive"])
def test_a_run_of_it_is_no_drift_however_it_goes(hosts: SimulatedHosts, state: str) -> None:
    host = hosts.hosts["app1"]
    host.now.units[f"{NAME}.service"] = replace(host.now.units[f"{NAME}.timer"], enabled="static", active=state)
    assert changes(hosts, wanted()) == {}


def test_a_release_is_none_of_its_business(hosts: SimulatedHosts) -> None:
    assert changes(hosts, wanted(NEW)) == {}, "what it runs in, its host's instances say"


def test_it_goes_with_its_key_and_its_timer_goes_first(hosts: SimulatedHosts) -> None:
    gone = [f"- file {CONF}", f"- file {TIMER_FILE}", f"- file {UNIT_FILE}"]
    gone += [f"- unit {NAME}.service", f"- unit {NAME}.timer"]
    assert set(gone) <= set(changes(hosts, known())["app1"])
    bring(hosts, known())
    assert changes(hosts, known()) == {}
    host = hosts.hosts["app1"]
    removed = [step[1] for step in host.log if step[0] == "remove-unit"]
    assert removed == [f"{NAME}.timer", f"{NAME}.service"], "what is stopped is not started once more"
    assert not [path for path in host.now.files if "job" in path or path.endswith("/once")]


def test_doctor_tells_of_the_last_run_of_all_hosts_that_did_not_end_well(hosts: SimulatedHosts) -> None:
    hosts.hosts["app1"].now.jobs["predictor.tidy"] = "1796000400 1796000412 7"
    found, _ = look.diagnose(wanted(), hosts.names, hosts)
    (finding,) = found["app1"]
    assert (finding.level, finding.what) == ("warning", "job") and not found["app2"]
    assert str(finding) == (
        "the job tidy of predictor ended with exit code 7; it began 2026-11-30 01:00:00 UTC: what it is for is not done"
        f"; `journalctl -u {NAME}.service` there tells more; the next run is its next try"
    )
    hosts.hosts["app2"].now.jobs["predictor.tidy"] = "1796086800 1796086812 0"
    found, _ = look.diagnose(wanted(), hosts.names, hosts)
    assert not found["app1"] and not found["app2"], "it ended well since, on another host"
