"""Plain lines on stdout, one per fact."""

import sys

_LINE_LIMIT = 400


def printable(text: str, limit: int = _LINE_LIMIT) -> str:
    """Return one line of visible ASCII, at most `limit` characters: what members and programs say may hold anything."""
    line = " ".join(text.split()).encode("ascii", "backslashreplace").decode("ascii")
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= limit else line[: limit - 3] + "..."


def say(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


class Once:
    """Says a fact about a subject when it changes, not every time it is found again."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def __call__(self, subject: str, fact: str | None, mended: str = "") -> None:
        if self._last.get(subject) == fact:
            return
        if fact is not None:
            self._last[subject] = fact
            say(fact)
        else:
            del self._last[subject]
            if mended:
                say(mended)
