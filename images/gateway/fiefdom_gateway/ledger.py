"""The cluster's ledger, as operators' runs keep it on this host: who is at work, and who did what.

The folder is only read, and may not be there. What stands in it is a stranger's text here as everywhere.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from fiefdom_gateway.log import printable

# As fiefdom.cluster.lock has it: a run that was silent for so long may be taken for dead.
SILENT_S = 15.0
ACTS_MAX = 40
_TAIL_BYTES = 128 * 1024
_LOCK_BYTES = 4096
_WORDS_MAX = 300
_HOSTS_MAX = 50
_SERVICES_MAX = 20
_WHAT = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_OUTCOMES = frozenset({"", "ok", "failed", "interrupted"})
_KINDS = frozenset({"run", "apply", "person", "canary"})


@dataclass(frozen=True)
class Lock:
    """Who holds the cluster. `kind` is run, apply, person or canary; a person's shows no sign of life."""

    run: str
    who: str
    why: str
    kind: str
    since: str
    silent_s: float

    @property
    def alive(self) -> bool:
        """Whether its holder must be taken for alive."""
        return self.kind in ("person", "canary") or self.silent_s < SILENT_S


@dataclass(frozen=True)
class Act:
    """What somebody did. `outcome` is ok, failed, interrupted, or "" where it did not end; `services` have versions."""

    run: str
    who: str
    what: str
    at: str
    outcome: str
    took_s: int | None
    hosts: tuple[str, ...]
    hosts_more: int
    services: Mapping[str, tuple[str, str]]
    note: str


@dataclass(frozen=True)
class Ledger:
    """The newest acts come first. `error` is why there are none to see."""

    lock: Lock | None = None
    acts: tuple[Act, ...] = ()
    error: str | None = None


@dataclass
class Reader:
    """Reads the ledger of a folder, the audit again only where it changed."""

    folder: Path
    _seen: tuple[int, int, int] | None = None
    _acts: tuple[Act, ...] = field(default=())

    def read(self, now_s: float) -> Ledger:
        """Return what is there at `now_s` of time.time()."""
        try:
            return Ledger(self._lock(now_s), self._audited())
        except PermissionError:
            return Ledger(error="the gateway may not read the audit yet; the next apply lets it")
        except OSError as error:
            return Ledger(error=f"the audit cannot be read: {error.strerror}")

    def _lock(self, now_s: float) -> Lock | None:
        try:
            with (self.folder / "lock").open("rb") as file:
                seen_s = os.fstat(file.fileno()).st_mtime
                return parse_lock(file.read(_LOCK_BYTES), max(now_s - seen_s, 0.0))
        except FileNotFoundError:
            return None

    def _audited(self) -> tuple[Act, ...]:
        try:
            with (self.folder / "audit.jsonl").open("rb") as file:
                about = os.fstat(file.fileno())
                seen = about.st_ino, about.st_size, about.st_mtime_ns
                if seen != self._seen:
                    file.seek(max(about.st_size - _TAIL_BYTES, 0))
                    self._acts = parse_acts(file.read(_TAIL_BYTES).splitlines())
                    self._seen = seen
        except FileNotFoundError:
            return ()
        return self._acts


def parse_lock(text: bytes, silent_s: float) -> Lock:
    """Return the lock that a file holds, whatever it holds: somebody has it."""
    data = _object(text)
    if data is None:
        return Lock("", "somebody", "the lock's text cannot be read", "run", "", round(silent_s, 1))
    kind = data.get("kind")
    return Lock(
        run=_words(data.get("run")),
        who=_words(data.get("who")),
        why=_words(data.get("why")),
        kind=kind if isinstance(kind, str) and kind in _KINDS else "person" if data.get("person") is True else "run",
        since=str(data["since"]) if _seconds(data.get("since")) is not None else "",
        silent_s=round(silent_s, 1),
    )


def parse_acts(lines: Iterable[bytes]) -> tuple[Act, ...]:
    """Return the last acts that lines of an audit tell of, newest first; a line that is torn tells of none."""
    acts: dict[tuple[str, str], Act] = {}
    for line in lines:
        found = _act(line)
        if found is None:
            continue
        event, act = found
        before = acts.pop((act.run, act.what), None) if event == "end" else None
        acts[act.run, act.what] = act if before is None else _ended(before, act)
    newest = sorted(acts.values(), key=lambda act: act.at, reverse=True)
    return tuple(newest[:ACTS_MAX])


def _act(line: bytes) -> tuple[str, Act] | None:
    data = _object(line)
    if data is None:
        return None
    what, event, outcome, at = data.get("what"), data.get("event"), data.get("outcome"), data.get("at")
    if not (isinstance(what, str) and _WHAT.fullmatch(what) and event in ("begin", "end")):
        return None
    if not (isinstance(outcome, str) and outcome in _OUTCOMES and _seconds(at) is not None):
        return None
    hosts, services = data.get("hosts"), data.get("services")
    listed = hosts if isinstance(hosts, list) else []
    return str(event), Act(
        run=_words(data.get("run")),
        who=_words(data.get("who")),
        what=what,
        at=str(at),
        outcome=outcome,
        took_s=None,
        hosts=tuple(_words(host) for host in listed[:_HOSTS_MAX]),
        hosts_more=max(len(listed) - _HOSTS_MAX, 0),
        services=_services(services) if isinstance(services, dict) else {},
        note=_words(data.get("note")),
    )


def _ended(begun: Act, end: Act) -> Act:
    took_s = (_seconds(end.at) or 0.0) - (_seconds(begun.at) or 0.0)
    return Act(
        **{**vars(end), "at": begun.at, "took_s": int(took_s) if took_s >= 0 else None},
    )


def _services(data: Mapping[object, object]) -> dict[str, tuple[str, str]]:
    return {
        _words(name): (_words(pair[0]), _words(pair[1]))
        for name, pair in list(data.items())[:_SERVICES_MAX]
        if isinstance(pair, list) and len(pair) == 2
    }


def _object(text: bytes) -> dict[str, object] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _words(value: object) -> str:
    return printable(value, _WORDS_MAX) if isinstance(value, str) else ""


def _seconds(value: object) -> float | None:
    """Return a ledger's time as seconds since 1970; None where it is none."""
    try:
        at = datetime.strptime(value, _TIME).replace(tzinfo=timezone.utc) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if at is None else at.timestamp()
