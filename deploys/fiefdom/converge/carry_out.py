"""One converge as seen from above: a cluster and what its hosts answer become a plan, and a plan becomes changes."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from fiefdom.converge import guard, plan, snapshot, steps
from fiefdom.converge.run import Hosts, Known
from fiefdom.desired import docker, firewall, gateway, network, serf, services, sshd
from fiefdom.desired.state import RELEASES, Context, HostState, Release, Secrets
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.waiting import looks

# In the order in which units come up: the firewall before what it protects, sshd when nothing can fail any more.
CONCERNS: Mapping[str, Callable[[Context], HostState]] = {
    "network": network.desired,
    "firewall": firewall.desired,
    "docker": docker.desired,
    "services": services.desired,
    "serf": serf.desired,
    "gateway": gateway.desired,
    "sshd": sshd.desired,
}
ALL = tuple(CONCERNS)

SETTLE_S = 1.0
SETTLED_WITHIN_S = 60
"""Seconds beyond a host's own limit within which it must have taken back what nobody confirmed."""

DONE = "done"
"""What `carry_out` says last of a host that it changed."""


def state_of(context: Context, concerns: Sequence[str] = ALL) -> HostState:
    """What a host should hold, as far as ``concerns`` say."""
    state = HostState()
    for name in concerns:
        state = state + CONCERNS[name](context)
    return state


def states_of(cluster: Cluster, name: str, secrets: Secrets, concerns: Sequence[str] = ALL) -> dict[Release, HostState]:
    """What a host should hold under each release that it may turn out to run."""
    return {release: state_of(Context(name, cluster, release, secrets), concerns) for release in RELEASES}


def plan_of(
    known: Known, name: str, lines: Iterable[str], concerns: Sequence[str] = ALL, hold: Collection[str] | None = None
) -> plan.HostPlan:
    """The plan of one host from the snapshot script's answer; ``hold`` is as in `plan.of_host`, None for all."""
    cluster = known.cluster
    found = snapshot.parse(name, lines)
    plan.require_supported(name, found)
    _require_way_back(cluster, name, found)
    release: Release = "bookworm" if found.release == "bookworm" else "trixie"
    hold = frozenset(cluster.services if hold is None else hold)
    context = Context(name, cluster, release, known.secrets)
    state = state_of(context, concerns)
    if _moves(state, found):
        # Its instances listen where the host will not be any more: none of them is worth waiting for a release.
        hold = frozenset()
    running = plan.running_versions(state, found, known.identities, hold)
    going = plan.going_ports(state, found)
    if running or going:
        # What the host says of itself must stay true until the release, and what it runs be reached until its turn.
        state = state_of(replace(context, running=running, going=going), concerns)
    return plan.of_host(name, state, found, known.identities, complete=tuple(concerns) == ALL, hold=hold)


def look(known: Known, names: Sequence[str], hosts: Hosts) -> dict[str, list[str]]:
    """The snapshot script's answers of ``names``, from one round trip to each."""
    states = {name: states_of(known.cluster, name, known.secrets) for name in names}
    return hosts.snapshot_lines({name: snapshot.query(states[name].values()) for name in names})


def make_plan(known: Known, names: Sequence[str], hosts: Hosts) -> plan.Plan:
    """The plan of ``names``: what apply does, and the releases that it leaves to a rollout."""
    answers = look(known, names, hosts)
    return plan.merge(plan_of(known, name, answers[name]) for name in names)


def settled_plan(known: Known, names: Sequence[str], hosts: Hosts, say: Callable[[str], None]) -> plan.Plan:
    """`make_plan`, once no host waits for the confirmation of an earlier run that died, or of another one under way.

    Raises FiefdomError where a host does not take it back in time.
    """
    wanted = make_plan(known, names, hosts)
    unconfirmed = _unconfirmed(wanted)
    if not unconfirmed:
        return wanted
    longest_s = max(unconfirmed.values())
    say(f"{', '.join(unconfirmed)}: an earlier change waits for its confirmation; for at most {longest_s} s")
    for late in looks(longest_s + SETTLED_WITHIN_S, SETTLE_S):
        wanted = make_plan(known, names, hosts)
        unconfirmed = _unconfirmed(wanted)
        if late or not unconfirmed:
            break
    if unconfirmed:
        raise FiefdomError(
            f"{', '.join(unconfirmed)}: an earlier change was neither confirmed nor taken back in time; look there at "
            "`systemctl status fiefdom-revert.timer fiefdom-revert.service`"
        )
    return wanted


def _unconfirmed(wanted: plan.Plan) -> dict[str, int]:
    return {h.host: h.snapshot.unconfirmed_s for h in wanted.hosts if h.snapshot.unconfirmed_s is not None}


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


def require_settled(wanted: plan.HostPlan) -> None:
    """Raise FiefdomError where the host may still take back a change, and with it what ``wanted`` was made from."""
    left_s = wanted.snapshot.unconfirmed_s
    if left_s is not None:
        raise FiefdomError(
            f"{wanted.host}: an earlier change waits for its confirmation; it takes itself back within "
            f"{max(left_s, 0)} s: try again then"
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


def _moves(state: HostState, found: snapshot.Snapshot) -> bool:
    """Whether the host's static address is about to change, or to become one."""
    wanted = {f.path: f.digest for f in state.files}.get(network.NETWORKD)
    now = found.files.get(network.NETWORKD)
    return wanted is not None and (now is None or now.digest != wanted)


def _require_way_back(cluster: Cluster, name: str, found: snapshot.Snapshot) -> None:
    # The commonest way to lock oneself out needs no try: the host itself says where the operator comes from.
    if not (cluster.network.firewall and found.client):
        return
    try:
        client = ipaddress.ip_address(found.client)
    except ValueError:
        return
    if not any(client in ipaddress.ip_network(cidr) for cidr in cluster.network.admin_cidrs):
        raise FiefdomError(
            f"{name}: your connection comes from {client}, which is in none of network.admin_cidrs, so that the "
            "firewall would shut you out; add it there"
        )


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
