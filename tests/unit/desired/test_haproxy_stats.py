"""The statistics' port under a real HAProxy: what clients that hold connections open, and hostile web sites, cannot."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiefdom.desired.render import render
from helpers.haproxy_variables import LIMITS

GLOBAL = """global
    stats socket {folder}/admin.sock mode 600 level admin
    maxconn 1000
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
"""
PLAIN = {
    "listeners": [],
    "backends": [],
    **LIMITS,
}
ADDRESS, CLIENT, OTHER = "127.0.0.5", "127.0.0.2", "127.0.0.3"
NAMES = ["gw1", "gw2", "gw1.example.org", *(f"gw{number}.example.org" for number in range(10, 80))]


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of the frontend as it is rendered; its listening socket is handed over."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "no haproxy on this machine: RUNLEVEL=1 apt install --no-install-recommends haproxy"
    with socket.socket() as listening:
        listening.bind((ADDRESS, 0))
        listening.listen(200)
        number = listening.getsockname()[1]
        text = render("haproxy.cfg.j2", **PLAIN, stats_bind=f"{ADDRESS}:{number}", stats_names=NAMES)
        stats = text[text.index("frontend stats\n") : text.index("# What the gateway itself tells")]
        stats = stats.replace(f"bind {ADDRESS}:{number}", f"bind fd@{listening.fileno()}")
        backend = "backend fiefdom-web\n    http-request return status 200\n"
        (tmp_path / "haproxy.cfg").write_text(GLOBAL.format(folder=tmp_path) + stats + backend)
        haproxy = subprocess.Popen(
            [program, "-db", "-dW", "-f", str(tmp_path / "haproxy.cfg")], pass_fds=[listening.fileno()]
        )
        try:
            yield number
        finally:
            haproxy.kill()
            haproxy.wait()


def connected(port: int, source: str) -> socket.socket:
    client = socket.socket()
    client.settimeout(10)
    client.bind((source, 0))
    client.connect((ADDRESS, port))
    return client


def asked(port: int, source: str) -> bytes:
    with connected(port, source) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return client.recv(4096)


def test_who_holds_connections_keeps_nobody_from_the_health_of_the_gateway(port: int) -> None:
    assert asked(port, CLIENT).startswith(b"HTTP/1.1 200")
    with contextlib.ExitStack() as held:
        # More than the port takes at all, each with half a request.
        for _ in range(150):
            with contextlib.suppress(ConnectionError):
                held.enter_context(connected(port, CLIENT)).sendall(b"GET / HTTP/1.1\r\nX:")
        for source in (ADDRESS, OTHER):
            assert asked(port, source).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionError):
            assert asked(port, CLIENT) == b""


PATHS = ("/", "/fiefdom/state.json", "/fiefdom/metrics", "/metrics", "/stats", "/stats;csv", "/none")


def answer(port: int, path: str, *hosts: str, method: str = "GET") -> bytes:
    """All that is answered to one request with these `Host` headers."""
    lines = [f"{method} {path} HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
    with connected(port, OTHER) as client:
        client.sendall("\r\n".join(lines).encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def status(port: int, path: str, *hosts: str, method: str = "GET") -> int:
    return int(answer(port, path, *hosts, method=method).split()[1])


@pytest.mark.parametrize(
    "host",
    [
        ADDRESS,
        *("localhost", "LocalHost", "127.0.0.1", "[::1]"),  # as a tunnel of `fiefdom ssh -L` is asked
        *("gw1", "GW1", "gw2", "gw1.example.org", "gw79.example.org"),
    ],
)
def test_who_asks_for_the_gateway_is_answered_at_any_port(port: int, host: str) -> None:
    for asked_for in (host, f"{host}:8404", f"{host}:{port}"):
        assert [status(port, path, asked_for) for path in PATHS[:-1]] == [200] * 6, asked_for
    assert b"haproxy_process_" in answer(port, "/metrics", host)


@pytest.mark.parametrize(
    "hosts",
    [
        ("evil.example",),
        ("evil.example:8404",),
        ("127.0.0.6",),
        ("gw1.evil.example",),
        ("evilgw1",),
        ("localhost.evil.example",),
        ("gw1.",),
        # Commas may be in names of a browser's, and split lists of HAProxy's.
        ("gw1,evil.example",),
        ("evil.example,gw1",),
        ("evil.example, localhost",),
        ("",),
        (),
    ],
)
def test_another_name_that_leads_here_is_told_nothing(port: int, hosts: tuple[str, ...]) -> None:
    answers = [answer(port, path, *hosts) for path in PATHS]
    assert {found.split()[1] for found in answers} <= {b"421", b"400"}
    for found in answers:
        assert b"haproxy_" not in found and b"Statistics Report" not in found
    # Who asks whether it lives need not know its name.
    assert status(port, "/healthz", *hosts) in (200, 400)


def test_a_browser_is_told_what_to_do(port: int) -> None:
    assert b"gateway.stats_names may allow it\n" in answer(port, "/", "stats.example.org")


def test_two_names_at_once_are_none(port: int) -> None:
    assert status(port, "/stats", "evil.example", "gw1") in (400, 421)
    assert status(port, "/stats", "gw1", "evil.example") in (400, 421)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_is_asked_but_to_be_told(port: int, method: str) -> None:
    assert [status(port, path, "gw1", method=method) for path in PATHS] == [405] * len(PATHS)


def test_no_answer_is_for_pages_of_others(port: int) -> None:
    for path, host in [*((path, "gw1") for path in PATHS), ("/", "evil.example")]:
        head = answer(port, path, host).partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
        for name, value in {
            b"cross-origin-resource-policy": b"same-origin",
            b"x-content-type-options": b"nosniff",
            b"x-frame-options": b"deny",
        }.items():
            assert [line for line in head if line.startswith(name)] == [name + b": " + value], path
        assert not [line for line in head if line.startswith(b"access-control-")]
