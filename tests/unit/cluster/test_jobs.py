"""Jobs in `status`: how each ran last on whichever host, and who runs it next."""

from __future__ import annotations

import io

from rich.console import Console

from fiefdom.cli.show import status_tables
from fiefdom.cluster import jobs, status
from fiefdom.cluster.jobs import JobStatus
from fiefdom.converge.snapshot import FoundUnit, Snapshot
from fiefdom.desired.jobs import turns
from fiefdom.model import Cluster
from helpers.example import context

JOB = {"command": ["tidy"], "schedule": "*-*-* 03:00"}
CLUSTER: Cluster = context(services={"predictor": {"jobs": {"tidy": JOB}}, "web": {"jobs": {"own": JOB}}}).cluster
NAMES = tuple(CLUSTER.hosts)
FIRST, SECOND = turns(CLUSTER, "predictor", "tidy")
ALIVE = dict.fromkeys(NAMES, "alive")


def host(next_at: str = "Mon 2026-11-30 03:00:00 UTC", **runs: str) -> Snapshot:
    timer = FoundUnit("loaded", "active", next=next_at)
    units = {f"fiefdom-job-{name}.timer": timer for name in ("predictor.tidy", "web.own")}
    return Snapshot(
        0, "debian", "trixie", units=units, jobs=dict(zip(("predictor.tidy",), runs.values(), strict=False))
    )


def read(members: dict[str, str] = ALIVE, **found: Snapshot) -> JobStatus:
    return next(iter(jobs.read(CLUSTER, NAMES, {FIRST: host(), SECOND: host(), **found}, members)))


def test_the_last_run_of_all_hosts_and_the_next() -> None:
    assert read(
        **{FIRST: host(run="1795921200 1795921230 0"), SECOND: host(run="1795834800 1795834830 7")}
    ) == JobStatus(
        *("predictor", "tidy", "*-*-* 03:00"),
        *(FIRST, "2026-11-29T03:00:00Z", 30, "0"),
        *("2026-11-30T03:00:00Z", FIRST),
        bad=None,
    )


def test_one_that_never_ran() -> None:
    found = read()
    assert (found.host, found.at, found.took_s, found.outcome, found.bad) == (None,) * 5


def test_the_next_is_the_first_that_is_alive() -> None:
    assert read({**ALIVE, FIRST: "failed"}).next_host == SECOND
    assert read({**ALIVE, FIRST: "left", SECOND: "failed"}).next_host is None
    assert read(**{FIRST: host("")}).next_at is None, "its timer is down"
    members = dict.fromkeys(NAMES, "unknown")
    own = [one for one in jobs.read(CLUSTER, NAMES, {"app2": host()}, members) if one.job == "own"]
    assert [one.next_host for one in own] == ["app2"], "one host alone asks nobody"


def test_a_host_that_is_not_looked_at_is_none_to_tell_of() -> None:
    assert [one.job for one in jobs.read(CLUSTER, ("app1",), {"app1": host()}, ALIVE)] == ["tidy"]


def test_a_failure_is_told_and_keeps_no_host_in_the_cluster() -> None:
    bad = {FIRST: host(run="1795921200 1795921230 7"), SECOND: host()}
    found = status.combine(CLUSTER, ("app1", "app2"), bad, {})
    said = f"the job tidy of predictor ended with exit code 7 on {FIRST}; "
    mend = "`journalctl -u fiefdom-job-predictor.tidy.service` there tells more"
    assert [line for line in found.notices if "job" in line] == [said + mend]
    assert not [line for line in status.degraded(found) if "job" in line]
    assert found.as_data()["jobs"][0]["outcome"] == "7"


def test_a_person_reads_it_in_a_table() -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    found = status.combine(
        CLUSTER, ("app1", "app2"), {FIRST: host(run="1795921200 1795921230 late"), SECOND: host()}, {}
    )
    for table in status_tables(found):
        console.print(table)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert f"predictor tidy *-*-* 03:00 2026-11-29 03:00:00 on {FIRST} 30 s late -" in lines
    assert "web own *-*-* 03:00 - - - 2026-11-30 03:00:00 on app2" in lines
