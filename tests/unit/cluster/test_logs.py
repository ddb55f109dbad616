"""Lines of many hosts in one order: nothing lost, nothing twice, and no more held than is said."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiefdom.cluster import logs
from fiefdom.cluster.logs import PIECE_BYTES, Line, Reader, Silence, Wanted, Window, followed, merged
from fiefdom.errors import HostError, Unreachable

SECOND = 10**9
TOKEN = "0123abcd"
AT = 1_769_850_000


def stamp(at_ns: int) -> str:
    minutes, second = divmod(at_ns // SECOND, 60)
    return f"2026-01-31T{9 + minutes // 60:02d}:{minutes % 60:02d}:{second:02d}.{at_ns % SECOND:09d}Z"


def nobody(host: str, reason: str) -> None:
    raise AssertionError((host, reason))


@dataclass
class Said:
    """What a host prints, in pieces; how far somebody took it. It ends, or with an error."""

    pieces: Iterator[bytes]
    error: HostError | None = None
    taken: int = 0
    waits: Iterator[bool] = field(default_factory=lambda: iter(()))

    def ready(self) -> bool:
        return next(self.waits, True)

    def read(self) -> bytes:
        piece = next(self.pieces, b"")
        self.taken += 1
        if not piece and self.error is not None:
            raise self.error
        return piece


def printed(lines: Iterable[tuple[str, int, str]], follow: bool = False) -> bytes:
    token = f"{TOKEN}:" if follow else ""
    return "".join(f"{container}:{token}{stamp(at_ns)} {text}\n" for container, at_ns, text in lines).encode()


OVER = b":\n"
"""As logs.sh says that all has come that there was."""


def coming(streams: Mapping[str, Said], silence: Silence = nobody) -> Iterator[Line | None]:
    """What hosts say that had said nothing before."""
    for stream in streams.values():
        stream.pieces = chain([OVER], stream.pieces)
    return followed(streams, silence, TOKEN)


def taken(streams: Mapping[str, Said], silence: Silence, follow: bool) -> Iterator[Line | None]:
    return coming(streams, silence) if follow else merged(streams, silence)


def cut(whole: bytes, size: int = 100) -> Iterator[bytes]:
    return (whole[at : at + size] for at in range(0, len(whole), size))


def heard(found: Iterable[Line | None]) -> list[Line]:
    return [line for line in found if line is not None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says; a pause lets it go on."""
    now = [0.0]
    monkeypatch.setattr(logs, "now_s", lambda: now[0])
    monkeypatch.setattr(logs, "pause", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


# --- What a host prints


@pytest.mark.parametrize(
    ("printed", "at_ns", "text"),
    [
        (b"web-1:2026-01-31T09:00:00.000000001Z hello", AT * SECOND + 1, "hello"),
        (b"web-1:2026-01-31T09:00:00Z hello", AT * SECOND, "hello"),
        (b"web-1:2026-01-31T10:30:00.5+01:30 hello", AT * SECOND + SECOND // 2, "hello"),
        (b"web-1:2026-01-31T04:00:00.000000000-05:00 a:b  c ", AT * SECOND, "a:b  c "),
        (b"web-1:2026-01-31T09:00:00.000000000Z ", AT * SECOND, ""),
        (b"web-1:2026-01-31T09:00:00.000000000Z \xff\x00", AT * SECOND, "\ufffd\x00"),
        (b"web-1:no time", 0, "no time"),
        (b"web-1:2026-13-01T00:00:00Z no month", 0, "2026-13-01T00:00:00Z no month"),
        (b"web-1:0000-01-01T00:00:00Z no year", 0, "0000-01-01T00:00:00Z no year"),
        (b"web-1:9999-12-31T23:59:59-99:00 none yet", 0, "9999-12-31T23:59:59-99:00 none yet"),
        (b"web-1:+no time", 0, "+no time"),
        (b"web-1:=no time", 0, "=no time"),
    ],
)
@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_line_is_read(printed: bytes, at_ns: int, text: str, token: str) -> None:
    reader = Reader("app1", token)
    if token:
        printed = printed.replace(b":", f":{token}:".encode(), 1)
    if (token, text) == (TOKEN, "=no time"):
        assert reader.take(printed + b"\n") == [], "Docker was asked anew"
        return
    assert reader.take(printed + b"\n") == [Line(at_ns, "app1", "web-1", text)]
    assert reader.end() == []


TEXTS = (
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30)
    | st.integers(PIECE_BYTES - 50, 3 * PIECE_BYTES).map("x".__mul__)
    # Times wherever a piece may end.
    | st.integers(0, 31).map(lambda at: "x" * at + f"{stamp(5)} " * 300)
)


def in_pieces(container: str, at_ns: int, text: str, once: bool) -> bytes:
    """A line as logs.sh prints it: with its token, as `fold` cuts it; once with a time in its place."""
    token = f"{TOKEN}:".encode()
    whole = token + f"{stamp(at_ns)} {text}".encode()
    first, *others = [whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES)]
    before = f"{stamp(at_ns)}+".encode() if once else b""
    lines = (first.removeprefix(token) if once else first, *(before + other for other in others))
    return b"".join(container.encode() + b":" + line + b"\n" for line in lines)


