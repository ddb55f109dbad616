"""Traffic over TLS that counts honestly: nothing is retried, and each connection says which certificate it met.

`python tests/helpers/tls_load.py 10.99.0.11:443 www.example.org CA.pem --seconds 10` says when each kind of client has
had an answer, and in the end prints one JSON document. Five kinds of client run at once: HTTP/1.1 that keeps its
connection and is busy, that pauses, that posts, and that has a new one for each request; and HTTP/2, as much of it as
it takes to ask for one path again and again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 20.0
REASONS_KEPT = 5
PAUSES_S = {"busy": 0.01, "pausing": 0.1, "post": 0.05, "new": 0.02, "h2": 0.05}
POST_BODY = json.dumps({"features": [6.7, 3.0, 5.2, 2.3]}).encode()

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_STATUS_200 = 0x88  # of HPACK's static table


@dataclass
class Place:
    """Where is asked, and for what."""

    address: str
    port: int
    host: str
    authorities: str
    path: str = "/predict"

    def connect(self, *protocols: str) -> ssl.SSLSocket:
        """A connection that trusts these authorities alone."""
        context = ssl.create_default_context(cafile=self.authorities)
        context.set_alpn_protocols(list(protocols))
        plain = socket.create_connection((self.address, self.port), TIMEOUT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=self.host)


@dataclass
class Seen:
    """What all clients met: failures by kind, and serial numbers of certificates."""

    totals: dict[str, int] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    serials: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, why: str | None) -> None:
        """One request has ended."""
        with self._lock:
            self.totals[kind] = self.totals.get(kind, 0) + 1
            if why is not None:
                self.failures.setdefault(kind, []).append(why)

    def met(self, connection: ssl.SSLSocket) -> None:
        """A connection has been made."""
        self.serials.add(str((connection.getpeercert() or {})["serialNumber"]))

    def as_data(self) -> dict[str, Any]:
        failed = sum(map(len, self.failures.values()))
        reasons = {kind: whys[:REASONS_KEPT] for kind, whys in self.failures.items()}
        total = sum(self.totals.values())
        return {"failed": failed, "total": total, "totals": self.totals, "reasons": reasons, "serials": [*self.serials]}


class _Http1(http.client.HTTPConnection):
    def __init__(self, place: Place, seen: Seen) -> None:
        super().__init__(place.host, timeout=TIMEOUT_S)
        self._place, self._seen = place, seen

    def connect(self) -> None:
        self.sock = self._place.connect("http/1.1")
        self._seen.met(self.sock)


def _http1(place: Place, seen: Seen, kind: str) -> Callable[[], str | None]:
    connection = _Http1(place, seen)

    def ask() -> str | None:
        try:
            if kind == "post":
                connection.request("POST", place.path, POST_BODY, {"Content-Type": "application/json"})
            else:
                connection.request("GET", place.path, headers={"Connection": "close"} if kind == "new" else {})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        return None if answer.status == 200 else f"status {answer.status}"

    return ask


class Http2:
    """A connection of HTTP/2 that asks for one thing after the other. Told to go, it comes again for the next."""

    def __init__(self, place: Place, seen: Seen) -> None:
        self._place, self._seen = place, seen
        self._connection: ssl.SSLSocket | None = None
        self._stream = 1

    def ask(self) -> str | None:
        """One GET; why it failed, or None."""
        try:
            if self._connection is None:
                self._connect()
            return self._get()
        except (OSError, EOFError) as error:
            self._connection = None
            return repr(error)

    def _connect(self) -> None:
        self._connection, self._stream = self._place.connect("h2"), 1
        if self._connection.selected_alpn_protocol() != "h2":
            raise EOFError("the gateway speaks no HTTP/2")
        self._seen.met(self._connection)
        self._connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(_SETTINGS, 0, 0, b""))

    def _get(self) -> str | None:
        assert self._connection is not None
        stream, self._stream = self._stream, self._stream + 2
        # GET and https are in HPACK's static table, and so are the names of path and authority.
        fields = b"\x82\x87" + _literal(0x04, self._place.path) + _literal(0x01, self._place.host)
        self._connection.sendall(frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, fields))
        status, goes = None, False
        while True:
            kind, flags, of, body = self._read()
            if kind == _SETTINGS and not flags & _ACK:
                self._connection.sendall(frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                self._connection.sendall(frame(_PING, _ACK, 0, body))
            elif kind == _GOAWAY:
                goes = True
                if struct.unpack(">I", body[:4])[0] < stream:
                    self._connection = None
                    return "told to go before it was asked"
            elif kind == _RST_STREAM and of == stream:
                return f"reset with {struct.unpack('>I', body)[0]}"
            elif kind == _HEADERS and of == stream:
                status = body[0]
            elif kind == _DATA and body:
                # A connection has 64 KiB on its way that nobody has said to have read; a stream has as many of its own.
                self._connection.sendall(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", len(body))))
            if kind in (_HEADERS, _DATA) and of == stream and flags & _END_STREAM:
                if goes:
                    self._connection.close()
                    self._connection = None
                return None if status == _STATUS_200 else f"answered with {status:#x}"

    def _read(self) -> tuple[int, int, int, bytes]:
        assert self._connection is not None
        head = exactly(self._connection, 9)
        return (
            head[3],
            head[4],
            struct.unpack(">I", head[5:])[0] & 0x7FFFFFFF,
            exactly(self._connection, int.from_bytes(head[:3], "big")),
        )


def exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes. Raises EOFError where the other end closes before that."""
    read = b""
    while len(read) < size:
        more = connection.recv(size - len(read))
        if not more:
            raise EOFError("closed without an answer")
        read += more
    return read


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + body


def _literal(name: int, value: str) -> bytes:
    return bytes((name, len(value))) + value.encode()


def run(place: Place, seconds: float, clients: int) -> Seen:
    """Ask for so long, with so many clients of each kind."""
    seen, ends_s = Seen(), time.monotonic() + seconds

    def client(kind: str) -> None:
        ask = Http2(place, seen).ask if kind == "h2" else _http1(place, seen, kind)
        while time.monotonic() < ends_s:
            seen.note(kind, ask())
            time.sleep(PAUSES_S[kind] * random.uniform(0.5, 1.5))  # noqa: S311

    threads = [threading.Thread(target=client, args=(kind,)) for kind in PAUSES_S for _ in range(clients)]
    for thread in threads:
        thread.start()
    while len(seen.totals) < len(PAUSES_S):
        time.sleep(0.01)
    print("begun", flush=True)
    for thread in threads:
        thread.join()
    return seen


class TlsTraffic:
    """This file as a process, with ``before`` in front of it: `with TlsTraffic(...) as traffic`, then `report`."""

    def __init__(
        self, before: list[str], address: str, host: str, authorities: str, seconds: float, script: str = __file__
    ) -> None:
        self._command = [*before, script, address, host, authorities, f"--seconds={seconds}"]
        self.report: dict[str, Any] = {}

    def __enter__(self) -> TlsTraffic:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "begun\n"
        return self

    def __exit__(self, *_: object) -> None:
        output, _ = self._process.communicate(timeout=300)
        self.report = json.loads(output)
        print(f"{self.report['failed']} failed of {self.report['total']} over TLS {self.report['totals']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("host")
    parser.add_argument("authorities")
    parser.add_argument("--path", default="/predict")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=3)
    given = parser.parse_args()
    address, _, port = given.address.partition(":")
    place = Place(address, int(port or 443), given.host, given.authorities, given.path)
    json.dump(run(place, given.seconds, given.clients).as_data(), sys.stdout)


if __name__ == "__main__":
    main()
