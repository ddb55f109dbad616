"""What a gateway bears: its reconciler with 600 and with 6,000 servers, as ratios, and one offer made and withdrawn.

No lab: the pure parts get what HAProxy would say. Where `haproxy` is installed here, one with 6,000 servers runs in a
temporary folder and its reconciler beside it in this process; no request is sent and no server is there.

    PYTHONPATH=deploys python bench/gateway.py
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import belief, edges, haproxy, members, rotation, status, view, wanted  # noqa: E402
from fiefdom_gateway.answers import Answers  # noqa: E402
from fiefdom_gateway.reconcile import Reconciler  # noqa: E402
from fiefdom_gateway.settings import parse_settings  # noqa: E402
from fiefdom_gateway.shared import Shared  # noqa: E402

HOSTS, SERVICES, INSTANCES = (50, 500), 6, 2
RATIO_WANTED = 12
SECONDS_WANTED = 0.3
OFFERS = 7
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


def listed(hosts: int, without: str = "") -> str:
    """`serf members` where every host offers all its services, but for the last one and one service."""
    words = {f"svc:s{i}": f"1.0.{i};{8000 + 100 * i}-{8000 + 100 * i + INSTANCES - 1}" for i in range(SERVICES)}
    rows = [
        {"name": f"app{h}", "addr": f"{address(h)}:7946", "status": "alive", "tags": {"role": "app", **words}}
        for h in range(hosts)
    ]
    rows[-1]["tags"].pop(f"svc:{without}", None)  # type: ignore[attr-defined]
    return json.dumps({"members": rows})


def replies(servers: tuple[wanted.Server, ...]) -> tuple[str, str]:
    """What HAProxy says of these servers to `show servers state` and `show servers conn`."""
    states, conn = ["1", STATE], [CONN]
    for i, s in enumerate(servers):
        states.append(f"3 {s.service} {i} {s.name} {s.address} 2 0 1 1 {i % 999} 15 3 2 6 0 0 0 - {s.port} - 0 0 - - 0")
        conn.append(f"{s.service}/{s.name} 3/{i} {s.address} {s.port} - 5000 0 0 0 0 0 -1 0")
    return "\n".join(states) + "\n\n", "\n".join(conn) + "\n\n"


def milliseconds(work: Callable[[], object]) -> float:
    """The least processor time of some runs."""
    found = []
    for _ in range(5):
        gc.collect()
        began_s = time.process_time()
        work()
        found.append(time.process_time() - began_s)
    return min(found) * 1000


def pure_parts(hosts: int) -> dict[str, float]:
    known = parse_settings(json.dumps(settings(hosts)))
    services, text = known.services, listed(hosts)
    roll = members.parse_members(text, services)
    believed = belief.believe(roll, known.inventory, services, roll.members)
    memory = wanted.remember({}, believed, 0.0, 60.0)
    servers, _ = wanted.wanted_servers(memory, services)
    half = servers[::2]
    states, conn = replies(servers)
    actual = haproxy.parse_servers(states, conn)
    static = "".join(f"backend {name}\n    # fiefdom:servers {name}\n" for name in services)
    look = status.Look(node="gw1", services=services, members=believed.members, wanted=servers)
    return {
        "members read": milliseconds(lambda: members.parse_members(text, services)),
        "members believed": milliseconds(lambda: belief.believe(roll, known.inventory, services, roll.members)),
        "servers chosen": milliseconds(lambda: wanted.wanted_servers(memory, services)),
        "HAProxy's state read": milliseconds(lambda: haproxy.parse_servers(states, conn)),
        "commands, nothing to do": milliseconds(lambda: haproxy.next_commands(servers, actual, services)),
        "commands, half to go": milliseconds(lambda: haproxy.next_commands(half, actual, services)),
        "commands, half to come": milliseconds(lambda: haproxy.next_commands(servers, actual[::2], services)),
        "compared": milliseconds(lambda: haproxy.settled(servers, actual, services)),
        "configuration written": milliseconds(lambda: haproxy.render(static, servers, services)),
        "members kept": milliseconds(lambda: wanted.dump_memory(memory)),
        "rows of the status": milliseconds(lambda: status.server_rows(look, actual, {}, {})),
    }


# --- With an HAProxy

STATIC = """global
    stats socket "${FIEFDOM_RUN}/admin.sock" mode 600 level admin expose-fd listeners
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


