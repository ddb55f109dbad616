"""Members that the inventory does not know: what Serf says of them, and how the others forget them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.wording import printable

if TYPE_CHECKING:
    from fiefdom.engine import Session

FORGET_TIMEOUT_S = 30
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

    Serf would list them for a day, and ask for them. One that is alive stays a member: it would be back at once.
    """
    found = all_members(cluster, hosts)
    gone = {m.name for m in of(cluster, found)} - {m.name for ms in found.values() for m in ms if m.status == "alive"}
    return [name for name in sorted(gone) if forget(cluster, hosts, name)]


def all_members(cluster: Cluster, hosts: Session) -> dict[str, tuple[Member, ...]]:
    """Whom each gateway's Serf agent knows. Raises FiefdomError for a gateway that does not tell."""
    return hosts.on_all(lambda gateway: members(hosts, gateway), cluster.gateways)


def forget(cluster: Cluster, hosts: Session, name: str) -> bool:
    """Let the cluster forget a member that is gone; whether no gateway lists it any more within 30 s."""
    if not _NAME.fullmatch(name):
        return False
    command = (*_SERF, "force-leave", "-prune", name)
    deadline = time.monotonic() + FORGET_TIMEOUT_S
    while True:
        hosts.on_all(lambda gateway: hosts.shell(gateway, command), cluster.gateways[:1])
        if not any(m.name == name for listed in all_members(cluster, hosts).values() for m in listed):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
