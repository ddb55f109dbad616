"""Who may change a cluster: the lock that one run at a time holds, or a person, and what the audit says of each act."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fiefdom.cluster import ledger
from fiefdom.cluster.audit import Entry
from fiefdom.cluster.lock import APPLY, SILENT_S, Kind, Lock, Locked, is_persons, refusal, unlock_refusal
from fiefdom.cluster.words import words
from fiefdom.converge.run import Hosts, ask_each
from fiefdom.errors import FiefdomError
from fiefdom.waiting import pause

BEAT_S = 3


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
    witnesses: tuple[str, ...] = ()
    """Hosts that hold the lock beside ``gateways``, and no audit: see `lock.quorum`."""
    without: tuple[str, ...] = ()
    """Hosts that the run leaves out; the audit says so."""
    _lost: str = field(default="", init=False)
    _missed: int = field(default=0, init=False)
    """Beats in a row that some gateway did not hear."""
    _former: dict[str, str] = field(default_factory=dict, init=False)
    """The person's lock that this one stands in for, by gateway."""
    _runs: set[str] = field(default_factory=set, init=False)
    """Runs of those locks."""

    @property
    def holders(self) -> tuple[str, ...]:
        """Hosts on which the lock is held, in the order in which it is taken."""
        return (*self.gateways, *self.witnesses)

    def settle(self) -> None:
        """The lock that this one took the place of is over: it does not come back when this one is given back.

        Nor does it stay where it was witnessed while a gateway was left out.
        """
        if self._former and not self.witnesses:
            others = [name for name in self.hosts.names if name not in self.gateways]
            ask_each(self.hosts, self._forget, others)
        self._former.clear()

    def _forget(self, name: str) -> None:
        found = ledger.ask(self.hosts, name, "show", "0").lock
        if found is not None and found.run in self._runs:
            ledger.ask(self.hosts, name, "release", found.token, found.seen)

    def beat(self) -> None:
        """Show a sign of life, before every stage that changes something.

        Raises:
            FiefdomError: the lock is somebody else's now, or nobody's.
        """
        self._beat()
        if self._lost:
            raise FiefdomError(self._lost)

    def _beat(self) -> None:
        answers, trouble = ledger.ask_all(self.hosts, self.holders, "beat", self.token)
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
        note: str = "",
    ) -> Iterator[None]:
        """Write the begin and, however the body ends, the end of an act into the audit.

        An error's own words stay out: they may quote a log. A ``note`` is told in the place of the run's own.
        """
        about: dict[str, Any] = {
            "run": self.run,
            "who": self.who,
            "what": what,
            "plan": plan,
            "hosts": tuple(names),
            "services": services or {},
            "without": self.without,
        }
        outcome = "interrupted"
        self._append(Entry(event="begin", note=note or self.note, **about))
        try:
            yield
            outcome = "ok"
        except Exception as error:
            outcome = "failed"
            if isinstance(error, FiefdomError):
                error.recorded = True
            raise
        finally:
            self._append(Entry(event="end", outcome=outcome, note=note or self.note, **about))

    def _append(self, entry: Entry) -> None:
        ledger.append(self.hosts, self.gateways, entry, self.warn)


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
    witnesses: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Iterator[Held]:
    """Hold the cluster's lock during the body, with signs of life in the background.

    The lock is taken on all gateways in their order, and then on ``witnesses``, or on none, and given back however the
    body ends. ``warn`` is
    told of a gateway that does not answer later on, possibly from the background. A person's lock of which
    ``in_place_of`` is true makes way, and comes back where the body ends before `Held.settle`.

    Raises:
        FiefdomError: somebody else holds the lock and, with ``take_over`` or after an apply, may not be taken for dead;
            or a gateway does not answer.
    """
    held, body = _held(hosts, gateways, who, why, warn)
    held.witnesses, held.without = tuple(witnesses), tuple(without)

    def take() -> None:
        # Judged on all gateways before the first is touched: a holder may be silent to one and alive to another.
        found = _locks(hosts, held.holders)
        _require_free(held, [lock for lock in found.values() if not in_place_of(lock)], take_over)
        _take(held, body, found, in_place_of)

    with _taken(held, take), hosts.every(BEAT_S, held._beat):
        yield held


@contextmanager
def hold_for_apply(act: Held, names: Sequence[str], say: Callable[[str], None]) -> Iterator[Held]:
    """`hold` for an apply to hosts that is `recorded` as ``act``: on the gateways that answer, for one that is down may
    be the one to be mended, and where one does not, on the hosts that it changes as well. An ``act`` that leaves
    gateways out names its witnesses: all of them must answer.

    While another apply holds the lock, it is waited for; from a run that died, the lock is taken over. ``say`` hears
    of both.

    Raises:
        FiefdomError: a person, or a run that is at work and no apply, holds the lock.
    """
    held, body = _held(act.hosts, (), act.who, f"{APPLY}{', '.join(names)}", act.warn, "apply", run=act.run)
    with (
        _taken(held, lambda: _take_after_applies(held, body, act, names, say)),
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
    kind: Kind = "run",
    *,
    run: str = "",
) -> tuple[Held, str]:
    run = run or ledger.new_run()
    body = _body_of_lock(run, words(who), words(why), kind)
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
    witnesses: Sequence[str] = (),
    without: Sequence[str] = (),
    note: str = "",
) -> Iterator[Held]:
    """As `Held.recorded`, for an act that needs no lock, or not yet; ``witnesses`` as in `hold`."""
    act = Held(hosts, tuple(gateways), ledger.new_run(), ledger.operator(), "", warn)
    act.witnesses, act.without, act.note = tuple(witnesses), tuple(without), note
    with act.recorded(what, plan=plan, names=names):
        yield act


