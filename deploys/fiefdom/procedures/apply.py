"""Bring hosts to what the inventory says, under traffic: what no client notices, then turns, then a look back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from fiefdom.cluster import audit, gossip, keys, ledger, locking, members, status, views
from fiefdom.cluster.lock import quorum
from fiefdom.converge import arrivals, guard, look, old_images
from fiefdom.converge.carry_out import carry_out
from fiefdom.converge.change import in_order
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.converge.run import HERE, Hosts, Known, Say
from fiefdom.converge.waves import left_by_turns, takes_turns
from fiefdom.desired import offers
from fiefdom.desired.state import Offer
from fiefdom.errors import FiefdomError, Sick
from fiefdom.images import build
from fiefdom.procedures import hooks, tidy, turn
from fiefdom.wording import Tell

_AUDITED = 200
"""How many acts of the audit an apply looks back over for releases that a host missed."""


def apply(
    known: Known,
    hosts: Hosts,
    wanted: Plan,
    *,
    whatever: bool,
    exactly: bool = False,
    what: Literal["apply", "upgrade"] = "apply",
    fit: Callable[[str], None] = lambda _: None,
    say: Say,
    tell: Tell,
    warn: Tell,
) -> None:
    """Carry out a plan that somebody agreed to, and return only if a second look finds nothing left to do, and every
    app host is a member at every gateway, heard in both directions, and its offers are up.

    Hosts take turns under the cluster's lock, so that no other run takes one out meanwhile; an apply that is at work is
    waited for. What changed on the hosts since is done as well where ``whatever`` it is was agreed to. Where
    ``exactly`` this plan was, nothing is done before the lock is held and the plan is still the same. The audit and
    hooks call it ``what``; ``fit`` is asked before each turn, and raises FiefdomError where the host is to stay as it
    is. ``say`` hears of every phase of a host, ``tell`` of what the operator waits for, ``warn`` of what does not end
    the run.

    Raises:
        FiefdomError: what failed, on which host. What was done before stays, and the next run does the rest.
    """
    cluster = known.cluster
    gateways, witnesses = quorum(cluster, known.without)
    waits = locking.is_applied_to(hosts, (*gateways, *witnesses))
    # Another run may have brought another key while we asked.
    require_same_key(known, hosts, wanted.due.hosts)
    names = [host.host for host in wanted.due.hosts if host.changes]
    about: dict[str, Any] = {"names": names, "witnesses": witnesses, "without": known.without}
    with (
        hooks.around(known, hooks.Act(what, tuple(names)), say) as around,
        around.begun(),
        locking.recorded(hosts, gateways, what, warn, plan=wanted.hash, **about) as act,
    ):
        build.ensure(cluster, _images(wanted), lambda text: say(HERE, text))
        arrivals.require_fit(known, wanted.due)
        done = wanted
        sick: list[Sick] = []
        waits = waits or exactly
        if not waits:
            carry_out(wanted, hosts, cluster, say, turns=not takes_turns(wanted), sick=sick)
        if waits or takes_turns(wanted):
            with locking.hold_for_apply(act, names, tell) as held:
                done = _still_to_do(known, hosts, wanted, whatever, exactly, tell)
                gate = _gate(known, hosts, done, sick)
                carry_out(done, hosts, cluster, say, gate, held.beat, fit, sick=sick)
        status.await_gateways(wanted, hosts)
        left = _second_look(known, hosts, done, say)
        tidy.tell_left(left, warn)
        _forget_gone(known, hosts, say, warn)
        _require_well(sick)
        _require_nothing_left(left)
        members.require_believed(cluster, hosts, hosts.names)
        confirm(known, hosts, warn, closely=_touches_gossip(wanted) or _touches_gossip(done))


def with_missed(known: Known, hosts: Hosts, wanted: Plan) -> Known:
    """What is known, with the releases that went on without a host of ``wanted``, which still has the version before.

    Nobody else waits for such a release any more, so that an apply may bring it. One that others wait for as well is a
    rollout's. The audit is asked only where something is pending.
    """
    if not wanted.pending:
        return known
    versions = {name: service.version for name, service in known.cluster.services.items()}
    missed = audit.behind(ledger.read(hosts, known.gateways, _AUDITED).entries, versions)
    own: dict[str, set[str]] = {}
    others: set[str] = set()
    for pending in wanted.pending:
        for host in pending.hosts:
            # Other settings of the version that runs are news to this host as to any other.
            if pending.before != pending.after and pending.service in missed.get(host, ()):
                own.setdefault(host, set()).add(pending.service)
            else:
                others.add(pending.service)
    return replace(known, behind={host: frozenset(services - others) for host, services in own.items()})


def _gate(known: Known, hosts: Hosts, done: Plan, sick: Sequence[Sick]) -> Callable[[str], None]:
    """What waits between two turns: until a host serves again what it served before, and what it was to serve now."""
    cluster = known.cluster
    before = views.views_of(hosts, known.gateways)
    brought = {h.host: {c.resource.service for c in h.of("offer") if isinstance(c.resource, Offer)} for h in done.hosts}

    def gate(name: str) -> None:
        ill = {found.unit for error in sick if error.host == name for found in error.units}
        served = views.up(before, cluster, name)
        new = [i for i in cluster.routed(name) if i.service in brought[name] and i not in served]
        expected = [i for i in (*served, *new) if not {i.unit, offers.unit_of(i.service)} & ill]
        views.await_serving(cluster, hosts, name, known.gateways, expected)
        gossip.require(cluster, hosts, [name], known.gateways)

    return gate


def confirm(known: Known, hosts: Hosts, warn: Tell, *, closely: bool = False) -> None:
    """What an apply owes also where it has nothing to do: a cluster that hears its hosts. Raises FiefdomError."""
    asked = gossip.within_reach(hosts, known.gateways, warn)
    gossip.require(known.cluster, hosts, hosts.names, asked, closely=closely, offers=True)


def _touches_gossip(done: Plan) -> bool:
    """Whether a run changed who may send packets where, or who gets them."""
    return takes_turns(done) or any(guard.cuts_line(change) for host in done.due.hosts for change in host.changes)


def _require_well(sick: Sequence[Sick]) -> None:
    """Raise FiefdomError for services that did not come up, now that all else is done."""
    if sick:
        units = [f"{found.unit} on {error.host}" for error in sick for found in error.units]
        more = f" and {len(units) - 3} more" if len(units) > 3 else ""
        words = (
            f"{', '.join(units[:3])}{more} did not come up: {sick[0].units[0].reason}; all else is done, "
            "and systemd goes on trying; mend the service and apply again"
        )
        raise FiefdomError(words).with_log(sick[0].units[0].log)


def require_same_key(known: Known, hosts: Hosts, plans: Iterable[HostPlan]) -> None:
    """As `keys.require_same_key`, where one of ``plans`` changes what an agent's keys stand in."""
    if keys.touches_keys(plans):
        keys.require_same_key(known, hosts)


