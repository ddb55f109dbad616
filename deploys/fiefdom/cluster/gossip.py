"""Gossip between app hosts and gateways, in both directions: whom only one side hears is no member for long."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fiefdom.cluster import members, views
from fiefdom.converge.run import Hosts, side_by_side
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.model import Cluster
from fiefdom.waiting import looks
from fiefdom.wording import Tell, printable

SCRIPT = (Path(__file__).parent / "gossip.sh").read_text()
SETTLE_S = 30
"""How long agents that have just started may take to find each other."""
_PATIENCE_MS = 500
_MOST_PATIENCE_MS = 2000
_SHOWN = 3
_AT_ONCE = 25
"""Hosts that ask at once: each question travels through the whole cluster's gossip."""


@dataclass(frozen=True)
class Heard:
    """What a host says of others, by their names: who is a member and how, whom it cannot reach, who answered it."""

    listed: Mapping[str, str] | None = None
    """Status by member, in Serf's word; None where the host's agent does not answer."""
    closed: Mapping[str, str] = field(default_factory=dict)
    """Who takes no connection from it, and why."""
    answered: frozenset[str] | None = None
    """Whose agent answered; None where nobody was asked."""


def require(
    cluster: Cluster,
    hosts: Hosts,
    names: Collection[str],
    gateways: Collection[str],
    *,
    closely: bool = True,
    offers: bool = False,
) -> None:
    """Return once each app host of ``names`` is an alive member at each of ``gateways``, and these are at it, and the
    gossip port lets both through: connections, and packets as well if ``closely``, which takes half a second and more.
    With ``offers``, all that these hosts are to offer has to be up there, too.

    Raises FiefdomError after `SETTLE_S` with what is missing still: host, port and direction.
    """
    names = [name for name in names if name in cluster.app_hosts]
    some = _AT_ONCE if closely else len(names)
    for first in range(0, len(names), some or 1):
        _settle(cluster, hosts, names[first : first + some], gateways, _PATIENCE_MS if closely else 0, offers)


def _settle(
    cluster: Cluster,
    hosts: Hosts,
    waiting: Sequence[str],
    gateways: Collection[str],
    patience_ms: int,
    offers: bool,
) -> None:
    for late in looks(SETTLE_S):
        heard, found = _ask(cluster, hosts, waiting, gateways, patience_ms)
        lacks: dict[str, list[str]] = {}
        for name in waiting:
            lacks[name] = faults(cluster, [name], gateways, {key: heard[key] for key in (name, *gateways)})
            if offers and not lacks[name]:
                lacks[name] = not_offered(cluster, [name], found)
        # Who was well once need not be so again: with hundreds, one is always busy.
        waiting = [name for name in waiting if lacks[name]]
        missing = list(dict.fromkeys(says for each in lacks.values() for says in each))
        if not missing:
            return
        if late:
            more = f"; and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise FiefdomError("; ".join(missing[:_SHOWN]) + more)
        patience_ms = min(2 * patience_ms, _MOST_PATIENCE_MS)


def _ask(
    cluster: Cluster, hosts: Hosts, names: Collection[str], gateways: Collection[str], patience_ms: int
) -> tuple[dict[str, Heard], dict[str, views.View]]:
    """What hosts and gateways say of each other, and what the gateways say of themselves."""

    def ask(here: str) -> Heard:
        return parse(hosts.script(here, SCRIPT, question(cluster, here, names, gateways, patience_ms), timeout_s=30)[1])

    # Each takes as long as the other.
    heard, found = side_by_side(
        hosts, lambda: hosts.on_all(ask, dict.fromkeys([*gateways, *names])), lambda: views.views_of(hosts, gateways)
    )
    for name, view in found.items():
        # One whose agent does not answer tells whom it listed before.
        knows = view.silence is None and view.serf.ok
        heard[name] = replace(heard[name], listed={m.name: m.status for m in view.members} if knows else None)
    return heard, found


def question(
    cluster: Cluster, here: str, names: Collection[str], gateways: Collection[str], patience_ms: int
) -> list[str]:
    """The arguments of `SCRIPT` on the host ``here``: a gateway is asked about app hosts ``names``, these about it."""
    others = names if here in gateways else gateways
    pairs = [word for name in others for word in (name, cluster.hosts[name].address)]
    container, role = ("gateway", "app") if here in gateways else ("serf-agent", "gateway")
    return [container, str(cluster.serf.port), role, str(patience_ms), *pairs]


