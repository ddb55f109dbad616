"""The ledger of a cluster, kept on its gateways: the lock that lets one run at a time change it, and the audit.

What a host sends is only ever shown, compared or dropped.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError
from fiefdom.waiting import pause
from fiefdom.wording import printable

SCRIPT = (Path(__file__).parent / "ledger.sh").read_text()
DIR = "/var/lib/fiefdom/ledger"

# A run that was silent for so long may be taken for dead. It beats often enough to miss several beats before.
SILENT_S = 15
BEAT_S = 3

APPLY = "apply of "
"""What the reason of an apply's lock begins with."""

LAST = 20
"""How many acts an audit shows, unless told otherwise."""

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_WORDS_MAX = 200
_NONE = "-"
# The model's versions and nothing (before a first start, after a removal).
_VERSION = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")
_KEY = re.compile(r"[a-z][a-z0-9-]{0,63}")
_NOW = re.compile(r"now\t([0-9]{1,12}(?:\.[0-9]{1,9})?)\t([0-9]{1,12})")
_LOCK = re.compile(r"lock\t([0-9a-f]{64})\t([0-9]{1,12}\.[0-9]{1,9})\t(.*)")


class Locked(FiefdomError):
    """The cluster's lock is somebody else's."""


@dataclass(frozen=True)
class Lock:
    """A cluster's lock as one gateway holds it; ages are by that gateway's clock.

    A person's lock shows no sign of life and never looks dead. ``token`` and ``seen`` name this very state of it.
    """

    gateway: str
    run: str
    who: str
    why: str
    person: bool
    since: str
    age_s: float
    silence_s: float
    token: str
    seen: str

    @property
    def alive(self) -> bool:
        """Whether its holder must be taken for alive."""
        return self.person or self.silence_s < SILENT_S

    @property
    def applies(self) -> bool:
        """Whether its holder is an apply, which leaves nothing behind that the next run would not see."""
        return not self.person and self.why.startswith(APPLY)

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = ("gateway", "run", "who", "why", "person", "since", "age_s", "silence_s")
        return {name: getattr(self, name) for name in names} | {"alive": self.alive}


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

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Ledger:
    """What the gateways that answered hold; ``warnings`` name the others."""

    locks: tuple[Lock, ...]
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...]

    @property
    def live(self) -> frozenset[str]:
        """Runs that are under way."""
        return frozenset(lock.run for lock in self.locks if lock.alive)


@dataclass
class Held:
    """A run's hold on the cluster. ``note`` is what the audit says at the end: one line, and never a secret."""

    hosts: Hosts
    gateways: tuple[str, ...]
    run: str
    who: str
    token: str
    warn: Callable[[str], None]
    note: str = ""
    _lost: str = field(default="", init=False)
    _missed: int = field(default=0, init=False)
    """Beats in a row that some gateway did not hear."""
    _former: dict[str, str] = field(default_factory=dict, init=False)
    """The person's lock that this one stands in for, by gateway."""

    def settle(self) -> None:
        """The lock that this one took the place of is over: it does not come back when this one is given back."""
        self._former.clear()

    def beat(self) -> None:
        """Show a sign of life, before every stage that changes something.

        Raises:
            FiefdomError: the lock is somebody else's now, or nobody's.
        """
        self._beat()
        if self._lost:
            raise FiefdomError(self._lost)

    def _beat(self) -> None:
        answers, trouble = _ask_all(self.hosts, self.gateways, "beat", self.token)
        for name, lock in answers.items():
            if lock is None:
                self._lost = f"{name}: this run's lock was removed meanwhile; nothing more is changed"
            elif lock.token != self.token:
                self._lost = (
                    f"{name}: the lock was taken over by {lock.who} ({lock.why}) meanwhile; nothing more is changed"
                )
        # Once, not every few seconds, for a gateway may well be down for a while on purpose; and not for one beat, for
        # its connection is another one after a change of its sshd or network.
        self._missed = self._missed + 1 if trouble else 0
        if self._missed == 2:
            self.warn(f"the lock has no sign of life: {trouble}")

    @contextmanager
    def recorded(
        self,
        what: str,
        *,
        plan: str = "",
        names: Iterable[str] = (),
        services: Mapping[str, tuple[str, str]] | None = None,
    ) -> Iterator[None]:
        """Write the begin and, however the body ends, the end of an act into the audit.

        An error's own words stay out: they may quote a log.
        """
        about: dict[str, Any] = {
            "run": self.run,
            "who": self.who,
            "what": what,
            "plan": plan,
            "hosts": tuple(names),
            "services": services or {},
        }
        outcome = "interrupted"
        self._append(Entry(event="begin", note=self.note, **about))
        try:
            yield
            outcome = "ok"
        except Exception as error:
            outcome = "failed"
            error.fiefdom_recorded = True  # type: ignore[attr-defined] # see `was_recorded`
            raise
        finally:
            self._append(Entry(event="end", outcome=outcome, note=self.note, **about))

    def _append(self, entry: Entry) -> None:
        append(self.hosts, self.gateways, entry, self.warn)


