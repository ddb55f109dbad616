"""The lock of a cluster as a gateway holds it, and what is said to whom it keeps out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fiefdom.cluster.audit import Entry, parse_entry, when
from fiefdom.cluster.words import words
from fiefdom.errors import FiefdomError, HostError
from fiefdom.model import Cluster
from fiefdom.wording import ago

# A run that was silent for so long may be taken for dead. It beats often enough to miss several beats before.
SILENT_S = 15

Kind = Literal["run", "apply", "person", "canary"]
"""Who holds a lock: a run, an apply, a person for a reason of their own, or nobody, while a canary is judged."""

# What the reasons of two kinds begin with. The release before wrote no kind into a lock, and told them by this.
APPLY = "apply of "
CANARY = "waits for `fiefdom rollout --continue`, or `fiefdom rollback`, after the canary of "
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
_NOW = re.compile(r"now\t([0-9]{1,12}(?:\.[0-9]{1,9})?)\t([0-9]{1,12})")
_LOCK = re.compile(r"lock\t([0-9a-f]{64})\t([0-9]{1,12}\.[0-9]{1,9})\t(.*)")


def quorum(cluster: Cluster, without: Collection[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The gateways, and the hosts beside them, on which a run holds the lock that leaves ``without`` out.

    All gateways hold it, and nobody else. Where one of them is left out, every other host holds it too, and those must
    be more than half of all: so two runs meet on some host, whatever each of them takes for dead. One that has all
    gateways meets anybody on a gateway, and two that have not both have more than half of the hosts.

    Raises FiefdomError where too few are left.
    """
    gateways = tuple(name for name in cluster.gateways if name not in without)
    if len(gateways) == len(cluster.gateways):
        return gateways, ()
    others = tuple(name for name in cluster.hosts if name not in {*without, *gateways})
    left = len(gateways) + len(others)
    if not gateways or 2 * left <= len(cluster.hosts):
        few = f"{left} of {len(cluster.hosts)} hosts" if gateways else "no gateway"
        raise FiefdomError(
            f"--without {', '.join(without)}: leaves {few}, and another operator may be at work with the rest, unseen: "
            "the lock wants a gateway and more than half of the hosts; what is gone for good goes out of the inventory"
        )
    return gateways, others


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
    kind: Kind
    since: str
    age_s: float
    silence_s: float
    token: str
    seen: str

    @property
    def person(self) -> bool:
        """Whether no run holds it, so that it stays until somebody takes it away."""
        return is_persons(self.kind)

    @property
    def alive(self) -> bool:
        """Whether its holder must be taken for alive."""
        return self.person or self.silence_s < SILENT_S

    @property
    def applies(self) -> bool:
        """Whether its holder is an apply, which leaves nothing behind that the next run would not see."""
        return self.kind == "apply"

    @property
    def waits(self) -> bool:
        """Whether the cluster waits after a canary, and is not locked for another reason."""
        return self.kind == "canary"

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = ("gateway", "run", "who", "why", "person", "since", "age_s", "silence_s")
        return {name: getattr(self, name) for name in names} | {"alive": self.alive}


def is_persons(kind: Kind) -> bool:
    """Whether no run holds a lock of this kind."""
    return kind in ("person", "canary")


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


@dataclass(frozen=True)
class Answer:
    """What a gateway tells after every verb."""

    lock: Lock | None
    entries: tuple[Entry, ...]


def parse_answer(gateway: str, text: str) -> Answer:
    """What ledger.sh printed. Raises HostError where it broke off."""
    lines = text.split("\n")
    now = next((m for m in map(_NOW.fullmatch, lines) if m), None)
    if now is None:
        raise HostError(gateway, "its answer about the ledger broke off")
    found = next((m for m in map(_LOCK.fullmatch, lines) if m), None)
    entries = (parse_entry(line.removeprefix("entry\t")) for line in lines if line.startswith("entry\t"))
    return Answer(
        found and _parse_lock(gateway, found, now=float(now[1]), uptime_s=int(now[2])), tuple(e for e in entries if e)
    )


def _parse_lock(gateway: str, found: re.Match[str], now: float, uptime_s: int) -> Lock:
    token, seen, text = found.groups()
    # A clock that was put back does not make the dead look alive; and a gateway that was down could see nobody.
    silence_s = min(abs(now - float(seen)), uptime_s)
    try:
        data = json.loads(text)
        run, who, why = words(data["run"]), words(data["who"]), words(data["why"])
        age_s, since = max(0.0, now - when(data["since"])), data["since"]
        kind = _kind(data, why)
    except (ValueError, KeyError, TypeError, RecursionError):
        run, who, why, since, kind = "", "somebody", "the lock's text cannot be read", "", "run"
        age_s = silence_s
    return Lock(gateway, run, who, why, kind, since, age_s, silence_s, token, seen)


def _kind(data: Mapping[str, object], why: str) -> Kind:
    kind = data.get("kind")
    if isinstance(kind, str) and kind in _KINDS:
        return _KINDS[kind]
    # Of the release before, or of one that has more kinds.
    if data["person"] is True:
        return "canary" if why.startswith(CANARY) else "person"
    return "apply" if why.startswith(APPLY) else "run"
