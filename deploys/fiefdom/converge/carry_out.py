"""One converge as seen from above: a cluster and what its hosts answer become a plan, and a plan becomes changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from fiefdom.converge import guard, plan, steps
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster

DONE = "done"
"""What `carry_out` says last of a host that it changed."""


def left_by_turns(left: plan.Plan, before: plan.Plan) -> plan.Plan:
    """Of ``left``, what had to wait for the turns of ``before``: closing ports that no instance has any more."""
    moved = {host.host for host in before.hosts if plan.going_ports(host.state, host.snapshot)}
    return plan.Plan(
        tuple(
            replace(
                host, changes=tuple(c for c in host.due.changes if guard.cuts_line(c) and guard.topic(c) == "firewall")
            )
            for host in left.hosts
            if host.host in moved
        )
    )


def takes_turns(wanted: plan.Plan) -> bool:
    """Whether hosts may serve less while ``wanted`` is carried out, so that no other run may do the like meanwhile.

    Containers that are down, or not known because dockerd is, may be up by then: another run may just be at them.
    """
    return any(
        bool(host.changes)
        and (host.snapshot.docker == "down" or bool(host.snapshot.containers and host.of("container")))
        for host in wanted.due.hosts
    )


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


def carry_out(
    wanted: plan.Plan,
    hosts: Hosts,
    cluster: Cluster,
    say: Callable[[str, str], None],
    gate: Callable[[str], None] = lambda _: None,
    beat: Callable[[], None] = lambda: None,
    *,
    turns: bool = True,
) -> None:
    """Change hosts as ``wanted`` says, less what only a rollout does; ``say(host, text)`` hears of every phase.

    Hosts go side by side but for two phases. What could lock the operator out is done on the first host of each group
    alone, and on the others once it is confirmed there. Where a host could serve less, hosts take turns. The first
    error ends the run: what was done stays, and the next run finishes the rest. ``gate`` is called between two turns
    and raises FiefdomError where the host of the first does not serve again; ``beat`` before each turn, and raises it
    where the lock that this run held is another's by now. Without ``turns``, all is done but what is done in them.
    """
    wanted = wanted.due
    phases = {h.host: steps.phases(h, cluster.ssh.confirm_s) for h in wanted.hosts}
    registry = cluster.registry is not None
    require_space(wanted)

    def run(name: str, chosen: Iterable[steps.Phase]) -> None:
        for phase in chosen:
            say(name, phase.name)
            hosts.run(name, phase, registry)

    def finish(name: str) -> None:
        run(name, after(name))
        if phases[name]:
            say(name, DONE)

    def those(name: str, *wanted: str) -> list[steps.Phase]:
        return [p for p in phases[name] if p.name in wanted]

    def after(name: str) -> list[steps.Phase]:
        return those(name, "containers", "removal")

    if ahead := leaders(wanted, cluster):
        hosts.on_all(lambda name: run(name, those(name, "packages")), phases)
    for name in ahead:
        run(name, those(name, "access"))

    def rest(name: str) -> list[steps.Phase]:
        return [
            *(those(name, "packages") if not ahead else ()),
            *(those(name, "access") if name not in ahead else ()),
            *those(name, "files", "images"),
        ]

    hosts.on_all(lambda name: run(name, rest(name)), phases)
    if not turns:
        for name, own in phases.items():
            if own and not after(name):
                say(name, DONE)
        return
    # Gateways first, so that app hosts have somewhere to join.
    gateways = [h.host for h in wanted.hosts if any(c.role == "gateway" for c in h.state.containers)]
    # A service may move: who is to run it comes before who was.
    gaining = [h.host for h in wanted.hosts if h.host not in gateways and h.of("container", "+")]
    others = gaining + [name for name in phases if name not in gateways and name not in gaining]
    for group in (gateways, others):
        calm = [name for name in group if not any(p.interrupts for p in after(name))]
        hosts.on_all(finish, calm)
        before_this = ""
        for name in group:
            if name not in calm:
                if before_this:
                    gate(before_this)
                beat()
                finish(name)
                before_this = name


def require_space(wanted: plan.Plan) -> None:
    """Raise FiefdomError where a host's disk would not hold what it gets."""
    # Files are small; what fills a disk is packages and images, and half a gigabyte holds Docker's.
    for host in wanted.hosts:
        free = host.snapshot.free_kib
        needed = 600 * 1024 if host.of("package") else 200 * 1024 if host.of("image") else 1024 if host.changes else 0
        if free is not None and free < needed:
            raise FiefdomError(
                f"{host.host}: /var/lib has {free // 1024} MiB free of about {needed // 1024} that it needs; make room"
            )