@contextmanager
def hold(
    hosts: Hosts,
    gateways: Sequence[str],
    who: str,
    why: str,
    *,
    warn: Callable[[str], None],
    take_over: bool = False,
    in_place_of: Callable[[Lock], bool] = lambda _: False,
) -> Iterator[Held]:
    """Hold the cluster's lock during the body, with signs of life in the background.

    The lock is taken on all gateways in their order or on none, and given back however the body ends. ``warn`` is
    told of a gateway that does not answer later on, possibly from the background. A person's lock of which
    ``in_place_of`` is true makes way, and comes back where the body ends before `Held.settle`.

    Raises:
        FiefdomError: somebody else holds the lock and, with ``take_over`` or after an apply, may not be taken for dead;
            or a gateway does not answer.
    """
    held, body = _held(hosts, gateways, who, why, warn)

    def take() -> None:
        # Judged on all gateways before the first is touched: a holder may be silent to one and alive to another.
        found = _locks(hosts, held.gateways)
        _require_free(held, [lock for lock in found.values() if not in_place_of(lock)], take_over)
        _take(held, body, found, in_place_of)

    with _taken(held, take), hosts.every(BEAT_S, held._beat):
        yield held


@contextmanager
def hold_for_apply(act: Held, names: Iterable[str], say: Callable[[str], None]) -> Iterator[Held]:
    """`hold` for an apply to hosts that is `recorded` as ``act``: on the gateways that answer, for one that is down may
    be the one to be mended.

    While another apply holds the lock, it is waited for; from a run that died, the lock is taken over. ``say`` hears
    of both.

    Raises:
        FiefdomError: a person, or a run that is at work and no apply, holds the lock.
    """
    held, body = _held(act.hosts, (), act.who, f"{APPLY}{', '.join(names)}", act.warn, run=act.run)
    with (
        _taken(held, lambda: _take_after_applies(held, body, act.gateways, say)),
        act.hosts.every(BEAT_S, held._beat),
    ):
        act.note = held.note
        yield held


def _held(
    hosts: Hosts,
    gateways: Sequence[str],
    who: str,
    why: str,
    warn: Callable[[str], None],
    *,
    run: str = "",
    person: bool = False,
) -> tuple[Held, str]:
    run = run or new_run()
    body = _body(run=run, who=_words(who), why=_words(why), person=person)
    return Held(hosts, tuple(gateways), run, who, _token(body), warn), body


@contextmanager
def recorded(
    hosts: Hosts,
    gateways: Sequence[str],
    what: str,
    warn: Callable[[str], None],
    *,
    plan: str = "",
    names: Iterable[str] = (),
) -> Iterator[Held]:
    """As `Held.recorded`, for an act that needs no lock, or not yet."""
    act = Held(hosts, tuple(gateways), new_run(), operator(), "", warn)
    with act.recorded(what, plan=plan, names=names):
        yield act


def require_free(hosts: Hosts, gateways: Sequence[str]) -> None:
    """Raise FiefdomError where a person or a run that is at work holds the lock; a gateway that is down holds none."""
    for found in read(hosts, gateways, 0).locks:
        if found.alive and (reason := refusal(found)):
            raise Locked(f"{found.gateway}: {reason}")


