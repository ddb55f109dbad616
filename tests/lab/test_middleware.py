"""A redis as a service: reached over links by who links and by nobody else, its data kept, its outages its own.

`shop` on both app hosts links to the redis on app2, and is under traffic.
"""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from helpers.operator_view import GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, ok, undisturbed

pytestmark = pytest.mark.proof

URLS = {"shop": f"{GATEWAY_URL}:8081/predict", "predictor": f"{GATEWAY_URL}/predict"}
AT_LEAST = 2_000
HOSTS = ("app1", "app2")
REDIS, UNIT = ("10.99.0.22", 6379), "fiefdom-redis@6379.service"
GATEWAY = ("10.99.0.11", 6379)
PAUSE = "a pause: its one instance stops before the next one starts"
# In a container of who links, by what its link told it: the argument is what redis is asked.
ASK = """
import os, socket, sys
with socket.create_connection((os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"])), 5) as redis:
    redis.sendall(sys.argv[1].encode() + b"\\r\\n")
    print(redis.recv(100).decode().split()[-1])
"""


@dataclass
class Middleware:
    """The lab with a redis and who links to it."""

    site: Site

    def inventory(self, name: str = "middleware", **redis: Any) -> str:
        """Path of an inventory; ``redis`` is set on that service."""

        def change(data: dict[str, Any]) -> None:
            predictor = data["services"]["predictor"]
            data["hosts"]["app2"]["groups"].append("middleware")
            own = {"base_port": 8500, "route": {"port": 8081}, "instances": 1, "links": ["redis"]}
            data["services"]["shop"] = {**predictor, **own}
            data["services"]["redis"] = {
                "kind": "tcp",
                "image": "fiefdom-test/redis",
                "version": "1",
                "build": str(ROOT / "tests/lab/images/redis"),
                "base_port": REDIS[1],
                "container_port": 6379,
                "groups": ["middleware"],
                "user": "6379:6379",
                "volumes": [{"name": "data", "path": "/var/lib/redis"}],
                "health": {"command": ["redis-cli", "ping"], "start_timeout_s": 20},
                "limits": {"memory_mib": 128, "cpus": 0.5, "pids": 64},
                "stop_grace_s": 10,
                **redis,
            }
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory(name, change)

    def ask(self, host: str, words: str, *, check: bool = True) -> str:
        """What redis answers an instance of `shop` on a host."""
        command = f"docker exec shop-8500 python3 -c {shlex.quote(ASK)} {shlex.quote(words)}"
        return self.site.ssh(host, f"{command} 2>&1", check=check)

    def reaches(self, host: str, place: tuple[str, int] = REDIS) -> str:
        """`yes` where a connection from a host itself opens; else `refused` or `silence`."""
        connect = f"timeout 3 bash -c ': >/dev/tcp/{place[0]}/{place[1]}' 2>/dev/null"
        return self.site.ssh(host, f"{connect}; case $? in 0) echo yes;; 124) echo silence;; *) echo refused;; esac")

    def offers(self, inventory: str) -> dict[str, str]:
        """By service and host, what has become of offers."""
        return {f"{o['service']}@{o['host']}": o["state"] for o in self.site.status(inventory)["offers"]}


def traffic(event: str) -> AbstractContextManager[None]:
    return undisturbed(event, URLS, AT_LEAST, rate=200)


def says(place: tuple[str, int], words: bytes) -> bytes:
    """What a server answers this machine, which is a client of the gateways; nothing where it ends the connection."""
    with socket.create_connection(place, 5) as connection:
        try:
            connection.sendall(words)
            return connection.recv(100)
        except ConnectionError:
            return b""


@pytest.fixture(scope="module")
def _middleware(first_converge: tuple[Site, str]) -> Iterator[Middleware]:
    site, _ = first_converge
    found = Middleware(site)
    site.apply(found.inventory())
    site.await_serving(found.inventory())
    yield found
    site.apply(LAB_YAML)
    site.ssh("app2", "rm -rf /var/lib/fiefdom/volumes")


@pytest.fixture
def middleware(_middleware: Middleware) -> Iterator[Middleware]:
    """As it was first, whatever a test left."""
    yield _middleware
    inventory = _middleware.inventory()
    if _middleware.site.plan(inventory)[0] != 0:
        _middleware.site.converge(inventory)
    _middleware.site.await_serving(inventory)


def test_who_links_reaches_it_from_another_host_and_from_its_own(middleware: Middleware) -> None:
    assert middleware.site.plan(middleware.inventory())[0] == 0
    assert middleware.ask("app1", "SET flower setosa") == "+OK"
    assert middleware.ask("app2", "GET flower") == "setosa"
    assert middleware.offers(middleware.inventory()).keys() == {
        f"{service}@{host}" for service in ("predictor", "shop") for host in HOSTS
    }, "what gateways do not have is offered to nobody"


def test_nobody_else_does(middleware: Middleware) -> None:
    assert middleware.reaches("app1") == "yes"
    assert middleware.reaches("gw1") == "silence"
    with pytest.raises(OSError, match="timed out"):
        socket.create_connection(REDIS, 2)
    # Beside it on its host, containers reach each other where a link leads, and nowhere else.
    other = ASK.replace('os.environ["REDIS_PORT"]', '"8000"')
    words = middleware.site.ssh("app2", f"docker exec shop-8500 python3 -c {shlex.quote(other)} x 2>&1", check=False)
    assert "timed out" in words or "refused" in words, words


