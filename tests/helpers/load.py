"""A load generator that counts honestly: a request that did not get its answer has failed, and nothing is retried.

    with Load("http://10.99.0.11/predict", at_least=20_000) as load:
        ...
    print(load.report())

or `python tests/helpers/load.py http://10.99.0.11/predict --seconds 10 --kinds busy,pausing`. Seven kinds of client run
at once:

    busy       keep-alive GETs, one after the other
    pausing    keep-alive GETs with 100 ms between them: the kind that meets idle connections being closed
    new        a new connection for each GET
    slow       keep-alive GETs with ?delay_ms=2000 and a little more
    post       keep-alive POSTs, on no account to be executed twice or lost in a planned event
    post-new   a new connection for each POST
    slow-post  keep-alive POSTs with ?delay_ms=2000 and a little more

A kept connection is written on without a look at it first, as a client does that cannot look and write in one step: a
connection that was closed without `Connection: close` in the answer before is a failure of the request that meets it.

The kinds that do not wait send at most `rate` requests a second together: it leaves the two cores of a small machine to
what is measured. `Load` runs in a process of its own, so that the test's work and its own do not wait for one another.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import heapq
import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from urllib.parse import urlsplit

KINDS = ("busy", "pausing", "new", "slow", "post", "post-new", "slow-post")
NEW = ("new", "post-new")
POSTS = ("post", "post-new", "slow-post")
SLOW = ("slow", "slow-post")
PAUSE_S = 0.1
SLOW_MS = (2000, 2500)  # a range, so that clients which began together do not stay together
CLIENTS = 4
RATE = 1000.0
TIMEOUT_S = 30.0
REASONS_KEPT = 5
# A refused connection costs nothing: without a pause a dead gateway would be asked thousands of times a second.
FAILURE_PAUSE_S = 0.02
LIMIT_S = 900.0
# For what `at_least` asks beyond the event itself: 20,000 requests take 20 s, on a machine that is busy a minute.
FINISH_LIMIT_S = 240.0
LOOK_EVERY_S = 0.2
POST_BODY = json.dumps({"features": [6.7, 3.0, 5.2, 2.3]}).encode()
FINISH = b"finish\n"


@dataclass(frozen=True)
class Traffic:
    """What is sent: to `url`, for `seconds` and until `at_least` requests were sent, `clients` of each kind."""

    url: str
    seconds: float = LIMIT_S
    at_least: int = 0
    kinds: tuple[str, ...] = KINDS
    clients: int = CLIENTS
    rate: float = RATE
    timeout_s: float = TIMEOUT_S
    slow_ms: tuple[int, int] = SLOW_MS
    expect_version: str | None = None
    finish_limit_s: float = FINISH_LIMIT_S

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{self.url}: must be an http:// URL")
        unknown = set(self.kinds) - set(KINDS)
        if unknown:
            raise ValueError(f"unknown kinds {sorted(unknown)}: there are {', '.join(KINDS)}")

    @property
    def gap_s(self) -> float:
        """Between two requests of one client of a kind that does not wait."""
        paced = [kind for kind in self.kinds if kind not in SLOW and kind != "pausing"]
        return len(paced) * self.clients / self.rate if self.rate else 0.0


@dataclass
class Tally:
    """What one kind of client met."""

    total: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    p50_s: float = 0.0
    p99_s: float = 0.0
    slowest_s: float = 0.0


@dataclass
class Counts:
    """What all clients met.

    `answered` counts answers with status 200 by (host:port, version), `statuses` all whole answers by (status,
    version); an answer that no instance gave, as HAProxy's own 503, has the version "-".
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[tuple[int, str]] = field(default_factory=Counter)
    took_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def total(self) -> int:
        return sum(tally.total for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        return sum(tally.failed for tally in self.tallies.values())

    def failed_of(self, *kinds: str) -> int:
        return sum(self.tallies[kind].failed for kind in kinds)

    def failed_apart_from(self, status: int, version: str) -> int:
        """Return the failures but for answers with `status` of `version`: those of a release that is bad on purpose."""
        return self.failed - self.statuses[(status, version)]

    def report(self) -> str:
        """Return "0 failed of N (busy 0 of N1, ...)", and where something failed its statuses and first reasons."""
        by_kind = ", ".join(f"{kind} {tally.failed} of {tally.total}" for kind, tally in self.tallies.items())
        lines = [f"{self.failed} failed of {self.total} ({by_kind})"]
        for (status, version), count in sorted(self.statuses.items()):
            if status != 200:
                lines.append(f"status {status} of version {version}: {count}")
        lines += [f"{kind}: {reason}" for kind, tally in self.tallies.items() for reason in tally.reasons]
        return "\n  ".join(lines)

    def as_data(self) -> dict[str, object]:
        return {
            "total": self.total,
            "failed": self.failed,
            "seconds": round(self.took_s, 2),
            "cpu_seconds": round(self.cpu_s, 2),
            "kinds": {kind: vars(tally) for kind, tally in self.tallies.items()},
            "answered": {f"{origin} {version}": count for (origin, version), count in sorted(self.answered.items())},
            "statuses": {f"{status} {version}": count for (status, version), count in sorted(self.statuses.items())},
        }


class Load(Counts):
    """Traffic in a process of its own, from entering the context to leaving it: read the numbers after that.

    Entering returns when every client has begun its first request. Leaving waits for the open requests and, unless the
    block raised, until `at_least` requests were sent in all; RuntimeError when they were not after `finish_limit_s`.
    """

    def __init__(
        self,
        url: str,
        *,
        at_least: int = 0,
        seconds: float = LIMIT_S,
        kinds: Sequence[str] = KINDS,
        clients: int = CLIENTS,
        rate: float = RATE,
        timeout_s: float = TIMEOUT_S,
        slow_ms: tuple[int, int] = SLOW_MS,
        expect_version: str | None = None,
        finish_limit_s: float = FINISH_LIMIT_S,
    ) -> None:
        """Raises ValueError for an URL that is not http, or a kind that there is not."""
        super().__init__({kind: Tally() for kind in kinds})
        seconds = min(seconds, LIMIT_S)
        self.traffic = Traffic(
            url, seconds, at_least, tuple(kinds), clients, rate, timeout_s, slow_ms, expect_version, finish_limit_s
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Load:
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in _options(self.traffic).items()]
        # In a session of its own: a Ctrl-C is for the test, whose end closes the input and thereby ends this.
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.traffic.url, "--json", "--controlled", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"the load generator exited {self._process.wait()} before it sent anything")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        limit_s = self.traffic.timeout_s + self.traffic.finish_limit_s + 10
        try:
            if kind is None:
                self._finish(self._process, limit_s)
            output, _ = self._process.communicate(timeout=limit_s)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        if not output:
            raise RuntimeError(f"the load generator exited {self._process.returncode} without a report")
        self._take(json.loads(output))
        if kind is None and self.total < self.traffic.at_least:
            raise RuntimeError(f"fewer than {self.traffic.at_least} requests in {self.took_s:.0f} s: {self.report()}")

    @staticmethod
    def _finish(process: subprocess.Popen[bytes], limit_s: float) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its seconds were over
            process.stdin.write(FINISH)
            process.stdin.flush()
        # The input stays open: its end says that nobody waits any more.
        process.wait(limit_s)

    def _take(self, data: dict[str, object]) -> None:
        kinds, answered, statuses = data["kinds"], data["answered"], data["statuses"]
        assert isinstance(kinds, dict)
        assert isinstance(answered, dict)
        assert isinstance(statuses, dict)
        self.tallies = {kind: Tally(**tally) for kind, tally in kinds.items()}
        for origin_version, count in answered.items():
            origin, _, version = origin_version.partition(" ")
            self.answered[(origin, version)] = count
        for status_version, count in statuses.items():
            status, _, version = status_version.partition(" ")
            self.statuses[(int(status), version)] = count
        self.took_s, self.cpu_s = float(str(data["seconds"])), float(str(data["cpu_seconds"]))