def is_applied_to(hosts: Hosts, gateways: Sequence[str]) -> bool:
    """Whether an apply is at work. Raises FiefdomError where somebody else holds the lock, as `require_free`."""
    at_work = [found for found in read(hosts, gateways, 0).locks if found.alive]
    for found in at_work:
        if not found.applies:
            raise Locked(f"{found.gateway}: {refusal(found)}")
    return bool(at_work)


def was_recorded(error: BaseException) -> bool:
    """Whether an error ended an act that the audit knows of, so that something may have changed before it."""
    return getattr(error, "fiefdom_recorded", False)


def lock(hosts: Hosts, gateways: Sequence[str], who: str, why: str, warn: Callable[[str], None]) -> None:
    """Lock the cluster until somebody unlocks it.

    Raises:
        FiefdomError: it is locked, or a gateway does not answer; no gateway is locked by this then.
    """
    held, body = _held(hosts, gateways, who, why, warn, person=True)

    def take() -> None:
        found = _locks(hosts, held.gateways)
        _require_free(held, found.values(), take_over=False)
        _take(held, body, found)

    with _taken(held, take, keep=True):
        pass
    append(hosts, gateways, Entry(held.run, who, "lock", "end", "ok", note=why), warn)


def unlock(
    hosts: Hosts, gateways: Sequence[str], who: str, warn: Callable[[str], None], *, take_over: bool = False
) -> tuple[Lock, ...]:
    """Remove a person's lock or, with ``take_over``, that of a run that died; what was removed, by gateway.

    Raises:
        FiefdomError: the lock is a run's that may be alive, changed meanwhile, or a gateway does not answer.
    """
    locks = _locks(hosts, gateways)
    for found in locks.values():
        if reason := unlock_refusal(found, take_over):
            raise FiefdomError(f"{found.gateway}: {reason}")

    def remove(name: str) -> None:
        found = locks[name]
        left = _ask(hosts, name, "release", found.token, found.seen).lock
        if left is not None:
            raise FiefdomError(f"{name}: the lock changed meanwhile: {refusal(left) or 'look again'}")

    hosts.on_all(remove, list(locks))
    if locks:
        first = next(iter(locks.values()))
        note = f"removed the lock of {first.who}: {first.why}"
        append(hosts, gateways, Entry(new_run(), who, "unlock", "end", "ok", note=note), warn)
    return tuple(locks.values())


def append(hosts: Hosts, gateways: Iterable[str], entry: Entry, warn: Callable[[str], None]) -> None:
    """Add a line to the audit of every gateway; ``warn`` hears of those that miss it."""
    about = asdict(entry)
    del about["at"]
    about["note"] = _words(entry.note)
    _, trouble = _ask_all(hosts, gateways, "append", stdin=_body(**about))
    if trouble:
        warn(f"the audit misses a line: {trouble}")


def read(hosts: Hosts, gateways: Iterable[str], last: int = LAST) -> Ledger:
    """The locks, and the entries of the last ``last`` acts or a few more, of every gateway that answers."""
    answers: dict[str, _Answer] = {}
    gateways = tuple(gateways)

    def ask(name: str) -> None:
        answers[name] = _ask(hosts, name, "show", str(2 * last))

    trouble = _trouble(hosts, ask, gateways)
    in_order = [answers[name] for name in gateways if name in answers]
    locks = tuple(answer.lock for answer in in_order if answer.lock)
    return Ledger(locks, merge(answer.entries for answer in in_order), (trouble,) if trouble else ())