def within_reach(hosts: Hosts, gateways: Collection[str], warn: Tell) -> list[str]:
    """Those of ``gateways`` that are this run's own, or connected; of the others it is told that nobody looked."""

    def is_there(name: str) -> bool:
        try:
            return name in hosts.names or bool(hosts.shell(name, ("true",)))
        except Unreachable as error:
            warn(f"{error}; whether gossip passes between it and the hosts was not looked at")
            return False

    return [name for name, there in hosts.on_all(is_there, gateways).items() if there]


def faults(
    cluster: Cluster, names: Collection[str], gateways: Collection[str], heard: Mapping[str, Heard]
) -> list[str]:
    """What is wrong between app hosts and gateways, a sentence each, by what all of them say. Pure."""
    found = [f"{name}: its Serf agent does not answer" for name, said in heard.items() if said.listed is None]
    for name in names:
        for gateway in gateways:
            found += _between(cluster, name, gateway, heard)
    return found


def _between(cluster: Cluster, name: str, gateway: str, heard: Mapping[str, Heard]) -> list[str]:
    """Of one app host and one gateway: what does not pass, or where all does, who is no member of whom."""
    ways = [(gateway, name), (name, gateway)]
    found = [_way(cluster, here, there, "tcp", why) for here, there in ways if (why := heard[here].closed.get(there))]
    deaf = [way for way in ways if (said := heard[way[0]]).answered is not None and way[1] not in said.answered]
    if len(deaf) == 1 and not found:
        # A question finds its way by others as well; only the answer comes straight back.
        here, there = deaf[0]
        found = [_way(cluster, there, here, "udp", "its answers get lost")]
    elif deaf and not found:
        found = [_way(cluster, gateway, name, "udp", "no answer, neither there nor back")]
    return found or [
        f"{name}: {here} {_listing(listed.get(there), 'it' if there == name else there)}"
        for here, there in ways
        if (listed := heard[here].listed) is not None and listed.get(there) != "alive"
    ]


def _listing(status: str | None, whom: str) -> str:
    return f"does not list {whom} as a member" if status is None else f"lists {whom} as {status}, not as alive"


def _way(cluster: Cluster, here: str, there: str, protocol: str, why: str) -> str:
    """A sentence about one direction, which begins with the host that has the port."""
    start, end = cluster.hosts[here].address, cluster.hosts[there].address
    return f"{there}: port {cluster.serf.port}/{protocol} of {end} cannot be reached from {here} ({start}): {why}"


def not_offered(cluster: Cluster, names: Collection[str], found: views.Views) -> list[str]:
    """Which services of hosts are not offered at a gateway that answers, or have no server up there. Pure."""
    missing = []
    for gateway, view in found.items():
        if view.silence is not None:
            missing.append(f"{gateway}: the gateway does not answer: {view.silence}")
            continue
        up = {(server.host, server.service) for server in view.servers if server.state == "up"}
        for name in names:
            for service in dict.fromkeys(i.service for i in cluster.routed(name)):
                if service not in view.offers_of(name):
                    missing.append(f"{name}: {gateway} does not have its offer of {service}")
                elif (name, service) not in up:
                    missing.append(f"{name}: {gateway} has no instance of {service} up there")
    return missing


def parse(answer: str) -> Heard:
    """The answer of gossip.sh; what cannot be understood of it was not said."""
    listed, answered, closed = None, None, {}
    for line in answer.splitlines():
        word, _, rest = line.partition("\t")
        if word == "members":
            with_status = members.parse(rest)
            listed = None if with_status is None else {member.name: member.status for member in with_status}
        elif word == "acks":
            answered = _acks(rest)
        elif word == "closed":
            name, _, why = rest.partition("\t")
            closed[name] = printable(why)[:200]
    return Heard(listed, closed, answered)


def _acks(document: str) -> frozenset[str]:
    try:
        return frozenset(str(name) for name in json.loads(document)["Acks"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return frozenset()
