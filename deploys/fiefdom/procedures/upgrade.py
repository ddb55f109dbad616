"""Bring a cluster to this Fiefdom's own images and files, host after host, with no request failed.

Gateways take their turns before app hosts, for they read what agents say: a gateway understands the words of the
Fiefdom before it as well, but an older one refuses the offers of an agent whose words it does not know.
A gateway hands its sockets over and is out of service for no moment; an app host leaves the rotation, for its agent is
another one afterwards. Its instances run on.
"""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom import RELEASE
from fiefdom.cluster import status
from fiefdom.converge import made_by, old_images
from fiefdom.converge.change import Change
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.converge.run import Hosts, Known, Say
from fiefdom.converge.waves import waves
from fiefdom.desired.containers import FAILED
from fiefdom.errors import FiefdomError
from fiefdom.grouping import grouped
from fiefdom.model import Cluster
from fiefdom.procedures import reboot, release, turn
from fiefdom.procedures.apply import apply
from fiefdom.wording import Tell

FIT_S = 60
"""Seconds in which the cluster must be whole again between two turns: HAProxy's checks and gossip take some."""
_BEGIN_S = 5
"""Seconds in which it must be before the first: the turn that a killed run has left may just have ended."""


def upgrade(
    known: Known,
    hosts: Hosts,
    wanted: Plan,
    *,
    whatever: bool,
    force: bool,
    say: Say,
    tell: Tell,
    warn: Tell,
) -> None:
    """Carry out what `apply` would, and take no host out of rotation but while all others serve.

    What no client notices comes first, on all hosts. A run that was killed is gone on with by the same command: the
    host that it was at comes first, and is the one that nothing is asked of before.

    Raises:
        FiefdomError: the cluster is not whole, unless ``force``; or what failed, on which host. The hosts after it
            are as they were.
    """
    if not force:
        require_fit(known, hosts, wanted)

    def fit(name: str) -> None:
        if not force:
            status.await_fit(known.cluster, known.secrets, hosts, name, FIT_S)

    apply(known, hosts, wanted, whatever=whatever, what="upgrade", fit=fit, say=say, tell=tell, warn=warn)


def settle(hosts: Hosts, tell: Tell) -> None:
    """Let hosts end the turns of a run that is gone; ``tell`` hears of those. Raises FiefdomError where one takes too
    long.
    """
    turn.await_turns(hosts, hosts.names, tell)


def is_due(wanted: Plan) -> bool:
    """Whether some host is not this Fiefdom's yet, or has images left of the one before."""
    return any(
        made_by.version_of(host.snapshot) != RELEASE
        or any(_is_own(change) or old_images.is_removal(change) for change in host.changes)
        for host in wanted.due.hosts
    )


def _is_own(change: Change) -> bool:
    return getattr(change.resource, "role", "") in made_by.OWN_ROLES


def of_inventory(wanted: Plan) -> tuple[str, ...]:
    """What of a plan no other Fiefdom brings: hosts, services, instances or versions that the inventory wants anew.

    Other keys end in the same files as Fiefdom's own changes do, and cannot be told from them: a plan shows both.
    """
    return (*(words for host in wanted.hosts for words in _of_inventory(host)), *_releases(wanted))


def _of_inventory(host: HostPlan) -> Iterator[str]:
    containers = host.snapshot.containers
    if host.snapshot.docker != "down" and not any(found.ours for found in containers.values()):
        yield f"{host.host} is not set up yet"
        return
    for change in host.of("container", "+", "-"):
        if change.sign == "+" and getattr(change.resource, "role", "") == "instance":
            yield f"{change.name} is to come to {host.host}"
        found = containers.get(change.name)
        if change.sign == "-" and found is not None and found.role == "instance" and not change.name.endswith(FAILED):
            yield f"{change.name} is to go from {host.host}"


def _releases(wanted: Plan) -> Iterator[str]:
    # With the same version, it may be this Fiefdom that makes instances otherwise: that waits for a rollout, as ever.
    yield from (str(pending) for pending in wanted.pending if pending.before != pending.after)


def require_no_changes(wanted: Plan) -> None:
    """Raise FiefdomError where the inventory wants more of the hosts than another Fiefdom."""
    if found := of_inventory(wanted):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise FiefdomError(
            f"the inventory has changes of its own: {found[0]}{more}; do them first with the Fiefdom that the hosts "
            "are of, or say --with-changes"
        )


def turns(wanted: Plan, cluster: Cluster) -> tuple[str, ...]:
    """Hosts that take turns, in their order."""
    return tuple(name for wave in waves(wanted, cluster) if wave.kind == "turn" for name in wave.phases)


def require_fit(known: Known, hosts: Hosts, wanted: Plan) -> None:
    """Raise FiefdomError where the first turn could not begin, or one would leave a service without any host."""
    cluster, names = known.cluster, turns(wanted, known.cluster)
    if not names:
        return
    status.await_fit(cluster, known.secrets, hosts, names[0], _BEGIN_S)
    # What gateways do not have is in no rotation, and its instances run on.
    others = [name for name in cluster.services if cluster.is_routed(name) and not cluster.pauses(name)]
    release.require_others(cluster, others, [[name] for name in names if name in cluster.app_hosts])


def foreseen(wanted: Plan, cluster: Cluster) -> Iterator[str]:
    """What a person is told before: from which Fiefdom, in which order, and who pauses."""
    before = grouped((made_by.version_of(host.snapshot), host.host) for host in wanted.hosts)
    for version, names in before.items():
        if version != RELEASE:
            yield f"Fiefdom {version or 'none'} -> {RELEASE}: {', '.join(names)}."
    order = turns(wanted, cluster)
    if order:
        yield f"Turns, each when all others serve: {', '.join(order)}."
    for name in order:
        for service in reboot.pausing(cluster, name) if name in cluster.app_hosts else ():
            yield f"{service} pauses while {name} has its turn: its one instance is there."
