"""`fiefdom status --watch`, on a terminal and against ports of this machine: two looks with different answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from helpers import forked
from helpers.terminal import OWN, terminal

INVENTORY = """
cluster: watched
hosts:
  gw1: {{address: 10.9.9.1, groups: [gateways], ssh: {{address: 127.0.0.1, port: {gateway}}}}}
  app1: {{address: 10.9.9.2, groups: [app_hosts], ssh: {{address: 127.0.0.1, port: {app}}}}}
network: {{cidr: 10.9.9.0/24, admin_cidrs: [127.0.0.0/8], client_cidrs: [10.0.0.0/8]}}
serf: {{key_file: gossip.key}}
# Where a registry has them, nobody asks this machine's Docker for images.
registry: {{server: registry.example.org}}
services:
  web: {{image: web, version: "1", instances: 1, health: {{path: /}}}}
"""


@contextmanager
def closed_port() -> Iterator[socket.socket]:
    """A port that refuses connections until somebody listens, and that nobody else gets meanwhile."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        yield port


def answer(port: socket.socket) -> None:
    """Speak something else than SSH there, until the port is closed."""
    with suppress(OSError):
        while True:
            connection, _ = port.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.long
def test_each_look_is_drawn_over_the_last_until_ctrl_c_which_ends_it_cleanly(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yaml"
    environment = {k: v for k, v in os.environ.items() if k not in ("SSH_AUTH_SOCK", "COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"HOME": str(tmp_path), "TERM": "xterm", "DOCKER_HOST": f"unix://{tmp_path}/no-docker.sock"}
    with closed_port() as gateway, closed_port() as app, ThreadPoolExecutor() as pool, terminal() as seen:
        ports = {"gateway": gateway.getsockname()[1], "app": app.getsockname()[1]}
        inventory.write_text(INVENTORY.format(**ports))
        assert forked.fiefdom("keygen", str(inventory)).returncode == 0
        run = partial(forked.run, cwd=tmp_path, env=environment, timeout_s=120, terminal=seen.path)
        done = pool.submit(run, OWN + forked.COMMAND, "status", str(inventory), "--watch")
        screen, at = seen.screen, f"127.0.0.1:{ports['app']}"
        seen.await_true(lambda: f"! app1: does not answer: Could not connect to {at}" in screen.text, "a look")
        first = screen.text.splitlines()
        assert screen.alternate and not screen.cursor
        app.listen()
        Thread(target=answer, args=[app], daemon=True).start()
        seen.await_true(lambda: f"! app1: does not answer: SSH error at {at}" in screen.text, "another look")
        second = screen.text.splitlines()
        # In the same lines, of which only that one says something else.
        (changed,) = (number for number, pair in enumerate(zip(first, second, strict=True)) if len(set(pair)) > 1)
        assert second[changed].startswith("! app1: ") and changed == len(second) - 1
        assert screen.scrolled == 0 and screen.text.count("disk free") == 1
        seen.type("\x03")
        seen.await_true(done.done, "its end")
        assert done.result().returncode == 0
        seen.await_true(lambda: screen.cursor and not screen.alternate, "the terminal as it was")
        assert screen.text == ""