def test_the_way_on_one_host_is_mended(middleware: Middleware) -> None:
    inventory = middleware.inventory()
    middleware.site.ssh("app2", "iptables -F FIEFDOM-LINKS")
    assert middleware.site.plan(inventory) == (2, {"gw1": [], "app1": [], "app2": ["~ unit fiefdom-links.service"]})
    middleware.site.apply(inventory)
    assert middleware.ask("app2", "PING") == "+PONG"
    middleware.site.ssh("app2", "systemctl restart docker")
    await_true(lambda: middleware.ask("app2", "PING", check=False) == "+PONG", what="the way after a new dockerd")
    assert middleware.site.plan(inventory)[0] == 0


def test_its_outage_is_its_own_and_is_told_at_once(middleware: Middleware) -> None:
    site, inventory = middleware.site, middleware.inventory()
    with traffic("a redis that is down"):
        site.ssh("app2", f"systemctl stop {UNIT}")
        assert middleware.reaches("app1") == "refused"
        for host in HOSTS:
            assert "refused" in middleware.ask(host, "PING", check=False)
        assert {state for name, state in middleware.offers(inventory).items() if name.startswith("shop")} == {"offered"}
    found = site.fiefdom("status", inventory, "--check")
    assert found.returncode == 2 and "redis" in found.stdout
    # Who links starts all the same, and does not start it.
    site.ssh("app2", "timeout 20 systemctl restart fiefdom-shop@8500.service")
    assert site.ssh("app2", f"systemctl is-active {UNIT}; :") == "inactive"
    site.apply(inventory)
    assert middleware.ask("app1", "PING") == "+PONG"


def test_its_release_is_a_pause_that_is_told_and_its_data_is_there_after_it(middleware: Middleware) -> None:
    site, changed = middleware.site, middleware.inventory("changed", environment={"CHANGED": "1"})
    assert middleware.ask("app1", "SET kept release") == "+OK"
    plan = site.fiefdom("plan", changed)
    assert plan.returncode == 2 and f"redis 1 with other settings on app2 ({PAUSE})" in plan.stdout
    site.apply(changed)
    assert PAUSE in ok(site.fiefdom("rollout", changed, "redis", "--dry"))
    with traffic("a release of redis"):
        done = ok(site.fiefdom("rollout", changed, "redis"))
    assert "redis pauses: its one instance stops before the next one starts" in done
    assert middleware.ask("app1", "GET kept") == "release"
    assert site.plan(changed)[0] == 0


def test_a_release_that_does_not_come_up_goes_back(middleware: Middleware) -> None:
    site = middleware.site
    assert middleware.ask("app1", "SET kept failure") == "+OK"
    health = {"command": ["redis-cli", "-p", "1", "ping"], "start_timeout_s": 3}
    broken = middleware.inventory("broken", health=health, environment={"BROKEN": "1"})
    site.apply(broken)
    done = site.fiefdom("rollout", broken, "redis")
    assert done.returncode == 1 and "redis-cli ended with 1" in done.stdout + done.stderr
    await_true(lambda: middleware.ask("app1", "GET kept", check=False) == "failure", what="the redis before")


def test_its_data_outlives_a_reboot_of_its_host(middleware: Middleware) -> None:
    site, inventory = middleware.site, middleware.inventory()
    assert middleware.ask("app1", "SET kept reboot") == "+OK"
    assert "redis pauses while app2 is away" in ok(site.fiefdom("reboot", inventory, "--limit", "app2", "--dry"))
    with traffic("a reboot of redis' host"):
        done = ok(site.fiefdom("reboot", inventory, "--limit", "app2"))
    assert "redis pauses until the host is back" in done
    for host in HOSTS:
        assert middleware.ask(host, "GET kept") == "reboot"
    assert site.plan(inventory)[0] == 0


def test_a_gateway_port_leads_to_it(middleware: Middleware) -> None:
    site, routed = middleware.site, middleware.inventory("routed", route={"port": GATEWAY[1]})
    before = site.ssh("app2", "docker inspect --format '{{.Id}}' redis-6379")
    with traffic("a gateway port for redis"):
        site.apply(routed)
        site.await_serving(routed)
    assert says(GATEWAY, b"PING\r\n") == b"+PONG\r\n"
    assert site.ssh("app2", "docker inspect --format '{{.Id}}' redis-6379") == before, "a port is no release"
    assert middleware.offers(routed)["redis@app2"] == "offered"
    assert site.rotation(routed, "redis") == {"app2:6379"}
    assert site.plan(routed)[0] == 0
    with socket.create_connection(GATEWAY, 5) as kept:
        site.ssh("app2", "systemctl stop --no-block fiefdom-offer-redis.service; sleep 2")
        kept.sendall(b"PING\r\n")
        assert kept.recv(100) == b"+PONG\r\n", "what is open is waited for"
    await_true(lambda: site.ssh("app2", "systemctl is-active fiefdom-offer-redis; :") == "inactive", what="the drain")
    assert says(GATEWAY, b"PING\r\n") == b""
    site.apply(routed)
    assert says(GATEWAY, b"PING\r\n") == b"+PONG\r\n"
    closed = middleware.inventory()
    site.apply(closed)
    with pytest.raises(OSError, match="timed out"):
        socket.create_connection(GATEWAY, 2)
    assert json.loads(site.fiefdom("plan", closed, "--json").stdout)["clean"]
