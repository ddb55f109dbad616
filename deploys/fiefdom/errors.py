"""The one exception a person can cause: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations


class FiefdomError(Exception):
    """Bad input or a refused action. The command line prints the sentence and exits 1, without a traceback."""

    recorded: bool = False
    """Whether it ended an act that the audit knows of, so that something may have changed before it."""


class HostError(FiefdomError):
    """What went wrong on one host; the sentence begins with its name."""

    def __init__(self, host: str, words: str) -> None:
        self.host = host
        super().__init__(f"{host}: {words}")


class Unreachable(HostError):
    """A host is not connected, its connection broke off, or it did not answer in time: it said nothing at all.

    So whoever may do without its word goes on. What a host does answer, however wrong, is never this.
    """