@pytest.mark.long
@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), TEXTS), max_size=8), st.integers(1, 5000), st.booleans())
def test_lines_are_the_same_whatever_the_pieces(said: list[tuple[str, str]], size: int, once: bool) -> None:
    whole = b"".join(in_pieces(name, number, text, once) for number, (name, text) in enumerate(said))
    reader = Reader("app1", "" if once else TOKEN)
    found = [line for piece in cut(whole, size) for line in reader.take(piece)] + reader.end()
    wanted = [(AT * SECOND + number, "app1", name, text) for number, (name, text) in enumerate(said)]
    assert [tuple(line) for line in found] == wanted if once else sorted(found) == sorted(wanted)


def test_a_line_that_dockerd_kept_in_parts_has_no_times_in_it() -> None:
    text = "".join(chr(97 + n % 26) for n in range(40_000))
    docker = (
        stamp(1) + " " + "".join((f"{stamp(n)} " if n else "") + text[n : n + 16384] for n in range(0, 40_000, 16384))
    )
    whole = docker.encode()
    reader = Reader("app1", TOKEN)
    whole = f"{TOKEN}:".encode() + whole
    folded = b"".join(b"web-1:" + whole[at : at + PIECE_BYTES] + b"\n" for at in range(0, len(whole), PIECE_BYTES))
    assert [line.text for line in [*reader.take(folded), *reader.end()]] == [text]


def test_a_line_without_an_end_is_cut() -> None:
    reader, found = Reader("app1", TOKEN), []
    found += reader.take(f"web-1:{TOKEN}:{stamp(1)} ".encode().ljust(PIECE_BYTES + 6, b"x") + b"\n")
    for _ in range(1000):
        found += reader.take(b"web-1:" + b"x" * PIECE_BYTES + b"\n")
    assert len(found) == 3 and all(len(line.text) <= logs.LINE_BYTES + PIECE_BYTES for line in found)
    assert sum(len(line.text) for line in [*found, *reader.end()]) == 1001 * PIECE_BYTES - 31 - logs.TOKEN_BYTES


def test_what_comes_again_is_told_once_and_nothing_is_left_out() -> None:
    """A container whose Docker was asked anew; what another one says has nothing to do with it."""
    reader = Reader("app1", TOKEN)

    def said(container: str, *seconds: int) -> bytes:
        return b"".join(in_pieces(container, second, f"{second}{'x' * 4000}", once=False) for second in seconds)

    def asked_anew(container: str, first_asked: int) -> bytes:
        return f"{container}:{TOKEN}:={stamp(first_asked)}\n".encode()

    whole = said("a", 1, 2, 3) + said("b", 9) + asked_anew("a", 0) + said("a", 2, 3) + said("b", 8) + said("a", 4, 5)
    # It has said nothing since it was asked first; what is older was not asked for.
    whole += asked_anew("c", 5) + said("c", 4, 5, 6)
    found = [*reader.take(whole), *reader.end()]
    assert [(line.container, line.at_ns - AT * SECOND) for line in found] == [
        *(("a", 1), ("a", 2), ("a", 3), ("b", 9), ("b", 8), ("a", 4), ("a", 5), ("c", 6)),
    ]
    assert {len(line.text) for line in found} == {4001}


@pytest.mark.parametrize(
    ("wanted", "arguments"),
    [
        (Wanted(token=TOKEN), ("once", "", "", "instance", "", "", TOKEN)),
        (
            Wanted(service="web", port=8000, since="0s", token=TOKEN),
            ("once", "0s", "", "instance", "web", "8000", TOKEN),
        ),
        (Wanted(role="gateway", tail=10, follow=True, token=TOKEN), ("follow", "", "10", "gateway", "", "", TOKEN)),
    ],
)
def test_what_the_script_is_given(wanted: Wanted, arguments: tuple[str, ...]) -> None:
    assert wanted.arguments == arguments


# --- All that there is

HOST = st.lists(st.integers(0, 50), max_size=20).map(sorted)


@given(st.lists(HOST, min_size=1, max_size=4), st.integers(1, 200))
def test_sorted_hosts_merge_into_one_order(hosts: list[list[int]], size: int) -> None:
    streams = {
        f"app{n}": Said(cut(printed(("web-1", at_ns, f"{n} {number}") for number, at_ns in enumerate(times)), size))
        for n, times in enumerate(hosts)
    }
    found = heard(merged(streams, nobody))
    assert [line.at_ns for line in found] == [AT * SECOND + at_ns for at_ns in sorted(t for h in hosts for t in h)]
    for n, times in enumerate(hosts):
        assert [line.text for line in found if line.host == f"app{n}"] == [f"{n} {i}" for i in range(len(times))]


