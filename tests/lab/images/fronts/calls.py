"""A server of HTTP/2 in clear text and nothing else, as gRPC's are: it says back what it is sent, piece by piece.

Each piece is answered at once, before the request is over; the trailers tell that it ended well. `GET` is answered with
the name of the instance. Of headers it reads none: HAProxy compresses none beyond their table, and a method of GET is
the first byte.
"""

from __future__ import annotations

import os
import socketserver
import struct
from contextlib import suppress

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STATUS_200, GET = b"\x88", 0x82
NAME = f"{os.environ.get('FIEFDOM_HOST', 'here')}:{os.environ.get('FIEFDOM_PORT', '0')}"


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + body


def field(name: str, value: str) -> bytes:
    """A header that is in no table."""
    return b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        if self.rfile.read(len(PREFACE)) != PREFACE:
            self.wfile.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n")
            return
        self.wfile.write(frame(SETTINGS, 0, 0))
        with suppress(ConnectionError):  # of a check that has its answer
            self.serve()

    def serve(self) -> None:
        while len(head := self.rfile.read(9)) == 9:
            kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0]
            self.answer(kind, flags, stream, self.rfile.read(int.from_bytes(head[:3], "big")))

    def answer(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind in (SETTINGS, PING) and not flags & ACK:
            self.wfile.write(frame(kind, ACK, 0, body if kind == PING else b""))
        elif kind == HEADERS and body[:1] == bytes((GET,)):
            self.wfile.write(frame(HEADERS, END_HEADERS, stream, STATUS_200))
            self.wfile.write(frame(DATA, END_STREAM, stream, NAME.encode()))
        elif kind == HEADERS:
            self.wfile.write(
                frame(HEADERS, END_HEADERS, stream, STATUS_200 + field("content-type", "application/grpc"))
            )
        elif kind == DATA and body:
            room = struct.pack(">I", len(body))
            self.wfile.write(frame(WINDOW_UPDATE, 0, 0, room) + frame(DATA, 0, stream, body))
        if kind == DATA and flags & END_STREAM:
            self.wfile.write(frame(HEADERS, END_HEADERS | END_STREAM, stream, field("grpc-status", "0")))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    Server(("", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
