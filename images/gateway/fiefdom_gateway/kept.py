"""Files in the state folder that an operator's words change: whole lines, by one who changes them at a time."""

import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from fiefdom_gateway import edges
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.members import Unreadable


def lines_of(path: Path) -> tuple[str, ...]:
    """Return the lines of a file; none where there is none. Raises Unreadable."""
    return tuple(edges.read_text(path).splitlines()) if path.exists() else ()


def change(path: Path, into: Callable[[tuple[str, ...]], Iterable[str]]) -> None:
    """Put other lines in place of those that are there; of two who do it at once one waits. Raises Failed."""
    try:
        with open(path.with_name(f"{path.name}.lock"), "a", opener=_closed_to_others) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = lines_of(path)
            after = tuple(into(before))
            if after != before:
                edges.write_atomically(path, "".join(f"{line}\n" for line in after))
    except (OSError, Unreadable) as error:
        raise Failed(f"{path} cannot be changed: {error}") from None


def _closed_to_others(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
