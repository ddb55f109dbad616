"""A gateway's page served for real, over a cluster that a test makes up and changes while a browser looks.

All is the gateway's own but HAProxy and Serf: in HAProxy's place a socket answers with tables as HAProxy 3.0 prints
them, and what Serf would list is a `Look`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fiefdom.cluster.audit import Entry

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import live, paths, web  # noqa: E402
from fiefdom_gateway.edges import Sockets  # noqa: E402
from fiefdom_gateway.members import Member, Offer, Rejection  # noqa: E402
from fiefdom_gateway.rounds import Rounds  # noqa: E402
from fiefdom_gateway.settings import Host, Inventory, Service, Settings, parse_settings  # noqa: E402
from fiefdom_gateway.shares import Share  # noqa: E402
from fiefdom_gateway.status import Look  # noqa: E402
from fiefdom_gateway.wanted import Server  # noqa: E402

__all__ = ["Counted", "Member", "Offer", "Rejection", "Served", "World", "example", "large", "live", "served"]

RECORDED = ROOT / "tests" / "unit" / "containers" / "data" / "haproxy-3.0"
HEADER = (RECORDED / "show_stat.txt").read_text().splitlines()[0]
COLUMNS = HEADER.removeprefix("# ").split(",")
PLACES = {column: place for place, column in enumerate(COLUMNS)}


def stat_row(backend: str, name: str, **counted: object) -> str:
    """A row of `show stat`: what is not said is empty, as HAProxy has it."""
    row = [""] * len(COLUMNS)
    for column, value in {"pxname": backend, "svname": name, **counted}.items():
        row[PLACES[column]] = str(value)
    return ",".join(row)


@dataclass
class Counted:
    """What HAProxy counts of one server; `rate` requests come in a second, of which `bad` are answered 5xx."""

    service: str
    host: str
    port: int
    version: str
    state: str = "UP"
    rate: float = 0.0
    bad: float = 0.0
    total_ms: int = 12
    check: str = "L7OK"
    words: str = "Layer7 check passed"
    began_s: float = field(default_factory=time.monotonic)

    def row(self, now_s: float) -> str:
        """Its row at a moment."""
        passed_s = now_s - self.began_s + 60
        return stat_row(
            self.service,
            f"{self.host}-{self.port}",
            status=self.state,
            scur=int(self.rate * self.total_ms / 1000),
            qcur=0,
            req_tot=int(self.rate * passed_s),
            stot=int(self.rate * passed_s),
            hrsp_5xx=int(self.bad * passed_s),
            hrsp_4xx=int(self.rate * passed_s / 200),
            econ=0,
            eresp=0,
            wretr=0,
            ttime=self.total_ms,
            lastchg=int(passed_s) + 3600 if self.state == "UP" else 42,
            check_status=self.check,
            check_code=200 if self.check == "L7OK" else 503,
            last_chk=self.words,
        )


@dataclass
class World:
    """A cluster as one gateway knows it."""

    folder: Path
    services: dict[str, Service] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    servers: list[Counted] = field(default_factory=list)
    rejected: tuple[Rejection, ...] = ()
    shares: tuple[Share, ...] = ()
    certificates: dict[str, str] = field(default_factory=dict)
    config_error: str | None = None
    haproxy_silent: bool = False
    asked: int = 0
    began_s: float = field(default_factory=time.monotonic)

    def look(self) -> Look:
        wanted = tuple(
            Server(s.service, f"{s.host}-{s.port}", self.hosts[s.host].address, s.port, False, s.version)
            for s in self.servers
            if s.host in self.hosts
        )
        return Look(
            node="gw1",
            services=self.services,
            members=tuple(self.members[name] for name in sorted(self.members)),
            wanted=wanted,
            rejected=self.rejected,
            shares=self.shares,
            serf_error=None,
            config_error=self.config_error,
            config_digest="3f5be1d0c2a4",
            reconciled_at_s=time.monotonic() - 1.2,
            looked=True,
            ready=True,
        )

    def served(self) -> tuple[dict[str, object], ...]:
        """What HAProxy says of its certificates."""
        return tuple({"name": n, "names": [n, f"www.{n}"], "ends": ends} for n, ends in self.certificates.items())

    def settings(self) -> Settings:
        bare = {
            "cluster": "lab",
            "node": "gw1",
            "haproxy_config": "/h",
            "state_dir": str(self.folder / "gateway"),
            "serf_config": "/s",
            "rpc_addr": "127.0.0.1:7373",
            "interval_s": 5,
            "absent_grace_s": 120,
            "stop_grace_s": 60,
            "network": "10.99.0.0/24",
            "known_hosts_only": False,
            "hosts": {},
            "services": [],
        }
        inventory = Inventory(parse_settings(json.dumps(bare)).inventory.network, False, self.hosts)
        return replace(parse_settings(json.dumps(bare)), services=self.services, inventory=inventory)

    def answer(self, command: str) -> str:
        """HAProxy's reply to a command."""
        self.asked += command == "show stat"
        if command == "show info":
            open_now = 200 + self.asked * 5 % 17
            return f"Version: 3.0.11\nUptime_sec: 93784\nCurrConns: {open_now}\nMaxconn: 4000\nIdle_pct: 88\n"
        assert command == "show stat", command
        now_s = time.monotonic()
        rows = [server.row(now_s) for server in self.servers]
        for name, service in self.services.items():
            own = [server for server in self.servers if server.service == name]
            rate, bad = sum(s.rate for s in own), sum(s.bad for s in own)
            passed_s = now_s - self.began_s + 60
            rows.append(
                stat_row(
                    service.backend,
                    "BACKEND",
                    status="UP",
                    scur=int(rate / 80),
                    qcur=0,
                    req_tot=int(rate * passed_s),
                    stot=int(rate * passed_s),
                    hrsp_4xx=int(rate * passed_s / 200),
                    hrsp_5xx=int(bad * passed_s),
                    ttime=max((s.total_ms for s in own), default=""),
                )
            )
        rows.append(stat_row("stats", "FRONTEND", status="OPEN"))
        return "\n".join([HEADER, *rows, ""])

    # --- The ledger, as operators' runs write it

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def lock(self, run: str, who: str, why: str, kind: str = "run", since_s: float = 95) -> None:
        self.ledger.mkdir(exist_ok=True)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - since_s))
        body = {
            "since": since,
            "run": run,
            "who": who,
            "why": why,
            "kind": kind,
            "person": kind in ("person", "canary"),
        }
        (self.ledger / "lock").write_text(json.dumps(body) + "\n")

    def unlock(self) -> None:
        (self.ledger / "lock").unlink()

    def audit(self, run: str, what: str, event: str, ago_s: float, **about: Any) -> None:
        self.ledger.mkdir(exist_ok=True)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago_s))
        entry = Entry(run=run, what=what, event=event, at=at, **{"who": "ann@desk", **about})
        with (self.ledger / "audit.jsonl").open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")


