"""Jobs by the clock: each on one host that is alive, made as its instances are, told of, and gone with its key.

The service is `clock`, with one instance on each app host beside the lab's own predictor. Its job writes a line every
few seconds into a volume, which each host has for itself: who ran it, and as what.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from fiefdom import lab
from helpers.operator_view import GATEWAY_URL, LAB_YAML, Site, await_true, ok, undisturbed

pytestmark = pytest.mark.proof

URLS = {"predictor": f"{GATEWAY_URL}/predict", "clock": f"{GATEWAY_URL}:8083/predict"}
AT_LEAST = 2_000
HOSTS = ("app1", "app2")
BEATS = "/var/lib/fiefdom/volumes/clock/data/beats"
UNIT = "fiefdom-job-clock.beat"
EVERY_S = 5
BEAT = ["sh", "-c", "echo $FIEFDOM_HOST $FIEFDOM_VERSION $COLOUR $(id -u) >>/data/beats"]
SOON_S = 60
"""Time for a few runs, a start of Docker's on a busy machine, and gossip's word on a host that is gone."""


@dataclass
class Clock:
    """The lab with the service, and what its inventory says of it now."""

    site: Site

    def inventory(self, version: str = "1.0.0", name: str = "", **job: Any) -> str:
        """Path of an inventory; ``job`` is set on its job, and `command=None` takes it out."""

        def change(data: dict[str, Any]) -> None:
            beat = {"command": BEAT, "schedule": f"*:*:0/{EVERY_S}", "timeout_s": 60, **job}
            data["services"]["clock"] = {
                **data["services"]["predictor"],
                **{"version": version, "instances": 1, "base_port": 8700, "route": {"port": 8083}},
                "user": "991:991",
                "environment": {"COLOUR": "blue"},
                "volumes": [{"name": "data", "path": "/data"}],
                "jobs": {"beat": beat} if beat["command"] else {},
            }
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory(f"clock-{version}{name}", change)

    def beats(self, host: str) -> list[str]:
        """What runs on a host wrote there."""
        return self.site.ssh(host, f"cat {BEATS} 2>/dev/null; :").splitlines()

    def counts(self) -> dict[str, int]:
        return {host: len(self.beats(host)) for host in HOSTS}

    def await_beats(self, host: str, more: int = 3) -> None:
        """Until a host ran it some more times."""
        before = len(self.beats(host))
        await_true(lambda: len(self.beats(host)) >= before + more, SOON_S, f"{more} runs on {host}")

    def told(self, inventory: str) -> dict[str, Any]:
        """What `status` says of the job."""
        (job,) = self.site.status(inventory)["jobs"]
        assert isinstance(job, dict)
        return job

    def await_outcome(self, inventory: str, outcome: str) -> None:
        """Until a run ended so: one that is at work at most looks tells of a bad end as well."""

        def ended() -> bool:
            told = self.told(inventory)
            return outcome in (told["outcome"], told["bad"])

        await_true(ended, SOON_S, f"a run that ended with {outcome}")

    def await_turn(self, inventory: str) -> tuple[str, str]:
        """The host whose turn it is once it ran there, and the other one."""
        turns: list[str] = []

        def known() -> bool:
            """Not while it is at work, for its timer waits for that."""
            turns.extend(filter(None, [self.told(inventory)["next_host"]]))
            return bool(turns)

        await_true(known, SOON_S, "a host whose turn it is")
        host = turns[0]
        self.await_beats(host, 1)
        return host, next(other for other in HOSTS if other != host)

    def left(self, host: str) -> str:
        return self.site.ssh(host, "docker ps -aq --filter label=fiefdom.job")


def traffic(event: str) -> AbstractContextManager[None]:
    return undisturbed(event, URLS, AT_LEAST, rate=200)


@pytest.fixture(scope="module")
def clock(first_converge: tuple[Site, str]) -> Iterator[Clock]:
    site, _ = first_converge
    found = Clock(site)
    site.apply(found.inventory())
    site.await_serving(found.inventory())
    yield found
    site.apply(LAB_YAML)
    for host in HOSTS:
        site.ssh(host, "rm -rf /var/lib/fiefdom/volumes/clock")


def test_it_runs_on_one_of_its_hosts_as_an_instance_does(clock: Clock) -> None:
    inventory = clock.inventory()
    assert clock.site.plan(inventory)[0] == 0, "a second run changes nothing"
    host, other = clock.await_turn(inventory)
    before = clock.counts()
    clock.await_beats(host)
    assert len(clock.beats(other)) == before[other]
    assert clock.beats(host)[-1] == f"{host} 1.0.0 blue 991"
    clock.await_outcome(inventory, "0")
    told = clock.told(inventory)
    assert (told["host"], told["next_host"], told["took_s"] is not None) == (host, host, True)
    assert told["at"] < told["next_at"]
    words = clock.site.ssh(other, f"journalctl -q -o cat -u {UNIT} -n 20")
    assert f"clock.beat runs on {host}" in words
    assert clock.site.plan(inventory)[0] == 0 and clock.site.status(inventory)["serving"]


def test_a_timer_that_somebody_stopped_is_seen_and_mended(clock: Clock) -> None:
    inventory = clock.inventory()
    host, _ = clock.await_turn(inventory)
    clock.site.ssh(host, f"systemctl disable --now {UNIT}.timer; echo '# x' >>/etc/systemd/system/{UNIT}.timer")
    code, changes = clock.site.plan(inventory)
    assert (code, set(changes[host])) == (2, {f"~ file /etc/systemd/system/{UNIT}.timer", f"~ unit {UNIT}.timer"})
    clock.site.apply(inventory)
    clock.await_beats(host, 1)
    assert clock.site.plan(inventory)[0] == 0


def test_another_host_takes_over_from_one_that_is_gone_and_gives_it_back(clock: Clock) -> None:
    inventory = clock.inventory()
    host, other = clock.await_turn(inventory)
    with traffic("a host leaves whose turn a job is"):
        clock.site.ssh(host, "systemctl stop fiefdom-serf-agent")
        before = len(clock.beats(host))
        clock.await_beats(other)
        # One that was under way as the agent left may write still.
        assert len(clock.beats(host)) <= before + 1
        clock.site.ssh(host, "systemctl start fiefdom-serf-agent")
        clock.site.await_serving(inventory)
        clock.await_beats(host, 1)
        before = len(clock.beats(other))
        clock.await_beats(host)
    assert len(clock.beats(other)) == before

    lab.power_cut(host)
    try:
        clock.await_beats(other)
    finally:
        lab.power_on(host)
        lab.await_booted([host])
    clock.site.await_serving(inventory, 120)
    clock.await_beats(host)
    await_true(lambda: not any(clock.left(name) for name in HOSTS), SOON_S, "a moment without a run's container")
    assert clock.site.plan(inventory)[0] == 0


def findings(clock: Clock, inventory: str) -> list[str]:
    """What `doctor` has seen of jobs."""
    done = clock.site.fiefdom("doctor", inventory, "--json")
    assert done.returncode in (0, 2), done.stderr
    return [f["seen"] for found in json.loads(done.stdout)["hosts"].values() for f in found if f["what"] == "job"]


def test_a_failure_is_told_until_a_run_ends_well(clock: Clock) -> None:
    bad = clock.inventory(name="-bad", command=["sh", "-c", "echo no table >&2; exit 3"])
    clock.site.apply(bad)
    clock.await_outcome(bad, "3")
    host = clock.told(bad)["host"]
    found = clock.site.status(bad)
    assert found["serving"] and [
        n for n in found["notices"] if n.startswith("the job beat of clock ended with exit code 3")
    ]
    assert findings(clock, bad)[0].startswith("the job beat of clock ended with exit code 3; it began ")
    assert "no table" in clock.site.ssh(host, f"journalctl -q -o cat -u {UNIT} -n 20")
    assert clock.site.plan(bad)[0] == 0, "how a run ends is no drift"

    slow = clock.inventory(name="-slow", command=["sleep", "60"], timeout_s=2)
    clock.site.apply(slow)
    clock.await_outcome(slow, "late")
    assert findings(clock, slow)[0].startswith("the job beat of clock was not at its end in time")

    clock.site.apply(clock.inventory())
    clock.await_outcome(clock.inventory(), "0")
    assert findings(clock, clock.inventory()) == []
    await_true(lambda: not any(clock.left(name) for name in HOSTS), SOON_S, "a moment without a run's container")


def test_it_is_of_the_version_that_its_hosts_instances_have(clock: Clock) -> None:
    later = clock.inventory("1.1.0")
    host, _ = clock.await_turn(later)
    with traffic("a release and a rollback of a service with a job"):
        clock.site.apply(later)
        clock.await_beats(host, 2)
        assert clock.beats(host)[-1] == f"{host} 1.0.0 blue 991", "until the release it is the old one"
        ok(clock.site.fiefdom("rollout", later, "clock"))
        clock.await_beats(host, 2)
        assert clock.beats(host)[-1] == f"{host} 1.1.0 blue 991"
        ok(clock.site.fiefdom("rollback", later, "clock", "1.0.0", "--yes"))
        clock.await_beats(host, 2)
        assert clock.beats(host)[-1] == f"{host} 1.0.0 blue 991"


def test_it_goes_with_its_key(clock: Clock) -> None:
    inventory = clock.inventory(name="-none", command=None)
    with traffic("a job is removed"):
        clock.site.apply(inventory)
    assert clock.site.plan(inventory)[0] == 0
    assert "jobs" in clock.site.status(inventory) and clock.site.status(inventory)["jobs"] == []
    units = "systemctl list-units --all --no-legend 'fiefdom-job-*'"
    files = "ls -d /etc/fiefdom/jobs /var/lib/fiefdom/jobs /etc/systemd/system/fiefdom-job-* 2>/dev/null"
    for host in HOSTS:
        assert clock.site.ssh(host, f"{units}; {files}; :") == ""
        assert clock.left(host) == ""
