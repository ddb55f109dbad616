"""Another gossip key for the whole cluster, host by host under traffic, so that the old one is worth nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from fiefdom.cluster import ledger, locking, members, status, views
from fiefdom.cluster.keys import Ring, fingerprints, ring_paths, rings_of
from fiefdom.cluster.members import await_members
from fiefdom.converge import carry_out, look, plan, run
from fiefdom.converge.change import Change
from fiefdom.converge.run import HERE, Hosts, Say
from fiefdom.desired import gateway, serf
from fiefdom.desired.containers import conf_path, env_path
from fiefdom.errors import FiefdomError
from fiefdom.inventory import secret
from fiefdom.model import Cluster
from fiefdom.procedures import hooks, turn

# Not `serf keys -install`: it tells the new key to all who hold the old one, and an agent that starts again forgets it.
# Rings travel as files instead. Neighbours among `rings` understand each other, so an agent may start at any time.
ROUNDS = ("takes the new key beside the old one", "speaks with the new key", "forgets the old key")


def rings(old: str, new: str) -> tuple[Ring, ...]:
    """The rings that every member goes through, from the old key alone to the new one alone."""
    return (old,), (old, new), (new, old), (new,)


def rotate(known: run.Known, hosts: Hosts, *, force: bool, take_over: bool, say: Say) -> list[str]:
    """Bring a new gossip key to every member and take the old one away; what the operator has to do now, if anything.

    One that ended early is gone on with from where the hosts are. The new key takes the old one's place on this machine
    at the very end.

    Raises FiefdomError for a cluster that is not fit for it, unless ``force``, and where a member does not come back.
    """
    cluster, old = known.cluster, known.secrets.gossip_key
    why = "another gossip key"
    warn = _warn_with(say)
    with (
        hooks.around(known, hooks.Act("rotate-key", hosts.names), say) as around,
        locking.hold(hosts, cluster.gateways, ledger.operator(), why, warn=warn, take_over=take_over) as held,
        around.begun(held.beat),
        held.recorded("rotate-key", names=hosts.names),
    ):
        turn.await_turns(hosts, hosts.names, lambda text: say(HERE, text))
        found = rings_of(cluster, hosts)
        begun = _require_free_to_begin(known, hosts, found, force)
        new = secret.next_key(cluster, make=not begun)
        if new == old:
            raise FiefdomError(f"{secret.NEXT_VARIABLE}: is the present key; `openssl rand -base64 32` makes another")
        reached = _reached(found, rings(old, new))
        try:
            for number in range(max(1, reached), len(ROUNDS) + 1):
                ring = rings(old, new)[number]
                secrets = replace(known.secrets, gossip_key=ring[0], other_gossip_keys=ring[1:])
                _round(replace(known, secrets=secrets), hosts, ROUNDS[number - 1], held.beat, force, say)
                _require_ring(cluster, hosts, ring)
            _require_ring(cluster, hosts, (new,))
        except FiefdomError as error:
            half_way = FiefdomError(f"{error}; the key is half way, and `fiefdom rotate-key` goes on from there")
            raise half_way.with_log(error.log) from error
        stayed = _left_out(cluster, hosts, say)
        left = secret.adopt_next(cluster)
        if stayed:
            # While both keys were valid, it may have asked a member for the new one.
            raise FiefdomError(
                f"{stayed[0]} is no host of the inventory and still a member, so it has the new key as well; stop its "
                f"agent, then run `fiefdom rotate-key` again{''.join(f'. {line}' for line in left)}"
            )
        return left


def rounds_left(known: run.Known, hosts: Hosts, *, force: bool) -> tuple[str, ...]:
    """The rounds that `rotate` would go through, each with every member. Raises FiefdomError as that does."""
    found = rings_of(known.cluster, hosts)
    if not _require_free_to_begin(known, hosts, found, force):
        return ROUNDS
    new = secret.next_key(known.cluster, make=False)
    return ROUNDS[max(1, _reached(found, rings(known.secrets.gossip_key, new))) - 1 :]


def _require_free_to_begin(known: run.Known, hosts: Hosts, found: Mapping[str, Ring], force: bool) -> bool:
    """Whether an earlier run has begun. Raises FiefdomError for a cluster that is not fit for a first one."""
    begun = _is_begun(found, known.secrets.gossip_key)
    if not (begun or force):
        _require_no_stranger(known.cluster, hosts, known.cluster.gateways)
        _require_fit(known, hosts)
    return begun


def _left_out(cluster: Cluster, hosts: Hosts, say: Say) -> list[members.Member]:
    """Let the cluster forget who is no host of the inventory; those who are members all the same."""
    for stranger in members.of(cluster, members.all_members(cluster, hosts)):
        say(stranger.name, "forget")
        if members.forget_strangers(cluster, hosts, [stranger.name]):
            _warn_with(say)(f"{stranger}: the gateways still list it; who is left out is forgotten within a day")
    return _strangers_alive(cluster, hosts, cluster.gateways)


def _strangers_alive(cluster: Cluster, hosts: Hosts, gateways: Collection[str]) -> list[members.Member]:
    return members.living(cluster, members.all_members(cluster, hosts, gateways))


def _require_no_stranger(cluster: Cluster, hosts: Hosts, gateways: Collection[str]) -> None:
    for member in _strangers_alive(cluster, hosts, gateways):
        raise FiefdomError(
            f"{member} is a member and no host of the inventory: while both keys are valid it could ask the others "
            "for the new one; stop its agent first, or say --force"
        )


def _require_fit(known: run.Known, hosts: Hosts) -> None:
    cluster = known.cluster
    wanted = look.make_plan(known, hosts.names, hosts).due
    for host in wanted.hosts:
        # A run that died at its very beginning leaves a claim to a file that it had not made yet.
        for change in [c for c in host.changes if c.name not in ring_paths()]:
            raise FiefdomError(
                f"{host.host}: another change is pending, {change.kind} {change.name}; `fiefdom apply` makes it first"
            )
    status.require_fit(cluster, known.secrets, hosts)
    for service in sorted(cluster.services):
        running = cluster.runs_on(service)
        # What gateways do not have is not drained.
        if len(running) == 1 and cluster.is_routed(service):
            raise FiefdomError(
                f"{service} runs on {running[0]} only, which is drained three times meanwhile, so that requests fail; "
                "run it on another host as well, or say --force"
            )


def _is_begun(found: Mapping[str, Ring], old: str) -> bool:
    """Whether an earlier run gave hosts another key. Raises FiefdomError for a host that has no part in the cluster."""
    own = fingerprints((old,))
    if any(len(ring) > 1 for ring in found.values()) or not {own, ()} & set(found.values()):
        return True
    _require_known(found, {own: 0})
    return False


def _reached(found: Mapping[str, Ring], steps: tuple[Ring, ...]) -> int:
    """The furthest step that any host is at. Raises FiefdomError for one that is at none."""
    numbers = {fingerprints(ring): number for number, ring in enumerate(steps)}
    _require_known(found, numbers)
    return max(numbers[ring] for ring in found.values())


def _require_known(found: Mapping[str, Ring], rings: Collection[Ring]) -> None:
    for name, ring in found.items():
        if ring not in rings:
            what = "holds a gossip key that is neither the present nor the next one" if ring else "has no Serf agent"
            raise FiefdomError(f"{name}: {what}; `fiefdom apply` brings it into the cluster first")


def _round(known: run.Known, hosts: Hosts, what: str, beat: Callable[[], None], force: bool, say: Say) -> None:
    """Let every host take a ring, one after the other; the next one when all members are there and serve."""
    cluster = known.cluster
    everybody = (*cluster.gateways, *cluster.app_hosts)
    first = True
    for name in everybody:
        beat()
        wanted = _of_the_key(look.make_plan(known, [name], hosts))
        if not wanted.clean:
            if first and not force:
                # An earlier run may have ended here half way, so this host itself may be down.
                others = [other for other in everybody if other != name]
                gates = [gate for gate in cluster.gateways if gate != name or _answers(hosts, gate)]
                await_members(cluster, hosts, others, gates)
                for other in others:
                    views.await_serving(cluster, hosts, other, gates)
                _require_no_stranger(cluster, hosts, gates)
            first = False
            say(name, what)
            carry_out.carry_out(wanted, hosts, cluster, lambda *_: None)
            await_members(cluster, hosts, [name] if force else everybody, cluster.gateways)
            views.await_serving(cluster, hosts, name)
            say(name, carry_out.DONE)


def _of_the_key(wanted: plan.Plan) -> plan.Plan:
    """What of a plan is the ring's: what the agents read, and their containers. All else is left to an apply."""
    names = (gateway.NAME, serf.NAME)
    paths = {gateway.AGENT_CONFIG, serf.CONFIG, *ring_paths(), *map(env_path, names), *map(conf_path, names)}

    def belongs(change: Change) -> bool:
        return change.name in paths if change.kind == "file" else change.kind == "container" and change.name in names

    def kept(host: plan.HostPlan) -> plan.HostPlan:
        own = [change for change in host.changes if belongs(change)]
        return replace(host, changes=tuple(own + [c for c in host.of("record") if own]))

    return plan.merge(map(kept, wanted.due.hosts))


def _answers(hosts: Hosts, gate: str) -> bool:
    try:
        members.members(hosts, gate)
    except FiefdomError:
        return False
    return True


def _require_ring(cluster: Cluster, hosts: Hosts, ring: Ring) -> None:
    for name, found in rings_of(cluster, hosts).items():
        if found != fingerprints(ring):
            raise FiefdomError(f"{name}: its agent has other keys than it was given")


def _warn_with(say: Say) -> Callable[[str], None]:
    return lambda text: say("ledger", text)
