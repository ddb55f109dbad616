"""Members that the inventory does not know: what Serf says of them, and how the others forget them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fiefdom import status
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.wording import printable

if TYPE_CHECKING:
    from fiefdom.engine import Session

FORGET_TIMEOUT_S = 30
BELIEF_TIMEOUT_S = 15
LOOK_S = 0.5

_SERF = ("docker", "exec", "gateway", "serf")
# A member chooses its name itself, and as an argument of ours it must not be able to look like an option.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,127}", re.ASCII)


@dataclass(frozen=True)
class Member:
    """A member as a gateway's Serf agent lists it, in its own words."""

    name: str
    address: str
    status: str

    def __str__(self) -> str:
        return printable(f"{self.name[:128]} ({self.address[:64]})")


def members(hosts: Session, gateway: str) -> tuple[Member, ...]:
    """Whom a gateway's Serf agent knows, whatever their status. Raises FiefdomError where it does not tell."""
    ok, output, error = hosts.shell(gateway, (*_SERF, "members", "-format", "json"))
    if not ok:
        raise FiefdomError(f"{gateway}: its Serf agent does not answer: {printable(error)[:200] or 'no reason given'}")
    try:
        rows = json.loads(output)["members"]
        return tuple(Member(str(row["name"]), str(row["addr"]), str(row["status"])) for row in rows)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FiefdomError(f"{gateway}: its Serf agent does not answer with a list of members") from None


def of(cluster: Cluster, found: Mapping[str, Collection[Member]]) -> list[Member]:
    """Members that are no host of the inventory, each once, from what every gateway lists."""
    own = {*cluster.gateways, *cluster.app_hosts}
    seen = {member.name: member for listed in found.values() for member in listed if member.name not in own}
    return [seen[name] for name in sorted(seen)]


def forget_gone(cluster: Cluster, hosts: Session) -> list[str]:
    """Let the cluster forget members that the inventory does not know and that are gone; their names.

    Serf would list them for a day, and ask for them. One that is alive stays a member, for it would be back at once,
    and nobody can tell it from a host that has just joined: FiefdomError names those, once the others are forgotten.
    """
    found = all_members(cluster, hosts)
    alive = living(cluster, found)
    gone = {member.name for member in of(cluster, found)} - {member.name for member in alive}
    forgotten = _forget_all(cluster, hosts, sorted(gone))
    if alive:
        raise FiefdomError("; ".join(status.of_stranger(cluster, str(member)) for member in alive))
    return forgotten


def living(cluster: Cluster, found: Mapping[str, Collection[Member]]) -> list[Member]:
    """Members that are no host of the inventory and alive, each once, from what every gateway lists."""
    alive = {member.name for listed in found.values() for member in listed if member.status == "alive"}
    return [member for member in of(cluster, found) if member.name in alive]


def all_members(
    cluster: Cluster, hosts: Session, gateways: Collection[str] | None = None
) -> dict[str, tuple[Member, ...]]:
    """Whom the Serf agent of each gateway, or of these, knows. Raises FiefdomError for a gateway that does not tell."""
    return hosts.on_all(lambda gateway: members(hosts, gateway), cluster.gateways if gateways is None else gateways)


def require_believed(cluster: Cluster, hosts: Session, names: Collection[str]) -> None:
    """Raise FiefdomError where a gateway does not believe what hosts say of themselves, and goes on so for 15 s.

    A gateway that does not answer, or is not connected, says nothing of it.
    """
    deadline = time.monotonic() + BELIEF_TIMEOUT_S
    while refused := _refused(cluster, hosts, names):
        # A gateway that has just been given another inventory takes it up within one of its rounds.
        if time.monotonic() > deadline:
            mend = "see `fiefdom status`" if set(cluster.gateways) <= set(names) else "apply the gateways too"
            raise FiefdomError(f"{refused[0]}; {mend}")
        time.sleep(LOOK_S)


def _refused(cluster: Cluster, hosts: Session, names: Collection[str]) -> list[str]:
    def ask(gateway: str) -> list[str]:
        try:
            view = status.gateway_view(hosts, gateway)
        except (OSError, EOFError):
            return []
        rows = view["rejected"] if isinstance(view, dict) else []
        return [f"{r.get('member')}: refused by {gateway}: {r.get('reason')}" for r in rows if r.get("member") in names]

    return [line for lines in hosts.on_all(ask, cluster.gateways).values() for line in lines]


def forget(cluster: Cluster, hosts: Session, name: str) -> bool:
    """Let the cluster forget a member that is gone; whether no gateway lists it any more within 30 s."""
    return bool(_forget_all(cluster, hosts, [name]))


def _forget_all(cluster: Cluster, hosts: Session, names: Sequence[str]) -> list[str]:
    # Hundreds may have come and gone: the gateways are asked for their lists once for all of them.
    asked = [name for name in names if _NAME.fullmatch(name)]
    left = asked
    deadline = time.monotonic() + FORGET_TIMEOUT_S
    while left:
        for name in left:
            hosts.on_all(partial(_prune, hosts, name), cluster.gateways[:1])
        listed = {m.name for known in all_members(cluster, hosts).values() for m in known}
        left = [name for name in left if name in listed]
        if left and time.monotonic() > deadline:
            break
        if left:
            time.sleep(LOOK_S)
    return [name for name in asked if name not in left]


def _prune(hosts: Session, name: str, gateway: str) -> None:
    hosts.shell(gateway, (*_SERF, "force-leave", "-prune", name))
