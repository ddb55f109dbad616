"""When a job runs: systemd's words for points in time, as far as they can be judged without systemd.

What passes here is a calendar of systemd 252 and of 257; some rare forms of theirs do not pass. The words and their
rules are those of systemd.time(7), "Calendar Events".
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from fiefdom.wording import shown

_SHORT = ("minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "semiannually", "yearly", "annually")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONG_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ZONE = re.compile(r"UTC|[A-Z][A-Za-z_]+(/[A-Z][A-Za-z0-9_+-]+){1,2}")
_PART = re.compile(r"([0-9]{1,4})(?:\.\.([0-9]{1,4}))?(?:/([0-9]{1,4}))?")
# Five or six words, of which systemd's are four at most.
_CRON = re.compile(r"@[a-z]+|[^ :]+( +[^ :]+){4,5}")
_MOST_LETTERS = 200
_EXAMPLE = 'such as "*-*-* 03:00", "Mon..Fri 08:30 Europe/Berlin" or "*:0/15"'

# The least and the most of each, and what it is called.
_YEAR, _MONTH, _DAY = (1970, 2199, "year"), (1, 12, "month"), (1, 31, "day")
# Days of each month, of February in a leap year.
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_HOUR, _MINUTE, _SECOND = (0, 23, "hour"), (0, 59, "minute"), (0, 59, "second")
_Range = tuple[int, int, str]
# All kinds of years, with each day of a year on each weekday, leap days too.
_ANY_YEARS = range(2000, 2040)


class _Mistake(ValueError):
    """What is wrong with the words, and how to mend it."""


def _require_schedule(value: str) -> str:
    try:
        _require(value)
        if next(_days(value), None) is None:
            raise _Mistake("there is no such day, so that it would never run")
    except _Mistake as error:
        raise ValueError(f"{shown(value)} is no time of systemd's: {error}") from None
    return value


def _require(text: str) -> None:
    if len(text) > _MOST_LETTERS:
        raise _Mistake(f"it has more than {_MOST_LETTERS} letters")
    if _CRON.fullmatch(text):
        raise _Mistake(f"these are cron's words; write systemd's, {_EXAMPLE}")
    *before, last = text.split(" ")
    words = before if before and _ZONE.fullmatch(last) else [*before, last]
    if not all(words):
        raise _Mistake(f"write one {_EXAMPLE}, with one blank between words and none around them")
    if len(words) > 1 or words[0].lower() not in _SHORT:
        _require_words(words)


def _require_words(words: list[str]) -> None:
    kinds: list[tuple[Callable[[str], bool], Callable[[str], None]]] = [
        (lambda word: word[0].isalpha(), _require_weekdays),
        (lambda word: ":" not in word, _require_date),
        (lambda word: ":" in word, _require_time),
    ]
    for word in words:
        while kinds and not kinds[0][0](word):
            kinds.pop(0)
        if not kinds:
            raise _Mistake(f"{shown(word)} is one word too many; weekdays, date, time and zone come in this order")
        kinds.pop(0)[1](word)


def _require_weekdays(word: str) -> None:
    for part in word.split(","):
        first, dots, last = part.partition("..")
        days = [_weekday(first), *([_weekday(last)] if dots else [])]
        if days != sorted(set(days)):
            raise _Mistake(f"{shown(part)} does not end after it begins; a week begins with Mon")


def _weekday(word: str) -> int:
    for days in (_DAYS, _LONG_DAYS):
        if word.lower() in days:
            return days.index(word.lower())
    raise _Mistake(f"{shown(word)} is no weekday, such as Mon, nor a zone, such as UTC or Europe/Berlin")


def _require_date(word: str) -> None:
    before, tilde, from_end = word.partition("~")
    parts = before.split("-")
    if tilde:
        if re.fullmatch("0?[1-9]|1[0-9]|2[0-8]", from_end) is None:
            raise _Mistake(f"{shown(from_end)} is no day from a month's end; write ~1 for its last one")
        parts.append(from_end)
    if len(parts) not in (2, 3):
        raise _Mistake(f"{shown(word)} is no date, such as *-*-01, and no time, such as 03:00")
    for part, bounds in zip(parts, (_YEAR, _MONTH, _DAY)[-len(parts) :], strict=True):
        _require_values(part, bounds)
    month, day = parts[-2], parts[-1]
    if month.isdecimal() and day.isdecimal() and int(day) > _LONGEST[int(month) - 1]:
        raise _Mistake(f"month {int(month)} has no day {int(day)}, so that it would never run")


def _require_time(word: str) -> None:
    parts = word.split(":")
    if len(parts) > 3:
        raise _Mistake(f"{shown(word)} is no time, such as 03:00 or 03:00:30")
    for part, bounds in zip(parts, (_HOUR, _MINUTE, _SECOND), strict=False):
        _require_values(part, bounds)


def _require_values(text: str, bounds: _Range) -> None:
    """Raise `_Mistake` for what is no list of values, ranges and steps; an asterisk alone is every value."""
    least, most, what = bounds
    if text == "*":
        return
    if text.startswith("*/"):
        raise _Mistake(f"{shown(text)} is cron's; write {least}/{text[2:]}")
    for part in text.split(","):
        found = _PART.fullmatch(part)
        if found is None:
            raise _Mistake(f"{shown(part)} is no {what}; write a number, a range (1..5), a step (0/5), or *")
        first = int(found[1])
        last, step = (None if value is None else int(value) for value in found.group(2, 3))
        for value in (first, last or first):
            if not least <= value <= most:
                raise _Mistake(f"{value} is no {what}: it is {least} to {most}")
        if last is not None and last <= first:
            raise _Mistake(f"{shown(part)} does not end after it begins")
        end = most if last is None else last
        if step is not None and not 0 < step <= end - first:
            raise _Mistake(f"{shown(part)} has a step that leads nowhere; up to {end} it is 1 to {end - first}")


# --- The days that it means


def last_day(schedule: str) -> date | None:
    """The last day on which a schedule elapses; None where there is always another one."""
    _, before, _ = _parted(schedule)
    return next(_days(schedule)) if before is not None and len(before) == 3 and before[0] != "*" else None


def _days(schedule: str) -> Iterator[date]:
    """Its days from the last to the first one, of years of all kinds where it names none."""
    weekdays, before, from_end = _parted(schedule)
    years, months, days = ["*", "*", "*"][len(before or ()) :] + (before or [])
    some = sorted(_ANY_YEARS if years == "*" else _values(years, _YEAR), reverse=True)
    for year in some:
        for month in sorted(_values(months, _MONTH), reverse=True):
            length = calendar.monthrange(year, month)[1]
            wanted = {length + 1 - int(from_end)} if from_end else _values(days, _DAY)
            for day in sorted(wanted, reverse=True):
                if day <= length and (found := date(year, month, day)).weekday() in weekdays:
                    yield found


def _parted(schedule: str) -> tuple[set[int], list[str] | None, str]:
    """Weekdays, the parts of its date where it has one, and the day where that is counted from a month's end."""
    words = schedule.split(" ")
    weekdays = set(range(7))
    if words[0].lower() in _SHORT:
        return weekdays, None, ""
    if words[0][0].isalpha():
        weekdays = set(_weekdays(words[0]))
    for word in words:
        before, _, from_end = word.partition("~")
        if before[0] in "0123456789*" and ":" not in word:
            return weekdays, before.split("-") + (["*"] if from_end else []), from_end
    return weekdays, None, ""


def _weekdays(word: str) -> Iterator[int]:
    for part in word.split(","):
        first, _, last = part.partition("..")
        yield from range(_weekday(first), _weekday(last or first) + 1)


def _values(text: str, bounds: _Range) -> Iterable[int]:
    least, most, _ = bounds
    if text == "*":
        return range(least, most + 1)
    found: set[int] = set()
    for part in _PART.finditer(text):
        first, step = int(part[1]), int(part[3] or 1)
        last = int(part[2]) if part[2] else most if part[3] else first
        found |= set(range(first, last + 1, step))
    return found


Schedule = Annotated[str, AfterValidator(_require_schedule), WithJsonSchema({"type": "string"}, mode="validation")]
"""A point in time that comes again, in systemd's words."""
