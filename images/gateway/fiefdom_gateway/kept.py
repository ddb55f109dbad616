"""Files in the state folder that an operator's words change: whole lines, by one who changes them at a time.

Each line begins with the service that it is about.
"""

import fcntl
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from fiefdom_gateway import edges
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.members import Unreadable


def lines_of(path: Path) -> tuple[str, ...]:
    """Return the lines of a file; none where there is none. Raises Unreadable."""
    return tuple(edges.read_text(path).splitlines()) if path.exists() else ()


def put(path: Path, service: str, line: str | None) -> str | None:
    """Let a service have this line, or none; return the one that it had. Raises Failed."""
    before = _change(path, lambda lines: _with(lines, service, line))
    return next((each for each in before if _service_of(each) == service), None)


def take_back(path: Path, service: str, line: str | None, before: str | None) -> None:
    """Let a service have what it had before ``line``, unless somebody has put another one since. Raises Failed."""

    def into(lines: tuple[str, ...]) -> Iterable[str]:
        now = next((each for each in lines if _service_of(each) == service), None)
        return _with(lines, service, before) if now == line else lines

    _change(path, into)


def forget(path: Path, services: Collection[str]) -> tuple[str, ...]:
    """Take away the lines of all but these services; return what went. Raises Failed or Unreadable."""
    if all(_service_of(line) in services for line in lines_of(path)):
        return ()
    before = _change(path, lambda lines: (line for line in lines if _service_of(line) in services))
    return tuple(line for line in before if _service_of(line) not in services)


def _service_of(line: str) -> str:
    return line.partition(" ")[0]


def _with(lines: Iterable[str], service: str, line: str | None) -> list[str]:
    others = [each for each in lines if _service_of(each) != service]
    return sorted(others + ([] if line is None else [line]))


def _change(path: Path, into: Callable[[tuple[str, ...]], Iterable[str]]) -> tuple[str, ...]:
    """Put other lines in place of those that are there; of two who do it at once one waits."""
    try:
        with open(path.with_name(f"{path.name}.lock"), "a", opener=_closed_to_others) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = lines_of(path)
            after = tuple(into(before))
            if after != before:
                edges.write_atomically(path, "".join(f"{line}\n" for line in after))
    except (OSError, Unreadable) as error:
        raise Failed(f"{path} cannot be changed: {error}") from None
    return before


def _closed_to_others(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
