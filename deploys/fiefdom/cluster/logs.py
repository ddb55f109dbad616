"""What containers of many hosts say, in one order of time, and no more of it held than a reader has fallen behind."""

from __future__ import annotations

import heapq
import re
import secrets
from calendar import timegm
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from fiefdom.converge.run import Stream
from fiefdom.errors import HostError
from fiefdom.waiting import now_s, pause

SCRIPT = (Path(__file__).parent / "logs.sh").read_text()
PIECE_BYTES = 3500
"""The length of a piece of a line that has more of them: `width` of logs.sh."""
LINE_BYTES = 1 << 20
"""What is longer than this becomes several lines: a program may never end one. `whole` of logs.sh."""
TOKEN_BYTES = 9
"""Of the token, with its colon, that each line begins with before it is cut into pieces."""
HOLD_S = 0.5
"""How long a line that follows waits for an older one of another host."""
BACKLOG_S = 10.0
"""How long a host is waited for whose share of what there is does not come; it goes on with what comes."""
HELD_LINES = 20_000
"""Lines that wait at most: more of them go on sooner."""
LOOK_S = 0.05

_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[-+]\d\d:\d\d)([ +!])")
_LAST_YEAR = 2199
# dockerd keeps what is longer in parts of this many bytes, and `docker logs` puts a timestamp before each.
_DOCKERS_PART = 16384


class Line(NamedTuple):
    """A line that a container said. Where ``container`` is empty, ``text`` says why a host tells no more, or is empty
    too where all has come that there was when it was asked to follow."""

    at_ns: int
    """Nanoseconds since 1970, as the host's dockerd has it; 0 where it told none yet."""
    host: str
    container: str
    text: str


