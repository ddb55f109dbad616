"""The order in which hosts change, as a value: what goes side by side, what goes ahead alone, and what takes turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fiefdom.converge import guard, plan, ports
from fiefdom.converge.passing import passed_on
from fiefdom.converge.steps import Phase, phases
from fiefdom.model import Cluster


@dataclass(frozen=True)
class Wave:
    """Phases that hosts go through before the next wave begins.

    ``together``: side by side. ``ahead``: one host, with what could lock the operator out. ``turn``: one host that may
    serve less meanwhile; ``after`` is the one before it, which must serve again by then.
    """

    kind: Literal["together", "ahead", "turn"]
    phases: Mapping[str, tuple[Phase, ...]]
    """By host, in the order of the inventory."""
    done: frozenset[str] = frozenset()
    """Hosts that are through with all of their phases then."""
    after: str = ""


def waves(wanted: plan.Plan, cluster: Cluster, *, turns: bool = True) -> tuple[Wave, ...]:
    """The waves of a plan, less what only a rollout does.

    What could lock the operator out is done on the first host of each group alone, and on the others once it is
    confirmed there. Then everything that no client notices. Then containers: gateways before the others, and in each
    group those that serve nothing yet before those that take turns. Without ``turns``, the waves before those.
    """
    wanted = wanted.due
    of = {host.host: phases(host, cluster.ssh.confirm_s) for host in wanted.hosts}
    ahead = leaders(wanted, cluster)
    found = []
    if ahead:
        found.append(Wave("together", {name: _named(of[name], "packages") for name in of}))
    found += [Wave("ahead", {name: _named(of[name], "access")}) for name in ahead]
    quiet = {
        name: _named(own, *(() if ahead else ("packages",)), *(() if name in ahead else ("access",)), "files", "images")
        for name, own in of.items()
    }
    through = frozenset() if turns else frozenset(name for name, own in of.items() if own and not _loud(own))
    found.append(Wave("together", quiet, through))
    if turns:
        for group in _groups(wanted):
            found += _in_turn({name: of[name] for name in group})
    return tuple(found)


def leaders(wanted: plan.Plan, cluster: Cluster) -> tuple[str, ...]:
    """Of the hosts with a change that could cut the line, the first of each group and topic: they go ahead, alone."""
    found: list[str] = []
    covered: set[tuple[str, str]] = set()
    for host in wanted.hosts:
        topics = {guard.topic(c) for c in host.changes if guard.cuts_line(c)}
        risks = {(group, topic) for topic in topics for group in cluster.hosts[host.host].groups}
        if not risks <= covered:
            found.append(host.host)
            covered |= risks
    return tuple(found)


def takes_turns(wanted: plan.Plan) -> bool:
    """Whether hosts may serve less while ``wanted`` is carried out, so that no other run may do the like meanwhile.

    Containers that are down, or not known because dockerd is, may be up by then: another run may just be at them.
    """
    return any(
        bool(host.changes)
        and (
            host.snapshot.docker == "down"
            or bool(host.snapshot.containers and host.of("container"))
            or bool(passed_on(host))
        )
        for host in wanted.due.hosts
    )


def left_by_turns(left: plan.Plan, before: plan.Plan) -> plan.Plan:
    """Of ``left``, what had to wait for the turns of ``before``: closing ports that no instance has any more."""
    moved = {host.host for host in before.hosts if ports.going_ports(host.state, host.snapshot)}
    return plan.Plan(
        tuple(
            replace(
                host, changes=tuple(c for c in host.due.changes if guard.cuts_line(c) and guard.topic(c) == "firewall")
            )
            for host in left.hosts
            if host.host in moved
        )
    )


def _groups(wanted: plan.Plan) -> tuple[list[str], list[str]]:
    """Gateways, so that app hosts have somewhere to join; then the others."""
    gateways = [h.host for h in wanted.hosts if any(c.role == "gateway" for c in h.state.containers)]
    # A service may move: who is to run it comes before who was.
    gaining = [h.host for h in wanted.hosts if h.host not in gateways and h.of("container", "+")]
    rest = [h.host for h in wanted.hosts if h.host not in gateways and h.host not in gaining]
    return gateways, gaining + rest


def _in_turn(group: Mapping[str, tuple[Phase, ...]]) -> Iterator[Wave]:
    calm = [name for name, own in group.items() if not any(phase.interrupts for phase in _loud(own))]
    if calm:
        yield Wave("together", {name: _loud(group[name]) for name in calm}, frozenset(n for n in calm if group[n]))
    before = ""
    for name, own in group.items():
        if name not in calm:
            yield Wave("turn", {name: _loud(own)}, frozenset([name]), before)
            before = name


def _loud(own: Iterable[Phase]) -> tuple[Phase, ...]:
    return _named(own, "containers", "removal")


def _named(own: Iterable[Phase], *names: str) -> tuple[Phase, ...]:
    return tuple(phase for phase in own if phase.name in names)