@given(st.lists(st.lists(st.integers(0, 9), max_size=20), min_size=1, max_size=4))
def test_nothing_is_lost_where_a_clock_goes_back(hosts: list[list[int]]) -> None:
    streams = {
        f"app{n}": Said(cut(printed(("web-1", at_ns, str(number)) for number, at_ns in enumerate(times))))
        for n, times in enumerate(hosts)
    }
    found = heard(merged(streams, nobody))
    for n, times in enumerate(hosts):
        assert [line.text for line in found if line.host == f"app{n}"] == [str(i) for i in range(len(times))]


@pytest.mark.parametrize("follow", [False, True])
def test_a_host_that_is_gone_is_a_line_and_the_others_go_on(follow: bool, clock: list[float]) -> None:
    streams = {
        "app1": Said(
            cut(printed([("web-1", 1, "one"), ("web-1", 2, "two")], follow)), Unreachable("app1", "it broke off")
        ),
        "app2": Said(iter(()), Unreachable("app2", "no answer")),
        "app3": Said(cut(printed([("web-1", n, str(n)) for n in range(5)], follow))),
    }
    silent: dict[str, str] = {}
    found = heard(taken(streams, silent.__setitem__, follow))
    assert silent == {"app1": "it broke off", "app2": "no answer"}
    assert [line.text for line in found if line.host == "app1"] == ["one", "two", "it broke off"]
    assert [(line.container, line.text) for line in found if line.host == "app2"] == [("", "no answer")]
    assert [line.text for line in found if line.host == "app3"] == ["0", "1", "2", "3", "4"]


def test_nobody_reads_ahead() -> None:
    """Where the next line is there, no host is read any further: what is slow to print is slow to be read."""
    streams = {
        f"app{n}": Said(cut(printed(("web-1", at, "x" * 50) for at in range(n, 10_000, 3)), 1000)) for n in range(3)
    }
    found = merged(streams, nobody)
    for _ in range(300):
        next(found)
    assert max(stream.taken for stream in streams.values()) < 20


def pieces_of(host: int, lines: int, hosts: int, follow: bool) -> Iterator[bytes]:
    """As many lines as are asked for, made when they are wanted."""
    for first in range(0, lines, 250):
        numbers = range(first, min(first + 250, lines))
        yield printed(
            (
                (f"web-{8000 + n % 12}", (n * hosts + host) * 1000, f"line {n} of host {host} {'x' * 60}")
                for n in numbers
            ),
            follow,
        )


@pytest.mark.long
@pytest.mark.parametrize("follow", [False, True])
def test_two_hundred_thousand_lines_take_a_bounded_memory(follow: bool, clock: list[float]) -> None:
    hosts, each = 8, 25_000
    streams = {f"app{n}": Said(pieces_of(n, each, hosts, follow)) for n in range(hosts)}
    count, last, most = 0, 0, 0
    before = sys.getallocatedblocks()
    for line in taken(streams, nobody, follow):
        if line is None:
            continue
        assert line.at_ns >= last
        last, count = line.at_ns, count + 1
        if count % 1000 == 0:
            most = max(most, sys.getallocatedblocks() - before)
    assert count == hosts * each
    # A line is four at least.
    assert most < (8 * logs.HELD_LINES if follow else 20_000)


# --- What comes

BURSTS = st.lists(st.tuples(st.sampled_from(["app1", "app2", "app3"]), st.integers(0, 30), st.integers(0, 10)))


@given(BURSTS, st.integers(1, 10))
def test_a_window_gives_each_line_once_and_soon(bursts: list[tuple[str, int, int]], most: int) -> None:
    window, at_s, out = Window(hold_s=1.0, most=most), 0.0, []
    came: dict[Line, float] = {}
    for number, (host, at_ns, tenths) in enumerate(bursts):
        line = Line(at_ns, host, "web-1", str(number))
        at_s += tenths / 10
        window.add([line], at_s)
        came[line] = at_s
        out += window.due(at_s)
        assert len(came) - len(out) <= most
        assert all(at_s - came[line] < 1.0 for line in set(came) - set(out))
    out += window.rest()
    assert sorted(out) == sorted(came) and len(out) == len(set(out))
    for host in ("app1", "app2", "app3"):
        numbers = [int(line.text) for line in out if line.host == host]
        assert numbers == sorted(numbers), "a host's own order"


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 99)), max_size=60, unique_by=lambda pair: pair[0]))
def test_what_comes_within_the_window_is_in_order(said: list[tuple[int, int]]) -> None:
    """Each line is said at a time in hundredths of a second, and comes up to 99 of them later."""
    window, out = Window(hold_s=1.0), []
    for host, (at, late) in enumerate(sorted(said, key=sum)):
        out += window.due((at + late) / 100)
        window.add([Line(at, f"host{host}", "web-1", "")], (at + late) / 100)
    out += window.rest()
    assert all(one.at_ns <= other.at_ns for one, other in pairwise(out))


