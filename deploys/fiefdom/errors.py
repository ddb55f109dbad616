"""The one exception a person can cause: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class FiefdomError(Exception):
    """Bad input or a refused action. The command line prints the sentence and exits 1, without a traceback."""

    recorded: bool = False
    """Whether it ended an act that the audit knows of, so that something may have changed before it."""
    log: tuple[str, ...] = ()
    """Last words of what failed, a line each: told below the sentence, and never in it."""

    def with_log(self, log: Iterable[str]) -> FiefdomError:
        """This error, with last words."""
        self.log = tuple(log)
        return self

    @property
    def each(self) -> tuple[FiefdomError, ...]:
        """The errors that it is made of, each a sentence with a log of its own."""
        return (self,)


class HostError(FiefdomError):
    """What went wrong on one host; the sentence begins with its name."""

    def __init__(self, host: str, words: str, log: Iterable[str] = ()) -> None:
        self.host, self.reason, self.log = host, words, tuple(log)
        super().__init__(f"{host}: {words}")


class HostErrors(FiefdomError):
    """What went wrong on several hosts at once."""

    def __init__(self, errors: Iterable[FiefdomError]) -> None:
        flat = (error.each if isinstance(error, HostErrors) else (error,) for error in errors)
        self._each = tuple(error for each in flat for error in each)
        self.log = tuple(line for error in self._each for line in error.log)
        super().__init__("; ".join(str(error) for error in self._each))

    @property
    def each(self) -> tuple[FiefdomError, ...]:
        """One of each host."""
        return self._each


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

    def __init__(self, host: str, units: Iterable[SickUnit]) -> None:
        self.units = tuple(units)
        words = "; ".join(f"{found.unit}: {found.reason}" for found in self.units)
        super().__init__(host, words, (line for found in self.units for line in found.log))

    @property
    def each(self) -> tuple[FiefdomError, ...]:
        """One of each unit."""
        return tuple(HostError(self.host, f"{found.unit}: {found.reason}", found.log) for found in self.units)


class Unreachable(HostError):
    """A host is not connected, its connection broke off, or it did not answer in time: it said nothing at all.

    So whoever may do without its word goes on. What a host does answer, however wrong, is never this.
    """