# --- The clients: generators on one epoll, because asyncio's streams cost three times as much processor per request


class Client:
    """One client. Its `life` yields a moment to go on at, or None to go on when there is news of its connection."""

    def __init__(self, kind: str, traffic: Traffic, counts: Counts, epoll: select.epoll) -> None:
        self.kind = kind
        self.traffic = traffic
        self.counts = counts
        self.epoll = epoll
        self.latencies_s: list[float] = []
        self.connection: socket.socket | None = None
        self.deadline_s = 0.0
        self.waits_for_connection = False
        self.stage = ""
        parts = urlsplit(traffic.url)
        # Once: a name would be resolved for every connection else.
        resolved = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)[0]
        self.family, self.address = resolved[0], resolved[4]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._slow_path = f"{path}{'&' if parts.query else '?'}delay_ms="
        self._request = render(kind, path, parts.netloc)
        self._host = parts.netloc

    def life(self, over: Callable[[], bool]) -> Generator[float | None, None, None]:
        tally = self.counts.tallies[self.kind]
        # Clients that start together would stay together.
        due_s = time.monotonic() + random.uniform(0, PAUSE_S)  # noqa: S311
        began_first_s = time.monotonic()
        yield due_s
        while not over():
            tally.total += 1
            began_s = time.monotonic()
            self.deadline_s = began_s + self.traffic.timeout_s
            failed = False
            try:
                status, body, keeps = yield from self._exchange(self._next_request())
                self._judge(status, body)
                if not keeps:
                    yield from self._await_close()
                if not keeps or self.kind in NEW:
                    self.close()
            except (OSError, EOFError, ValueError) as error:
                failed = True
                tally.failed += 1
                if len(tally.reasons) < REASONS_KEPT:
                    after = f"after {time.monotonic() - began_first_s:.2f} s, {self.stage}"
                    tally.reasons.append(f"{after}: {type(error).__name__} {error}".rstrip())
                self.close()
            now_s = time.monotonic()
            self.latencies_s.append(now_s - began_s)
            due_s = now_s + FAILURE_PAUSE_S if failed else max(self._due_after(due_s, now_s), now_s)
            yield due_s
        self.close()

    def _due_after(self, due_s: float, now_s: float) -> float:
        if self.kind == "pausing":
            return now_s + PAUSE_S
        return now_s if self.kind in SLOW else due_s + self.traffic.gap_s

    def _next_request(self) -> bytes:
        if self.kind not in SLOW:
            return self._request
        delay_ms = random.randint(*self.traffic.slow_ms)  # noqa: S311
        return render(self.kind, f"{self._slow_path}{delay_ms}", self._host)

    def _exchange(self, request: bytes) -> Generator[None, None, tuple[int, bytes, bool]]:
        """Send a request; return its answer's status and body, and whether the connection may be used again.

        Raises OSError, EOFError or ValueError when the answer is missing or not whole.
        """
        self.stage = "on a kept connection"
        if self.connection is None:
            self.stage = "connecting"
            yield from self._connect()
            self.stage = "on a new connection"
        assert self.connection is not None
        if self.connection.send(request) != len(request):
            raise OSError("the socket took a part of the request only")
        received = b""
        while True:
            try:
                more = self.connection.recv(65536)
            except BlockingIOError:
                yield None
                continue
            received += more
            answer = parse(received, ended=not more)
            if answer is not None:
                return answer
            if not more:
                raise EOFError(f"closed after {len(received)} bytes of the answer")

    def _connect(self) -> Generator[None, None, None]:
        connection = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = connection.connect_ex(self.address)
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
        # Edges cost no system call per request, and none is lost: whoever waits has just met an empty socket.
        self.epoll.register(connection, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
        yield None
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    def _await_close(self) -> Generator[None, None, None]:
        """Let the server close first, as it said it would: who closes first keeps the port for a minute, and this side
        would run out of ports at 500 connections a second."""
        assert self.connection is not None
        self.stage = "after a whole answer"
        while True:
            try:
                more = self.connection.recv(1)
            except BlockingIOError:
                yield None
                continue
            except ConnectionError:
                return  # the answer was whole and the end announced
            if more:
                raise ValueError("more came than one answer")
            return

    def _judge(self, status: int, body: bytes) -> None:
        origin, version = origin_of(body)
        self.counts.statuses[(status, version)] += 1
        if status != 200:
            raise ValueError(f"status {status}: {body[:80]!r}")
        if version == "-":
            raise ValueError(f"not an instance's answer: {body[:80]!r}")
        self.counts.answered[(origin, version)] += 1
        if self.traffic.expect_version not in (None, version):
            raise ValueError(f"version {version} instead of {self.traffic.expect_version}")

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()  # and with it epoll's registration
            self.connection = None


def render(kind: str, path: str, host: str) -> bytes:
    """Return the bytes of a request."""
    head = [f"{'POST' if kind in POSTS else 'GET'} {path} HTTP/1.1", f"Host: {host}"]
    if kind in POSTS:
        head += ["Content-Type: application/json", f"Content-Length: {len(POST_BODY)}"]
    if kind in NEW:
        head.append("Connection: close")
    return "\r\n".join([*head, "", ""]).encode() + (POST_BODY if kind in POSTS else b"")


def parse(received: bytes, *, ended: bool) -> tuple[int, bytes, bool] | None:
    """Return (status, body, whether the connection stays) of one whole answer; None while something is missing.

    Raises ValueError for what is not one answer of HTTP/1.1.
    """
    head, blank, rest = received.partition(b"\r\n\r\n")
    if not blank:
        return None
    status, length, chunked, keeps = parse_head(head)
    if chunked:
        whole = unchunk(rest)
        if whole is None:
            return None
        body, surplus = whole
    elif length is None:
        return (status, rest, False) if ended else None
    else:
        body, surplus = rest[:length], len(rest) - length
        if surplus < 0:
            return None
    if surplus:
        raise ValueError(f"{surplus} bytes more than the answer")
    return status, body, keeps


@lru_cache(maxsize=4096)  # an instance's heads differ by the second only
def parse_head(head: bytes) -> tuple[int, int | None, bool, bool]:
    """Return (status, length or None for "until the end", whether it is chunked, whether the connection stays)."""
    first, *lines = head.decode("latin-1").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if protocol not in ("HTTP/1.1", "HTTP/1.0"):
        raise ValueError(f"not HTTP: {first[:80]!r}")
    status = int(rest[:3])
    fields = {name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines)}
    said = fields.get("connection", "keep-alive" if protocol == "HTTP/1.1" else "close")
    chunked = fields.get("transfer-encoding") == "chunked"
    length = int(fields["content-length"]) if "content-length" in fields and not chunked else None
    return status, length, chunked, said != "close"


