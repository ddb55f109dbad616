"""What a gateway bears: its reconciler with 600 and 6,000 servers, as ratios; an offer, a load anew and a hand-over.

No lab: the pure parts get what HAProxy would say. Where `haproxy` is installed here, one with 6,000 servers runs in a
temporary folder and its reconciler beside it in this process; no request is sent and no server is there.

    PYTHONPATH=deploys python bench/gateway.py

With the HAProxy that gateways run, in their image:

    docker run --rm -v "$PWD:/here:ro" --entrypoint python3 fiefdom/gateway:RELEASE -B /here/bench/gateway.py
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import (  # noqa: E402
    belief,
    edges,
    handover,
    haproxy,
    members,
    replies,
    rotation,
    status,
    view,
    wanted,
)
from fiefdom_gateway.answers import Answers  # noqa: E402
from fiefdom_gateway.reconcile import Reconciler  # noqa: E402
from fiefdom_gateway.settings import parse_settings  # noqa: E402
from fiefdom_gateway.shared import Shared  # noqa: E402

HOSTS, SERVICES, INSTANCES = (50, 500), 6, 2
RATIO_WANTED = 12
SECONDS_WANTED = 0.3
OFFERS = 7
RUNS = 25
HANDOVERS = 5
PARTS = {
    ", all of it": status.ALL,
    " of a service": status.Part("service", frozenset({"s1"})),
    " of a host": status.Part("host", frozenset({"app7"})),
    " without servers": status.Part("summary"),
}
# Checks so rare that they are no part of what is measured.
OPTIONS = "check inter 1000000ms fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down"
STATE = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)
CONN = (
    "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb idle_lim idle_cur"
)


def settings(hosts: int, folder: str = "/nowhere") -> dict[str, Any]:
    """reconciler.json of a cluster of so many hosts, each of which has all services."""
    services = [
        {
            "name": f"s{i}",
            "backend": f"s{i}",
            "base_port": 8000 + 100 * i,
            "max_instances": 100,
            "server_options": OPTIONS,
        }
        for i in range(SERVICES)
    ]
    last = {s["name"]: s["base_port"] + INSTANCES - 1 for s in services}
    return {
        "cluster": "bench",
        "node": "gw1",
        "haproxy_config": f"{folder}/static.cfg",
        "state_dir": f"{folder}/state",
        "serf_config": f"{folder}/agent.json",
        "rpc_addr": "127.0.0.1:1",
        "interval_s": 5,
        "absent_grace_s": 120,
        "stop_grace_s": 60,
        "network": "10.0.0.0/8",
        "known_hosts_only": False,
        "hosts": {
            f"app{h}": {"address": address(h), "services": sorted(last), "last_ports": last} for h in range(hosts)
        },
        "services": services,
    }


def address(host: int) -> str:
    return f"10.1.{host // 250}.{host % 250 + 1}"


def listed(hosts: int, without: str = "", leaving: str = "") -> str:
    """`serf members` where every host offers all its services, but for the last one and one service."""
    words = {f"svc:s{i}": f"1.0.{i};{8000 + 100 * i}-{8000 + 100 * i + INSTANCES - 1}" for i in range(SERVICES)}
    rows = [
        {"name": f"app{h}", "addr": f"{address(h)}:7946", "status": "alive", "tags": {"role": "app", **words}}
        for h in range(hosts)
    ]
    rows[-1]["tags"].pop(f"svc:{without}", None)  # type: ignore[attr-defined]
    for row in rows:
        row["status"] = "leaving" if row["name"] == leaving else row["status"]
    return json.dumps({"members": rows})


def said(servers: tuple[wanted.Server, ...]) -> tuple[str, str]:
    """What HAProxy says of these servers to `show servers state` and `show servers conn`."""
    states, conn = ["1", STATE], [CONN]
    for i, s in enumerate(servers):
        states.append(f"3 {s.service} {i} {s.name} {s.address} 2 0 1 1 {i % 999} 15 3 2 6 0 0 0 - {s.port} - 0 0 - - 0")
        conn.append(f"{s.service}/{s.name} 3/{i} {s.address} {s.port} - 5000 0 0 0 0 0 -1 0")
    return "\n".join(states) + "\n\n", "\n".join(conn) + "\n\n"


def least_ms(works: Sequence[Callable[[], object]]) -> list[float]:
    """The least processor time of some runs of each, in turn: what disturbs the machine disturbs all of them."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(RUNS):
        for work, times in zip(works, found, strict=True):
            gc.collect()
            began_s = time.process_time()
            work()
            times.append(time.process_time() - began_s)
    return [min(times) * 1000 for times in found]