@dataclass(frozen=True)
class Wanted:
    """Whose words are wanted: of all services, or one, or one port. ``since`` is as `since.docker_since` makes it."""

    role: str = "instance"
    service: str = ""
    port: int | None = None
    since: str = ""
    tail: int | None = None
    follow: bool = False
    token: str = field(default_factory=lambda: secrets.token_hex(TOKEN_BYTES // 2))
    """What no container knows, so that none can say what looks like the beginning of a line."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What logs.sh is given."""
        return (
            "follow" if self.follow else "once",
            self.since,
            "" if self.tail is None else str(self.tail),
            self.role,
            self.service,
            "" if self.port is None else str(self.port),
            self.token,
        )


def _time(text: bytes, at: int = 0) -> re.Match[bytes] | None:
    """The timestamp that stands there; what a container says may look like one and be none."""
    found = _TIME.match(text, at)
    try:
        return found if found is not None and _second_ns(found[1], found[3]) >= 0 else None
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _second_ns(second: bytes, zone: bytes) -> int:
    text = second.decode()
    if int(text[:4]) > _LAST_YEAR:
        raise ValueError("no clock of a host")
    at_s = timegm(
        (int(text[:4]), int(text[5:7]), int(text[8:10]), int(text[11:13]), int(text[14:16]), int(text[17:19]))
    )
    if zone != b"Z":
        ahead_s = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        at_s += -ahead_s if zone[:1] == b"+" else ahead_s
    return at_s * 1_000_000_000


@dataclass
class Reader:
    """Makes lines of what logs.sh prints on one host, whatever the pieces are in which it comes: once, or where it
    follows, with a ``token``; there ``backlog`` says that all that there is comes first, as it does once.

    A line that ends just where its piece does is known to be whole when the next one of its container comes, or once,
    where all is in order, a newer one of any.
    """

    host: str
    token: str = ""
    backlog: bool = False
    _rest: bytes = b""
    _begun: dict[bytes, tuple[int, bytearray]] = field(default_factory=dict)
    """By container, a line of which more is to come: when it was said, and what there is of it."""
    _last: dict[bytes, int] = field(default_factory=dict)
    _had: dict[bytes, int] = field(default_factory=dict)
    """By container that Docker was asked for anew, what came last: nothing up to there is told twice."""

    def take(self, piece: bytes) -> list[Line]:
        """The lines that end in ``piece``."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        found: list[Line] = []
        for line in whole:
            self._line(line, found)
        return found

    def end(self) -> list[Line]:
        """What is left when there is no more."""
        found: list[Line] = []
        if self._rest:
            self._line(self._rest, found)
        for container in tuple(self._begun):
            self._close(container, found)
        self._rest = b""
        return found

    def _line(self, line: bytes, found: list[Line]) -> None:
        container, colon, piece = line.partition(b":")
        if not colon:
            return
        if not container:
            for begun in tuple(self._begun):
                self._close(begun, found)
            self.backlog = False
            found.append(_over(self.host))
            return
        in_order = self.backlog or not self.token
        read = _ordered(piece) if in_order else self._followed(piece)
        if read.again:
            self._close(container, found)
            self._had[container] = self._last.get(container, read.at_ns or 0)
            return
        if read.is_first or container not in self._begun:
            self._close(container, found)
            if in_order and read.at_ns is not None:
                for other in tuple(self._begun):
                    self._close(other, found)
            if read.at_ns is not None:
                self._last[container] = read.at_ns
            self._begun[container] = self._last.get(container, 0), bytearray(read.text)
        else:
            _, before = self._begun[container]
            before += read.text
        if not read.is_full or len(self._begun[container][1]) > LINE_BYTES:
            self._close(container, found)

    def _followed(self, piece: bytes) -> _Piece:
        token = f"{self.token}:".encode()
        is_full = len(piece) == PIECE_BYTES
        if not piece.startswith(token):
            return _Piece(piece, None, is_first=False, is_full=is_full)
        text = piece[len(token) :]
        again = text.startswith(b"=")
        time = _time(text + b" ", 1) if again else _time(text)
        return _Piece(
            text if time is None else text[time.end() :],
            None if time is None else _at_ns(time),
            is_first=True,
            is_full=is_full,
            again=again,
        )

    def _close(self, container: bytes, found: list[Line]) -> None:
        begun = self._begun.pop(container, None)
        if begun is None:
            return
        at_ns, text = begun[0], bytes(begun[1])
        if container in self._had:
            if at_ns <= self._had[container]:
                return
            del self._had[container]
        if len(text) > _DOCKERS_PART:
            text = _without_inner_times(text)
        found.append(Line(at_ns, self.host, container.decode(errors="replace"), text.decode(errors="replace")))


class _Piece(NamedTuple):
    """A piece of a line, or that lines come ``again``; ``at_ns`` of Docker's own words is None, and of further pieces.

    After one that is ``full`` there may be more of its line.
    """

    text: bytes
    at_ns: int | None
    is_first: bool
    is_full: bool
    again: bool = False


def _ordered(piece: bytes) -> _Piece:
    stamp = _TIME.match(piece)
    mark = b" " if stamp is None else stamp[4]
    if stamp is not None and mark != b" ":
        text = piece[stamp.end() :]
        is_first = mark == b"!"
        return _Piece(text, None, is_first, len(text) + is_first * TOKEN_BYTES == PIECE_BYTES)
    is_full, time = len(piece) + TOKEN_BYTES == PIECE_BYTES, _time(piece)
    if time is None:
        return _Piece(piece, None, is_first=True, is_full=is_full)
    return _Piece(piece[time.end() :], _at_ns(time), is_first=True, is_full=is_full)


def _at_ns(time: re.Match[bytes]) -> int:
    return _second_ns(time[1], time[3]) + int((time[2] or b"0").ljust(9, b"0"))


def _without_inner_times(text: bytes) -> bytes:
    parts, at = [text[:_DOCKERS_PART]], _DOCKERS_PART
    while at < len(text):
        time = _time(text, at)
        if time is not None:
            at = time.end()
        parts.append(text[at : at + _DOCKERS_PART])
        at += _DOCKERS_PART
    return b"".join(parts)


Silence = Callable[[str, str], None]
"""Hears of each host that tells no more, and why."""


def gone(host: str, reason: str, at_ns: int) -> Line:
    """The line of a host that tells no more."""
    return Line(at_ns, host, "", reason)


def _over(host: str) -> Line:
    return Line(0, host, "", "")


# --- All that there is


def merged(streams: Mapping[str, Stream], silence: Silence) -> Iterator[Line | None]:
    """The lines of all hosts from the oldest to the newest one, up to the end of each, and None before a host is waited
    for.

    A host is read no further than its next line is wanted. One that breaks off is a line, and the others go on.
    """
    sources = [_lines(host, stream, silence) for host, stream in streams.items()]
    for _, line in heapq.merge(*sources, key=lambda pair: pair[0]):
        yield line


def _lines(host: str, stream: Stream, silence: Silence) -> Iterator[tuple[int, Line | None]]:
    """Each with its place in the order: a host's own order stays, also where its clock went back."""
    reader, last = Reader(host), 0
    ended: str | None = None
    while ended is None:
        if not stream.ready():
            yield last, None
        lines, ended = _next(stream, reader)
        for line in lines:
            last = max(last, line.at_ns)
            yield last, line
    if ended:
        silence(host, ended)
        yield last, gone(host, ended, last)


# --- What comes


@dataclass
class Window:
    """Puts lines that come from many hosts in order, as far as they come within ``hold_s`` of one another."""

    hold_s: float = HOLD_S
    most: int = HELD_LINES
    _heap: list[tuple[int, int, Line]] = field(default_factory=list)
    _came: deque[tuple[float, int]] = field(default_factory=deque)
    _number: int = 0
    _out: set[int] = field(default_factory=set)
    """Of those in ``_came``, what is out already."""
    _latest: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, lines: Iterable[Line], at_s: float) -> None:
        """Take lines that came at ``at_s``."""
        for line in lines:
            # A container's own order stays, also where its host's clock went back.
            whose = line.host, line.container
            place = self._latest[whose] = max(line.at_ns, self._latest.get(whose, 0))
            heapq.heappush(self._heap, (place, self._number, line))
            self._came.append((at_s, self._number))
            self._number += 1

    def due(self, at_s: float) -> Iterator[Line]:
        """What has waited, or would be too much, with all that is older."""
        while self._came and (self._came[0][0] + self.hold_s <= at_s or len(self._heap) > self.most):
            _, number = self._came.popleft()
            if number in self._out:
                self._out.remove(number)
                continue
            while True:
                _, popped, line = heapq.heappop(self._heap)
                yield line
                if popped == number:
                    break
                self._out.add(popped)

    def rest(self) -> Iterator[Line]:
        """All that waits."""
        while self._heap:
            yield heapq.heappop(self._heap)[2]
        self._came.clear()
        self._out.clear()


def followed(streams: Mapping[str, Stream], silence: Silence, token: str) -> Iterator[Line | None]:
    """The lines of all hosts with a ``token``: what there is in order, then what comes, nearly so, and None where there
    is none yet; it ends when no host tells any more.

    Who takes them slowly is waited for: hosts are read no faster, and hold what they have to say.
    """
    window, readers = Window(), {host: Reader(host, token, backlog=True) for host in streams}
    live, last_ns = dict(streams), 0
    came: list[Line] = []

    def hear(host: str, at_ns: int) -> list[Line]:
        """What a host tells next, and that it tells no more: since its last line, or ``at_ns``."""
        nonlocal last_ns
        lines, ended = _next(live[host], readers[host])
        at_ns = max([at_ns, *(line.at_ns for line in lines)])
        last_ns = max(last_ns, at_ns)
        if ended is not None:
            del live[host]
        if ended:
            silence(host, ended)
            lines.append(gone(host, ended, at_ns))
        return lines

    def backlog(host: str) -> Iterator[tuple[int, Line | None]]:
        """What there is of a host, each with its place in the order; what comes with its end waits in ``came``."""
        last, over = 0, _over(host)
        while host in live:
            until_s = now_s() + BACKLOG_S
            while not live[host].ready():
                if now_s() >= until_s:
                    return
                yield last, None
                pause(LOOK_S)
            lines = hear(host, last)
            is_over = over in lines
            at = lines.index(over) if is_over else len(lines)
            for line in lines[:at]:
                last = max(last, line.at_ns)
                yield last, line
            if is_over:
                came.extend(lines[at + 1 :])
                return

    for _, line in heapq.merge(*map(backlog, streams), key=lambda pair: pair[0]):
        yield line
    window.add(came, now_s())
    while live:
        heard = False
        for host in tuple(live):
            if live[host].ready():
                heard = True
                window.add([line for line in hear(host, last_ns) if line != _over(host)], now_s())
        yield from window.due(now_s())
        yield None
        if not heard:
            pause(LOOK_S)
    yield from window.rest()


def _next(stream: Stream, reader: Reader) -> tuple[list[Line], str | None]:
    """The next lines, and why there are no more after them: empty for an end, None where there may be some."""
    try:
        piece = stream.read()
    except HostError as error:
        return reader.end(), error.reason
    return (reader.take(piece), None) if piece else (reader.end(), "")
