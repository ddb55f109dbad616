"""Images on their way to several hosts over SSH: one that dies or hangs fails alone, and one save serves all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from helpers import forked

# A process of its own: engine patches the standard library for everything that is imported after it. The hosts are
# sshd's of paramiko that run what they are told, `docker` is a script at both ends.
HOSTS = """
import os, socket, subprocess, sys, threading
from types import SimpleNamespace
import fiefdom.engine
import gevent, paramiko
from pyinfra.api.exceptions import NestedOperationError
from fiefdom.engine import session as engine, shells
from fiefdom.errors import HostError, HostErrors

# Those that are well are far below it, however busy this machine is.
shells.STALLED_S = shells.UNPACKED_S = 15 if {"hung", "busy"} & set(sys.argv) else 120
KEY = paramiko.ECDSAKey.generate()

class Server(paramiko.ServerInterface):
    def __init__(self, name, transport):
        self.name, self.transport = name, transport

    def check_auth_none(self, username):
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind, number):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        threading.Thread(target=self.run, args=(channel, command), daemon=True).start()
        return True

    def run(self, channel, command):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(command, shell=True, env={**os.environ, "HOST": self.name}, **pipes)
        reached = 0
        try:
            while piece := channel.recv(1 << 15):
                process.stdin.write(piece)
                process.stdin.flush()
                reached += len(piece)
                if self.name == "cut" and reached > 1_000_000:
                    process.kill()
                    return self.transport.close()
            process.stdin.close()
        except BrokenPipeError:
            pass
        channel.sendall(process.stdout.read())
        channel.sendall_stderr(process.stderr.read())
        channel.send_exit_status(process.wait())
        channel.close()

def host(name):
    here, there = socket.socketpair()
    server = paramiko.Transport(there)
    server.add_server_key(KEY)
    server.start_server(server=Server(name, server), event=threading.Event())
    client = paramiko.Transport(here)
    client.start_client()
    client.auth_none("root")
    connector = SimpleNamespace(client=SimpleNamespace(get_transport=lambda: client))
    return SimpleNamespace(
        name=name, connector=connector, connector_data={}, log=print, log_styled=lambda text, **_: None
    )

names = sys.argv[1:]
hosts = {name: host(name) for name in names}
session = engine.Session(None, tuple(names))
session._state = state = type("State", (), {})()
session._entered_by = gevent.getcurrent()

def ship(name):
    try:
        with shells.reaching(name):
            engine._ship(state, hosts[name], SimpleNamespace(registry=None, services={}), ("team/predictor:1",))
    except NestedOperationError as error:
        raise HostError(name, str(error)) from None

try:
    session.on_all(ship)
except HostErrors as error:
    print(*error.each, sep="\\n")
assert state not in engine._fanouts
sys.stdout.flush()
os._exit(0)
"""
DOCKER = """#!/bin/sh
echo "$*" >> "$FOLDER/calls"
case "$1 ${HOST:-here}" in
"save here") exec cat "$FOLDER/archive" ;;
"load dead") head -c 1000000 >/dev/null; echo "no space left on device" >&2; exit 1 ;;
"load hung") echo "$$" > "$FOLDER/hung"; exec sleep 1000 ;;
"load busy") cat >/dev/null; echo "$$" > "$FOLDER/hung"; exec sleep 1000 ;;
load*) exec cat > "$FOLDER/got-$HOST" ;;
esac
exit 1
"""
SIZE = 8_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    (tmp_path / "archive").write_bytes(os.urandom(SIZE))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    return tmp_path


def shipped(folder: Path, *names: str) -> list[str]:
    """Ship to hosts; what is said of those that failed, once it is sure that all others have the image."""
    done = forked.run(HOSTS, *names, timeout_s=300)
    if (folder / "hung").exists():
        subprocess.run(["kill", (folder / "hung").read_text().strip()], check=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    well = [name for name in names if name.startswith("app")]
    sent = (folder / "archive").read_bytes()
    assert [name for name in well if (folder / f"got-{name}").read_bytes() == sent] == well, done.stdout
    return done.stdout.splitlines()


def saves(folder: Path) -> list[str]:
    return [call for call in (folder / "calls").read_text().splitlines() if call.startswith("save")]


@pytest.mark.long
def test_one_save_serves_all_hosts(folder: Path) -> None:
    assert shipped(folder, *(f"app{number}" for number in range(20))) == []
    assert saves(folder) == ["save team/predictor:1"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dead", "dead: `docker load --quiet` failed: no space left on device"),
        ("hung", "hung: `docker load --quiet` took nothing for 15 s; is the host well?"),
        ("busy", "busy: `docker load --quiet` did not end within 15 s; is the host well?"),
        ("cut", "cut: the connection broke off"),
    ],
)
def test_a_host_that_fails_does_so_alone(folder: Path, name: str, words: str) -> None:
    assert shipped(folder, "app1", name, "app2", "app3") == [words]
    assert len(saves(folder)) == 1
