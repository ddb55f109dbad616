"""The load generator against servers that answer well, badly, late, in part and not at all: each failure counts."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers import load
from helpers.load import FAILURE_PAUSE_S, KINDS, NEW, POSTS, Counts, Load, Traffic, generate, parse

BODY = json.dumps({"prediction": "x", "version": "1.0.0", "host": "app1", "port": 8000}).encode()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    close: bool
    body: bytes


@dataclass
class Server:
    """Answers each request with what `behave` does to its connection, and closes it where `behave` returns False."""

    behave: Callable[[socket.socket, Request], bool]
    url: str = ""
    connections: list[list[Request]] = field(default_factory=list)

    @property
    def requests(self) -> list[Request]:
        return [request for connection in self.connections for request in connection]

    def serve(self, connection: socket.socket) -> None:
        seen: list[Request] = []
        self.connections.append(seen)
        with connection, connection.makefile("rb") as reader, contextlib.suppress(OSError):
            while head := reader.readline().decode().split():
                fields: dict[str, str] = {}
                while line := reader.readline().decode().strip():
                    name, _, value = line.partition(": ")
                    fields[name] = value
                body = reader.read(int(fields.get("Content-Length", 0)))
                seen.append(Request(head[0], head[1], fields.get("Connection") == "close", body))
                if not self.behave(connection, seen[-1]) or seen[-1].close:
                    return


@contextmanager
def serving(behave: Callable[[socket.socket, Request], bool]) -> Iterator[Server]:
    server = Server(behave)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/predict"

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=server.serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


def head(status: str = "200 OK", *fields: str, length: int | None = len(BODY)) -> bytes:
    said = [f"Content-Length: {length}"] if length is not None else []
    return "\r\n".join([f"HTTP/1.1 {status}", *said, *fields, "", ""]).encode()


def well(connection: socket.socket, request: Request) -> bool:
    connection.sendall(head("200 OK", *(["Connection: close"] if request.close else [])) + BODY)
    return True


def sending(answer: bytes, *, stay: bool = True) -> Callable[[socket.socket, Request], bool]:
    def behave(connection: socket.socket, _: Request) -> bool:
        connection.sendall(answer)
        return stay

    return behave


def traffic(server: Server, **changes: object) -> Counts:
    given: dict[str, object] = {"seconds": 0.5, "clients": 2, "rate": 200.0, "slow_ms": (5, 9), **changes}
    return generate(Traffic(server.url, **given))  # type: ignore[arg-type]


# --- Answers that are well


def test_every_kind_sends_what_its_name_says():
    with serving(well) as server:
        counts = traffic(server)
    assert counts.failed == 0, counts.report()
    assert counts.total == len(server.requests)
    assert counts.answered == {("app1:8000", "1.0.0"): counts.total}
    assert counts.statuses == {(200, "1.0.0"): counts.total}
    sent = {(request.method, request.close, "delay_ms" in request.path) for request in server.requests}
    assert sent == {(m, c, False) for m in ("GET", "POST") for c in (True, False)} | {
        ("GET", False, True),
        ("POST", False, True),
    }
    assert all(bool(request.body) == (request.method == "POST") for request in server.requests)
    assert {kind: tally.total > 0 for kind, tally in counts.tallies.items()} == dict.fromkeys(KINDS, True)
    new = sum(counts.tallies[kind].total for kind in NEW)
    posts = sum(counts.tallies[kind].total for kind in POSTS)
    assert len(server.connections) == new + 2 * (len(KINDS) - len(NEW))
    assert sum(request.method == "POST" for request in server.requests) == posts


def test_a_chunked_answer_in_pieces_is_an_answer():
    def behave(connection: socket.socket, _: Request) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (head("200 OK", "Transfer-Encoding: chunked", length=None), b"5\r\n", BODY[:5], b"\r\n"):
            connection.sendall(piece)
        rest = BODY[5:]
        connection.sendall(f"{len(rest):x};by=nobody\r\n".encode() + rest + b"\r\n0\r")
        connection.sendall(b"\n\r\n")
        return True

    with serving(behave) as server:
        counts = traffic(server)
    assert (counts.failed, counts.total) == (0, len(server.requests)), counts.report()
    assert counts.total > 50


@pytest.mark.parametrize("length", [len(BODY), None], ids=["with a length", "until the end"])
def test_a_close_that_the_answer_announced_is_no_failure(length):
    with serving(sending(head("200 OK", "Connection: close", length=length) + BODY, stay=False)) as server:
        counts = traffic(server)
    assert (counts.failed, counts.total) == (0, len(server.requests)), counts.report()
    assert len(server.connections) == counts.total > 50


def test_an_announced_close_that_resets_is_no_failure():
    def behave(connection: socket.socket, request: Request) -> bool:
        sending(head("200 OK", "Connection: close") + BODY)(connection, request)
        time.sleep(0.002)  # for the client to have read: a reset takes unread bytes with it
        return reset(connection, request)

    with serving(behave) as server:
        counts = traffic(server, kinds=("busy",))
    assert (counts.failed, counts.total) == (0, len(server.requests)), counts.report()


# --- Answers that are not


def reset(connection: socket.socket, _: Request) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def late(connection: socket.socket, request: Request) -> bool:
    time.sleep(1.0)
    return well(connection, request)


BROKEN = {
    "closed without a word": (lambda *_: False, "EOFError closed after 0 bytes"),
    "reset": (reset, "ConnectionResetError"),
    "cut in the head": (sending(head()[:20], stay=False), "EOFError closed after 20 bytes"),
    "cut in the body": (sending(head() + BODY[:-1], stay=False), "EOFError closed after"),
    "cut in a chunk": (
        sending(head("200 OK", "Transfer-Encoding: chunked", length=None) + b"5\r\nabc", stay=False),
        "EOFError closed after",
    ),
    "cut before the last chunk": (
        sending(head("200 OK", "Transfer-Encoding: chunked", length=None) + b"3\r\nabc\r\n", stay=False),
        "EOFError closed after",
    ),
    "too long": (sending(head() + BODY + b"!"), "ValueError 1 bytes more than the answer"),
    "not HTTP": (sending(b"SSH-2.0-OpenSSH\r\n\r\n"), "ValueError not HTTP"),
    "not an instance": (sending(head(length=2) + b"{}"), "ValueError not an instance's answer"),
    "late": (late, "TimeoutError no whole answer in 0.3 s"),
    "announced a close that did not come": (
        sending(head("200 OK", "Connection: close") + BODY),
        "after a whole answer: TimeoutError",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("kind", ["busy", "post"])
def test_each_broken_answer_is_a_failure_and_not_sent_again(name, kind):
    behave, reason = BROKEN[name]
    with serving(behave) as server:
        counts = traffic(server, kinds=(kind,), timeout_s=0.3 if "Timeout" in reason else 10.0)
    assert counts.failed == counts.total == len(server.requests) > 0
    assert all(reason in each for each in counts.tallies[kind].reasons), counts.report()


@pytest.mark.long
def test_a_close_under_a_request_that_is_being_written_is_a_failure():
    """The server answers twice, says nothing of an end and closes, so that every third request meets the end."""

    def behave(connection: socket.socket, request: Request) -> bool:
        well(connection, request)
        return len(next(seen for seen in server.connections if seen and seen[-1] is request)) < 2

    with serving(behave) as server:
        counts = traffic(server, kinds=("busy", "pausing", "post"), seconds=1.0)
    assert counts.failed > 0
    # Of three requests two are seen; who was stopped after the first or second of three makes the difference.
    assert counts.total - counts.failed == len(server.requests)
    assert abs(counts.total - 3 * counts.failed) <= 2 * 3 * 2
    reasons = [reason for tally in counts.tallies.values() for reason in tally.reasons]
    assert all("on a kept connection: " in reason for reason in reasons), reasons


def test_answers_of_a_bad_release_are_counted_apart():
    bad = json.dumps({"error": "failing on purpose", "version": "1.1.0", "host": "app1", "port": 8000}).encode()
    unavailable = b"<html>503 Service Unavailable</html>"
    turns = iter(range(1_000_000))

    def behave(connection: socket.socket, request: Request) -> bool:
        turn = next(turns) % 10
        if turn == 3:
            return sending(head("500 Internal Server Error", length=len(bad)) + bad)(connection, request)
        if turn == 6:
            answer = head("503 Service Unavailable", length=len(unavailable)) + unavailable
            return sending(answer)(connection, request)
        return well(connection, request)

    with serving(behave) as server:
        counts = traffic(server, kinds=("busy",), clients=1)
    own, others = counts.statuses[(500, "1.1.0")], counts.statuses[(503, "-")]
    assert own > 0
    assert others > 0
    assert counts.failed == own + others
    assert counts.failed_apart_from(500, "1.1.0") == others
    assert sum(counts.statuses.values()) == counts.total == len(server.requests)
    assert f"status 500 of version 1.1.0: {own}\n" in counts.report()


def test_another_version_than_the_expected_is_a_failure():
    with serving(well) as server:
        counts = traffic(server, kinds=("busy",), expect_version="1.1.0")
    assert counts.failed == counts.total > 0
    assert "version 1.0.0 instead of 1.1.0" in counts.report()


def test_nobody_listening_fails_every_request_without_asking_all_the_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    counts = generate(Traffic(url, seconds=0.5, clients=1, rate=0, kinds=("busy", "new")))
    assert counts.failed == counts.total <= 2 * (0.5 / FAILURE_PAUSE_S + 1)
    assert "connecting: ConnectionRefusedError" in counts.report()


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length:2\r\nConnection: close\r\n\r\nab",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nab",
    ],
)
def test_an_answer_is_whole_at_its_last_byte_and_not_before(received):
    until_the_end = b"ength" not in received and b"chunked" not in received
    for cut in range(len(received)):
        if not until_the_end:
            assert parse(received[:cut], ended=True) is None
        assert parse(received[:cut], ended=False) is None
    keeps = received.startswith(b"HTTP/1.1") and b"close" not in received and not until_the_end
    assert parse(received, ended=True) == (200, b"ab", keeps)
    if not until_the_end:
        with pytest.raises(ValueError, match="1 bytes more"):
            parse(received + b"x", ended=False)


# --- How much, and until when


@pytest.mark.long
def test_the_rate_is_kept_and_not_exceeded():
    with serving(well) as server:
        counts = traffic(server, kinds=("busy", "new", "post", "post-new"), rate=300, seconds=2)
    assert 400 <= counts.total <= 650


@pytest.mark.long
def test_the_process_goes_on_until_so_many_were_sent():
    with serving(well) as server, Load(server.url, at_least=700, kinds=("busy", "new", "post")) as running:
        pass
    assert running.total >= 700
    assert running.total == len(server.requests)
    assert running.failed == 0, running.report()
    assert running.report().startswith(f"0 failed of {running.total} (busy 0 of {running.tallies['busy'].total}, ")
    assert running.answered == {("app1:8000", "1.0.0"): running.total}
    assert running.failed_of("busy", "post") == 0
    assert 0 < running.cpu_s < running.took_s
    assert running.tallies["busy"].p50_s <= running.tallies["busy"].p99_s <= running.tallies["busy"].slowest_s


def test_entering_returns_when_every_client_has_begun():
    with serving(well) as server, pytest.raises(KeyError), Load(server.url, slow_ms=(5, 9)) as running:
        raise KeyError  # which stops it at once
    assert {kind: tally.total >= running.traffic.clients for kind, tally in running.tallies.items()} == dict.fromkeys(
        KINDS, True
    )
    assert running.failed == 0, running.report()


def test_fewer_than_so_many_are_an_error():
    with (
        serving(well) as server,
        pytest.raises(RuntimeError, match=r"fewer than 10000 requests in \d+ s: 0 failed of \d+ "),
        Load(server.url, at_least=10_000, rate=100, kinds=("busy",), finish_limit_s=0.2) as running,
    ):
        pass
    assert 4 <= running.total == len(server.requests) < 100


def test_a_block_that_raised_does_not_wait_for_as_many_but_for_what_is_open():
    def behave(connection: socket.socket, request: Request) -> bool:
        time.sleep(0.3)
        return well(connection, request)

    with serving(behave) as server:
        began_s = time.monotonic()
        with pytest.raises(KeyError), Load(server.url, at_least=1_000_000, kinds=("busy",)) as running:
            raise KeyError
        assert time.monotonic() - began_s < 5
    assert running.total == len(server.requests) == running.traffic.clients
    assert running.failed == 0, running.report()


def test_a_generator_that_dies_is_an_error():
    with (
        serving(well) as server,
        pytest.raises(RuntimeError, match="exited -9 without a report"),
        Load(server.url) as it,
    ):
        assert it._process is not None
        it._process.kill()


def test_a_test_that_dies_ends_its_generator():
    script = f"import sys; sys.path.insert(0, {str(load.__file__).rpartition('/')[0]!r}); import load\n"
    script += "import os; l = load.Load(sys.argv[1]); l.__enter__(); print(l._process.pid, flush=True); os._exit(1)"
    with serving(well) as server:
        done = subprocess.run([sys.executable, "-c", script, server.url], capture_output=True, text=True, check=False)
        pid = int(done.stdout)
        deadline_s = time.monotonic() + 10
        while _runs(pid):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("url", ["https://x/", "10.99.0.11/predict", "http:///x"])
def test_only_http_urls(url):
    with pytest.raises(ValueError, match="must be an http:// URL"):
        Load(url)


def test_only_kinds_that_there_are():
    with pytest.raises(ValueError, match=r"unknown kinds \['fast'\]: there are busy, "):
        Load("http://127.0.0.1/", kinds=("fast",))


def test_the_command_says_what_failed(capsys):
    with serving(lambda *_: False) as server:
        assert load.main([server.url, "--seconds=0.2", "--kinds=new,post-new", "--rate=50"]) == 1
    assert " failed of " in capsys.readouterr().out
    with serving(well) as server:
        assert load.main([server.url, "--seconds=0.2", "--kinds=new,post-new", "--rate=50", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["answered"] == {"app1:8000 1.0.0": data["total"]}