def require_free(hosts: Hosts, gateways: Sequence[str]) -> None:
    """Raise FiefdomError where a person or a run that is at work holds the lock; a gateway that is down holds none."""
    for found in ledger.read(hosts, gateways, 0).locks:
        if found.alive and (reason := refusal(found)):
            raise Locked(f"{found.gateway}: {reason}")


def is_applied_to(hosts: Hosts, gateways: Sequence[str]) -> bool:
    """Whether an apply is at work. Raises FiefdomError where somebody else holds the lock, as `require_free`."""
    at_work = [found for found in ledger.read(hosts, gateways, 0).locks if found.alive]
    for found in at_work:
        if not found.applies:
            raise Locked(f"{found.gateway}: {refusal(found)}")
    return bool(at_work)


def lock(
    hosts: Hosts,
    gateways: Sequence[str],
    who: str,
    why: str,
    warn: Callable[[str], None],
    kind: Kind = "person",
    witnesses: Sequence[str] = (),
) -> None:
    """Lock the cluster until somebody unlocks it; ``witnesses`` as in `hold`.

    Raises:
        FiefdomError: it is locked, or a gateway does not answer; no gateway is locked by this then.
    """
    held, body = _held(hosts, gateways, who, why, warn, kind)
    held.witnesses = tuple(witnesses)

    def take() -> None:
        found = _locks(hosts, held.holders)
        _require_free(held, found.values(), take_over=False)
        _take(held, body, found)

    with _taken(held, take, keep=True):
        pass
    ledger.append(hosts, gateways, Entry(held.run, who, "lock", "end", "ok", note=why), warn)


def unlock(
    hosts: Hosts,
    gateways: Sequence[str],
    who: str,
    warn: Callable[[str], None],
    *,
    take_over: bool = False,
    witnesses: Sequence[str] = (),
) -> tuple[Lock, ...]:
    """Remove a person's lock or, with ``take_over``, that of a run that died; what was removed, by gateway.

    ``witnesses`` that answer are freed of theirs as well: they may have one of a time when a gateway was left out.

    Raises:
        FiefdomError: the lock is a run's that may be alive, changed meanwhile, or a gateway does not answer.
    """
    locks = _locks(hosts, gateways)
    witnessed, _ = ask_each(hosts, lambda name: ledger.ask(hosts, name, "show", "0").lock, witnesses)
    locks |= {name: found for name, found in witnessed.items() if found}
    for found in locks.values():
        if reason := unlock_refusal(found, take_over):
            raise FiefdomError(f"{found.gateway}: {reason}")

    def remove(name: str) -> None:
        found = locks[name]
        left = ledger.ask(hosts, name, "release", found.token, found.seen).lock
        if left is not None:
            raise FiefdomError(f"{name}: the lock changed meanwhile: {refusal(left) or 'look again'}")

    hosts.on_all(remove, list(locks))
    if locks:
        first = next(iter(locks.values()))
        note = f"removed the lock of {first.who}: {first.why}"
        ledger.append(hosts, gateways, Entry(ledger.new_run(), who, "unlock", "end", "ok", note=note), warn)
    return tuple(locks.values())


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
            ledger.ask(held.hosts, name, "take", held.token, ledger.NONE, former)
        else:
            ledger.ask(held.hosts, name, "release", held.token)

    return ledger.trouble_of(held.hosts, give_back, held.holders)


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
    for name in held.holders:
        former = found.get(name)
        if former and in_place_of(former):
            held.note = f"in place of the lock of {former.who}: {former.why}"
            held._runs.add(former.run)
            held._former[name] = _body_of_lock(former.run, former.who, former.why, former.kind)
        _take_one(held, body, name, *((former.token, former.seen) if former else (ledger.NONE, ledger.NONE)))


def _take_one(held: Held, body: str, name: str, token: str, seen: str) -> None:
    now = ledger.ask(held.hosts, name, "take", token, seen, body).lock
    if now is None or now.token != held.token:
        reason = refusal(now) if now else None
        raise Locked(f"{name}: {reason or 'the lock changed while it was taken; run the command again'}")


def _take_after_applies(held: Held, body: str, act: Held, names: Sequence[str], say: Callable[[str], None]) -> None:
    told = False
    while True:
        found, trouble = ledger.ask_all(held.hosts, act.holders, "show", "0")
        if trouble and act.witnesses:
            raise FiefdomError(f"the lock cannot be taken: {trouble}")
        held.gateways = tuple(name for name in act.gateways if name in found)
        held.witnesses = act.witnesses
        if trouble and held.gateways:
            # A release that left out the gateways which answer here holds the lock on all other hosts.
            held.witnesses = tuple(name for name in names if name not in act.gateways)
            found |= ledger.ask_all(held.hosts, held.witnesses, "show", "0")[0]
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
    found = hosts.on_all(lambda name: ledger.ask(hosts, name, "show", "0").lock, gateways)
    return {name: lock for name, lock in found.items() if lock}


def _body_of_lock(run: str, who: str, why: str, kind: Kind) -> str:
    # The release before, which may be at work from another machine, looks for `person`.
    return ledger.line_of(run=run, who=who, why=why, kind=kind, person=is_persons(kind))


def _token(body: str) -> str:
    return hashlib.sha256(f"{body}\n".encode()).hexdigest()
