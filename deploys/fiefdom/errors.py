"""The one exception a person can cause: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class FiefdomError(Exception):
    """Bad input or a refused action. The command line prints the sentence and exits 1, without a traceback."""

    recorded: bool = False
    """Whether it ended an act that the audit knows of, so that something may have changed before it."""


class HostError(FiefdomError):
    """What went wrong on one host; the sentence begins with its name."""

    def __init__(self, host: str, words: str) -> None:
        self.host = host
        super().__init__(f"{host}: {words}")


@dataclass(frozen=True)
class SickUnit:
    """A unit that did not come up, why, and the last words of what it runs."""

    unit: str
    reason: str
    log: tuple[str, ...] = ()


class Sick(HostError):
    """Services of a host that did not come up, while all else that was to be done there was done.

    So whoever changes several hosts may go on, and tells of it at the end.
    """

    def __init__(self, host: str, units: Sequence[SickUnit]) -> None:
        self.units = tuple(units)
        super().__init__(host, "; ".join(f"{found.unit}: {found.reason}" for found in self.units))


class Unreachable(HostError):
    """A host is not connected, its connection broke off, or it did not answer in time: it said nothing at all.

    So whoever may do without its word goes on. What a host does answer, however wrong, is never this.
    """