def _images(wanted: Plan) -> set[str]:
    return {change.name for host in wanted.due.hosts for change in host.of("image", "+", "~")}


def _still_to_do(known: Known, hosts: Hosts, agreed: Plan, whatever: bool, exactly: bool, tell: Tell) -> Plan:
    """What is left of a plan, now that no other run changes hosts; with ``whatever``, all else that there is by now.

    Raises FiefdomError for a change that nobody agreed to.
    """
    # A host may be at a turn whose operator is gone.
    turn.await_turns(hosts, hosts.names, tell)
    left = look.settled_plan(known, hosts.names, hosts, tell)
    if exactly and left.hash != agreed.hash:
        raise FiefdomError(f"the plan is {left.hash} by now, and not {agreed.hash}; nothing was done")
    # What ran on a host whose dockerd was down is only known now.
    blind = {h.host for h in agreed.hosts if h.snapshot.docker == "down"}
    expected = {(h.host, c.kind, c.name) for h in agreed.due.hosts for c in h.changes}
    others = [
        f"{h.host}: {c.kind} {c.name}"
        for h in left.due.hosts
        for c in h.changes
        if h.host not in blind and c.kind != "record" and (h.host, c.kind, c.name) not in expected
    ]
    if others and not whatever:
        raise FiefdomError(f"the hosts changed since this run looked at them ({others[0]}); run it again")
    if others:
        tell(f"the hosts changed since this run looked at them; it does what is left now, {others[0]} as well")
    require_same_key(known, hosts, left.due.hosts)
    return left


def _second_look(known: Known, hosts: Hosts, done: Plan, say: Say) -> Plan:
    """What is left after the run, once ports are closed that the turns of ``done`` left without an instance, and images
    are gone that it left without a use.
    """
    known, left = tidy.with_spared(known, hosts, look.make_plan(known, hosts.names, hosts))
    ports = {host.host: host.changes for host in left_by_turns(left, done).hosts}
    old = old_images.removals(left)
    closing = Plan(tuple(replace(h, changes=in_order([*ports.get(h.host, ()), *h.changes])) for h in old.hosts))
    if closing.clean:
        return left
    carry_out(closing, hosts, known.cluster, say)
    return look.make_plan(known, hosts.names, hosts)


def _require_nothing_left(left: Plan) -> None:
    changes = [(h.host, c) for h in left.due.hosts for c in h.changes if not old_images.is_removal(c)]
    if changes:
        missing = [f"{name}: {c.kind} {c.name} ({c.why})" for name, c in changes]
        raise FiefdomError(f"not converged, {len(missing)} left after the run: {'; '.join(missing[:3])}")


def _forget_gone(known: Known, hosts: Hosts, say: Say, warn: Tell) -> None:
    """What `members.forget_gone` does, where it can: the hosts are converged, whatever becomes of this."""
    try:
        for name in members.forget_gone(known.cluster, hosts, known.gateways):
            say(name, "forgotten, for it left the inventory")
    except FiefdomError as error:
        warn(f"members that left the inventory may still be listed: {error}")
