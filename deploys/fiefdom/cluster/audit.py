"""Who did what to a cluster: lines of the audit, and the acts and versions that they tell of."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from fiefdom.cluster.words import match, text, words

LAST = 20
"""How many acts an audit shows, unless told otherwise."""

_TIME = "%Y-%m-%dT%H:%M:%SZ"
# The model's versions and nothing (before a first start, after a removal).
_VERSION = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?")
_KEY = re.compile(r"[a-z][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Entry:
    """A line of the audit. ``at`` is the gateway's time, UTC; ``services`` are old and new version by service.

    ``event`` is begin or end, and ``outcome`` of an end is ok, failed or interrupted.
    """

    run: str
    who: str
    what: str
    event: str
    outcome: str = ""
    plan: str = ""
    hosts: tuple[str, ...] = ()
    services: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    note: str = ""
    at: str = ""
    without: tuple[str, ...] = ()
    """Hosts that were left out."""


@dataclass(frozen=True)
class Act:
    """What somebody did, its begin and end in one. ``outcome`` may also be running, or died: it never ended."""

    run: str
    who: str
    what: str
    at: str
    took_s: float | None
    outcome: str
    plan: str
    hosts: tuple[str, ...]
    services: Mapping[str, tuple[str, str]]
    note: str
    without: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def parse_entry(line: str) -> Entry | None:
    """A line of an audit; None where it is torn, or nothing that Fiefdom wrote."""
    try:
        data = json.loads(line)
        when(data["at"])
        services = {match(_KEY, name): _versions(pair) for name, pair in data["services"].items()}
        if data["event"] not in ("begin", "end") or data["outcome"] not in ("", "ok", "failed", "interrupted"):
            return None
        return Entry(
            run=words(data["run"]),
            who=words(data["who"]),
            what=match(_KEY, data["what"]),
            event=data["event"],
            outcome=data["outcome"],
            plan=words(data["plan"]),
            hosts=tuple(words(name) for name in data["hosts"]),
            services=services,
            note=words(data["note"]),
            at=data["at"],
            # The release before left nobody out.
            without=tuple(words(name) for name in data.get("without", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def merge(audits: Iterable[Iterable[Entry]]) -> tuple[Entry, ...]:
    """The audits of several gateways as one, in order of time; of what several have, the first one's word counts."""
    found: dict[tuple[str, str, str], Entry] = {}
    for audit in audits:
        for entry in audit:
            found.setdefault((entry.run, entry.what, entry.event), entry)
    begun = {(e.run, e.what): e.at for e in found.values() if e.event == "begin"}
    # Their clocks may differ, but nothing ends before it began.
    return tuple(sorted(found.values(), key=lambda e: (max(e.at, begun.get((e.run, e.what), "")), e.event == "end")))


def acts(entries: Iterable[Entry], live: Collection[str] = ()) -> tuple[Act, ...]:
    """What was done, from merged entries, in the order of its beginning; ``live`` are the runs that are under way."""
    pairs: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in entries:
        pairs.setdefault((entry.run, entry.what), {})[entry.event] = entry
    return tuple(_act(pair, live) for pair in pairs.values())


def _act(pair: Mapping[str, Entry], live: Collection[str]) -> Act:
    known = [pair[event] for event in ("begin", "end") if event in pair]
    first, last = known[0], known[-1]
    return Act(
        run=last.run,
        who=last.who,
        what=last.what,
        at=first.at,
        took_s=max(0.0, when(last.at) - when(first.at)) if len(known) == 2 else None,
        outcome=last.outcome if last.event == "end" else "running" if last.run in live else "died",
        plan=last.plan,
        hosts=last.hosts,
        services=last.services,
        note=last.note,
        without=last.without,
    )


def behind(entries: Iterable[Entry], versions: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """By host the services, of ``versions`` by service, whose release ended well and went on without it."""
    found: dict[str, set[str]] = {}
    newest: set[str] = set()
    for entry in reversed(tuple(entries)):
        for service, (_, version) in entry.services.items():
            if entry.event == "end" and service in versions.keys() - newest:
                # Whatever came after it is the last word: of a release that failed, hosts are where they are.
                newest.add(service)
                if entry.outcome == "ok" and version == versions[service]:
                    for name in entry.without:
                        found.setdefault(name, set()).add(service)
    return {name: frozenset(services) for name, services in found.items()}


def preparing(service: str) -> str:
    """What the act of a service's release command is called; its note is the version."""
    return f"release-{service}"


def was_prepared(entries: Iterable[Entry], service: str, version: str) -> bool:
    """Whether the release command of ``service`` ended well for ``version``, from merged entries.

    Where another version was brought since, what it did may be undone, and it is wanted again: be it by a rollback that
    never came to its end, for some host may run that version.
    """
    for entry in reversed(tuple(entries)):
        well = entry.event == "end" and entry.outcome == "ok"
        if well and entry.what == preparing(service):
            return entry.note == version
        brought = well or entry.what == "rollback"
        if brought and service in entry.services and entry.services[service][1] != version:
            return False
    return False


def last_brought(entries: Iterable[Entry], service: str, running: Collection[str]) -> str | None:
    """Of the versions of ``service`` that run side by side the one that came last; None if the entries do not know.

    A rollback that ended early leaves behind what it was to leave.
    """
    for act in reversed(acts(entries)):
        if service in act.services:
            old, new = act.services[service]
            version = old if act.what == "rollback" and act.outcome != "ok" else new
            if version in running:
                return version
    return None


def last_healthy(entries: Iterable[Entry], service: str, running: str) -> str | None:
    """The newest version of ``service`` other than ``running`` that was healthy, from merged entries; None if unknown.

    What an act that ended well led to was healthy, and what it started from had been, unless that act was a rollback.
    A version that a release failed to bring, or that was rolled back, is not. The newest word about a version counts.
    An act that was interrupted, and a rollback that failed, say nothing: the next rollback tries the same again.
    """
    judged = {running, ""}
    for entry in reversed(tuple(entries)):
        if entry.event != "end" or service not in entry.services or entry.outcome == "interrupted":
            continue
        if entry.what == "rollback" and entry.outcome == "failed":
            continue
        old, new = entry.services[service]
        good = entry.outcome == "ok"
        verdicts = [(new, good)] + [(old, entry.what != "rollback")] * good
        for version, healthy in verdicts:
            if version not in judged and healthy:
                return version
            judged.add(version)
    return None


def _versions(pair: Any) -> tuple[str, str]:
    old, new = pair
    return match(_VERSION, old), match(_VERSION, new)


def when(value: object) -> float:
    """Seconds since 1970 of a ledger's time; ValueError or TypeError where it is none."""
    at = datetime.strptime(text(value), _TIME).replace(tzinfo=timezone.utc)
    if at.strftime(_TIME) != value:  # 2026-1-2 would be read, and sorted wrongly
        raise ValueError(value)
    return at.timestamp()
