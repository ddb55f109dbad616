"""Jobs of services: commands by the clock, each as a systemd timer and a unit on every host that runs the service.

Nobody tells a host that it is to run a job. All start its unit in one moment, and the first that is alive, in an order
that all have, runs it. What it runs in, an instance's own configuration on the host says, so that it is always of the
version that the host's instances have.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from fiefdom.desired.containers import MARGIN_S, UNIT_DIR
from fiefdom.desired.context import Context
from fiefdom.desired.programs import program
from fiefdom.desired.render import render
from fiefdom.desired.state import Directory, File, HostState, Unit
from fiefdom.model import Cluster, unit_names

CONF_DIR = "/etc/fiefdom/jobs"
RUNS_DIR = "/var/lib/fiefdom/jobs"
"""Where a host keeps a line on the last run of each job: when it began, when it ended, and how. See job.sh."""

# Beside the job's own time: finding out whose turn it is, and a dockerd that does not answer.
ASKING_S = 60
DOCKER_S = 180


def name_of(service: str, job: str) -> str:
    """A job's name among those of all services: a dot is in none of both."""
    return f"{service}.{job}"


def unit_of(service: str, job: str) -> str:
    """The unit that runs a job: `fiefdom-job-predictor.nightly.service`."""
    return unit_names.unit_of(f"job-{name_of(service, job)}")


def timer_of(service: str, job: str) -> str:
    """The timer that starts it."""
    return f"{unit_of(service, job).removesuffix('.service')}.timer"


def turns(cluster: Cluster, service: str, job: str) -> tuple[str, ...]:
    """The hosts that may run a job; the first of them that is alive does.

    The order is another one for each job, so that not all are the first host's; a host that comes or goes changes
    nothing in the order of the others.
    """

    return _in_turn(cluster.runs_on(service), name_of(service, job))


@lru_cache(maxsize=256)  # every host of a service has the same
def _in_turn(hosts: tuple[str, ...], name: str) -> tuple[str, ...]:
    def rank(host: str) -> bytes:
        return hashlib.sha256(f"{name} {host}".encode()).digest()

    return tuple(sorted(hosts, key=rank))


def state_of(context: Context) -> HostState:
    """What the host holds for the jobs of the services that it runs; nothing where these have none."""
    services = context.cluster.services
    found = [
        _job(context, service, job)
        for service in dict.fromkeys(instance.service for instance in context.instances)
        for job in services[service].jobs
    ]
    if not found:
        return HostState()
    support = HostState(
        directories=(
            Directory("/etc/fiefdom"),
            Directory(CONF_DIR),
            Directory("/var/lib/fiefdom"),
            Directory(RUNS_DIR, mode=0o700),
        ),
        files=(program("once", mode=0o644), program("job")),
    )
    return HostState.together([support, *found])


def _job(context: Context, service: str, job: str) -> HostState:
    of, wanted = context.cluster.services[service], context.cluster.services[service].jobs[job]
    conf = render(
        "job.conf.j2",
        service=service,
        host=context.name,
        turns=turns(context.cluster, service, job),
        limit_s=wanted.timeout_s,
        command=wanted.command,
    )
    names = {"service": service, "job": job, "name": name_of(service, job)}
    stop_s = of.stop_grace_s + DOCKER_S + MARGIN_S
    unit = render("job.service.j2", **names, limit_s=wanted.timeout_s + ASKING_S + stop_s, stop_limit_s=stop_s)
    timer = File(
        f"{UNIT_DIR}/{timer_of(service, job)}",
        render("job.timer.j2", **names, schedule=wanted.schedule).encode(),
        # What the inventory let pass, the host's own systemd judges before it is in place.
        check=("systemd-analyze", "calendar", wanted.schedule),
    )
    return HostState(
        files=(
            File(f"{CONF_DIR}/{name_of(service, job)}.conf", conf.encode()),
            File(f"{UNIT_DIR}/{unit_of(service, job)}", unit.encode()),
            timer,
        ),
        units=(
            # Its timer alone starts it.
            Unit(unit_of(service, job), enabled=False, active=False),
            Unit(timer_of(service, job), config=(timer.path,)),
        ),
    )
