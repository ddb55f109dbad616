"""A host leaves the cluster for good: drained, cleared, forgotten."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from fiefdom.cluster import answering, ledger, locking, members, views
from fiefdom.cluster.views import views_of
from fiefdom.converge import carry_out, originals, plan, run, snapshot, turn_steps
from fiefdom.converge.change import Change
from fiefdom.converge.run import HERE, Hosts, Say
from fiefdom.desired import network
from fiefdom.desired.state import HostState
from fiefdom.errors import FiefdomError, HostError
from fiefdom.model import Cluster
from fiefdom.procedures import hooks, release, turn
from fiefdom.wording import printable

# What lets the operator in and the host be found stays when Fiefdom goes, or becomes what it was before.
_STAYS = (
    "/etc/ssh/",
    "/etc/systemd/system/ssh.service.d",  # or sshd would not wait at boot for the address that it listens at
    "/etc/systemd/network/",
    "/etc/hosts",  # where an earlier Fiefdom wrote the whole; else only a block of it goes
    originals.HOSTNAME,
    "/etc/resolv.conf",
    "/etc/systemd/timesyncd",
)


def retire(
    known: run.Known, hosts: Hosts, name: str, *, force: bool, take_over: bool, say: Say, volumes: Collection[str] = ()
) -> None:
    """Take a host out of the cluster for good: drained, as it was before Fiefdom, and forgotten by all members.

    What Fiefdom made goes, and what it replaced comes back. What lets the operator in stays: sshd's settings and
    addresses. Packages stay as well, and so do volumes, unless ``volumes`` are their paths.

    Raises FiefdomError for a host that the cluster cannot do without, unless ``force``.
    """
    cluster = known.cluster
    remaining = _remaining(cluster, name, force)
    who, why = ledger.operator(), f"retire {name}" + " with its volumes" * bool(volumes)
    with (
        hooks.around(known, hooks.Act("retire", (name,)), say) as around,
        locking.hold(hosts, remaining, who, why, warn=lambda text: say("ledger", text), take_over=take_over) as held,
    ):
        # A host may be at a turn that lost its operator, and serve in a moment what nobody else does now.
        turn.await_turns(hosts, hosts.names, lambda text: say(HERE, text))
        gone = _farewell(cluster, hosts, name, remaining, force)
        if volumes and (more := gone.snapshot.volumes - set(volumes)):
            raise FiefdomError(f"{name}: has another volume by now, {min(more)}; nothing was done, run it again")
        with around.begun(held.beat), held.recorded("retire", plan=plan.merge([gone]).hash, names=[name]):
            _let_go(hosts, remaining, gone, say, volumes=bool(volumes))


def volumes_of(hosts: Hosts, name: str) -> tuple[str, ...]:
    """Paths of the volumes that Fiefdom keeps on a host, whether a service has them still or not."""
    return tuple(sorted(_snapshot(hosts, name).volumes))


def foresee(
    known: run.Known, hosts: Hosts, name: str, *, force: bool, volumes: bool = False
) -> tuple[plan.HostPlan, list[str]]:
    """What `retire` would take away, and what an operator should know of the rest. Raises FiefdomError as that does."""
    gone = _farewell(known.cluster, hosts, name, _remaining(known.cluster, name, force), force)
    back = originals.given_back(gone.snapshot)
    stays = {c for c in gone.changes if c.kind in ("file", "directory") and c.name.startswith(_STAYS)}
    going = tuple(c for c in gone.changes if c not in stays or c.name in back)
    parting = list(originals.parting_words(gone.snapshot, _STAYS))
    # What has an original is told with where that is kept.
    kept = {c.name for c in stays - set(going) if c.kind == "file" and c.name not in gone.snapshot.originals}
    return replace(gone, changes=going), [*parting, *_of_volumes(gone, volumes=volumes), *_left(gone, sorted(kept))]


def _left(gone: plan.HostPlan, kept: Sequence[str]) -> Iterator[str]:
    """What is on the host afterwards: ``kept`` are paths of Fiefdom's own files."""
    if kept:
        yield f"Fiefdom's files for your way in, addresses, names and time stay: {', '.join(kept)}"
    yield "Debian's packages stay, Docker among them, and so do all images"
    if ("file", network.SYSCTLS) in {(c.kind, c.name) for c in gone.changes}:
        yield "kernel settings stay as they are until the next boot"
    if units := originals.units_given_back(gone.snapshot):
        yield f"on or off at boot as before Fiefdom: {', '.join(units)}; what runs of it goes on"


