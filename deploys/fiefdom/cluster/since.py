"""Points in time as a person says them, the way systemd takes them: `-2h`, `1h 30min ago`, `yesterday`, `09:30`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from fiefdom.errors import FiefdomError
from fiefdom.wording import shown

_UNITS = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400),
}
"""Seconds of each of systemd's words for a span; months and years, which no log is kept for, are left out."""
_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*([a-z]*)\s*", re.ASCII)
_EPOCH = re.compile(r"@(\d{1,12})(?:\.\d+)?", re.ASCII)
_DAYS = {"today": 0, "yesterday": -1}
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2})?)?", re.ASCII)
_MOST_S = 100 * 365 * 86400


def docker_since(text: str, now: datetime) -> str:
    """``text`` as `docker logs --since` takes it: seconds since 1970, or `90s` for so long before a host's own now.

    ``now`` has no zone: it is this machine's time, and so are dates and times without one. Raises FiefdomError for
    what is no point in time.
    """
    words = " ".join(text.split())
    if found := _EPOCH.fullmatch(words):
        return found[1]
    if words == "now":
        return "0s"
    if (span_s := _before(words)) is not None:
        return f"{span_s}s"
    try:
        at = _moment(words, now)
        return str(max(0, int(at.timestamp())))
    except (ValueError, OverflowError, OSError):
        raise FiefdomError(
            f"--since {shown(text)}: no time; say `2h ago`, `-30min`, `today`, `yesterday`, `09:30`, "
            "`2026-01-31 09:30` or `@1769848200`"
        ) from None


def _before(words: str) -> int | None:
    """Whole seconds of a span that is to be taken from now; None for what is none."""
    span = words.removesuffix(" ago") if words.endswith(" ago") else words.removeprefix("-")
    if span == words:
        return None
    total_s, at = 0.0, 0
    while at < len(span):
        found = _SPAN.match(span, at)
        if found is None or found[2] not in _UNITS:
            return None
        total_s, at = total_s + float(found[1]) * _UNITS[found[2]], found.end()
    return int(total_s) if span and total_s <= _MOST_S else None


def _moment(words: str, now: datetime) -> datetime:
    """Raises ValueError for what is none."""
    today = datetime(now.year, now.month, now.day)
    first, _, rest = words.partition(" ")
    if first in _DAYS:
        day = today + timedelta(days=_DAYS[first])
        return _at(day, rest) if rest else day
    if _CLOCK.fullmatch(words):
        return _at(today, words)
    utc = words.endswith(("Z", " UTC"))
    plain = words.removesuffix("Z").removesuffix(" UTC")
    if not _DATE.fullmatch(plain):
        raise ValueError(words)
    found = datetime.fromisoformat(plain.replace("T", " "))
    return found.replace(tzinfo=timezone.utc) if utc else found


def _at(day: datetime, clock: str) -> datetime:
    if not _CLOCK.fullmatch(clock):
        raise ValueError(clock)
    hour, minute, *seconds = map(int, clock.split(":"))
    return day.replace(hour=hour, minute=minute, second=seconds[0] if seconds else 0)
