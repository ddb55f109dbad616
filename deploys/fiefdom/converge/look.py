"""What hosts hold and what becomes of it: from the snapshot script's answers to the plan of a run."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fiefdom.converge import arrivals, doctor, guest, jobs, made_by, moving, obtained, old_images, plan, ports, snapshot
from fiefdom.converge.differences import of_instances
from fiefdom.converge.run import Hosts, Known, ask_each
from fiefdom.desired.concerns import ALL, state_of, states_of
from fiefdom.desired.context import Context
from fiefdom.desired.state import Codename, HostState
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.waiting import looks, pause

SETTLE_S = 1.0
SETTLED_WITHIN_S = 60
"""Seconds beyond a host's own limit within which it must have taken back what nobody confirmed."""


def plan_of(
    known: Known,
    name: str,
    lines: Iterable[str],
    concerns: Sequence[str] = ALL,
    hold: Collection[str] | None = None,
    states: Mapping[Codename, HostState] | None = None,
) -> plan.HostPlan:
    """The plan of one host from the snapshot script's answer; ``hold`` is as in `plan.of_host`, None for
    all but those that the host is behind with.

    ``states`` are what `states_of` says of the host and ``concerns``, where somebody asked it already.
    """
    cluster = known.cluster
    found = snapshot.parse(name, lines)
    plan.require_supported(name, found)
    _require_way_back(cluster, name, found)
    codename: Codename = "bookworm" if found.codename == "bookworm" else "trixie"
    hold = frozenset(cluster.services.keys() - known.behind.get(name, ()) if hold is None else hold)
    context = Context(name, cluster, codename, known.secrets)
    wanted = states[codename] if states is not None else state_of(context, concerns)
    state = guest.adapted(wanted, found.packages, found.guest)
    if _listens_elsewhere(found, cluster.hosts[name].address):
        # Nobody will ask its instances where they listen: none of them is worth waiting for a release.
        hold = frozenset()
    # Worked out once, for whatever the host says of itself until a release, its instances are the same.
    instances = of_instances(state, found, known.identities)
    running = plan.running_versions(instances, found, hold)
    checks = ports.running_checks(instances, found, hold)
    going = ports.going_ports(state, found)
    if running or going:
        # What the host says of itself must stay true until the release, and what it runs be reached until its turn.
        held = replace(context, running=running, checks=checks, going=going)
        state = guest.adapted(state_of(held, concerns), found.packages, found.guest)
    complete = tuple(concerns) == ALL
    made = plan.of_host(name, state, found, known.identities, complete=complete, hold=hold, instances=instances)
    findings = (
        *made_by.findings(found),
        *doctor.of_folders(state, found),
        *doctor.of_masked(state, found),
        *doctor.of_links(context, found),
        *doctor.of_certificates(context, time.time()),
        *obtained.findings(context, found, time.time()),
        *moving.of_address(context, found),
    )
    made = replace(made, findings=(*findings, *doctor.findings(context, found)))
    return old_images.with_old(made, cluster.rollout.keep_releases, known.spared) if complete else made


def look(known: Known, names: Sequence[str], hosts: Hosts) -> dict[str, list[str]]:
    """The snapshot script's answers of ``names``, from one round trip to each."""
    return _look(_states(known, names), hosts)


def _states(known: Known, names: Sequence[str]) -> dict[str, dict[Codename, HostState]]:
    return {name: states_of(known.cluster, name, known.secrets) for name in names}


def _look(states: Mapping[str, Mapping[Codename, HostState]], hosts: Hosts) -> dict[str, list[str]]:
    return hosts.snapshot_lines({name: snapshot.query_of(of) for name, of in states.items()})


@dataclass(frozen=True)
class Seen:
    """What hosts answered, and what was asked: plans of one moment, as many as somebody wants."""

    known: Known
    states: Mapping[str, Mapping[Codename, HostState]] = field(repr=False)
    answers: Mapping[str, Sequence[str]] = field(repr=False)

    def plan(self, hold: Collection[str] | None = None) -> plan.Plan:
        """The plan of all hosts that were asked, whatever findings it has; ``hold`` as in `plan_of`."""
        return plan.merge(
            plan_of(self.known, name, self.answers[name], hold=hold, states=states)
            for name, states in self.states.items()
        )


def see(known: Known, names: Sequence[str], hosts: Hosts) -> Seen:
    """Look at ``names``, in one round trip to each. Raises FiefdomError where hosts do not answer."""
    states = _states(known, names)
    return Seen(known, states, _look(states, hosts))