def unchunk(rest: bytes) -> tuple[bytes, int] | None:
    """Return a chunked body and how many bytes follow it; None while it is not whole."""
    body = b""
    while True:
        size_line, newline, rest = rest.partition(b"\r\n")
        if not newline:
            return None
        size = int(size_line.split(b";")[0], 16)
        if len(rest) < size + 2:
            return None
        if rest[size : size + 2] != b"\r\n":
            raise ValueError("a chunk is longer than it says")
        if size == 0:
            return body, len(rest) - 2
        body, rest = body + rest[:size], rest[size + 2 :]


@lru_cache(maxsize=4096)
def origin_of(body: bytes) -> tuple[str, str]:
    """Return (host:port, version) of the instance that gave the answer, "-" for what is not said."""
    try:
        answer = json.loads(body)
    except ValueError:
        return "-", "-"
    if not isinstance(answer, dict) or "version" not in answer:
        return "-", "-"
    return f"{answer.get('host')}:{answer.get('port')}", str(answer["version"])


# --- Running them


class Loop:
    """Drives the clients until they are through: by news of their connections, by the clock, and by `control`."""

    def __init__(self, traffic: Traffic, control: int | None) -> None:
        self.traffic = traffic
        self.control = control
        self.counts = Counts({kind: Tally() for kind in traffic.kinds})
        self.end_s = time.monotonic() + traffic.seconds
        self.nobody_waits = False
        self.epoll = select.epoll()
        if control is not None:
            self.epoll.register(control, select.EPOLLIN)
        kinds = [kind for kind in traffic.kinds for _ in range(traffic.clients)]
        self.clients = [Client(kind, traffic, self.counts, self.epoll) for kind in kinds]
        self.lives = {number: client.life(self._over) for number, client in enumerate(self.clients)}
        self.timers = [(0.0, number) for number in self.lives]
        self.by_descriptor: dict[int, int] = {}

    def run(self, began: Callable[[], None]) -> Counts:
        to_begin = True
        next_look_s = 0.0
        while self.lives:
            wait_s = self.timers[0][0] - time.monotonic() if self.timers else LOOK_EVERY_S
            self._hear(min(max(wait_s, 0.0), LOOK_EVERY_S))
            now_s = time.monotonic()
            while self.timers and self.timers[0][0] <= now_s:
                self._go_on(heapq.heappop(self.timers)[1])
            if to_begin and all(client.deadline_s for client in self.clients):
                to_begin = False
                began()
            if now_s >= next_look_s:
                next_look_s = now_s + LOOK_EVERY_S
                self._time_out(now_s)
        self.epoll.close()
        return self.counts

    def _over(self) -> bool:
        now_s = time.monotonic()
        if self.nobody_waits or now_s < self.end_s:
            return self.nobody_waits
        return self.counts.total >= self.traffic.at_least or now_s >= self.end_s + self.traffic.finish_limit_s

    def _hear(self, wait_s: float) -> None:
        for descriptor, _ in self.epoll.poll(wait_s):
            if descriptor == self.control:
                self._obey(descriptor)
            elif self.clients[self.by_descriptor[descriptor]].waits_for_connection:
                self._go_on(self.by_descriptor[descriptor])

    def _obey(self, control: int) -> None:
        self.end_s = min(self.end_s, time.monotonic())
        if not os.read(control, len(FINISH)):
            self.nobody_waits = True
            self.epoll.unregister(control)

    def _go_on(self, number: int, error: Exception | None = None) -> None:
        client = self.clients[number]
        try:
            due_s = self.lives[number].throw(error) if error else next(self.lives[number])
        except StopIteration:
            del self.lives[number]
            client.waits_for_connection = False
            return
        client.waits_for_connection = due_s is None
        if due_s is not None:
            heapq.heappush(self.timers, (due_s, number))
        elif client.connection is not None:
            self.by_descriptor[client.connection.fileno()] = number

    def _time_out(self, now_s: float) -> None:
        for number in list(self.lives):
            client = self.clients[number]
            if client.waits_for_connection and now_s > client.deadline_s:
                self._go_on(number, TimeoutError(f"no whole answer in {self.traffic.timeout_s} s"))


