"""What the supervisor takes as healthy of kind tcp; against this machine, with a docker of the test's own."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

from fiefdom.desired.containers import conf_file
from fiefdom.desired.state import Container, HostState
from helpers.programs import place_supervisor

CONTAINER = Container("db-5432", "fiefdom-db@5432.service", "instance", "db:1", (), start_timeout_s=0)
DOCKER = """#!/bin/sh
# Runs what is to run in the container here.
[ "$1" = exec ] && [ "$2" = db-5432 ] && shift 2 && exec "$@"
"""


def asked(folder: Path, **changes: object) -> str:
    """Why the supervisor does not find the container healthy, when it asks once; nothing where it does."""
    container = replace(CONTAINER, **changes)  # type: ignore[arg-type]
    (folder / f"{container.name}.conf").write_bytes(conf_file(container, HostState()).content)
    docker = folder / "bin" / "docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    words = [str(place_supervisor(folder)), "answering", container.name]
    environment = {**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert done.stderr == ""
    return done.stdout.removesuffix("\n").removeprefix(container.name).removeprefix(": ")


def test_who_takes_a_connection_is_up_and_nothing_is_sent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert asked(tmp_path, probe=f"connect://127.0.0.1:{port}") == ""
        connection, _ = listener.accept()
        assert connection.recv(10) == b""
        connection.close()
    assert asked(tmp_path, probe=f"connect://127.0.0.1:{port}") == "refused the connection"


def test_who_takes_none_is_told_after_its_time(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        words = asked(tmp_path, probe=f"connect://127.0.0.1:{port}", probe_timeout_s=0.3)
        assert words == "no connection within 0.3 s"
        for one in waiting:
            one.close()


def test_a_command_is_healthy_by_its_end(tmp_path: Path) -> None:
    def says(*command: str) -> str:
        return asked(tmp_path, probe="command", probe_command=command, probe_timeout_s=0.3)

    assert says("true") == ""
    assert says("test", "two words", "=", "two words") == ""
    assert says("test", "", "=", "") == ""
    assert says("sh", "-c", "echo words; exit 3") == "sh ended with 3"
    assert says("sleep", "5") == "sleep gave no answer within 0.3 s"
    assert says("/no/such/program") == "/no/such/program ended with 127"
