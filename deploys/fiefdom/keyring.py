"""Another gossip key for the whole cluster, host by host under traffic, so that the old one is worth nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from fiefdom import converge, ledger, maintenance, membership, plan, release, rollout, secret, status, strangers
from fiefdom.concerns import gateway, serf
from fiefdom.containers import conf_path, env_path
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster

if TYPE_CHECKING:
    from fiefdom.engine import Session

LOOK_S = 0.5

Say = Callable[[str, str], None]
Ring = tuple[str, ...]
"""Keys of an agent: it encrypts with the first and understands all."""

# Not `serf keys -install`: it tells the new key to all who hold the old one, and an agent that starts again forgets it.
# Rings travel as files instead. Neighbours among `rings` understand each other, so an agent may start at any time.
ROUNDS = ("takes the new key beside the old one", "speaks with the new key", "forgets the old key")

# Fingerprints of an agent's keys, the first one first: no key ever stands in an argument, nor leaves the host.
_RING_SCRIPT = r"""
[ -e "$1" ] || exit 0
if grep -q '"keyring_file"' "$1"; then
  sed -n 's/^ *"\([^"]*\)",\{0,1\}$/\1/p' "$2"
else
  sed -n 's/^ *"encrypt_key": "\([^"]*\)",\{0,1\}$/\1/p' "$1"
fi | while IFS= read -r key; do printf '%s' "$key" | sha256sum | cut -c 1-64; done
"""


def rings(old: str, new: str) -> tuple[Ring, ...]:
    """The rings that every member goes through, from the old key alone to the new one alone."""
    return (old,), (old, new), (new, old), (new,)


def rotate(known: converge.Known, hosts: Session, *, force: bool, take_over: bool, say: Say) -> list[str]:
    """Bring a new gossip key to every member and take the old one away; what the operator has to do now, if anything.

    One that ended early is gone on with from where the hosts are. The new key takes the old one's place on this machine
    at the very end.

    Raises FiefdomError for a cluster that is not fit for it, unless ``force``, and where a member does not come back.
    """
    cluster, old = known.cluster, known.secrets.gossip_key
    why = "another gossip key"
    warn = _warn_with(say)
    with (
        ledger.hold(hosts, cluster.gateways, ledger.operator(), why, warn=warn, take_over=take_over) as held,
        held.recorded("rotate-key", names=hosts.names),
    ):
        hosts.on_all(lambda name: rollout.await_turn(hosts, name))
        found = rings_of(cluster, hosts)
        begun = _is_begun(found, old)
        if not (begun or force):
            _require_no_stranger(cluster, hosts, cluster.gateways)
            _require_fit(known, hosts)
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
            raise FiefdomError(f"{error}; the key is half way, and `fiefdom rotate-key` goes on from there") from error
        stayed = _left_out(cluster, hosts, say)
        left = secret.adopt_next(cluster)
        if stayed:
            # While both keys were valid, it may have asked a member for the new one.
            raise FiefdomError(
                f"{stayed[0]} is no host of the inventory and still a member, so it has the new key as well; stop its "
                f"agent, then run `fiefdom rotate-key` again{''.join(f'. {line}' for line in left)}"
            )
        return left


def _left_out(cluster: Cluster, hosts: Session, say: Say) -> list[strangers.Member]:
    """Let the cluster forget who is no host of the inventory; those who are members all the same."""
    for stranger in strangers.of(cluster, strangers.all_members(cluster, hosts)):
        say(stranger.name, "forget")
        if not strangers.forget(cluster, hosts, stranger.name):
            _warn_with(say)(f"{stranger}: the gateways still list it; who is left out is forgotten within a day")
    return _strangers_alive(cluster, hosts, cluster.gateways)


def _strangers_alive(cluster: Cluster, hosts: Session, gateways: Collection[str]) -> list[strangers.Member]:
    return strangers.living(cluster, strangers.all_members(cluster, hosts, gateways))


def _require_no_stranger(cluster: Cluster, hosts: Session, gateways: Collection[str]) -> None:
    for member in _strangers_alive(cluster, hosts, gateways):
        raise FiefdomError(
            f"{member} is a member and no host of the inventory: while both keys are valid it could ask the others "
            "for the new one; stop its agent first, or say --force"
        )


def touches_keys(wanted: Iterable[plan.HostPlan]) -> bool:
    """Whether a plan changes what an agent's keys stand in: then `require_same_key` has a say."""
    paths = {gateway.AGENT_CONFIG, serf.CONFIG, *_ring_paths()}
    return any(change.name in paths for host in wanted for change in host.of("file"))