def _of_volumes(gone: plan.HostPlan, *, volumes: bool) -> list[str]:
    goes = "goes, with all that is in it" if volumes else "stays, with all that is in it; --volumes would remove it"
    return [f"the volume {path} {goes}" for path in sorted(gone.snapshot.volumes)]


def _remaining(cluster: Cluster, name: str, force: bool) -> tuple[str, ...]:
    """The gateways that are there afterwards."""
    require_host(cluster, name)
    if not force:
        release.require_others(cluster, cluster.services, [[name]])
    return tuple(gateway for gateway in cluster.gateways if gateway != name)


def _farewell(cluster: Cluster, hosts: Hosts, name: str, remaining: Sequence[str], force: bool) -> plan.HostPlan:
    alone = None
    if not force:
        alone = views.alone(views_of(hosts, remaining), cluster, [name]) or answering.alone(cluster, hosts, [name])
    if alone:
        raise FiefdomError(f"{name}: {alone}; mend the others first, or say --force")
    found = _snapshot(hosts, name)
    plan.require_supported(name, found)
    left = plan.of_host(name, HostState(), found, {})
    return replace(left, changes=tuple(_retired(change, found) for change in left.changes))


def _retired(change: Change, found: snapshot.Snapshot) -> Change:
    """A removal with its reason; what an empty state is not the reason of has its own."""
    if not change.why.startswith(originals.DROPPED):
        return change
    return replace(change, why=originals.of_removal(change.kind, change.name, found, "the host is to be retired"))


def _snapshot(hosts: Hosts, name: str) -> snapshot.Snapshot:
    return snapshot.parse(name, hosts.snapshot_lines({name: snapshot.query([HostState()])})[name])


def require_host(cluster: Cluster, name: str) -> None:
    """Raise FiefdomError for what is no host, and for the only gateway."""
    if name not in cluster.hosts:
        raise FiefdomError(f"{printable(name)!r} is no host of this inventory; it has {', '.join(cluster.hosts)}")
    if cluster.gateways == (name,):
        raise FiefdomError(f"{name}: is the only gateway; add another one first")


def _let_go(hosts: Hosts, remaining: Sequence[str], gone: plan.HostPlan, say: Say, *, volumes: bool) -> None:
    """A host's last turn, and what its going leaves to be done by the others."""
    name = gone.host
    for words in originals.parting_words(gone.snapshot, _STAYS):
        say(name, words)
    for words in _of_volumes(gone, volumes=volumes):
        say(name, words)
    heard = turn.Heard(name, lambda host, stage, began=None: None if began else say(host, stage))
    turn.take_turn(hosts, name, turn_steps.farewell(gone, _STAYS, volumes=volumes), heard)
    if heard.failure:
        said = f"{heard.failure.unit}: {heard.failure.reason}; run it again"
        raise HostError(name, said, heard.failure.log)
    say(name, "forget")
    _forget(hosts, remaining, name)
    say(name, carry_out.DONE)


def _forget(hosts: Hosts, gateways: Sequence[str], name: str) -> None:
    def lists() -> dict[str, list[str]]:
        return {
            gate: [name] if view.may_list(name) else []
            for gate, view in views_of(hosts, gateways, ("host", name)).items()
        }

    if left := members.forget(hosts, gateways, [name], lists):
        raise FiefdomError(
            f"{name}: is out of service, but {', '.join(left[name])} may still list it; members forget it within a day"
        )
