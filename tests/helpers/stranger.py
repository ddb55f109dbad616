"""Runs inside the stranger: asks for TCP connections packet by packet, and counts what answers.

A connection is never made: an answer to the first packet says that it could be. That takes a raw socket, and a few
microseconds for a port instead of a timeout for each that is silent.

Argument: JSON with `ways`, each {"source": ADDRESS, "address": ADDRESS, "ports": [FIRST, LAST]... or numbers}, and with
`rounds`, how often each port is asked; null is until standard input ends. Prints JSON: `rounds`, `longest_round_s`, and
`answers`, each [source, address, port, "open" or "refused", how many, seconds from the last one to the end].
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

SYN, RST, ACK = 0x02, 0x04, 0x10
LINK = "eth0"
LINGER_S = 0.5
PAUSE_S = 0.005
# The kernel keeps about 250 answers for us.
BATCH = 128


@dataclass
class Asker:
    """One source address."""

    source: str
    port: int
    raw: socket.socket
    answers: dict[tuple[str, int, str], tuple[int, float]] = field(default_factory=dict)

    def ask(self, address: str, ports: list[int], flags: int) -> None:
        base = self._sum(address)
        to = where(address)
        for number, port in enumerate(ports):
            total = base + self.port + port + (5 << 12 | flags) + 1024
            total = (total & 0xFFFF) + (total >> 16)
            total = (total & 0xFFFF) + (total >> 16)
            head = struct.pack("!HHIIHHHH", self.port, port, 0, 0, 5 << 12 | flags, 1024, total ^ 0xFFFF, 0)
            with contextlib.suppress(OSError):  # nobody there, or no room: the next round asks again
                self.raw.sendto(head, to)
            if number % BATCH == 0:
                self.listen()
        self.listen()

    def listen(self) -> None:
        while True:
            try:
                packet, sender = self.raw.recvfrom(256)
            except BlockingIOError:
                return
            if self.raw.family == socket.AF_INET:
                packet = packet[(packet[0] & 0x0F) * 4 :]
            port, mine = struct.unpack("!HH", packet[:4])
            flags = packet[13]
            if mine != self.port or not flags & (SYN | RST):
                continue
            key = sender[0].partition("%")[0], port, "open" if flags & SYN else "refused"
            self.answers[key] = self.answers.get(key, (0, 0.0))[0] + 1, time.monotonic()

    def _sum(self, address: str) -> int:
        """Of the pseudo header, which IPv4 and IPv6 add up alike."""
        both = ipaddress.ip_address(self.source).packed + ipaddress.ip_address(address).packed
        return sum(struct.unpack(f"!{len(both) // 2}H", both)) + socket.IPPROTO_TCP + 20


def where(address: str) -> tuple[Any, ...]:
    if ":" not in address:
        return (address, 0)
    return (address, 0, 0, socket.if_nametoindex(LINK) if address.startswith("fe80:") else 0)


def asker(source: str) -> Asker:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.bind(where(source))
    raw.setblocking(False)
    return Asker(source, random.randrange(20000, 30000), raw)  # noqa: S311 - no secret


def is_over() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def expand(ports: list[Any]) -> list[int]:
    return [p for entry in ports for p in (range(entry[0], entry[1] + 1) if isinstance(entry, list) else [entry])]


def main() -> None:
    task = json.loads(sys.argv[1])
    askers = {source: asker(source) for source in {way["source"] for way in task["ways"]}}
    ways = [(askers[way["source"]], way["address"], expand(way["ports"])) for way in task["ways"]]
    rounds, longest_s = 0, 0.0
    while rounds < task["rounds"] if task["rounds"] else not is_over():
        began = time.monotonic()
        for one, address, ports in ways:
            one.ask(address, ports, SYN)
        time.sleep(PAUSE_S)
        rounds += 1
        longest_s = max(longest_s, time.monotonic() - began)
    end = time.monotonic()
    time.sleep(LINGER_S)
    for one, address, ports in ways:
        one.listen()
        one.ask(address, ports, RST)  # the machine between us remembers each first packet for two minutes
    answers = [
        (source, *key, count, max(0.0, end - last_s))
        for source, one in askers.items()
        for key, (count, last_s) in one.answers.items()
    ]
    print(json.dumps({"rounds": rounds, "longest_round_s": longest_s, "answers": answers}))


if __name__ == "__main__":
    main()