def make_plan(known: Known, names: Sequence[str], hosts: Hosts, silent: dict[str, str] | None = None) -> plan.Plan:
    """The plan of ``names``: what apply does, and the releases that it leaves to a rollout.

    A host that does not answer raises, or is left out where ``silent`` is there to be told of it and why. Raises
    FiefdomError where a host has something of its own with which apply would do harm; see `doctor`.
    """
    if silent is None:
        found = {host.host: host for host in see(known, names, hosts).plan().hosts}
    else:
        states = _states(known, names)

        def ask(name: str) -> plan.HostPlan:
            return plan_of(known, name, _look({name: states[name]}, hosts)[name], states=states[name])

        found, reasons = ask_each(hosts, ask, names)
        silent.clear()
        silent.update(reasons)
    found = arrivals.judged(known, found.values())
    for name, host in found.items():
        doctor.require_none_refused(name, host.findings)
    return plan.merge(found.values())


def diagnose(
    known: Known, names: Sequence[str], hosts: Hosts
) -> tuple[dict[str, tuple[doctor.Finding, ...]], dict[str, str]]:
    """By host, what it has of its own that is in the way or is to be known, and whatever else `apply` would refuse.

    And by host that does not answer, the reason.
    """
    states = _states(known, names)
    seen: dict[str, snapshot.Snapshot] = {}

    def ask(name: str) -> tuple[doctor.Finding, ...]:
        answer = _look({name: states[name]}, hosts)[name]
        now_s = time.time()
        try:
            host = arrivals.judged(known, [plan_of(known, name, answer, states=states[name])])[name]
        except FiefdomError as error:
            return (doctor.Finding("refused", "apply", str(error).removeprefix(f"{name}: ")),)
        seen[name] = host.snapshot
        clock_s = host.snapshot.guest.clock_s
        return host.findings + doctor.of_clock(None if clock_s is None else clock_s - now_s)

    found, silent = ask_each(hosts, ask, names)
    for name, finding in jobs.findings(known.cluster, seen):
        found[name] = (*found[name], finding)
    for name, finding in moving.of_all(known.cluster, seen).items():
        found[name] += (finding,)
    return found, silent


def settled_plan(
    known: Known,
    names: Sequence[str],
    hosts: Hosts,
    say: Callable[[str], None],
    silent: dict[str, str] | None = None,
) -> plan.Plan:
    """`make_plan`, once no host waits for the confirmation of an earlier run that died, or of another one under way.

    Raises FiefdomError where a host does not take it back in time.
    """
    wanted = make_plan(known, names, hosts, silent)
    unconfirmed = _unconfirmed(wanted)
    if not unconfirmed:
        return wanted
    longest_s = max(unconfirmed.values())
    say(f"{', '.join(unconfirmed)}: an earlier change waits for its confirmation; for at most {longest_s} s")
    pause(SETTLE_S)
    for late in looks(longest_s + SETTLED_WITHIN_S, SETTLE_S):
        wanted = make_plan(known, names, hosts, silent)
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


def require_settled(wanted: plan.HostPlan) -> None:
    """Raise FiefdomError where the host may still take back a change, and with it what ``wanted`` was made from."""
    left_s = wanted.snapshot.unconfirmed_s
    if left_s is not None:
        raise FiefdomError(
            f"{wanted.host}: an earlier change waits for its confirmation; it takes itself back within "
            f"{max(left_s, 0)} s: try again then"
        )


def _listens_elsewhere(found: snapshot.Snapshot, address: str) -> bool:
    """Whether instances listen at an address that the host has no more, or is about to give up."""
    instances = [c for c in found.containers.values() if c.ours and c.role == "instance"]
    return any(c.listens not in ("", "0.0.0.0", address) for c in instances)  # noqa: S104


def _require_way_back(cluster: Cluster, name: str, found: snapshot.Snapshot) -> None:
    # The commonest way to lock oneself out needs no try: the host itself says where the operator comes from.
    try:
        client = ipaddress.ip_address(found.client)
    except ValueError:
        return
    for key, cidr in (("bridge_address", cluster.docker.bridge_address), ("address_pool", cluster.docker.address_pool)):
        if client in ipaddress.ip_network(cidr, strict=False):
            raise FiefdomError(
                f"{name}: your connection comes from {client}, which docker.{key} {cidr} would take for containers, so "
                "that no answer would reach you; choose a free network"
            )
    if cluster.network.firewall and not any(
        client in ipaddress.ip_network(cidr) for cidr in cluster.network.admin_cidrs
    ):
        raise FiefdomError(
            f"{name}: your connection comes from {client}, which is in none of network.admin_cidrs, so that the "
            "firewall would shut you out; add it there"
        )