def require_same_key(known: converge.Known, hosts: Session) -> None:
    """Raise FiefdomError where this machine's gossip key is not the one that the cluster speaks with.

    The hosts of ``hosts`` and all gateways that answer are asked. Where they differ, most of them are right and the
    others are drift, to be mended; of a part of the cluster only the gateways' word counts. Where nobody has a key yet,
    any will do.
    """
    cluster, names = known.cluster, set(hosts.names)
    found = {name: ring for name, ring in rings_of(cluster, hosts, names).items() if ring}
    others = [name for name in cluster.gateways if name not in names]
    found |= {name: ring for name, ring in _rings_that_answer(cluster, hosts, others).items() if ring}
    for name, ring in found.items():
        if len(ring) > 1:
            raise FiefdomError(f"{name}: another gossip key is on its way; `fiefdom rotate-key` brings it to all hosts")
    (own,) = fingerprints((known.secrets.gossip_key,))
    foreign = [name for name, ring in found.items() if ring[0] != own]
    gates = [name for name in cluster.gateways if name in found]
    everybody = names.issuperset(cluster.hosts)
    lead = _lead(found if everybody or not gates else gates, foreign) or _lead(gates, foreign)
    if foreign and lead <= 0:
        rest = "" if everybody else "; if one host alone is wrong, `fiefdom apply` without --limit mends it"
        raise FiefdomError(
            f"{', '.join(foreign)}: the gossip key there is not this machine's, and a member with another one is cut "
            f"off from the rest; bring the right key here, or let `fiefdom rotate-key` change it{rest}"
        )


def _lead(names: Collection[str], foreign: Collection[str]) -> int:
    """By how many hosts this machine's key is ahead."""
    return sum(-1 if name in foreign else 1 for name in names)


def _rings_that_answer(cluster: Cluster, hosts: Session, names: Collection[str]) -> dict[str, Ring]:
    found: dict[str, Ring] = {}
    for name in names:
        # A gateway that is down says nothing of the key; the plan's own hosts have answered already.
        with suppress(OSError, EOFError):
            found[name] = _ring_of(cluster, hosts, name)
    return found


def _ring_paths() -> set[str]:
    return {membership.ring_path(path) for path in (gateway.AGENT_CONFIG, serf.CONFIG)}


def fingerprints(ring: Ring) -> Ring:
    """What the keys of a ring are known by: they are random, so that no guess comes near them."""
    return tuple(hashlib.sha256(key.encode()).hexdigest() for key in ring)


def rings_of(cluster: Cluster, hosts: Session, names: Collection[str] | None = None) -> dict[str, Ring]:
    """Fingerprints of the keys that each host's agent starts with, the one it speaks with first; none without agent."""
    members = (*cluster.gateways, *cluster.app_hosts)
    asked = [name for name in members if names is None or name in names]
    return hosts.on_all(lambda name: _ring_of(cluster, hosts, name), asked)


def _ring_of(cluster: Cluster, hosts: Session, name: str) -> Ring:
    config = gateway.AGENT_CONFIG if name in cluster.gateways else serf.CONFIG
    ok, output, error = hosts.script(name, _RING_SCRIPT, [config, membership.ring_path(config)])
    if not ok:
        raise FiefdomError(f"{name}: {config} cannot be read: {' '.join(error.split())[:200]}")
    return tuple(output.split())


