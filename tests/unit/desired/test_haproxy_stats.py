"""The statistics' port under a real HAProxy: what a client that holds connections open can keep from others."""

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
ADDRESS, CLIENT, OTHER = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of the frontend as it is rendered; its listening socket is handed over."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "no haproxy on this machine: RUNLEVEL=1 apt install --no-install-recommends haproxy"
    with socket.socket() as listening:
        listening.bind((ADDRESS, 0))
        listening.listen(200)
        number = listening.getsockname()[1]
        text = render("haproxy.cfg.j2", **PLAIN, stats_bind=f"{ADDRESS}:{number}")
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
