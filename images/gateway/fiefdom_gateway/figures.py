"""What HAProxy counts, read from `show stat` for the page: how each server is, and rates between two looks at it."""

from collections.abc import Mapping
from typing import NamedTuple

from fiefdom_gateway import tables

# How far apart the looks are that are kept, how many, and from when on one says nothing of now.
_APART_S = 4.0
_KEPT = 3
_OLD_S = 30.0
# A word of HAProxy's on a check, as a server's own answer may make it.
_WORDS_MAX = 80

Key = tuple[str, str]
"""A backend's name and a server's, or BACKEND for all of it."""


class Figures(NamedTuple):
    """A row. Counts begin at 0 with a reload; times are averages of the last 1,024 requests, None where none came."""

    state: str
    sessions: int
    queued: int
    requests: int
    errors_4xx: int
    errors_5xx: int
    failures: int
    retries: int
    total_ms: int | None
    since_s: int | None
    check: str


class Rate(NamedTuple):
    """Of one second. `failures` are connections that were refused, and answers that broke off or never came."""

    requests: float
    errors_4xx: float
    errors_5xx: float
    failures: float
    retries: float


_COLUMNS = (
    *("pxname", "svname", "status", "scur", "qcur", "req_tot", "stot", "hrsp_4xx", "hrsp_5xx", "econ", "eresp"),
    *("wretr", "ttime", "lastchg", "check_status", "check_code", "last_chk"),
)


def parse(stat: str) -> dict[Key, Figures]:
    """Return the servers and backends in the reply of `show stat`. Raises Unreadable."""
    found: dict[Key, Figures] = {}
    for row in tables.separated(stat, _COLUMNS):
        backend, name, status, now, queued, requests, sessions, *rest = row
        if name == "FRONTEND":
            continue
        bad, worse, refused, broken, again, total_ms, since_s, check, code, words = rest
        counted = tables.count(requests) or tables.count(sessions)
        found[backend, name] = Figures(
            state=_state(status),
            sessions=tables.count(now),
            queued=tables.count(queued),
            requests=counted,
            errors_4xx=tables.count(bad),
            errors_5xx=tables.count(worse),
            failures=tables.count(refused) + tables.count(broken),
            retries=tables.count(again),
            total_ms=tables.count(total_ms) if counted and total_ms else None,
            since_s=tables.count(since_s) if since_s else None,
            check=_check(check, code, words),
        )
    return found


def _state(status: str) -> str:
    """As the status document has it; DOWN 1/2 is one that begins to come up."""
    if status.startswith(("UP", "OPEN", "no check")):
        return "up"
    if status.startswith(("DRAIN", "NOLB")):
        return "drain"
    return "maint" if status.startswith("MAINT") else "down"


def _check(status: str, code: str, words: str) -> str:
    """How the last check went, in HAProxy's words; nothing where it went well."""
    # A check that is under way is marked by an asterisk.
    status = status.removeprefix("* ")
    if status in ("", "UNK", "INI", "L4OK", "L6OK", "L7OK", "L7OKC"):
        return ""
    return " ".join(part for part in (status, code, words) if part)[:_WORDS_MAX]


class Rates:
    """Rates over the last seconds, of whoever asks often enough; the looks between that it keeps are few."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Mapping[Key, Figures]]] = []

    def taken(self, at_s: float, found: Mapping[Key, Figures]) -> tuple[float | None, dict[Key, Rate]]:
        """Take what was found at a moment of time.monotonic(); return seconds since the look before, and the rates.

        None and nothing at first, and after a pause.
        """
        self._kept = [kept for kept in self._kept if at_s - kept[0] <= _OLD_S]
        before = self._kept[0] if self._kept else None
        if not self._kept or at_s - self._kept[-1][0] >= _APART_S:
            self._kept = [*self._kept, (at_s, found)][-_KEPT:]
        if before is None or at_s <= before[0]:
            return None, {}
        passed_s = at_s - before[0]
        rates = {key: _rate(before[1].get(key), now, passed_s) for key, now in found.items()}
        return passed_s, rates


def _rate(before: Figures | None, now: Figures, passed_s: float) -> Rate:
    def grown(name: str) -> float:
        count: int = getattr(now, name)
        then: int = 0 if before is None else getattr(before, name)
        # Less than before: HAProxy was reloaded and began to count anew.
        return round((count - then if count >= then else count) / passed_s, 2)

    return Rate(*(grown(name) for name in Rate._fields))