def pure_parts(hosts: int) -> dict[str, Callable[[], object]]:
    known = parse_settings(json.dumps(settings(hosts)))
    services, text = known.services, listed(hosts)
    roll = members.parse_members(text, services)
    believed = belief.believe(roll, known.inventory, services, roll.members)
    memory = wanted.remember({}, believed, 0.0, 60.0)
    servers, _ = wanted.wanted_servers(memory, services)
    half = servers[::2]
    states, _ = said(servers)
    actual = replies.Servers().read(states)
    static = "".join(f"backend {name}\n    # fiefdom:servers {name}\n" for name in services)
    look = status.Look(node="gw1", services=services, members=believed.members, wanted=servers)
    return {
        "members read": lambda: members.parse_members(text, services),
        "members believed": lambda: belief.believe(roll, known.inventory, services, roll.members),
        "servers chosen": lambda: wanted.wanted_servers(memory, services),
        "HAProxy's state read": lambda: replies.Servers().read(states),
        "commands, nothing to do": lambda: haproxy.next_commands(servers, actual, services),
        "commands, half to go": lambda: haproxy.next_commands(half, actual, services),
        "commands, half to come": lambda: haproxy.next_commands(servers, actual[::2], services),
        "compared": lambda: haproxy.settled(servers, actual, services),
        "configuration written": lambda: haproxy.render(static, servers, services),
        "members kept": lambda: wanted.dump_memory(memory),
        "rows of the status": lambda: status.server_rows(look, actual, {}, {}),
    }


# --- With an HAProxy

STATIC = """global
    stats socket "${FIEFDOM_RUN}/admin.sock" mode 600 level admin expose-fd listeners
    noreuseport
    maxconn 100
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend plain
    bind 127.0.0.77:18080
    http-request return status 200 if { path_beg -f "STATE/closed" }
    default_backend s0
"""


