"""Waiting for what hosts and gateways come to: the one place where a procedure looks at the clock and sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterator

LOOK_S = 0.5
"""Seconds between two looks at what is waited for."""


def now_s() -> float:
    """Seconds of a clock that only ever goes on; of use between two readings."""
    return time.monotonic()


def pause(seconds: float = LOOK_S) -> None:
    """Let time pass."""
    time.sleep(seconds)


def looks(within_s: float, every_s: float = LOOK_S) -> Iterator[bool]:
    """Let a loop's body look again and again, ``every_s`` apart; it is told whether this is its last look.

    The last one begins after ``within_s``, so that no verdict rests on what was seen before the time was over.
    """
    deadline_s = now_s() + within_s
    while now_s() <= deadline_s:
        yield False
        pause(every_s)
    yield True
