"""All offers of a host in one tag, for one that offers more than Serf carries as a tag for each.

Serf has 512 bytes for all tags of a member. The tag `o` holds two digits, the first port divided by 16, and then of
each offer, in the order of its ports, eight digits of 6 bits:

    3   of the SHA-256 of the service's name the first 18 bits
    3   of the version the same
    2   how many ports lie between it and the offer before (7 bits), how many it has (4 bits), whether it has checks of
        its own (1 bit); where there are more than 126 between, 127, and three digits follow, its first port; where it
        has more than 15, 0, and three digits follow, its last port; three digits more are the first port of checks

So 60 services fit whose ports lie near each other, and 28 wherever they lie. Names and versions may be of any length:
the gateway knows the services that it routes by the code of their names; the text of a version it has from what the
host offered before, or from the question in which the host asks whether it is served. Until then the code stands in its
place, and only what people read depends on that.
"""

import hashlib
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

TAG = "o"
_DIGITS = {digit: value for value, digit in enumerate(string.ascii_uppercase + string.ascii_lowercase + "0123456789-_")}
_BY_VALUE = "".join(_DIGITS)
_CODE_BITS = 18
# What stands in a version's place as long as only its code is known; no version begins with it.
_UNKNOWN = "~"
_FAR, _MANY = 127, 0

Names = Mapping[tuple[str, str], str]
"""Versions by service and code."""


class Garbled(ValueError):
    """The tag's text is not of this shape."""


@dataclass(frozen=True)
class Entry:
    """`checks` is the first port of health checks; 0 where each instance is asked on its own port."""

    service_code: str
    version_code: str
    first_port: int
    last_port: int
    checks: int


@lru_cache(maxsize=16384)
def code(text: str) -> str:
    """Return the three digits for a name or a version."""
    value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:3], "big") >> (24 - _CODE_BITS)
    return "".join(_BY_VALUE[value >> shift & 63] for shift in (12, 6, 0))


def by_code(services: Iterable[str]) -> dict[str, str]:
    """Return services by the codes of their names; of two with one code neither, for nobody could tell them apart."""
    found: dict[str, list[str]] = {}
    for name in services:
        found.setdefault(code(name), []).append(name)
    return {key: names[0] for key, names in found.items() if len(names) == 1}


def version_of(service: str, version_code: str, names: Names) -> str:
    """Return the version that a code stands for, or what stands in its place."""
    return names.get((service, version_code), f"{_UNKNOWN}{version_code}")


def is_known(version: str) -> bool:
    """Whether it is a version, and not what stands in its place."""
    return not version.startswith(_UNKNOWN)


def spellings(version: str) -> frozenset[str]:
    """Return what an offer of a version may have in its place."""
    return frozenset((version, f"{_UNKNOWN}{code(version)}"))


def entries(text: str) -> list[Entry]:
    """Return the offers in the tag's text. Raises Garbled. Whether ports can be any is not looked at."""
    reader = _Reader(text)
    following = reader.number(2) * 16
    found = []
    while reader.left:
        codes = reader.digits(3), reader.digits(3)
        packed = reader.number(2)
        gap, count, has_checks = packed >> 5, packed >> 1 & 15, packed & 1
        first = reader.number(3) if gap == _FAR else following + gap
        last = reader.number(3) if count == _MANY else first + count - 1
        found.append(Entry(*codes, first, last, reader.number(3) if has_checks else 0))
        following = last + 1
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._text) - self._at

    def digits(self, count: int) -> str:
        found = self._text[self._at : self._at + count]
        if len(found) < count:
            raise Garbled("it ends within an offer")
        if not all(digit in _DIGITS for digit in found):
            raise Garbled("it has a character that is no digit")
        self._at += count
        return found

    def number(self, count: int) -> int:
        value = 0
        for digit in self.digits(count):
            value = value * 64 + _DIGITS[digit]
        return value
