"""What the supervisor takes as healthy, and its words for what is not; against servers of this machine, without docker.

The gateways' checks have to take the same as healthy: their side is in test_gateway.py and test_haproxy_template.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fiefdom.desired.containers import conf_file
from fiefdom.desired.state import Container, HostState
from helpers import journal
from helpers.programs import place_supervisor

CONTAINER = Container("web-9000", "fiefdom-web@9000.service", "instance", "team/web:7", (), start_timeout_s=0)
TIMEOUT_S = 1.5  # answers come within it on a busy machine as well


class Server:
    """Answers every connection with the same bytes, once it has read a request; with none it stays silent."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.answer: bytes | None = b""
        self.stays_open = False
        self.requests: list[str] = []
        self.held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.requests.append(connection.recv(65536).decode(errors="replace"))
            if self.answer is not None:
                connection.sendall(self.answer)
            if self.answer is None or self.stays_open:
                self.held.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        # What another thread waits in goes on listening after a plain close.
        with suppress(OSError):  # closed already
            self.listener.shutdown(socket.SHUT_RDWR)
        for each in (self.listener, *self.held):
            each.close()


@pytest.fixture
def server() -> Iterator[Server]:
    it = Server()
    yield it
    it.close()


def status(code: int) -> bytes:
    return f"HTTP/1.1 {code} x\r\nContent-Length: 0\r\n\r\n".encode()


def asked(folder: Path, container: Container) -> str:
    """Why the supervisor does not find a container healthy, when it asks once; nothing where it does."""
    (folder / f"{container.name}.conf").write_bytes(conf_file(container, HostState()).content)
    words = [str(place_supervisor(folder)), "answering", container.name]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return "" if done.stdout == f"{container.name}\n" else done.stdout


def at(port: int, path: str = "/health", **changes: object) -> Container:
    probe = f"http://127.0.0.1:{port}{path}"
    changed: Container = replace(CONTAINER, probe=probe, probe_timeout_s=TIMEOUT_S, **changes)  # type: ignore[arg-type]
    return changed


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        ("", (200, 204, 302, 399), (400, 403, 404, 500, 503)),
        ("204", (204,), (200, 205)),
        ("200,404-405", (200, 404, 405), (201, 403, 406)),
    ],
)
def test_a_status_is_good_or_it_is_told(
    tmp_path: Path, server: Server, wanted: str, good: tuple[int, ...], bad: tuple[int, ...]
) -> None:
    container = at(server.port, probe_status=wanted)
    for code in good:
        server.answer = status(code)
        assert asked(tmp_path, container) == ""
    for code in bad:
        server.answer = status(code)
        words = f"web-9000: answered {code}, wanted {wanted or '200-399'}\n"
        assert asked(tmp_path, container) == words


@pytest.fixture
def calls() -> Iterator[int]:
    """The port of a server that speaks HTTP/2 in clear text alone."""
    program = Path(__file__).parents[2] / "lab" / "images" / "fronts" / "calls.py"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with subprocess.Popen([sys.executable, str(program)], env={**os.environ, "PORT": str(port)}) as running:
        for _ in range(100):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        yield port
        running.kill()


def test_who_speaks_http_2_alone_is_asked_so(tmp_path: Path, calls: int, server: Server) -> None:
    spoken = replace(CONTAINER, probe=f"h2c://127.0.0.1:{calls}/health", probe_timeout_s=2.0)
    assert asked(tmp_path, spoken) == ""
    assert asked(tmp_path, at(calls)) == "web-9000: answered 505, wanted 200-399\n"
    server.answer = status(200)
    other = replace(spoken, probe=f"h2c://127.0.0.1:{server.port}/health")
    # Which of these it is, is a matter of who is faster.
    ways = ("closed the connection without an answer", "answered, but not in HTTP")
    assert asked(tmp_path, other) in [f"web-9000: {way}, asked in HTTP/2\n" for way in ways]


def test_what_does_not_answer_is_told_apart(tmp_path: Path, server: Server) -> None:
    for answer, words in (
        (None, "no answer within 1.5 s"),
        (b"", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "answered, but not in HTTP"),
    ):
        server.answer = answer
        assert asked(tmp_path, at(server.port)) == f"web-9000: {words}\n"
    server.close()
    assert asked(tmp_path, at(server.port)) == "web-9000: refused the connection\n"


def test_an_answer_is_good_by_its_status_though_its_body_never_ends(tmp_path: Path, server: Server) -> None:
    """So is it to HAProxy, which reads no further than it must."""
    server.answer, server.stays_open = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", True
    assert asked(tmp_path, at(server.port)) == ""


@pytest.mark.parametrize("path", ["/it's", "/a/../b", "/h?x[0]={1,2}&y=$1%27;"])
def test_a_path_is_asked_for_as_it_stands_there(tmp_path: Path, server: Server, path: str) -> None:
    server.answer = status(200)
    assert asked(tmp_path, at(server.port, path)) == ""
    assert server.requests[0].startswith(f"GET {path} HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("changes", "host"),
    [({}, "web"), ({"probe_host": "www.example.org:81"}, "www.example.org:81"), ({"role": "gateway"}, None)],
)
def test_the_host_header_is_the_gateways_checks(
    tmp_path: Path, server: Server, changes: dict[str, str], host: str | None
) -> None:
    server.answer = status(200)
    assert asked(tmp_path, at(server.port, **changes)) == ""
    (line,) = (line for line in server.requests[0].splitlines() if line.lower().startswith("host:"))
    assert line == f"Host: {host or f'127.0.0.1:{server.port}'}"