def _require_fit(known: converge.Known, hosts: Session) -> None:
    cluster = known.cluster
    wanted = converge.make_plan(known, hosts.names, hosts).due
    for host in wanted.hosts:
        # A run that died at its very beginning leaves a claim to a file that it had not made yet.
        for change in [c for c in host.changes if c.name not in _ring_paths()]:
            raise FiefdomError(
                f"{host.host}: another change is pending, {change.kind} {change.name}; `fiefdom apply` makes it first"
            )
    if reasons := release.degraded(status.read(cluster, known.secrets, hosts)):
        raise FiefdomError(f"the cluster is degraded: {reasons[0]}; mend it, or say --force")
    for service in sorted(cluster.services):
        running = [name for name in cluster.hosts if cluster.count(name, service)]
        if len(running) == 1:
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


def _round(known: converge.Known, hosts: Session, what: str, beat: Callable[[], None], force: bool, say: Say) -> None:
    """Let every host take a ring, one after the other; the next one when all members are there and serve."""
    cluster = known.cluster
    everybody = (*cluster.gateways, *cluster.app_hosts)
    first = True
    for name in everybody:
        beat()
        wanted = _of_the_key(converge.make_plan(known, [name], hosts))
        if not wanted.clean:
            if first and not force:
                # An earlier run may have ended here half way, so this host itself may be down.
                others = [other for other in everybody if other != name]
                gates = [gate for gate in cluster.gateways if gate != name or _answers(hosts, gate)]
                await_members(cluster, hosts, others, gates)
                for other in others:
                    maintenance.await_serving(cluster, hosts, other, gates)
                _require_no_stranger(cluster, hosts, gates)
            first = False
            say(name, what)
            converge.carry_out(wanted, hosts, cluster, lambda *_: None)
            await_members(cluster, hosts, [name] if force else everybody, cluster.gateways)
            maintenance.await_serving(cluster, hosts, name)
            say(name, converge.DONE)


def _of_the_key(wanted: plan.Plan) -> plan.Plan:
    """What of a plan is the ring's: what the agents read, and their containers. All else is left to an apply."""
    names = (gateway.NAME, serf.NAME)
    paths = {gateway.AGENT_CONFIG, serf.CONFIG, *_ring_paths(), *map(env_path, names), *map(conf_path, names)}

    def belongs(change: plan.Change) -> bool:
        return change.name in paths if change.kind == "file" else change.kind == "container" and change.name in names

    def kept(host: plan.HostPlan) -> plan.HostPlan:
        own = [change for change in host.changes if belongs(change)]
        return replace(host, changes=tuple(own + [c for c in host.of("record") if own]))

    return plan.merge(map(kept, wanted.due.hosts))


def await_members(cluster: Cluster, hosts: Session, names: Collection[str], gateways: Collection[str]) -> None:
    """Wait until the Serf agents of ``gateways`` have ``names`` alive. Raises FiefdomError where that takes long."""
    deadline = time.monotonic() + cluster.serf.join_timeout_s + 60
    while missing := _not_alive(cluster, hosts, names, gateways):
        if time.monotonic() > deadline:
            raise FiefdomError(missing)
        time.sleep(LOOK_S)


def _answers(hosts: Session, gate: str) -> bool:
    try:
        hosts.on_all(lambda gate: strangers.members(hosts, gate), [gate])
    except FiefdomError:
        return False
    return True


def _not_alive(cluster: Cluster, hosts: Session, names: Collection[str], gateways: Collection[str]) -> str | None:
    try:
        found = strangers.all_members(cluster, hosts, gateways)
    except FiefdomError as error:  # an agent that has just been started
        return str(error)
    for gate, listed in found.items():
        seen = {member.name: member.status for member in listed}
        for name in names:
            if seen.get(name) != "alive":
                return f"{name}: {gate} has it {seen.get(name, 'not at all')} as a member"
    return None


def _require_ring(cluster: Cluster, hosts: Session, ring: Ring) -> None:
    for name, found in rings_of(cluster, hosts).items():
        if found != fingerprints(ring):
            raise FiefdomError(f"{name}: its agent has other keys than it was given")


def _warn_with(say: Say) -> Callable[[str], None]:
    return lambda text: say("ledger", text)