class Cluster:
    """What gateways find: the files that the host has for them, and a Serf that is a file."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.folder, self.hosts, self.state_dir = folder, hosts, folder / "state"
        self.state_dir.mkdir()
        (self.state_dir / "closed").write_text("")
        self.list(listed(hosts))
        # From the members of the run before, a gateway knows all servers at its start.
        (self.state_dir / "members.json").write_text(listed(hosts))
        serf = folder / "bin" / "serf"
        serf.parent.mkdir()
        serf.write_text(f"#!/bin/sh\nexec cat {folder}/members.json\n")
        serf.chmod(0o755)
        os.environ["PATH"] = f"{serf.parent}:{os.environ['PATH']}"
        self.settings_file, self.static_file = folder / "reconciler.json", folder / "static.cfg"
        self.settings_file.write_text(json.dumps(settings(hosts, str(folder))))
        self.settings = parse_settings(self.settings_file.read_text())
        static = STATIC.replace("STATE", str(self.state_dir))
        static += "".join(f"backend {name}\n    # fiefdom:servers {name}\n" for name in self.settings.services)
        self.static_file.write_text(static)

    def list(self, text: str) -> None:
        (self.folder / "new.json").write_text(text)
        (self.folder / "new.json").replace(self.folder / "members.json")


class Gateway:
    """One container's reconciler and HAProxy, without Serf's agent and the page."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.place = handover.take_place(cluster.state_dir)
        self.sockets = self.place.own
        self.reconciler = Reconciler(cluster.settings, cluster.settings_file, self.sockets)
        self.answers = Answers(self.reconciler, lambda backend: view.take(self.sockets, backend))

    async def start(self) -> float:
        """Return after how many seconds it has all servers in their states, and the turn where another one had it."""
        began_s = time.monotonic()
        # HAProxy's check of a configuration reads it as well.
        os.environ.update(self.sockets.environ)
        loan = await handover.borrow(self.place)
        await self.reconciler.prepare()
        take = [] if loan is None else ["-x", str(loan.sockets.admin)]
        self.haproxy = await asyncio.create_subprocess_exec(
            *("haproxy", "-W", "-db", "-S", f"{self.sockets.master},mode,600", *take),
            *("-f", str(self.reconciler.config_file)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.running = asyncio.create_task(self.reconciler.run())
        await self.reconciler.caught_up.wait()
        await until(self.is_settled)
        if loan is not None:
            await loan.retire_lender()
        took_s = time.monotonic() - began_s
        self.lender = handover.Lender(self.place, self.answers, self.reconciler)
        await self.lender.open()
        return took_s

    def is_settled(self, since_s: float = 0.0) -> bool:
        """Whether HAProxy was seen since then to have all wanted servers in their states."""
        look = self.reconciler.look
        seen = look.reconciled_at_s is not None and look.reconciled_at_s > since_s
        return seen and haproxy.settled(look.wanted, look.actual, look.services)

    async def told(self, word: str) -> float:
        """Return after how many seconds a host that asks at once is told that word of its last service."""
        cluster = self.cluster
        host, service = f"app{cluster.hosts - 1}", f"s{SERVICES - 1}"
        question = rotation.Question(word, host, service, INSTANCES if word == rotation.SERVING else None)
        cluster.list(listed(cluster.hosts, without=service if word == rotation.DRAINED else ""))
        began_s = time.monotonic()
        self.reconciler.look_again()

        async def now() -> dict[str, dict[str, object]]:
            return {row["name"]: row for row in json.loads((cluster.folder / "members.json").read_text())["members"]}

        found: Shared[dict[str, dict[str, object]]] = Shared(now)
        while await self.answers._held(question, found) != word:
            assert time.monotonic() < began_s + 30, await self.answers.words(question, found)
        return time.monotonic() - began_s

    async def calm(self) -> None:
        """Wait until the configuration is written that the last change made another one."""
        while await asyncio.to_thread(self._differs):
            await asyncio.sleep(0.1)

    def _differs(self) -> bool:
        look = self.reconciler.look
        text = haproxy.render(self.cluster.static_file.read_text(), look.wanted, look.services)
        return self.reconciler.config_file.read_text() != text

    async def loaded_anew(self) -> float:
        """Return after how many seconds a new worker, of another static part, has all servers in their states."""
        static = self.cluster.static_file.read_text() + "# another one\n"
        began_s = time.monotonic()
        self.cluster.static_file.write_text(static)
        self.reconciler.look_again()
        await until(lambda: self.reconciler.look.config_digest == haproxy.digest(static))
        runs_s = time.monotonic()
        await until(lambda: self.is_settled(runs_s))
        return time.monotonic() - began_s

    async def checked(self) -> float:
        """Return after how many seconds HAProxy has judged the configuration, as it does before either."""
        began_s = time.monotonic()
        await edges.validate(self.reconciler.config_file)
        return time.monotonic() - began_s

    async def can_reload(self) -> bool:
        """Whether its HAProxy tells how a reload ended, as those of gateways do."""
        major, minor, *_ = (await self.version()).split(".")
        return (int(major), int(minor)) >= (2, 7)

    async def version(self) -> str:
        return replies.parse_info(await edges.ask_haproxy("show info", self.sockets.admin))["Version"]

    async def at_rest(self) -> tuple[float, float]:
        """Return the shares of a processor that the reconciler and HAProxy use while nothing happens."""
        # What the last change left to do is no rest.
        await asyncio.sleep(11)
        own_s, its_s, began_s = time.process_time(), self._used_s(), time.monotonic()
        await asyncio.sleep(15)
        took_s = time.monotonic() - began_s
        return (time.process_time() - own_s) / took_s, (self._used_s() - its_s) / took_s

    def _workers(self) -> list[str]:
        master = self.haproxy.pid
        return Path(f"/proc/{master}/task/{master}/children").read_text().split()

    def _used_s(self) -> float:
        """Processor time of HAProxy's worker."""
        fields = Path(f"/proc/{self._workers()[-1]}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> tuple[int, int]:
        """Return what HAProxy's master and its newest worker have in memory."""
        return resident_mib(str(self.haproxy.pid)), resident_mib(self._workers()[-1])

    async def document(self, part: status.Part) -> tuple[float, int]:
        began_s = time.monotonic()
        text = json.dumps(await status.document(self.reconciler.look, self.sockets, part=part))
        return time.monotonic() - began_s, len(text)

    async def end(self) -> None:
        self.lender.close()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.haproxy.terminate()
        await self.haproxy.wait()


async def until(well: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + 60
    while not well():
        assert time.monotonic() < limit_s
        await asyncio.sleep(0.005)


def resident_mib(pid: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024


def spread(found: Sequence[float]) -> str:
    return f"{statistics.median(found):6.2f} s ({min(found):.2f} to {max(found):.2f})"


async def with_haproxy(hosts: int) -> bool:
    """Measure, print, and return whether an offer took no longer than is wanted."""
    rows: list[str] = []

    def add(what: str, value: str) -> None:
        rows.append(f"  {what:33} {value}")

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as quiet:
        say = io.StringIO()
        quiet.enter_context(contextlib.redirect_stdout(say))
        quiet.enter_context(contextlib.redirect_stderr(say))
        cluster = Cluster(Path(folder), hosts)
        gateway = Gateway(cluster)
        add("start until it has them all", f"{await gateway.start():6.2f} s")
        version = await gateway.version()
        try:
            slowest = await offers(gateway, add)
            for name, part in PARTS.items():
                took_s, size = await gateway.document(part)
                add(f"the status{name}", f"{took_s:6.2f} s, {size / 1024:.0f} KiB")
            own, its = await gateway.at_rest()
            add("at rest", f"{own * 100:6.2f} % of a processor, HAProxy {its * 100:.2f} %")
            master, worker = gateway.memory_mib()
            own_mib = resident_mib("self")
            add("memory of this process", f"{own_mib:6} MiB, of HAProxy's worker {worker}, of its master {master}")
            # A host that leaves has servers whose state no configuration has.
            cluster.list(listed(hosts, leaving="app0"))
            since_s = time.monotonic()
            gateway.reconciler.look_again()
            await until(lambda: gateway.is_settled(since_s) and any(s.drain for s in gateway.reconciler.look.wanted))
            if await gateway.can_reload():
                add("loaded anew", spread([await gateway.loaded_anew() for _ in range(HANDOVERS)]))
            took = []
            for _ in range(HANDOVERS):
                successor = Gateway(cluster)
                took.append(await successor.start())
                await gateway.end()
                gateway = successor
            add("handed over to another one", spread(took))
            took = [await gateway.checked() for _ in range(HANDOVERS)]
            add("... HAProxy's check, part of both", spread(took))
        finally:
            await gateway.end()
    servers = hosts * SERVICES * INSTANCES
    print(f"{servers} servers behind HAProxy {version}, load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    print("\n".join(rows))
    return slowest <= SECONDS_WANTED


async def offers(gateway: Gateway, add: Callable[[str, str], None]) -> float:
    """Make and withdraw some, and return the slower one's median in seconds."""
    took: dict[str, list[float]] = {rotation.SERVING: [], rotation.DRAINED: []}
    used = []
    await gateway.told(rotation.DRAINED)
    for _ in range(OFFERS):
        for word, found in took.items():
            await gateway.calm()
            used_s = time.process_time()
            found.append(await gateway.told(word))
            used.append(time.process_time() - used_s)
    add("an offer made", spread(took[rotation.SERVING]))
    add("an offer withdrawn", spread(took[rotation.DRAINED]))
    add("... of that, of a processor", f"{statistics.median(used):6.2f} s")
    return max(statistics.median(found) for found in took.values())


def ratios() -> bool:
    """Measure the pure parts, print them, and return whether all grow as is wanted."""
    few, many = (pure_parts(hosts) for hosts in HOSTS)
    well = True
    sizes = [hosts * SERVICES * INSTANCES for hosts in HOSTS]
    print(f"{'':26} {sizes[0]:>8} {sizes[1]:>8} servers")
    for what in few:
        small, large = least_ms((few[what], many[what]))
        well &= large / small <= RATIO_WANTED
        print(f"  {what:24} {small:8.2f} {large:8.2f} ms  {large / small:5.1f} x")
    print(f"at most {RATIO_WANTED} x is wanted")
    return well


def main() -> int:
    well = True
    # First, while this process has no more in memory than a gateway's.
    if shutil.which("haproxy") is None:
        print("HAProxy is not installed here: nothing was measured with one")
    else:
        well &= asyncio.run(with_haproxy(HOSTS[1]))
        print(f"at most {SECONDS_WANTED} s for an offer is wanted")
    well &= ratios()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
