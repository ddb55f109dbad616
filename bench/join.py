"""How long a host that starts its Serf agent waits for its first request, over the time that Serf itself takes.

A host is ready: its instances answer. It starts its agent with nothing remembered, as a host that is new or was
reinstalled; a second host serves all the while, and a client asks the gateway without a pause. Measured from the moment
at which `serf agent` is executed on the joining host:

    member   until the gateway's own agent says "EventMemberJoin" of it (`serf monitor -log-level=debug`)
    served   until the first answer of an instance of that host reaches the client, through the gateway

The ratio is served / member: what the reconciler, HAProxy's runtime commands, the server's turn in the balancing and
the request add to Serf's own propagation. It is a ratio per join, and the median of the joins counts; the difference in
milliseconds is the gateway's own part. Real agents, gateway and predictors in containers; it needs root.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scratch import Stage, await_servers, await_true, docker, stage

from fiefdom.desired import serf

INSTANCES = 2
SERVING, JOINING = "app1", "app2"
TARGET = 2.0
SNAPSHOT = "var/lib/fiefdom/serf/snapshot"
# Told in the container, so that docker's own time does not count.
STARTED = f"date +%s%N; exec serf agent -config-file /etc/fiefdom/serf/agent.json -config-file {serf.TAGS}"


@dataclass(frozen=True)
class Join:
    """One join, from the execution of the agent."""

    member_s: float
    served_s: float

    @property
    def ratio(self) -> float:
        return self.served_s / self.member_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="joins; the median counts (default 20)")
    options = parser.parse_args()
    with stage(("gw1", SERVING, JOINING), {"instances": INSTANCES, "health": {"path": "/health"}}) as here:
        gateway = _start(here)
        with _monitored(gateway) as seen:
            joins = [_join(here, gateway, seen) for _ in range(options.runs)]
    columns = {
        "member": [join.member_s * 1000 for join in joins],
        "served": [join.served_s * 1000 for join in joins],
        "served - member": [(join.served_s - join.member_s) * 1000 for join in joins],
    }
    print(f"{len(joins)} joins, ms {'median':>16} {'least':>8} {'most':>8}")
    for name, values in columns.items():
        print(f"  {name:<20} {statistics.median(values):8.1f} {min(values):8.1f} {max(values):8.1f}")
    ratio = statistics.median(join.ratio for join in joins)
    print(f"\njoin to first request served, over Serf's propagation: {ratio:.2f} (at most {TARGET:g})")


def _start(here: Stage) -> str:
    for host in (SERVING, JOINING):
        for instance in here.cluster.instances(host):
            here.start(host, here.container(host, instance.container), f"--env=PORT={instance.port}")
    here.start(SERVING, here.container(SERVING, "serf-agent"))
    gateway = here.start("gw1", here.container("gw1", "gateway"))
    await_servers(gateway, INSTANCES)
    return gateway


@contextmanager
def _monitored(gateway: str) -> Iterator[dict[str, float]]:
    """For each host the time at which the gateway's agent last said that it joined, kept up to date."""
    seen: dict[str, float] = {}
    argv = ["docker", "exec", gateway, "serf", "monitor", "-log-level=debug"]
    monitor = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert monitor.stdout is not None
    # It begins with the agent's last lines, so this one says that it listens.
    first = monitor.stdout.readline()
    if not first:
        sys.exit(f"serf monitor ended with {monitor.wait()}")

    def read(lines: Iterator[str]) -> None:
        for line in lines:
            _, found, member = line.partition("serf: EventMemberJoin: ")
            if found:
                seen[member.split()[0]] = time.time()

    reader = threading.Thread(target=read, args=(iter(monitor.stdout),), daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        monitor.kill()
        monitor.wait()
        reader.join()


def _join(here: Stage, gateway: str, seen: dict[str, float]) -> Join:
    seen.pop(JOINING, None)
    (here.folder / JOINING / SNAPSHOT).unlink(missing_ok=True)
    container = here.container(JOINING, "serf-agent")
    client = _Client(here.cluster.hosts["gw1"].address)
    client.start()
    name = here.start(JOINING, container, "--entrypoint=sh", command=("-c", STARTED))
    try:
        client.join(30)
        await_true(lambda: JOINING in seen, "the gateway's agent to say that the host joined")
        began_s = int(docker("logs", name).split()[0]) / 1e9
        if client.served_at_s is None:
            sys.exit(f"no request was served by {JOINING}: {client.failure or 'in 30 s'}")
        await_servers(gateway, 2 * INSTANCES)
        return Join(seen[JOINING] - began_s, client.served_at_s - began_s)
    finally:
        docker("stop", name)
        docker("rm", "--volumes", name)
        await_servers(gateway, INSTANCES)


class _Client(threading.Thread):
    """Asks the gateway over one connection until an instance of the joining host answers."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(address, 80, timeout=5)
        self.served_at_s: float | None = None
        self.failure = ""

    def run(self) -> None:
        try:
            while self.served_at_s is None:
                self._connection.request("GET", "/predict")
                answer = self._connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    raise http.client.HTTPException(f"status {answer.status}: {body!r}")
                if json.loads(body)["host"] == JOINING:
                    self.served_at_s = time.time()
        except (OSError, http.client.HTTPException) as error:
            self.failure = repr(error)
        finally:
            self._connection.close()


if __name__ == "__main__":
    main()
