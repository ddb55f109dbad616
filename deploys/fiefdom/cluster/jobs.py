"""The jobs of a cluster's services as its hosts tell of them: how each ran last, and when and where it runs next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fiefdom.converge import jobs
from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired.jobs import turns, unit_of
from fiefdom.model import Cluster


@dataclass(frozen=True)
class JobStatus:
    """A job, its last run and its next one; times are in UTC.

    ``host`` ran it last, and ``outcome`` is how that ended: an exit code, late, stopped or broken off; or that it is
    running. All of it is None where it has not run yet on a host that answers. ``bad`` is how the last run that came
    to an end did so, where that was not well. ``next_host`` is the first of its hosts that is alive.
    """

    service: str
    job: str
    schedule: str
    host: str | None
    at: str | None
    took_s: int | None
    outcome: str | None
    next_at: str | None
    next_host: str | None
    bad: str | None


def read(
    cluster: Cluster, names: Sequence[str], found: Mapping[str, Snapshot], members: Mapping[str, str]
) -> Iterator[JobStatus]:
    """Every job that one of the hosts ``names`` may run; ``members`` says how the cluster sees each of them."""
    for service, wanted in cluster.services.items():
        for job, its in wanted.jobs.items():
            candidates = turns(cluster, service, job)
            if not set(candidates) & set(names):
                continue
            run = jobs.last_run(service, job, found)
            # One host alone asks nobody.
            alive = [h for h in candidates if h in found and (len(candidates) == 1 or members.get(h) == "alive")]
            next_s = jobs.next_s(service, job, found[alive[0]]) if alive else None
            yield JobStatus(
                service,
                job,
                its.schedule,
                host=run.host if run else None,
                at=_utc(run.began_s) if run else None,
                took_s=run.took_s if run else None,
                outcome=run.outcome if run else None,
                next_at=None if next_s is None else _utc(next_s),
                next_host=None if next_s is None else alive[0],
                bad=run.bad if run else None,
            )


def complaints(found: Sequence[JobStatus]) -> Iterator[str]:
    """A sentence on each job whose last run did not end well."""
    for one in found:
        if one.bad:
            words = jobs.words_of(one.bad)
            says = f"the job {one.job} of {one.service} {words} on {one.host}"
            yield f"{says}; `journalctl -u {unit_of(one.service, one.job)}` there tells more"


def _utc(time_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))
