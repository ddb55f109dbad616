"""What hosts keep of their jobs' runs, as values."""

from __future__ import annotations

import pytest

from fiefdom.converge import jobs
from fiefdom.converge.jobs import Run
from fiefdom.converge.snapshot import FoundUnit, Snapshot, parse

UNIT = "fiefdom-job-web.tidy.service"


def host(line: str = "", active: str = "inactive") -> Snapshot:
    kept = {"web.tidy": line} if line else {}
    return Snapshot(0, "debian", "trixie", jobs=kept, units={UNIT: FoundUnit("loaded", active)})


@pytest.mark.parametrize(
    ("line", "active", "outcome", "took_s", "bad"),
    [
        ("100 130 0", "inactive", "0", 30, None),
        ("100 130 7", "failed", "7", 30, "7"),
        ("100 130 late", "failed", "late", 30, "late"),
        ("100 130 stopped", "failed", "stopped", 30, "stopped"),
        ("100 - -", "activating", "running", None, None),
        ("100 - 0", "activating", "running", None, None),
        ("100 - 7", "activating", "running", None, "7"),
        ("100 - broken", "activating", "running", None, "broken off"),
        ("100 - -", "inactive", "broken off", None, "broken off"),
        ("100 - 7", "inactive", "broken off", None, "broken off"),
        ("100 90 0", "inactive", "0", 0, None),
    ],
)
def test_how_a_run_is(line: str, active: str, outcome: str, took_s: int | None, bad: str | None) -> None:
    run = jobs.last_run("web", "tidy", {"app1": host(line, active)})
    assert run is not None
    assert (run.host, run.began_s, run.outcome, run.took_s, run.bad) == ("app1", 100, outcome, took_s, bad)


@pytest.mark.parametrize("line", ["", "100", "100 130", "x 130 0", "100 130 done", "100 130 0 more", "1" * 13 + " 1 0"])
def test_what_is_no_line_of_it_tells_nothing(line: str) -> None:
    assert jobs.last_run("web", "tidy", {"app1": host(line)}) is None


def test_of_several_hosts_the_last_that_began_counts() -> None:
    found = {"app1": host("100 130 7"), "app2": host("200 230 0"), "app3": host()}
    assert jobs.last_run("web", "tidy", found) == Run("app2", 200, 230, "0")
    assert jobs.last_run("web", "other", found) is None


@pytest.mark.parametrize(
    ("says", "next_s"), [("Mon 2026-11-30 03:00:00 UTC", 1796007600), ("", None), ("n/a", None), ("infinity", None)]
)
def test_when_a_timer_elapses(says: str, next_s: int | None) -> None:
    timer = FoundUnit("loaded", "active", next=says)
    found = Snapshot(0, "debian", "trixie", units={"fiefdom-job-web.tidy.timer": timer})
    assert jobs.next_s("web", "tidy", found) == next_s


def test_a_snapshot_tells_of_both() -> None:
    lines = [
        "uid\t0",
        "unit\tId=fiefdom-job-web.tidy.timer",
        "unit\tActiveState=active",
        "unit\tNextElapseUSecRealtime=Mon 2026-11-30 03:00:00 UTC",
        "job\t/var/lib/fiefdom/jobs/web.tidy:100 130 0",
        "job\t/elsewhere/web.other:100 130 0",
        "end",
    ]
    found = parse("app1", lines)
    assert found.jobs == {"web.tidy": "100 130 0"}
    assert found.units["fiefdom-job-web.tidy.timer"].next == "Mon 2026-11-30 03:00:00 UTC"