def operator() -> str:
    """Who runs this, as user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return printable(f"{user}@{socket.gethostname()}")


def new_run() -> str:
    """A name for one run that no other has."""
    return secrets.token_hex(8)


def refusal(lock: Lock, take_over: bool = False) -> str | None:
    """Why ``lock`` keeps a run from starting, and what to do; None if it may be taken over, as that of a dead apply."""
    words = f"locked by {lock.who} {ago(lock.age_s)}: {lock.why}"
    if lock.person:
        return f"{words}; when that is over: `fiefdom unlock INVENTORY`"
    words += f"; last sign of life {ago(lock.silence_s)}"
    if lock.alive:
        return f"{words}, so it is at work: wait for it; --take-over works after {SILENT_S} s of silence"
    if take_over or lock.applies:
        return None
    return f"{words}: if it is dead, the same command with --take-over goes on without it"


def unlock_refusal(lock: Lock, take_over: bool) -> str | None:
    """Why `unlock` leaves ``lock`` where it is, or None."""
    if lock.person or (take_over and not lock.alive):
        return None
    words = f"the lock is a run's, of {lock.who}: {lock.why}; last sign of life {ago(lock.silence_s)}"
    if lock.alive:
        return f"{words}, so it is at work: wait for it; --take-over works after {SILENT_S} s of silence"
    return f"{words}: if it is dead, `fiefdom unlock INVENTORY --take-over`"


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


def parse_entry(line: str) -> Entry | None:
    """A line of an audit; None where it is torn, or nothing that Fiefdom wrote."""
    try:
        data = json.loads(line)
        _when(data["at"])
        services = {_match(_KEY, name): _versions(pair) for name, pair in data["services"].items()}
        if data["event"] not in ("begin", "end") or data["outcome"] not in ("", "ok", "failed", "interrupted"):
            return None
        return Entry(
            run=_words(data["run"]),
            who=_words(data["who"]),
            what=_match(_KEY, data["what"]),
            event=data["event"],
            outcome=data["outcome"],
            plan=_words(data["plan"]),
            hosts=tuple(_words(name) for name in data["hosts"]),
            services=services,
            note=_words(data["note"]),
            at=data["at"],
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
        took_s=max(0.0, _when(last.at) - _when(first.at)) if len(known) == 2 else None,
        outcome=last.outcome if last.event == "end" else "running" if last.run in live else "died",
        plan=last.plan,
        hosts=last.hosts,
        services=last.services,
        note=last.note,
    )


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


@dataclass(frozen=True)
class _Answer:
    """What a gateway tells after every verb."""

    lock: Lock | None
    entries: tuple[Entry, ...]


def parse_answer(gateway: str, text: str) -> _Answer:
    """What ledger.sh printed. Raises FiefdomError where it broke off."""
    lines = text.split("\n")
    now = next((m for m in map(_NOW.fullmatch, lines) if m), None)
    if now is None:
        raise FiefdomError(f"{gateway}: its answer about the ledger broke off")
    found = next((m for m in map(_LOCK.fullmatch, lines) if m), None)
    entries = (parse_entry(line.removeprefix("entry\t")) for line in lines if line.startswith("entry\t"))
    return _Answer(
        found and _parse_lock(gateway, found, now=float(now[1]), uptime_s=int(now[2])), tuple(e for e in entries if e)
    )


def _parse_lock(gateway: str, found: re.Match[str], now: float, uptime_s: int) -> Lock:
    token, seen, text = found.groups()
    # A clock that was put back does not make the dead look alive; and a gateway that was down could see nobody.
    silence_s = min(abs(now - float(seen)), uptime_s)
    try:
        data = json.loads(text)
        run, who, why = _words(data["run"]), _words(data["who"]), _words(data["why"])
        age_s, since = max(0.0, now - _when(data["since"])), data["since"]
        person = data["person"] is True
    except (ValueError, KeyError, TypeError, RecursionError):
        run, who, why, since, person = "", "somebody", "the lock's text cannot be read", "", False
        age_s = silence_s
    return Lock(gateway, run, who, why, person, since, age_s, silence_s, token, seen)


@contextmanager
def _taken(held: Held, take: Callable[[], None], keep: bool = False) -> Iterator[None]:
    # Given back on every gateway and not only where it is known to be taken: an interrupt may come before the answer.
    # A token that is not there costs nothing.
    try:
        take()
        yield
    except BaseException:
        keep = False
        raise
    finally:
        if not keep and (trouble := _give_back(held)):
            held.warn(f"the lock could not be given back: {trouble}; --take-over works after {SILENT_S} s")


def _give_back(held: Held) -> str:
    """What went wrong, in one line."""

    def give_back(name: str) -> None:
        if former := held._former.get(name):
            _ask(held.hosts, name, "take", held.token, _NONE, former)
        else:
            _ask(held.hosts, name, "release", held.token)

    return _trouble(held.hosts, give_back, held.gateways)


def _require_free(held: Held, found: Iterable[Lock], take_over: bool) -> None:
    for lock in found:
        if reason := refusal(lock, take_over):
            raise Locked(f"{lock.gateway}: {reason}")
        held.note = f"took over from {lock.who}: {lock.why}"


def _take(
    held: Held, body: str, found: Mapping[str, Lock | None], in_place_of: Callable[[Lock], bool] = lambda _: False
) -> None:
    """Take the lock from ``found``, which was judged before."""
    # One after the other: of two runs that start at once, the first to have the first gateway gets all.
    for name in held.gateways:
        former = found.get(name)
        if former and in_place_of(former):
            held.note = f"in place of the lock of {former.who}: {former.why}"
            held._former[name] = _body(run=former.run, who=former.who, why=former.why, person=True)
        _take_one(held, body, name, *((former.token, former.seen) if former else (_NONE, _NONE)))


def _take_one(held: Held, body: str, name: str, token: str, seen: str) -> None:
    now = held.hosts.on_all(lambda name: _ask(held.hosts, name, "take", token, seen, body).lock, [name])[name]
    if now is None or now.token != held.token:
        reason = refusal(now) if now else None
        raise Locked(f"{name}: {reason or 'the lock changed while it was taken; run the command again'}")


def _take_after_applies(held: Held, body: str, gateways: Sequence[str], say: Callable[[str], None]) -> None:
    told = False
    while True:
        found, _ = _ask_all(held.hosts, gateways, "show", "0")
        held.gateways = tuple(name for name in gateways if name in found)
        locks = [lock for lock in found.values() if lock]
        others = [lock for lock in locks if lock.alive and lock.applies]
        if not others:
            held.note = ""
            _require_free(held, locks, take_over=True)
            try:
                _take(held, body, found)
            except Locked:  # somebody was faster: the next look says who
                _give_back(held)
            else:
                break
        elif not told:
            say(f"waits for the apply of {others[0].who}")
            told = True
        pause()
    if held.note:
        say(f"{held.note}, which was silent for more than {SILENT_S} s")


def _locks(hosts: Hosts, gateways: Iterable[str]) -> dict[str, Lock]:
    found = hosts.on_all(lambda name: _ask(hosts, name, "show", "0").lock, gateways)
    return {name: lock for name, lock in found.items() if lock}


def _ask_all(
    hosts: Hosts, gateways: Iterable[str], verb: str, token: str = _NONE, seen: str = _NONE, stdin: str = ""
) -> tuple[dict[str, Lock | None], str]:
    """Locks of those that answered, and what went wrong with the others in one line."""
    locks: dict[str, Lock | None] = {}

    def ask(name: str) -> None:
        locks[name] = _ask(hosts, name, verb, token, seen, stdin).lock

    return locks, _trouble(hosts, ask, gateways)


def _trouble(hosts: Hosts, ask: Callable[[str], None], gateways: Iterable[str]) -> str:
    try:
        hosts.on_all(ask, gateways)
    except FiefdomError as error:
        return str(error)
    return ""


def _ask(hosts: Hosts, name: str, verb: str, token: str = _NONE, seen: str = _NONE, stdin: str = "") -> _Answer:
    ok, output, errors = hosts.script(name, SCRIPT, (verb, DIR, token, seen), stdin)
    if not ok:
        raise FiefdomError(f"{name}: the ledger: {printable(errors)[:_WORDS_MAX] or 'no answer'}")
    return parse_answer(name, output)


def _body(**data: Any) -> str:
    return json.dumps(data)  # ASCII and one line, whatever it holds


def _token(body: str) -> str:
    return hashlib.sha256(f"{body}\n".encode()).hexdigest()


def _words(value: object) -> str:
    return printable(_text(value)[: 2 * _WORDS_MAX])[:_WORDS_MAX]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _match(pattern: re.Pattern[str], value: object) -> str:
    if not pattern.fullmatch(_text(value)):
        raise ValueError(value)
    return str(value)


def _versions(pair: Any) -> tuple[str, str]:
    old, new = pair
    return _match(_VERSION, old), _match(_VERSION, new)


def _when(text: object) -> float:
    """Seconds since 1970 of a ledger's time; ValueError or TypeError where it is none."""
    at = datetime.strptime(_text(text), _TIME).replace(tzinfo=timezone.utc)
    if at.strftime(_TIME) != text:  # 2026-1-2 would be read, and sorted wrongly
        raise ValueError(text)
    return at.timestamp()