def test_no_proxy_of_the_environment_is_asked(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = status(200)
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:1")
    assert asked(tmp_path, at(server.port)) == ""


def test_nobody_that_listens_is_told_of_a_port_as_well(tmp_path: Path) -> None:
    container = replace(CONTAINER, probe="tcp://127.0.0.1:1")
    assert asked(tmp_path, container) == "web-9000: nobody listens\n"


def test_in_the_journal_the_reason_is_an_error(tmp_path: Path) -> None:
    """systemd says where its journal reads, and takes a number in front for the line's level."""
    (tmp_path / "web-9000.conf").write_bytes(
        conf_file(replace(CONTAINER, probe="tcp://127.0.0.1:1"), HostState()).content
    )
    script = place_supervisor(tmp_path)
    for level, _, words in journal.said(tmp_path, [str(script), "dance", "web-9000"]):
        assert words.startswith(f"{level}usage: ")


DOCKER = """#!/bin/sh
cd {root} || exit
echo "$*" >>log
case $1:$* in
  image:*) echo sha256:1 ;;
  inspect:*'--format {{.Config.User}} '*) echo 1000:1000 ;;
  inspect:*) [ -e spec ] && printf '%s {pid} 3 sha256:1 %s\\nfacts\\n[]\\n' "$(cat running)" "$(cat spec)" ;;
  create:*) sed -n 's/^spec //p' web-9000.conf >spec ;;
  logs:*) echo 'web-9000: answered 200'; echo '<3>model not found' >&2 ;;
esac
"""
WORDS = "| web-9000: answered 200\n| <3>model not found\n"


def given_up(folder: Path, container: Container, pid: int, running: str = "true") -> tuple[str, list[str]]:
    """What the supervisor says of a container that it gives up, and what it asked docker for."""
    (folder / "bin").mkdir()
    # Where it asks docker itself, dockerd answers; the container is asked in earnest.
    curl = '#!/bin/sh\ncase $* in *http://docker/_ping) exit 0 ;; esac\nexec /usr/bin/curl "$@"\n'
    docker = DOCKER.replace("{root}", str(folder)).replace("{pid}", str(pid))
    systemctl = f"#!/bin/sh\ncat {folder}/jobs 2>/dev/null\necho systemctl $* >>{folder}/log\n"
    for name, text in {"docker": docker, "curl": curl, "systemctl": systemctl}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    (folder / "running").write_text(f"{running}\n")
    (folder / "web-9000.conf").write_bytes(conf_file(container, HostState()).content)
    script = place_supervisor(folder)
    # A root's process is refused; whose this one is depends on who runs the tests.
    script.write_text(script.read_text().replace("/proc/$pid/status", "/dev/null"))
    env = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    words = [str(script), "run", "web-9000"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=60)
    assert done.returncode == 1
    return done.stderr, (folder / "log").read_text().splitlines()


@pytest.mark.long
def test_the_reason_comes_first_and_the_containers_words_are_marked(tmp_path: Path, server: Server) -> None:
    server.answer = status(403)
    container = at(server.port)
    said, asked_for = given_up(tmp_path, container, os.getpid())
    assert said == f"web-9000: answered 403, wanted 200-399, for 0 s at {container.probe}\n{WORDS}"
    assert "stop web-9000" in asked_for


GO_ON = "systemctl --job-mode=ignore-dependencies start fiefdom-offer-web.service"


@pytest.mark.long
@pytest.mark.parametrize(
    ("jobs", "goes_on"),
    [
        ("7 fiefdom-offer-web.service start waiting\n", True),
        ("7 fiefdom-offer-web.service restart waiting\n", True),
        ("7 fiefdom-offer-web.service stop waiting\n", False),
        ("7 fiefdom-offer-web.service start running\n", False),
        ("", False),  # it is made, or somebody withdrew it
    ],
)
def test_an_offer_that_waits_need_not_wait_for_an_instance_that_is_given_up(
    tmp_path: Path, server: Server, jobs: str, goes_on: bool
) -> None:
    server.answer = status(403)
    (tmp_path / "jobs").write_text(jobs)
    _, asked_for = given_up(tmp_path, at(server.port), os.getpid())
    assert (GO_ON in asked_for) == goes_on
    # It asks this one as well, so that is there still.
    assert not goes_on or asked_for.index(GO_ON) < asked_for.index("stop web-9000")


@pytest.mark.long
def test_one_that_ends_is_told_with_its_exit_code(tmp_path: Path, server: Server) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    said, asked_for = given_up(tmp_path, at(server.port, start_timeout_s=60), process.pid, running="false")
    assert said == f"web-9000: ended before it was healthy, with exit code 3\n{WORDS}"
    assert "stop web-9000" not in asked_for