def example(folder: Path) -> World:
    """Three services on five hosts and two gateways; one version of a service beside another; a few things not well."""
    world = World(folder)
    for name, port, kind in (("predictor", 8000, False), ("search", 9000, False), ("queue", 5672, True)):
        world.services[name] = Service(name, name, port, 20, "check", is_tcp=kind)
    for number in range(1, 6):
        name = f"app{number}"
        services = frozenset({"predictor", "search"} if number < 5 else {"queue"})
        world.hosts[name] = Host(f"10.99.0.{20 + number}", services)
        if number < 5:
            version = "1.5.0" if number < 3 else "1.4.2"
            offers = (Offer("predictor", version, 8000, 8002), Offer("search", "2024.11", 9000, 9001))
        else:
            version, offers = "", (Offer("queue", "3.13", 5672, 5672),)
        world.members[name] = Member(name, f"10.99.0.{20 + number}", "alive", "app", offers)
        for offer in offers:
            for port in range(offer.first_port, offer.last_port + 1):
                rate = {"predictor": 41.0, "search": 9.5, "queue": 2.0}[offer.service] + port % 3
                world.servers.append(Counted(offer.service, name, port, offer.version, rate=rate))
    for name, address in (("gw1", "10.99.0.11"), ("gw2", "10.99.0.12")):
        world.hosts[name] = Host(address, frozenset())
        world.members[name] = Member(name, address, "alive", "gateway")
    world.certificates = {"example.org": _ends_in(61), "shop.example.org": _ends_in(12)}
    sick = next(server for server in world.servers if server.host == "app4" and server.port == 9001)
    sick.state, sick.check, sick.words, sick.rate = "DOWN", "L7STS", "Service Unavailable", 0.0
    world.rejected = (Rejection("intruder", "offers predictor at 203.0.113.9, which is outside of 10.99.0.0/24"),)
    pair = {"predictor": ["1.4.2", "1.5.0"]}
    all_hosts = ["app1", "app2", "app3", "app4"]
    world.audit("a1", "apply", "begin", 7200, hosts=["gw1", "gw2", *all_hosts, "app5"])
    world.audit("a1", "apply", "end", 7131, hosts=["gw1", "gw2", *all_hosts, "app5"], outcome="ok")
    world.audit("b2", "rollout", "begin", 3600, hosts=all_hosts, services={"search": ["2024.10", "2024.11"]})
    world.audit(
        *("b2", "rollout", "end", 3380),
        **{"hosts": all_hosts, "services": {"search": ["2024.10", "2024.11"]}, "outcome": "ok"},
    )
    world.audit("c3", "maintenance", "begin", 1900, who="bob@lap", note="on: search")
    world.audit("c3", "maintenance", "end", 1898, who="bob@lap", note="on: search", outcome="failed")
    world.lock("d4", "ann@desk", "rollout predictor 1.4.2 -> 1.5.0 on app1, app2, app3, app4")
    world.audit("d4", "rollout", "begin", 95, hosts=all_hosts, services=pair)
    world.members["app3"] = replace(world.members["app3"], offers=(Offer("search", "2024.11", 9000, 9001),))
    for server in world.servers:
        if (server.host, server.service) == ("app3", "predictor"):
            server.state, server.rate = "DRAIN", 0.0
    return world


