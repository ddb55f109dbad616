"""Key paths and values as words of a message: short, on one line, printable anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def size(kib: int) -> str:
    """So many KiB as a person says it."""
    return f"{kib / (1 << 20):.1f} GiB" if kib >= 1 << 20 else f"{max(1, round(kib / 1024))} MiB"


def duration(seconds: float) -> str:
    """A duration in words, rounded down: 45 s, 12 minutes, 1 hour, 3 days."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    if seconds < 3600:
        count, unit = int(seconds // 60), "minute"
    elif seconds < 2 * 86400:
        count, unit = int(seconds // 3600), "hour"
    else:
        count, unit = int(seconds // 86400), "day"
    return f"{count} {unit}{'s' * (count != 1)}"


def ago(seconds: float) -> str:
    """How long since, in words."""
    return f"{duration(seconds)} ago"


Tell = Callable[[str], None]
"""Hears of what is done on this machine, a line each."""

KeyPath = tuple[str | int, ...]
"""Where a value stands in an inventory, such as ("hosts", "app1", "groups", 0)."""


_PEM_MARK = "-----BEGIN"
_PEM = "(a key or certificate)"
"""In its place: nobody is told a key that was pasted where another thing belongs."""


def dotted(key: KeyPath) -> str:
    """A key path as a person says it, such as hosts.app1.groups[0]."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{_PEM if _PEM_MARK in part else part}"
    return text.removeprefix(".")


def shown(value: object) -> str:
    """``value`` as a person wrote it, cut short; what is neither text nor a number by its type."""
    if not isinstance(value, str | int | float | bool | None):
        return f"a {type(value).__name__}"
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str) and _PEM_MARK in value:
        return _PEM
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except ValueError:  # an integer of thousands of digits has no text
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def printable(text: str) -> str:
    """``text`` as one line that any terminal can print."""
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def from_here(path: str | Path) -> Path:
    """``path`` from the working directory where it is in that, as a person there writes it; else as it is."""
    try:
        return Path(path).relative_to(Path.cwd())
    except (ValueError, OSError):  # the latter where that folder is gone
        return Path(path)