def generate(traffic: Traffic, control: int | None = None, began: Callable[[], None] = lambda: None) -> Counts:
    """Send until the time is up, or FINISH comes from the descriptor `control`, and then until `at_least` were sent.

    `began` is called when every client has begun its first request. The end of `control` ends it at once, whatever
    `at_least` asks. Requests that are open are waited for in any case.
    """
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    loop = Loop(traffic, control)
    counts = loop.run(began)
    counts.took_s, counts.cpu_s = time.monotonic() - began_s, time.process_time() - cpu_began_s
    for kind, tally in counts.tallies.items():
        latencies_s = sorted(each for client in loop.clients if client.kind == kind for each in client.latencies_s)
        if latencies_s:
            tally.p50_s, tally.p99_s = (round(latencies_s[int(len(latencies_s) * q)], 4) for q in (0.5, 0.99))
            tally.slowest_s = round(latencies_s[-1], 4)
    return counts


# --- The command


def _options(traffic: Traffic) -> dict[str, object]:
    """The command's options for what differs from its defaults, by name."""
    options: dict[str, object] = {
        "seconds": traffic.seconds,
        "at_least": traffic.at_least,
        "kinds": ",".join(traffic.kinds),
        "clients": traffic.clients,
        "rate": traffic.rate,
        "timeout_s": traffic.timeout_s,
        "finish_limit_s": traffic.finish_limit_s,
        "slow_ms": "-".join(map(str, traffic.slow_ms)),
    }
    if traffic.expect_version is not None:
        options["expect_version"] = traffic.expect_version
    return options


