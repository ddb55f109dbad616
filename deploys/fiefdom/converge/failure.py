"""What a host says of a step that failed: the thing, the reason as one sentence, and last words a line each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fiefdom.errors import SickUnit
from fiefdom.wording import printable

FAILED = "fiefdom-failed"
LOG = "fiefdom-log"
SICK = "fiefdom-sick"
MOST_LINES = 10
_WORDS_MAX = 400


def last_words(lines: Iterable[str]) -> tuple[str, ...]:
    """The last of ``lines``, as any terminal can print them: a service may log anything."""
    return tuple(printable(line)[:_WORDS_MAX] for line in lines if line.strip())[-MOST_LINES:]


def sick(lines: Iterable[str]) -> tuple[SickUnit, ...]:
    """Units that did not come up where nothing failed because of that, from lines of steps.sh."""
    found: list[SickUnit] = []
    words: dict[str, list[str]] = {}
    for kind, unit, *rest in (line.split("\t") for line in lines if line.count("\t") >= 2):
        if kind == LOG:
            words.setdefault(unit, []).append("\t".join(rest))
        elif kind == SICK:
            found.append(SickUnit(unit, printable(" ".join(rest)), last_words(words.get(unit, ()))))
    return tuple(found)


def of_lines(lines: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """What failed and why, and last words, from lines of steps.sh; an empty text where no step complained."""
    fields = [line.split("\t") for line in lines]
    complaints = [printable(": ".join(rest)) for kind, *rest in fields if kind == FAILED]
    return (complaints[0] if complaints else ""), last_words(
        "\t".join(rest[1:]) for kind, *rest in fields if kind == LOG
    )
