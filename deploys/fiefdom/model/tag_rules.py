"""What a host offers has to fit into Serf's tags: a tag for each service, or all of them packed into one by `offer.sh`.

The gateway's packed.py has the shape. A cluster whose hosts all do with plain tags is held to nothing of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from fiefdom.model.draft import Draft
from fiefdom.model.text import Problem

# memberlist sends a member's tags in one field of this size, and refuses to start above it.
TAGS_MAX_BYTES = 512

# The most that a host ever says beside its offers: the word before it leaves is told beside all of them.
_BESIDE = ("role", "app", "state", "leaving")
_CODE_BITS = 18
_NEAR, _FEW = 127, 16


@dataclass(frozen=True)
class _Offer:
    service: str
    version: str
    first: int
    count: int
    checks: int | None

    @property
    def plain(self) -> tuple[str, str]:
        checks = "" if self.checks is None else f";{self.checks}"
        return f"svc:{self.service}", f"{self.version};{self.first}-{self.first + self.count - 1}{checks}"


def tag_problems(cluster: Draft) -> Iterator[Problem]:
    """Hosts that offer more than Serf carries, and services that it could not tell apart where all are in one tag."""
    packs = False
    for name in cluster.app_hosts:
        offers = _offers(cluster, name)
        # Serf's magic byte and MessagePack's own: 3 for a map.
        size = 4 + _strings(*_BESIDE, *(text for offer in offers for text in offer.plain))
        if size <= TAGS_MAX_BYTES:
            continue
        packs = True
        size = packed_bytes([(offer.first, offer.count, offer.checks) for offer in offers])
        if size > TAGS_MAX_BYTES:
            says = f"its {len(offers)} services need {size} bytes and Serf carries {TAGS_MAX_BYTES}"
            yield ("hosts", name), f"{says}; give them ports that lie together, or spread them over more hosts"
    if packs:
        yield from _twins(cluster)


def _offers(cluster: Draft, host: str) -> list[_Offer]:
    found = []
    for name, service in cluster.services.items():
        if cluster.is_routed(name) and (count := cluster.count(host, name)):
            found.append(_Offer(name, service.version, service.base_port, count, service.health.base_port))
    return found


def packed_bytes(offers: list[tuple[int, int, int | None]]) -> int:
    """How much the tags of a host need that packs its offers: first port, count and first port of checks of each."""
    digits, following = 2, min((first for first, _, _ in offers), default=0) // 16 * 16
    for first, count, checks in sorted(offers, key=lambda offer: offer[:2]):
        digits += 8
        digits += 3 * (not 0 <= first - following < _NEAR) + 3 * (count >= _FEW) + 3 * (checks is not None)
        following = first + count
    # MessagePack needs a byte for so few tags.
    return 2 + _strings(*_BESIDE, "o", "-" * digits)


def code(name: str) -> int:
    """The number by which gateways know a service that is packed."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:3], "big") >> (24 - _CODE_BITS)


def _twins(cluster: Draft) -> Iterator[Problem]:
    seen: dict[int, str] = {}
    for name in cluster.services:
        if cluster.is_routed(name) and (other := seen.setdefault(code(name), name)) != name:
            says = f"where a host offers so many, gateways cannot tell it from {other}; give one of them another name"
            yield ("services", name), says


def _strings(*texts: str) -> int:
    """Bytes of MessagePack's strings, each with 1 or 3 of its own."""
    return sum(len(text) + (1 if len(text) < 32 else 3) for text in texts)
