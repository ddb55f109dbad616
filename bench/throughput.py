"""Requests per second through Fiefdom's gateway, over HAProxy with the least configuration that does the same.

Both run at the same time in the same network, from the same image with the same limits, in front of the same twelve
servers on three hosts: the gateway with its reconciler, its Serf agent, its health checks and the haproxy.cfg that the
concern renders; the other as `haproxy -f` with a global maxconn, timeouts, one frontend and one backend. wrk asks them
in turn, with keep-alive and with a new connection for each request. A round is of measurements in a row, so what
else the machine does meets all of them; the median of the ratios counts. The minimal HAProxy runs twice: the ratio of
one to the other is 1 but for noise, and tells how far to trust the ratio above it. A third one tries requests again
that were sent, as the gateway does so that a killed instance fails no GET: HAProxy copies a whole buffer (16 KiB) for
each of them.

The servers answer from memory (HAProxy's `http-request return`), so that they are not what is measured. On two cores
wrk, the servers and the gateway share the processor: HAProxy's own cost shows undiluted in the last column, its
processor time per request. It needs wrk (`apt-get install wrk`) and root.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scratch import PREFIX, Stage, await_servers, docker, image_of, stage

APP_HOSTS = ("app1", "app2", "app3")
INSTANCES = 4
TARGET = 0.97
KINDS = {"keep-alive": (), "new connections": ("-H", "Connection: close")}

SERVER = """
global
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend server
{binds}
    http-request return status 200 content-type application/json string '{{"prediction":"setosa"}}'
"""
MINIMAL = """
global
    maxconn {maxconn}
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend minimal
    bind :{port}
    default_backend servers
backend servers
{more}
{servers}
"""
MINIMALS = {"minimal HAProxy": "", "minimal HAProxy again": "", "... that retries": "    retry-on all-retryable-errors"}
FIRST_MINIMAL_PORT = 8081


@dataclass(frozen=True)
class Contender:
    """A HAProxy in a container: what is measured."""

    name: str
    container: str
    port: int


@dataclass(frozen=True)
class Sample:
    """One measurement."""

    requests_per_s: float
    cpu_us_per_request: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25, help="rounds of each kind; the median counts (default 25)")
    parser.add_argument("--seconds", type=int, default=1, help="of one measurement (default 1)")
    parser.add_argument("--connections", type=int, default=32, help="at once (default 32)")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("There is no wrk here: apt-get install wrk")
    with stage(("gw1", *APP_HOSTS), {"instances": INSTANCES, "health": {"path": "/health"}}) as here:
        contenders = (start_gateway(here), *start_minimals(here))
        common = [f"--duration={options.seconds}s", f"--connections={options.connections}"]
        ratios = {
            kind: _compare(here, kind, contenders, [*arguments, *common], options.runs)
            for kind, arguments in KINDS.items()
        }
    print()
    for kind, ratio in ratios.items():
        print(f"gateway over minimal HAProxy, {kind + ':':<17} {ratio:.3f} (at least {TARGET})")


def start_gateway(here: Stage) -> Contender:
    """Start the app hosts' servers and agents and the gateway, and wait until all servers are up."""
    for host in APP_HOSTS:
        _start_servers(here, host)
        here.start(host, here.container(host, "serf-agent"))
    name = here.start("gw1", here.container("gw1", "gateway"))
    await_servers(name, len(APP_HOSTS) * INSTANCES)
    return Contender("Fiefdom's gateway", name, 80)


def _start_servers(here: Stage, host: str) -> None:
    binds = "\n".join(f"    bind :{instance.port}" for instance in here.cluster.instances(host))
    config = here.folder / host / "server.cfg"
    config.write_text(SERVER.format(binds=binds))
    docker(
        *("run", "--detach", "--name", f"{PREFIX}-{host}-servers", f"--network=container:{PREFIX}-{host}"),
        *("--ulimit=nofile=16384:16384", f"--volume={config}:/server.cfg:ro", "--entrypoint=haproxy"),
        *(image_of("gateway"), "-db", "-f", "/server.cfg"),
    )