def test_what_follows_is_in_order_and_says_when_there_is_nothing(clock: list[float]) -> None:
    late = [False] * 4
    streams = {
        "app1": Said(cut(printed([("web-1", 1, "first"), ("web-1", 3, "third")], follow=True)), waits=iter(late)),
        "app2": Said(cut(printed([("web-2", 2, "second")], follow=True))),
    }
    found = list(coming(streams))
    assert [line.text for line in heard(found)] == ["first", "second", "third"]
    assert None in found[:2], "while it waits"


def test_what_instances_of_a_host_say_meanwhile_is_merged(clock: list[float]) -> None:
    """Docker tells of each by itself, in whatever order."""
    streams = {
        "app1": Said(cut(printed([("web-1", n, f"a{n}") for n in (1, 3, 9)] + [("web-2", 2, "b2")], follow=True)))
    }
    assert [line.text for line in heard(coming(streams))] == ["a1", "b2", "a3", "a9"]


# --- What there is before that


def test_what_there_is_is_in_one_order_however_far_apart_it_comes(clock: list[float]) -> None:
    """Then what came with its end, which no host's own order says anything about."""
    later = printed([("web-1", 21, "a21"), ("web-1", 30, "a30"), ("web-2", 22, "b22")], follow=True)
    streams = {
        "app1": Said(iter([printed([("web-1", n, f"a{n}") for n in (1, 4, 7)]) + OVER + later])),
        "app2": Said(
            iter([printed([("web-3", 2, "c2")]), printed([("web-4", 5, "d5"), ("web-3", 9, "c9")]), OVER]),
            waits=iter([False] * 50 + [True] + [False] * 50),
        ),
    }
    found = list(followed(streams, nobody, TOKEN))
    assert clock[0] > 99 * logs.LOOK_S > 2 * logs.HOLD_S
    assert [line.text for line in heard(found)] == ["a1", "c2", "a4", "d5", "a7", "c9", "a21", "b22", "a30"]
    assert None in found[:2], "while it waits"


@given(st.lists(st.tuples(HOST, HOST), min_size=1, max_size=4), st.integers(1, 200))
def test_what_there_is_comes_first_and_all_of_it_once(hosts: list[tuple[list[int], list[int]]], size: int) -> None:
    streams = {
        f"app{n}": Said(
            cut(
                printed(("web-1", at_ns, "was") for at_ns in before)
                + OVER
                + printed((("web-1", 50 + at_ns, "is") for at_ns in then), follow=True),
                size,
            )
        )
        for n, (before, then) in enumerate(hosts)
    }
    found = heard(followed(streams, nobody, TOKEN))
    was = [line.at_ns - AT * SECOND for line in found if line.text == "was"]
    assert was == sorted(at_ns for before, _ in hosts for at_ns in before)
    assert {line.text for line in found[: len(was)]} <= {"was"}
    assert len(found) - len(was) == sum(len(then) for _, then in hosts)


def test_a_host_that_says_nothing_is_not_waited_for_without_an_end(clock: list[float]) -> None:
    """The others' share is told, and its own when it comes."""
    never = int(logs.BACKLOG_S / logs.LOOK_S) * 2
    streams = {
        "app1": Said(iter([printed([("web-1", 3, "three")]) + OVER])),
        "app2": Said(iter([printed([("web-2", 1, "one")]) + OVER]), waits=iter([False] * never)),
        "app3": Said(iter(()), Unreachable("app3", "no answer")),
    }
    silent: dict[str, str] = {}
    found = followed(streams, silent.__setitem__, TOKEN)
    texts = []
    while "three" not in texts:
        texts += [line.text for line in heard([next(found)])]
    assert logs.BACKLOG_S <= clock[0] < logs.BACKLOG_S + 1
    assert [*texts, *(line.text for line in heard(found))] == ["no answer", "three", "one"]
    assert silent == {"app3": "no answer"}


def test_much_that_there_is_takes_a_bounded_memory(clock: list[float]) -> None:
    """No host is read any further than its next line is wanted."""
    streams = {f"app{n}": Said(chain(pieces_of(n, 5000, 3, follow=False), [OVER])) for n in range(3)}
    found = followed(streams, nobody, TOKEN)
    for _ in range(750):
        next(found)
    assert max(stream.taken for stream in streams.values()) <= 2
    assert len(heard(found)) == 15_000 - 750
