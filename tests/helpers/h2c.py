"""A client of HTTP/2 in clear text, as gRPC's are: one call on a connection, sent and answered in turns."""

from __future__ import annotations

import socket
from types import TracebackType

from helpers.tls_load import exactly, frame

TIMEOUT_S = 10.0
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
STREAM = 1
POST_BY_HTTP = b"\x83\x86"  # of HPACK's static table


class Call:
    """A POST whose body goes out piece by piece, on a connection that begins with HTTP/2 (prior knowledge)."""

    def __init__(self, place: tuple[str, int], path: str, host: str, *headers: tuple[str, str]) -> None:
        self.status: int | None = None
        self.trailers = b""
        self._connection = socket.create_connection(place, TIMEOUT_S)
        fields = POST_BY_HTTP + _indexed(0x04, path) + _indexed(0x01, host)
        for name, value in (("content-type", "application/grpc"), ("te", "trailers"), *headers):
            fields += b"\x00" + _text(name) + _text(value)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
        self._connection.sendall(preface + frame(HEADERS, END_HEADERS, STREAM, fields))

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def say(self, piece: bytes, *, last: bool = False) -> bytes:
        """Send a piece and return the next piece of the answer, be it empty; with the last one come the trailers."""
        self._connection.sendall(frame(DATA, END_STREAM if last else 0, STREAM, piece))
        heard = b""
        while True:
            kind, flags, body = self._read()
            if kind == HEADERS and self.status is None:
                self.status = 200 if body[:1] == b"\x88" else -1
            elif kind == HEADERS:
                self.trailers = body
            elif kind == DATA:
                heard += body
            elif kind in (RST_STREAM, GOAWAY):
                raise EOFError(f"ended with {body!r}")
            if (kind == DATA and body and not last) or (flags & END_STREAM and kind in (HEADERS, DATA)):
                return heard

    def _read(self) -> tuple[int, int, bytes]:
        while True:
            head = exactly(self._connection, 9)
            kind, flags, body = head[3], head[4], exactly(self._connection, int.from_bytes(head[:3], "big"))
            if kind in (SETTINGS, PING):
                if not flags & ACK:
                    self._connection.sendall(frame(kind, ACK, 0, body if kind == PING else b""))
            elif kind != WINDOW_UPDATE:
                return kind, flags, body


def _text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode()


def _indexed(name: int, value: str) -> bytes:
    return bytes((name,)) + _text(value)
