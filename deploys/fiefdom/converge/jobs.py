"""How jobs ran last, from what hosts keep of it: of all hosts together, for a job is one host's at a time."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fiefdom.converge.doctor import Finding
from fiefdom.converge.snapshot import FoundUnit, Snapshot
from fiefdom.desired import jobs
from fiefdom.model import Cluster

RUNNING, BROKEN_OFF, LATE, STOPPED = "running", "broken off", "late", "stopped"
"""How a run is or ended, where it is no exit code. One is broken off where its host went down."""

_LINE = re.compile("([0-9]{1,12}) (-|[0-9]{1,12}) (-|[0-9]{1,3}|late|stopped|broken)", re.ASCII)
_WORDS = {
    BROKEN_OFF: "broke off, for its host or its script was ended",
    LATE: "was not at its end in time, and was stopped",
    STOPPED: "was stopped by somebody, or as its host went down",
}


@dataclass(frozen=True)
class Run:
    """One time that a job ran. ``outcome`` is an exit code or a word; times are of the host's clock, since 1970."""

    host: str
    began_s: int
    ended_s: int | None
    outcome: str
    before: str | None = None
    """Of one that is at work, how the host's run before it ended: until then, that is what is known of the job."""

    @property
    def bad(self) -> str | None:
        """How the last run that came to an end did so, where that was not well."""
        last = self.before if self.outcome == RUNNING else self.outcome
        return None if last in (None, "0") else last

    @property
    def took_s(self) -> int | None:
        """Seconds from its beginning to its end."""
        return None if self.ended_s is None else max(0, self.ended_s - self.began_s)


def words_of(outcome: str) -> str:
    """How a run ended that did not end well, to follow what it is that did."""
    return _WORDS.get(outcome, f"ended with exit code {outcome}")


def last_run(service: str, job: str, found: Mapping[str, Snapshot]) -> Run | None:
    """The run that began last, on whichever of the hosts that were looked at."""
    runs = [run for host, snapshot in found.items() if (run := _run(service, job, host, snapshot))]
    return max(runs, key=lambda run: run.began_s, default=None)


def _run(service: str, job: str, host: str, found: Snapshot) -> Run | None:
    line = _LINE.fullmatch(found.jobs.get(jobs.name_of(service, job), ""))
    if line is None:
        return None
    began, ended, outcome = line.groups()
    outcome = BROKEN_OFF if outcome == "broken" else outcome
    if ended != "-":
        return Run(host, int(began), int(ended), outcome)
    at_work = found.units.get(jobs.unit_of(service, job), FoundUnit()).active == "activating"
    return Run(host, int(began), None, RUNNING if at_work else BROKEN_OFF, None if outcome == "-" else outcome)


def next_s(service: str, job: str, found: Snapshot) -> int | None:
    """When a host's timer starts the job next, in seconds since 1970; None where it does not, or nobody can tell."""
    says = found.units.get(jobs.timer_of(service, job), FoundUnit()).next
    try:
        return calendar.timegm(time.strptime(says, "%a %Y-%m-%d %H:%M:%S UTC"))
    except ValueError:
        return None


def findings(cluster: Cluster, found: Mapping[str, Snapshot]) -> Iterator[tuple[str, Finding]]:
    """Of each job whose last run did not end well, the host that ran it and what is to be known."""
    for service, wanted in cluster.services.items():
        for job in wanted.jobs:
            run = last_run(service, job, found)
            if run is not None and run.bad:
                at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.began_s))
                since = f"it began {at}" if run.outcome == run.bad else f"it is at work again since {at}"
                yield (
                    run.host,
                    Finding(
                        "warning",
                        "job",
                        f"the job {job} of {service} {words_of(run.bad)}; {since}",
                        "what it is for is not done",
                        f"`journalctl -u {jobs.unit_of(service, job)}` there tells more; the next run is its next try",
                    ),
                )
