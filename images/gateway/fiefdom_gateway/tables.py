"""HAProxy's tables, of which only the columns that are asked for are read: there may be thousands of rows."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter

from fiefdom_gateway.members import Unreadable

_DIGITS_MAX = 18


def spaced(reply: str, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield those columns of each row of a reply whose header line starts with "# ", separated by blanks.

    Raises Unreadable.
    """
    lines = [line for line in reply.split("\n") if line and not line.isspace()]
    start = next((number for number, line in enumerate(lines) if line.startswith("# ")), None)
    if start is None:
        raise Unreadable("HAProxy's reply lacks its header line")
    pick, needed = _picker(lines[start][2:].split(), columns)
    return _picked((line.split(" ", needed) for line in lines[start + 1 :]), pick, needed)


def separated(reply: str, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield those columns of each row of `show stat`. Raises Unreadable."""
    header, newline, rest = reply.lstrip().partition("\n")
    if not (header.startswith("# pxname,svname,") and newline):
        raise Unreadable("HAProxy's statistics lack their header line")
    pick, needed = _picker(header[2:].split(","), columns)
    return _picked((_fields(line, needed) for line in rest.splitlines() if line), pick, needed)


def _picker(header: Sequence[str], columns: Sequence[str]) -> tuple[Callable[[Sequence[str]], tuple[str, ...]], int]:
    """Return what takes the columns out of a row's fields, and how many fields it needs for that."""
    places = {name: place for place, name in enumerate(header)}
    missing = [name for name in columns if name not in places]
    if missing:
        raise Unreadable(f"HAProxy's reply lacks {' and '.join(missing)} in its header line")
    wanted = [places[name] for name in columns]
    return itemgetter(*wanted), max(wanted) + 1


def _picked(
    rows: Iterable[Sequence[str]], pick: Callable[[Sequence[str]], tuple[str, ...]], needed: int
) -> Iterator[tuple[str, ...]]:
    for row in rows:
        # A reply that breaks off would hide a server that has requests open.
        if len(row) < needed:
            raise Unreadable("HAProxy's reply has a row that is cut short")
        yield pick(row)


def _fields(line: str, needed: int) -> Sequence[str]:
    if '"' not in line:
        return line.split(",", needed)
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        raise Unreadable("HAProxy's statistics are not CSV") from None


def whole(text: str, column: str) -> int:
    """Return a field as a number. Raises Unreadable."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        raise Unreadable(f"HAProxy's reply has no number in {column}")
    return int(text)


def count(text: str) -> int:
    """Return a field as a number; 0 where it holds none, as it does for what is not counted."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else 0