class Scene:
    """A reconciler whose Serf is a file."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.folder, self.hosts = folder, hosts
        (folder / "state" / "run" / "own").mkdir(parents=True)
        (folder / "state" / "closed").write_text("")
        self.list(listed(hosts))
        serf = folder / "bin" / "serf"
        serf.parent.mkdir()
        serf.write_text(f"#!/bin/sh\nexec cat {folder}/members.json\n")
        serf.chmod(0o755)
        os.environ["PATH"] = f"{serf.parent}:{os.environ['PATH']}"
        (folder / "reconciler.json").write_text(json.dumps(settings(hosts, str(folder))))
        known = parse_settings((folder / "reconciler.json").read_text())
        static = STATIC.replace("STATE", str(folder / "state"))
        static += "".join(f"backend {name}\n    # fiefdom:servers {name}\n" for name in known.services)
        (folder / "static.cfg").write_text(static)
        self.sockets = edges.Sockets(folder / "state" / "run" / "own")
        os.environ.update(self.sockets.environ)
        self.reconciler = Reconciler(known, folder / "reconciler.json", self.sockets)
        self.answers = Answers(self.reconciler, lambda backend: view.take(self.sockets, backend))

    def list(self, text: str) -> None:
        (self.folder / "new.json").write_text(text)
        (self.folder / "new.json").replace(self.folder / "members.json")

    async def start(self) -> float:
        """Return after how many seconds HAProxy has all servers, from the members of the run before."""
        began_s = time.monotonic()
        text = (self.folder / "members.json").read_text()
        (self.folder / "state" / "members.json").write_text(text)
        await self.reconciler.prepare()
        self.haproxy = await asyncio.create_subprocess_exec(
            *("haproxy", "-W", "-db", "-S", f"{self.sockets.master},mode,600", "-f", str(self.reconciler.config_file)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.running = asyncio.create_task(self.reconciler.run())
        await self.reconciler.caught_up.wait()
        return time.monotonic() - began_s

    async def told(self, word: str) -> float:
        """Return after how many seconds a host that asks at once is told that word of its last service."""
        host, service = f"app{self.hosts - 1}", f"s{SERVICES - 1}"
        question = rotation.Question(word, host, service, INSTANCES if word == rotation.SERVING else None)
        self.list(listed(self.hosts, without=service if word == rotation.DRAINED else ""))
        began_s = time.monotonic()
        self.reconciler.look_again()

        async def now() -> dict[str, dict[str, object]]:
            return {row["name"]: row for row in json.loads((self.folder / "members.json").read_text())["members"]}

        found: Shared[dict[str, dict[str, object]]] = Shared(now)
        while await self.answers._held(question, found) != word:
            assert time.monotonic() < began_s + 30, await self.answers.words(question, found)
        return time.monotonic() - began_s

    async def calm(self) -> None:
        """Wait until the configuration is written that the last change made another one."""
        while await asyncio.to_thread(self._differs):
            await asyncio.sleep(0.1)

    def _differs(self) -> bool:
        known = self.reconciler.settings.services
        text = haproxy.render((self.folder / "static.cfg").read_text(), self.reconciler.look.wanted, known)
        return self.reconciler.config_file.read_text() != text

    async def at_rest(self) -> tuple[float, float]:
        """Return the shares of a processor that the reconciler and HAProxy use while nothing happens."""
        # What the last change left to do is no rest.
        await asyncio.sleep(11)
        own_s, its_s, began_s = time.process_time(), self._used_s(), time.monotonic()
        await asyncio.sleep(15)
        took_s = time.monotonic() - began_s
        return (time.process_time() - own_s) / took_s, (self._used_s() - its_s) / took_s

    def _used_s(self) -> float:
        """Processor time of HAProxy's worker."""
        master = self.haproxy.pid
        (pid, *_) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def document(self, part: status.Part) -> tuple[float, int]:
        began_s = time.monotonic()
        text = json.dumps(await status.document(self.reconciler.look, self.sockets, part=part))
        return time.monotonic() - began_s, len(text)

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.haproxy.terminate()
        await self.haproxy.wait()


async def with_haproxy(hosts: int) -> bool:
    servers = hosts * SERVICES * INSTANCES
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), hosts)
        say = io.StringIO()
        with contextlib.redirect_stdout(say), contextlib.redirect_stderr(say):
            start_s = await scene.start()
            try:
                made, withdrawn, used = [], [], []
                await scene.told(rotation.DRAINED)
                for _ in range(OFFERS):
                    for word, took in ((rotation.SERVING, made), (rotation.DRAINED, withdrawn)):
                        await scene.calm()
                        used_s = time.process_time()
                        took.append(await scene.told(word))
                        used.append(time.process_time() - used_s)
                documents = {name: await scene.document(part) for name, part in PARTS.items()}
                own, its = await scene.at_rest()
            finally:
                await scene.end()
    print(f"{servers} servers behind a real HAProxy, load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    print(f"  start until it has them all     {start_s:6.2f} s")
    slowest = 0.0
    for what, found in (("made", made), ("withdrawn", withdrawn)):
        slowest = max(slowest, statistics.median(found))
        print(f"  an offer {what:22} {statistics.median(found):6.2f} s ({min(found):.2f} to {max(found):.2f})")
    print(f"  ... of that, of a processor     {statistics.median(used):6.2f} s")
    for name, (took_s, size) in documents.items():
        print(f"  the status{name:22} {took_s:6.2f} s, {size / 1024:.0f} KiB")
    print(f"  at rest                         {own * 100:6.2f} % of a processor, HAProxy {its * 100:.2f} %")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"  memory of this process          {memory:6} MiB")
    return slowest <= SECONDS_WANTED


def main() -> int:
    few, many = (pure_parts(hosts) for hosts in HOSTS)
    well = True
    sizes = [hosts * SERVICES * INSTANCES for hosts in HOSTS]
    print(f"{'':26} {sizes[0]:>8} {sizes[1]:>8} servers")
    for what, small in few.items():
        ratio = many[what] / small
        well &= ratio <= RATIO_WANTED
        print(f"  {what:24} {small:8.2f} {many[what]:8.2f} ms  {ratio:5.1f} x")
    print(f"at most {RATIO_WANTED} x is wanted")
    if shutil.which("haproxy") is None:
        print("HAProxy is not installed here: nothing was measured with one")
        return 0 if well else 1
    well &= asyncio.run(with_haproxy(HOSTS[1]))
    print(f"at most {SECONDS_WANTED} s for an offer is wanted")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