def _slow_ms(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    return int(least), int(most or least)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Send HTTP traffic of several kinds and count what fails.")
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--at-least", type=int, default=0, help="go on until so many requests were sent")
    parser.add_argument("--finish-limit-s", type=float, default=FINISH_LIMIT_S, help="how much longer that may take")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="clients of each kind")
    parser.add_argument(
        "--rate", type=float, default=RATE, help="requests a second over the kinds that do not wait; 0: no limit"
    )
    parser.add_argument("--timeout-s", type=float, default=TIMEOUT_S, help="after which a request has failed")
    parser.add_argument("--slow-ms", type=_slow_ms, default=SLOW_MS, help="delay of slow requests, as 2000-2500")
    parser.add_argument("--expect-version", help="an answer of another version has failed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--controlled", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    traffic = Traffic(
        url=given.url,
        seconds=given.seconds,
        at_least=given.at_least,
        kinds=tuple(given.kinds.split(",")),
        clients=given.clients,
        rate=given.rate,
        timeout_s=given.timeout_s,
        slow_ms=given.slow_ms,
        expect_version=given.expect_version,
        finish_limit_s=given.finish_limit_s,
    )
    if given.controlled:
        counts = generate(traffic, sys.stdin.fileno(), lambda: print("sending", flush=True))
    else:
        counts = generate(traffic)
    if given.json:
        print(json.dumps(counts.as_data()))
    else:
        print(counts.report())
        for (origin, version), count in sorted(counts.answered.items()):
            print(f"  {origin} {version}: {count}")
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