def start_minimals(here: Stage) -> Iterator[Contender]:
    """Start the minimal HAProxys on the gateway's host, under the gateway container's limits."""
    servers = "\n".join(
        f"    server {host}-{instance.port} {here.cluster.hosts[host].address}:{instance.port}"
        for host in APP_HOSTS
        for instance in here.cluster.instances(host)
    )
    maxconn = here.cluster.gateway.maxconn
    for port, (title, more) in enumerate(MINIMALS.items(), FIRST_MINIMAL_PORT):
        text = MINIMAL.format(maxconn=maxconn, port=port, more=more, servers=servers)
        yield start_haproxy(here, title, f"minimal-{port}", text, port)


def start_haproxy(here: Stage, title: str, name: str, config: str, port: int) -> Contender:
    """Start a HAProxy with `config` alone on the gateway's host, under the gateway container's limits."""
    path = here.folder / f"{name}.cfg"
    path.write_text(config)
    docker(
        *("run", "--detach", "--name", f"{PREFIX}-{name}"),
        *here.arguments("gw1", here.container("gw1", "gateway")),
        *(f"--volume={path}:/{name}.cfg:ro", "--entrypoint=haproxy"),
        *(image_of("gateway"), "-db", "-f", f"/{name}.cfg"),
    )
    return Contender(title, f"{PREFIX}-{name}", port)


def _compare(here: Stage, kind: str, contenders: Sequence[Contender], command: Sequence[str], runs: int) -> float:
    """Measure in turn, print a table, and return the median ratio of the first contender over the second."""
    samples: dict[Contender, list[Sample]] = {contender: [] for contender in contenders}
    for contender in contenders:
        measure(here, contender, command)  # connections to the servers are open, caches warm
    for run in range(runs):
        # Who goes first changes, or what the first leaves behind would be the second's burden every time.
        first = run % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            samples[contender].append(measure(here, contender, command))
    reference = samples[contenders[1]]
    print(f"\n{kind:<24} {'requests/s':>11} {'ratio':>7}  {'middle half':<14} {'us of CPU/request':>18} {'ratio':>7}")
    ratios = {}
    for contender, measured in samples.items():
        speeds = [a.requests_per_s / b.requests_per_s for a, b in zip(measured, reference, strict=True)]
        costs = [a.cpu_us_per_request / b.cpu_us_per_request for a, b in zip(measured, reference, strict=True)]
        low, _, high = statistics.quantiles(speeds, n=4)
        ratios[contender] = statistics.median(speeds)
        speed = statistics.median(sample.requests_per_s for sample in measured)
        cost = statistics.median(sample.cpu_us_per_request for sample in measured)
        print(
            f"  {contender.name:<22} {speed:11.0f} {ratios[contender]:7.3f}  {f'{low:.2f} to {high:.2f}':<14}"
            f" {cost:18.1f} {statistics.median(costs):7.3f}"
        )
    return ratios[contenders[0]]


def measure(here: Stage, contender: Contender, command: Sequence[str]) -> Sample:
    """Ask a contender for some seconds. Exits when a request failed."""
    before_s = cpu_s(contender)
    argv = ["nsenter", f"--target={here.process('gw1')}", "--net", "wrk", "--threads=1", *command]
    argv.append(f"http://127.0.0.1:{contender.port}/predict")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    used_s = cpu_s(contender) - before_s
    speed = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    count = re.search(r"(\d+) requests in", done.stdout)
    if speed is None or count is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(f"{contender.name}: {done.stdout}{done.stderr}")
    return Sample(float(speed.group(1)), used_s / int(count.group(1)) * 1e6)


def cpu_s(contender: Contender) -> float:
    """Return the processor time of a contender's HAProxy processes, in seconds."""
    spent_ns = 0
    for line in docker("top", contender.container, "-eo", "pid,comm").splitlines()[1:]:
        pid, comm = line.split(maxsplit=1)
        if comm == "haproxy":
            # In nanoseconds, where `stat` counts hundredths of a second.
            for thread in Path(f"/proc/{pid}/task").iterdir():
                spent_ns += int((thread / "schedstat").read_text().split()[0])
    return spent_ns / 1e9


if __name__ == "__main__":
    main()
