"""One service in Java, Node, Go and Python, side by side, with the postgres and the redis that all of them use.

What happens to one of them costs no other one a request, and a row that was acknowledged is there after every event.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fiefdom import lab
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, LAB_YAML, ROOT, TRAFFIC, Site, await_true, ok, tell, undisturbed

pytestmark = pytest.mark.proof

IMAGES = ROOT / "tests/lab/images"
PORTS = {"tomcat": 8081, "node": 8082, "go": 8083, "python": 8084}
BASE_PORTS = {"tomcat": 8510, "node": 8520, "go": 8530, "python": 8540}
MEMORY_MIB = {"tomcat": 256, "node": 128, "go": 32, "python": 96}
AT_LEAST = 1_000  # of each service
HOSTS = ("app1", "app2")
GETS = ("busy", "pausing", "new")
# The kinds that wait for slow answers would get quick ones here, and send as many as the machine can bear.
PACED = (*GETS, "post", "post-new")
CHAT = (
    b"GET /chat HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def url(service: str, path: str = "/predict") -> str:
    return f"{GATEWAY_URL}:{PORTS[service]}{path}"


@dataclass
class Rows:
    """What was written: every row is sent until it is acknowledged, and must be found from then on."""

    acknowledged: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def write(self, service: str) -> bool:
        """Send one row; whether it was acknowledged."""
        row = f"{service}-{next(self._numbers)}"
        request = urllib.request.Request(url(service, f"/rows?id={row}"), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20):
                self.acknowledged.add(row)
                return True
        except urllib.error.HTTPError as error:
            self.refused.append(f"{row}: {error.code} {error.read()[:200]!r}")
        except OSError as error:
            self.refused.append(f"{row}: {error}")
        return False

    @contextmanager
    def written(self) -> Iterator[None]:
        """One writer for each service, during an event; at its end each has written once more."""
        over = threading.Event()

        def writer(service: str) -> None:
            while not over.wait(0.05):
                self.write(service)

        writers = [threading.Thread(target=writer, args=(service,)) for service in PORTS]
        for thread in writers:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in writers:
                thread.join()
        for service in PORTS:
            await_true(lambda service=service: self.write(service), what=f"a row of {service}")


@dataclass
class Shop:
    """The lab with all of them."""

    site: Site
    rows: Rows = field(default_factory=Rows)

    def inventory(self, name: str = "technologies", **changes: dict[str, Any]) -> str:
        """Path of an inventory; ``changes`` are set on services, by their names."""

        def change(data: dict[str, Any]) -> None:
            data["hosts"]["app2"]["groups"].append("databases")
            data["services"] = {
                **{service: application(service) for service in PORTS},
                "postgres": database(
                    IMAGES / "technologies/postgres",
                    5432,
                    "5432:5432",
                    "/var/lib/postgresql/data",
                    ["psql", "--host", "/tmp", "--username", "service", "postgres", "--command", "SELECT 1"],
                    environment={"POSTGRES_PASSWORD": "for-the-lab", "PGPASSWORD": "for-the-lab"},
                ),
                "redis": database(IMAGES / "redis", 6379, "6379:6379", "/var/lib/redis", ["redis-cli", "ping"]),
            }
            for service, own in changes.items():
                data["services"][service] |= own
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory(name, change)

    def kept(self) -> set[str]:
        """The rows that postgres has."""
        return set(self.sql("SELECT id FROM rows").split())

    def sql(self, words: str) -> str:
        ask = f"psql --host /tmp --username service --tuples-only --command {shlex.quote(words)} postgres"
        return self.site.ssh("app2", f"docker exec postgres-5432 {ask}")

    def loses_nothing(self, event: str) -> None:
        missing = self.rows.acknowledged - self.kept()
        TRAFFIC.append(f"{event}: {len(missing)} rows missing of {len(self.rows.acknowledged)} that were acknowledged")
        assert not missing, sorted(missing)[:20]

    def versions(self, service: str) -> set[str]:
        found: set[str] = set()
        for _ in range(20):
            with urllib.request.urlopen(url(service), timeout=10) as answer:
                found.add(json.load(answer)["version"])
        return found


def application(service: str) -> dict[str, Any]:
    return {
        "image": f"fiefdom-test/{service}",
        "version": "1",
        "build": str(IMAGES / "technologies" / service),
        "instances": 1,
        "base_port": BASE_PORTS[service],
        "container_port": 8000,
        "route": {"port": PORTS[service]},
        "links": ["postgres", "redis"],
        "environment": {"POSTGRES_PASSWORD": "for-the-lab"},
        "health": {"path": "/health", "start_timeout_s": 60},
        "limits": {"memory_mib": MEMORY_MIB[service], "cpus": 1, "pids": 128},
        "stop_grace_s": 10,
    }


def database(build: Path, port: int, user: str, data: str, check: list[str], **own: Any) -> dict[str, Any]:
    return {
        "kind": "tcp",
        "image": f"fiefdom-test/{build.name}",
        "version": "1",
        "build": str(build),
        "instances": 1,
        "base_port": port,
        "container_port": port,
        "groups": ["databases"],
        "user": user,
        "volumes": [{"name": "data", "path": data}],
        "health": {"command": check, "start_timeout_s": 60},
        "limits": {"memory_mib": 192, "cpus": 1, "pids": 64},
        "stop_grace_s": 20,
        **own,
    }


def traffic(event: str, *services: str) -> AbstractContextManager[None]:
    """On the services that are named, else on all; whoever reads it sees which one failed."""
    return undisturbed(event, {service: url(service) for service in services or PORTS}, AT_LEAST, 100, PACED)


@contextmanager
def conversation() -> Iterator[socket.socket]:
    """A WebSocket to node, through the gateway."""
    with socket.create_connection(("10.99.0.11", PORTS["node"]), 10) as connection:
        connection.sendall(CHAT)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield connection


def said_back(connection: socket.socket, words: bytes) -> bytes:
    """The payload that comes back for a text frame (RFC 6455, masked as a client's has to be)."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(words))
    connection.sendall(bytes([0x81, 0x80 | len(words)]) + mask + masked)
    answer = b""
    while len(answer) < 2 + len(words):
        more = connection.recv(1024)
        assert more, f"closed after {answer!r}"
        answer += more
    return answer[2:]


@pytest.fixture(scope="module")
def _shop(first_converge: tuple[Site, str]) -> Iterator[Shop]:
    site, _ = first_converge
    found = Shop(site)
    site.apply(found.inventory())
    site.await_serving(found.inventory(), timeout_s=120)
    found.sql("CREATE TABLE rows (id text PRIMARY KEY, service text NOT NULL)")
    yield found
    site.apply(LAB_YAML)
    site.ssh("app2", "rm -rf /var/lib/fiefdom/volumes")


@pytest.fixture
def shop(_shop: Shop) -> Iterator[Shop]:
    """As it was first, whatever a test left."""
    yield _shop
    inventory = _shop.inventory()
    if _shop.site.plan(inventory)[0] != 0:
        _shop.site.converge(inventory)
    _shop.site.await_serving(inventory)


def test_each_is_served_and_uses_both(shop: Shop) -> None:
    assert shop.site.plan(shop.inventory())[0] == 0
    with urllib.request.urlopen(url("node", "/events"), timeout=20) as events:
        assert events.headers["Content-Type"] == "text/event-stream"
        for service in PORTS:
            assert shop.rows.write(service), f"{service} keeps a row"
        heard: set[str] = set()
        while len(heard) < len(PORTS):
            line = events.readline().decode()
            assert line, "the events end"
            if line.startswith("data: "):
                heard.add(line.removeprefix("data: ").strip())
        assert heard == shop.rows.acknowledged
    assert shop.kept() == shop.rows.acknowledged
    assert set(shop.sql("SELECT DISTINCT service FROM rows").split()) == set(PORTS)
    with conversation() as chat:
        assert said_back(chat, b"Iris setosa") == b"Iris setosa"


def test_all_are_released_and_one_is_scaled_and_what_is_open_to_another_one_stays(shop: Shop) -> None:
    site = shop.site
    released = shop.inventory("released", **{service: {"version": "2"} for service in PORTS if service != "node"})
    site.apply(released)
    with conversation() as chat, shop.rows.written(), traffic("a release of Tomcat, Go and Python beside Node"):
        ok(site.fiefdom("rollout", released))
        assert said_back(chat, b"still here") == b"still here"
    assert {service: shop.versions(service) for service in PORTS} == {s: {"1" if s == "node" else "2"} for s in PORTS}
    assert not shop.rows.refused, "no release of theirs fails a write"
    scaled = shop.inventory("scaled", go={"instances": 3}, node={"instances": 2})
    with shop.rows.written(), traffic("the way back, and more instances of Go and Node"):
        site.apply(scaled)
        ok(site.fiefdom("rollout", scaled))
    assert len(site.rotation(scaled, "go")) == 6
    assert len(site.rotation(scaled, "node")) == 4
    assert not shop.rows.refused
    shop.loses_nothing("releases")


def test_one_that_is_broken_costs_no_other_one_a_request(shop: Shop) -> None:
    site = shop.site
    own = application("tomcat")["environment"] | {"JAVA_TOOL_OPTIONS": "-XX:+NoSuchOption"}
    broken = shop.inventory("broken", tomcat={"version": "3", "environment": own})
    site.apply(broken)
    with shop.rows.written(), traffic("a release of Tomcat that never gets healthy"):
        done = site.fiefdom("rollout", broken, "tomcat")
        assert done.returncode == 1 and "NoSuchOption" in done.stdout + done.stderr, done.stdout + done.stderr
    assert shop.versions("tomcat") == {"1"}
    with traffic("Tomcat killed on every host, three times", *(service for service in PORTS if service != "tomcat")):
        for _ in range(3):
            for host in HOSTS:
                site.ssh(host, "docker kill --signal KILL tomcat-8510")
            await_true(lambda: site.rotation(shop.inventory(), "tomcat"), what="Tomcat back")
    site.await_serving(shop.inventory())
    shop.loses_nothing("one that is broken")


def test_databases_are_released_and_rebooted_and_no_row_is_lost(shop: Shop) -> None:
    site, inventory = shop.site, shop.inventory()
    released = shop.inventory("databases", postgres={"limits": {"memory_mib": 256, "cpus": 1, "pids": 64}})
    site.apply(released)
    with shop.rows.written(), traffic("a release of postgres"):
        ok(site.fiefdom("rollout", released, "postgres"))
    shop.loses_nothing("a release of postgres")
    with shop.rows.written(), traffic("a reboot of each host, the databases' too"):
        ok(site.fiefdom("reboot", released, "--limit", "app_hosts"))
    shop.loses_nothing("a reboot of each host")
    site.converge(inventory)


def test_a_power_cut_of_the_databases_host_loses_no_row(shop: Shop) -> None:
    site, inventory = shop.site, shop.inventory()
    loads = {service: Load(url(service), at_least=AT_LEAST, rate=100, kinds=GETS) for service in PORTS}
    with shop.rows.written(), ExitStack() as stack:
        for load in loads.values():
            stack.enter_context(load)
        before = len(shop.rows.acknowledged)
        await_true(lambda: len(shop.rows.acknowledged) > before + 20, what="rows on their way")
        lab.power_cut("app2")
        await_true(lambda: all(answers_alone(service, "app1") for service in PORTS), what="answers of app1 alone")
        lab.power_on("app2")
        lab.await_booted(["app2"])
        site.await_serving(inventory, timeout_s=120)
    for service, load in loads.items():
        tell(f"power cut of the databases' host: {service}", load)
        assert load.failed == 0, f"{service}: {load.report()}"
    shop.loses_nothing("a power cut of the databases' host")
    assert site.plan(inventory)[0] == 0


def answers_alone(service: str, host: str) -> bool:
    """Whether a host alone answers for a service."""
    hosts: set[str] = set()
    for _ in range(6):
        with urllib.request.urlopen(url(service), timeout=10) as answer:
            hosts.add(json.load(answer)["host"])
    return hosts == {host}
