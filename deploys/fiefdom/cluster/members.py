"""Members that the inventory does not know: what Serf says of them, and how the others forget them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from fiefdom.cluster import views
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.model import Cluster
from fiefdom.waiting import looks
from fiefdom.wording import printable


def await_members(cluster: Cluster, hosts: Hosts, names: Collection[str], gateways: Collection[str]) -> None:
    """Wait until the Serf agents of ``gateways`` have ``names`` alive. Raises FiefdomError where that takes long."""
    for late in looks(cluster.serf.join_timeout_s + 60):
        missing = _not_alive(cluster, hosts, names, gateways)
        if missing is None:
            return
        if late:
            raise FiefdomError(missing)


def _not_alive(cluster: Cluster, hosts: Hosts, names: Collection[str], gateways: Collection[str]) -> str | None:
    try:
        found = all_members(cluster, hosts, gateways)
    except FiefdomError as error:  # an agent that has just been started
        return str(error)
    for gate, listed in found.items():
        seen = {member.name: member.status for member in listed}
        for name in names:
            if seen.get(name) != "alive":
                return f"{name}: {gate} has it {seen.get(name, 'not at all')} as a member"
    return None


def of_stranger(cluster: Cluster, who: str) -> str:
    """What there is to say of a living member that is no host of the inventory."""
    fate = "no traffic" if cluster.gateway.known_hosts_only else "traffic, as a new host does"
    return (
        f"{who} is a member and no host of the inventory, and gets {fate}; add it there, or stop its agent and then "
        "run `fiefdom rotate-key`"
    )


FORGET_TIMEOUT_S = 30
BELIEF_TIMEOUT_S = 15

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


def members(hosts: Hosts, gateway: str) -> tuple[Member, ...]:
    """Whom a gateway's Serf agent knows, whatever their status. Raises FiefdomError where it does not tell."""
    ok, output, error = hosts.shell(gateway, (*_SERF, "members", "-format", "json"))
    if not ok:
        raise FiefdomError(f"{gateway}: its Serf agent does not answer: {printable(error)[:200] or 'no reason given'}")
    found = parse(output)
    if found is None:
        raise FiefdomError(f"{gateway}: its Serf agent does not answer with a list of members")
    return found


def parse(document: str) -> tuple[Member, ...] | None:
    """What `serf members -format json` prints; None where that is no list of members."""
    try:
        rows = json.loads(document)["members"]
        return tuple(Member(str(row["name"]), str(row["addr"]), str(row["status"])) for row in rows)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def of(cluster: Cluster, found: Mapping[str, Collection[Member]]) -> list[Member]:
    """Members that are no host of the inventory, each once, from what every gateway lists."""
    own = {*cluster.gateways, *cluster.app_hosts}
    seen = {member.name: member for listed in found.values() for member in listed if member.name not in own}
    return [seen[name] for name in sorted(seen)]


def forget_gone(cluster: Cluster, hosts: Hosts, gateways: Sequence[str] | None = None) -> list[str]:
    """Let the cluster forget members that the inventory does not know and that are gone; their names.

    All gateways, or these, are asked.

    Serf would go on asking for them. One that is alive stays a member, for it would be back at once,
    and nobody can tell it from a host that has just joined: FiefdomError names those, once the others are forgotten.
    """
    found = all_members(cluster, hosts, gateways)
    alive = living(cluster, found)
    gone = {member.name for member in of(cluster, found)} - {member.name for member in alive}
    left = forget_strangers(cluster, hosts, sorted(gone), gateways)
    if alive:
        raise FiefdomError("; ".join(of_stranger(cluster, str(member)) for member in alive))
    return sorted(gone - left.keys())


def living(cluster: Cluster, found: Mapping[str, Collection[Member]]) -> list[Member]:
    """Members that are no host of the inventory and alive, each once, from what every gateway lists."""
    alive = {member.name for listed in found.values() for member in listed if member.status == "alive"}
    return [member for member in of(cluster, found) if member.name in alive]


def all_members(
    cluster: Cluster, hosts: Hosts, gateways: Collection[str] | None = None
) -> dict[str, tuple[Member, ...]]:
    """Whom the Serf agent of each gateway, or of these, knows. Raises FiefdomError for a gateway that does not tell."""
    return hosts.on_all(lambda gateway: members(hosts, gateway), cluster.gateways if gateways is None else gateways)


def require_believed(cluster: Cluster, hosts: Hosts, names: Collection[str]) -> None:
    """Raise FiefdomError where a gateway does not believe what hosts say of themselves, and goes on so for 15 s.

    A gateway that does not answer, or is not connected, says nothing of it.
    """
    # A gateway that has just been given another inventory takes it up within one of its rounds.
    for late in looks(BELIEF_TIMEOUT_S):
        refused = _refused(cluster, hosts, names)
        if not refused:
            return
        if late:
            mend = "see `fiefdom status`" if set(cluster.gateways) <= set(names) else "apply the gateways too"
            raise FiefdomError(f"{refused[0]}; {mend}")


def _refused(cluster: Cluster, hosts: Hosts, names: Collection[str]) -> list[str]:
    def ask(gateway: str) -> list[str]:
        try:
            view = views.gateway_view(hosts, gateway, views.SUMMARY)
        except Unreachable:
            return []
        return [f"{r.member}: refused by {gateway}: {r.reason}" for r in view.rejected if r.member in names]

    return [line for lines in hosts.on_all(ask, cluster.gateways).values() for line in lines]


def forget(
    hosts: Hosts, gateways: Sequence[str], names: Collection[str], lists: Callable[[], Mapping[str, Collection[str]]]
) -> dict[str, list[str]]:
    """Let the cluster forget members that are gone; those that are listed still after 30 s, and by which gateways.

    ``lists`` says whom each of ``gateways`` lists at that moment. Serf itself would list who is gone for a day.
    """
    odd = {name: list(gateways) for name in names if not _NAME.fullmatch(name)}
    left = {name: list(gateways) for name in names if name not in odd}
    for late in looks(FORGET_TIMEOUT_S):
        for name in left:
            hosts.shell(gateways[0], (*_SERF, "force-leave", "-prune", name))
        # Hundreds may have come and gone: the gateways are asked for their lists once for all of them.
        listed = lists() if left else {}
        left = {name: by for name in left if (by := [gate for gate, known in listed.items() if name in known])}
        if late or not left:
            break
    return odd | left


def forget_strangers(
    cluster: Cluster, hosts: Hosts, names: Collection[str], gateways: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """`forget` members that the inventory does not know, by what the Serf agents of the gateways, or of these, list."""

    def lists() -> dict[str, set[str]]:
        listed = all_members(cluster, hosts, gateways)
        return {gate: {member.name for member in known} for gate, known in listed.items()}

    return forget(hosts, cluster.gateways if gateways is None else gateways, names, lists)
