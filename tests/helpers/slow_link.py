"""A slow, lossy link where the kernel has no netem: holds packets of this network namespace, and drops some.

Arguments: the number of an NFQUEUE, seconds that each packet is held, share of packets that is dropped. Runs until it
is killed; a rule with --queue-bypass lets packets through then. Prints "bound" once packets come here.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import struct
import sys
import time

NETLINK_NETFILTER = 12
QUEUE = 3 << 8
PACKET, VERDICT, CONFIG = QUEUE, QUEUE | 1, QUEUE | 2
REQUEST = 1
BIND, COPY_META = 1, 1
DROP, ACCEPT = 0, 1


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, queue: int, *attributes: bytes) -> bytes:
    body = struct.pack("!BBH", 0, 0, queue) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, REQUEST, 0, 0) + body


def packets(received: bytes) -> list[int]:
    """Ids of the packets that messages from the kernel tell of."""
    found = []
    while len(received) >= 16:
        size, kind = struct.unpack_from("=IH", received)
        at = 20
        while kind == PACKET and at + 4 <= size:
            length, name = struct.unpack_from("=HH", received, at)
            if name & 0x3FFF == 1:
                found.append(struct.unpack_from("!I", received, at + 4)[0])
            at += length + 3 & ~3
        received = received[size + 3 & ~3 :]
    return found


def main() -> None:
    queue, hold_s, loss = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    link.bind((0, 0))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    link.send(message(CONFIG, queue, attribute(1, struct.pack("!BBH", BIND, 0, socket.AF_INET))))
    link.send(message(CONFIG, queue, attribute(2, struct.pack("!IB", 0, COPY_META))))
    link.send(message(CONFIG, queue, attribute(3, struct.pack("!I", 65536))))
    print("bound", flush=True)
    held: list[tuple[float, int]] = []
    while True:
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else None
        if select.select([link], [], [], wait_s)[0]:
            try:
                received = link.recv(1 << 16)
            except OSError:  # more came than the socket holds: that is loss as well
                continue
            for number in packets(received):
                heapq.heappush(held, (time.monotonic() + hold_s, number))
        while held and held[0][0] <= time.monotonic():
            _, number = heapq.heappop(held)
            verdict = DROP if random.random() < loss else ACCEPT  # noqa: S311 - no secret
            link.send(message(VERDICT, queue, attribute(2, struct.pack("!II", verdict, number))))


if __name__ == "__main__":
    main()