def large(folder: Path, hosts: int = 500, per_host: int = 12) -> World:
    """6,000 instances of ten services, unless asked otherwise."""
    world = World(folder)
    for number in range(10):
        name = f"service{number}"
        world.services[name] = Service(name, name, 8000 + 100 * number, 100, "check")
    for number in range(hosts):
        name, service = f"app{number:04}", f"service{number % 10}"
        address = f"10.99.{number // 250}.{number % 250 + 1}"
        base = world.services[service].base_port
        world.hosts[name] = Host(address, frozenset({service}))
        world.members[name] = Member(
            name, address, "alive", "app", (Offer(service, "1.0.0", base, base + per_host - 1),)
        )
        world.servers += [Counted(service, name, base + i, "1.0.0", rate=3.0) for i in range(per_host)]
    return world


def _ends_in(days: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + days * 86400 + 3600))


@dataclass
class Served:
    """Where a page is served; `stop` and `start` are what happens to its gateway."""

    world: World
    url: str
    loop: asyncio.AbstractEventLoop
    port: int
    gateway: web.Web
    listener: asyncio.AbstractServer | None = None

    def stop(self) -> None:
        """The gateway is gone: nobody listens."""
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(10)

    def start(self) -> None:
        """It is back, at the same port."""
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)

    async def _stop(self) -> None:
        assert self.listener is not None
        self.listener.close()

    async def _start(self) -> None:
        socket = self.world.folder / "web.sock"

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """As HAProxy does: a connection to the gateway's own socket for each request."""
            try:
                with suppress(OSError, asyncio.IncompleteReadError):
                    head = await reader.readuntil(b"\r\n\r\n")
                    own, to = await asyncio.open_unix_connection(socket)
                    to.write(head)
                    while part := await own.read(65536):
                        writer.write(part)
                        await writer.drain()
                    to.close()
            finally:
                writer.close()

        self.listener = await asyncio.start_server(forward, "127.0.0.1", self.port, reuse_address=True)
        self.port = self.listener.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"


async def _haproxy(world: World, path: Path) -> asyncio.AbstractServer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = (await reader.readline()).decode().strip()
        if not world.haproxy_silent:
            writer.write(world.answer(command).encode())
            with suppress(OSError):
                await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, path)


@contextmanager
def served(world: World) -> Iterator[Served]:
    """Serve a world's page on loopback, in a thread of its own."""
    sockets = Sockets(world.folder)
    table = paths.table(world.look, sockets, tuple, Rounds(), world.served, world.settings)
    begun: Future[tuple[Served, asyncio.Event]] = Future()

    async def serve() -> None:
        found = Served(world, "", asyncio.get_running_loop(), 0, web.Web(table))
        over = asyncio.Event()
        try:
            listening = await _haproxy(world, sockets.admin)
            await found.gateway.open(sockets.web)
            await found._start()
        except BaseException as error:
            begun.set_exception(error)
            raise
        begun.set_result((found, over))
        await over.wait()
        listening.close()
        found.gateway.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    found, over = begun.result(10)
    try:
        yield found
    finally:
        found.loop.call_soon_threadsafe(over.set)
        thread.join(10)
