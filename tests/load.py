"""A load generator that counts honestly: a request that did not get its answer has failed, and nothing is retried.

    with Load("http://10.99.0.11/predict") as load:
        ...
    print(load.report())

or `python tests/load.py http://10.99.0.11/predict --seconds 10 --kinds busy,pausing`. Five kinds of client run at once:

    busy      keep-alive GETs, one after the other
    pausing   keep-alive GETs with 100 ms between them: the kind that meets idle connections being closed
    new       a new connection for each GET
    slow      keep-alive GETs with ?delay_ms=300 and more
    post      keep-alive POSTs, on no account to be executed twice or lost in a planned event

It stops by itself after `seconds`, and sends at most `rate` requests a second over the kinds that do not wait: it
leaves the two cores of a small machine to what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

KINDS = ("busy", "pausing", "new", "slow", "post")
PAUSE_S = 0.1
SLOW_MS = (300, 1000)
REASONS_KEPT = 5
# A refused connection costs nothing: without a pause a dead gateway would be asked thousands of times a second.
FAILURE_PAUSE_S = 0.02
LIMIT_S = 900.0
POST_BODY = json.dumps({"features": [6.7, 3.0, 5.2, 2.3]}).encode()


@dataclass
class Tally:
    """What one kind of client met."""

    total: int = 0
    failed: int = 0
    slowest_s: float = 0.0
    reasons: list[str] = field(default_factory=list)


class Load:
    """Traffic in a thread of its own, from entering the context to leaving it, for at most `seconds`.

    `answered` counts answers by (host:port, version). Read the numbers after the context has ended.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float = LIMIT_S,
        kinds: Sequence[str] = KINDS,
        clients: int = 2,
        rate: float = 300.0,
        timeout_s: float = 30.0,
        slow_ms: tuple[int, int] = SLOW_MS,
        expect_version: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url}: must be an http:// URL")
        unknown = set(kinds) - set(KINDS)
        if unknown:
            raise ValueError(f"unknown kinds {sorted(unknown)}: there are {', '.join(KINDS)}")
        self.address = (parts.hostname, parts.port or 80)
        self.host = parts.netloc
        self.path = parts.path or "/"
        self.seconds = min(seconds, LIMIT_S)
        self.kinds = tuple(kinds)
        self.clients = clients
        self.timeout_s = timeout_s
        self.slow_ms = slow_ms
        self.expect_version = expect_version
        self.tallies = {kind: Tally() for kind in kinds}
        self.answered: Counter[tuple[str, str]] = Counter()
        paced = [kind for kind in kinds if kind in ("busy", "new", "post")]
        self._gap_s = len(paced) * clients / rate if paced and rate else 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.took_s = 0.0

    # --- Its life

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=self.run, name="load", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End after the requests that are open now."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self.timeout_s + 10)

    def run(self) -> None:
        """Send until told to stop, or until the time is up."""
        began_s = time.monotonic()
        asyncio.run(self._run())
        self.took_s = time.monotonic() - began_s

    async def _run(self) -> None:
        self._end_s = time.monotonic() + self.seconds
        await asyncio.gather(*(self._client(kind) for kind in self.kinds for _ in range(self.clients)))

    def _over(self) -> bool:
        return self._stop.is_set() or time.monotonic() >= self._end_s

    # --- What was met

    @property
    def total(self) -> int:
        return sum(tally.total for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        return sum(tally.failed for tally in self.tallies.values())

    def failed_of(self, *kinds: str) -> int:
        return sum(self.tallies[kind].failed for kind in kinds)

    def report(self) -> str:
        """Return "0 failed of N (busy 0 of N1, ...)", followed by the first reasons when something failed."""
        by_kind = ", ".join(f"{kind} {tally.failed} of {tally.total}" for kind, tally in self.tallies.items())
        reasons = [f"{kind}: {reason}" for kind, tally in self.tallies.items() for reason in tally.reasons]
        return "\n  ".join([f"{self.failed} failed of {self.total} ({by_kind})", *reasons])

    def as_data(self) -> dict[str, object]:
        return {
            "total": self.total,
            "failed": self.failed,
            "seconds": round(self.took_s, 2),
            "kinds": {kind: vars(tally) for kind, tally in self.tallies.items()},
            "answered": {f"{origin} {version}": count for (origin, version), count in sorted(self.answered.items())},
        }

    # --- One client

    async def _client(self, kind: str) -> None:
        tally = self.tallies[kind]
        connection: Connection | None = None
        # Clients that start together would stay together.
        await asyncio.sleep(random.uniform(0, PAUSE_S))  # noqa: S311
        while not self._over():
            began_s = time.monotonic()
            tally.total += 1
            stage = "connecting"
            try:
                if connection is None:
                    connection = await asyncio.wait_for(Connection.open(self.address), self.timeout_s)
                    stage = "on a new connection"
                else:
                    stage = "on a kept connection"
                request = self._request(kind)
                status, body, keep = await asyncio.wait_for(connection.exchange(request), self.timeout_s)
                self._judge(status, body)
                if not keep or kind == "new":
                    connection.close()
                    connection = None
            except (OSError, EOFError, ValueError, asyncio.TimeoutError, asyncio.LimitOverrunError) as error:
                tally.failed += 1
                if len(tally.reasons) < REASONS_KEPT:
                    after_s = self.seconds - (self._end_s - time.monotonic())
                    tally.reasons.append(f"after {after_s:.2f} s, {stage}: {type(error).__name__} {error}".rstrip())
                if connection is not None:
                    connection.close()
                    connection = None
                await asyncio.sleep(FAILURE_PAUSE_S)
            took_s = time.monotonic() - began_s
            tally.slowest_s = max(tally.slowest_s, round(took_s, 3))
            await asyncio.sleep(self._pause_s(kind, took_s))
        if connection is not None:
            connection.close()

    def _pause_s(self, kind: str, took_s: float) -> float:
        if kind == "pausing":
            return PAUSE_S
        return 0.0 if kind == "slow" else max(self._gap_s - took_s, 0.0)

    def _request(self, kind: str) -> bytes:
        path, body = self.path, b""
        if kind == "slow":
            path += f"{'&' if '?' in path else '?'}delay_ms={random.randint(*self.slow_ms)}"  # noqa: S311
        if kind == "post":
            body = POST_BODY
        head = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", f"Host: {self.host}"]
        if body:
            head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if kind == "new":
            head.append("Connection: close")
        return "\r\n".join([*head, "", ""]).encode() + body

    def _judge(self, status: int, body: bytes) -> None:
        if status != 200:
            raise ValueError(f"status {status}: {body[:80]!r}")
        answer = json.loads(body)
        version = str(answer.get("version"))
        self.answered[(f"{answer.get('host')}:{answer.get('port')}", version)] += 1
        if self.expect_version not in (None, version):
            raise ValueError(f"version {version} instead of {self.expect_version}")


@dataclass
class Connection:
    """An HTTP/1.1 client connection: the least that tells a complete answer from a cut one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Connection:
        reader, writer = await asyncio.open_connection(*address)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(reader, writer)

    async def exchange(self, request: bytes) -> tuple[int, bytes, bool]:
        """Send a request and return its answer's status and body, and whether the connection may be used again.

        Raises OSError, EOFError or ValueError when the answer is missing or not whole.
        """
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        status = int(first.split(" ")[1])
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        keep = fields.get("connection", "").lower() != "close"
        if "content-length" in fields:
            return status, await self.reader.readexactly(int(fields["content-length"])), keep
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return status, await self._chunks(), keep
        return status, await self.reader.read(-1), False

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            chunk = await self.reader.readexactly(size + 2)
            if size == 0:
                return body
            body += chunk[:-2]

    def close(self) -> None:
        self.writer.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Send HTTP traffic of several kinds and count what fails.")
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument("--clients", type=int, default=2, help="clients of each kind")
    parser.add_argument(
        "--rate", type=float, default=300.0, help="requests a second over all kinds but slow; 0: no limit"
    )
    parser.add_argument("--slow-ms", type=int, default=SLOW_MS[0], help="least delay of slow requests; 700 ms vary")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    load = Load(
        given.url,
        seconds=given.seconds,
        kinds=given.kinds.split(","),
        clients=given.clients,
        rate=given.rate,
        slow_ms=(given.slow_ms, given.slow_ms + 700),
    )
    load.run()
    if given.json:
        print(json.dumps(load.as_data()))
    else:
        print(load.report())
        for (origin, version), count in sorted(load.answered.items()):
            print(f"  {origin} {version}: {count}")
    return 1 if load.failed else 0


if __name__ == "__main__":
    sys.exit(main())
