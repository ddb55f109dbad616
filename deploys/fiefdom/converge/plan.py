"""What has to change: the differences of all hosts, and which of them are a release's to make. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from fiefdom.converge import accounts
from fiefdom.converge.change import Change, Sign, in_order
from fiefdom.converge.containers import NOT_RUNNING, is_healthy
from fiefdom.converge.differences import differences, of_instances
from fiefdom.converge.doctor import Finding
from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired import docker, mounts
from fiefdom.desired.containers import conf_path
from fiefdom.desired.state import Block, Container, File, HostState, Resource, digest
from fiefdom.errors import FiefdomError
from fiefdom.grouping import grouped

PAUSE = "a pause: its one instance stops before the next one starts"

_SUPPORTED = {("debian", "bookworm"), ("debian", "trixie")}


@dataclass(frozen=True)
class HostPlan:
    """Every difference of one host, in a stable order."""

    host: str
    changes: tuple[Change, ...]
    state: HostState = field(repr=False, compare=False)
    snapshot: Snapshot = field(repr=False, compare=False)
    findings: tuple[Finding, ...] = ()
    """What the host has of its own that is in the way, or is to be known."""
    left_volumes: tuple[str, ...] = ()
    """Paths of volumes that nobody wants there any more, and that stay all the same."""

    def of(self, kind: str, *signs: Sign) -> tuple[Change, ...]:
        """The changes of a kind; with ``signs`` only those."""
        found = self._by_kind.get(kind, ())
        return tuple(c for c in found if c.sign in signs) if signs else found

    @cached_property
    def _by_kind(self) -> dict[str, tuple[Change, ...]]:
        found = grouped((change.kind, change) for change in self.changes)
        return {kind: tuple(changes) for kind, changes in found.items()}

    @property
    def due(self) -> HostPlan:
        """What apply does: all but pending releases."""
        return replace(self, changes=tuple(c for c in self.changes if not c.release))

    @property
    def pending(self) -> dict[str, tuple[str, str]]:
        """Versions before and after of each service whose release is pending here."""
        return {
            c.release: (self.snapshot.containers[c.name].version, c.resource.version)
            for c in self.of("container", "-/+")
            if c.release and isinstance(c.resource, Container)
        }


@dataclass(frozen=True)
class Pending:
    """A release that waits for its rollout: a service, its versions before and after, and where."""

    service: str
    before: str
    after: str
    hosts: tuple[str, ...]
    pauses: bool = False
    """Whether nobody serves meanwhile, for it has one instance."""

    def __str__(self) -> str:
        """As a person would say it."""
        versions = (
            f"{self.before} -> {self.after}" if self.before != self.after else f"{self.after} with other settings"
        )
        pause = f" ({PAUSE})" if self.pauses else ""
        return f"{self.service} {versions} on {', '.join(self.hosts)}{pause}"


@dataclass(frozen=True)
class Plan:
    """The plans of all hosts, in the inventory's order."""

    hosts: tuple[HostPlan, ...]

    @property
    def clean(self) -> bool:
        """Whether there is nothing to do."""
        return not any(h.changes for h in self.hosts)

    @property
    def due(self) -> Plan:
        """What apply does: all but pending releases."""
        return Plan(tuple(h.due for h in self.hosts))

    @property
    def pending(self) -> tuple[Pending, ...]:
        """The releases that wait for their rollout."""
        found = grouped(
            ((service, before, after), host.host)
            for host in self.hosts
            for service, (before, after) in host.pending.items()
        )
        pausing = {c.service for h in self.hosts for c in h.state.containers if c.pauses}
        return tuple(Pending(*key, tuple(hosts), key[0] in pausing) for key, hosts in sorted(found.items()))

    @property
    def counts(self) -> dict[Sign, int]:
        """How many changes of each sign apply would make."""
        signs: tuple[Sign, ...] = ("+", "~", "-/+", "-")
        return {s: sum(c.sign == s for h in self.due.hosts for c in h.changes) for s in signs}

    def as_data(self) -> dict[str, object]:
        """The plan as plain data, for JSON: no content, no secret."""
        left = {h.host: list(h.left_volumes) for h in self.hosts if h.left_volumes}
        return {
            "clean": self.clean,
            "hash": self.hash,
            "counts": dict(self.counts),
            "pending": [
                {"service": p.service, "from": p.before, "to": p.after, "hosts": list(p.hosts)}
                | ({"pauses": True} if p.pauses else {})
                for p in self.pending
            ],
            "hosts": {h.host: [c.as_data() for c in h.changes] for h in self.hosts},
            **({"volumes_left": left} if left else {}),
        }

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name this plan: equal for equal changes, on any machine."""
        shown = [
            (h.host, [(c.kind, c.sign, c.name, c.why, c.release, _fingerprint(c.resource)) for c in h.changes])
            for h in self.hosts
        ]
        return digest(json.dumps(shown))[:12]


def _fingerprint(resource: Resource) -> str:
    # A secret's digest could be tried against guesses, so a secret counts by its place only.
    if isinstance(resource, Block):
        return resource.digest
    return resource.digest if isinstance(resource, File) and not resource.secret else ""


def require_supported(host: str, snapshot: Snapshot) -> None:
    """Raise FiefdomError where ``host`` is not a machine that Fiefdom can converge."""
    if (snapshot.distribution, snapshot.codename) not in _SUPPORTED:
        found = " ".join(filter(None, (snapshot.distribution, snapshot.codename))) or "an unknown system"
        raise FiefdomError(f"{host}: is {found}; Fiefdom converges Debian 12 (bookworm) and 13 (trixie) only")
    if snapshot.uid != 0:
        raise FiefdomError(
            f"{host}: the login user is neither root nor allowed to use sudo without a password; "
            "mend ssh.user, or let /etc/sudoers.d grant it NOPASSWD"
        )


def of_host(
    host: str,
    state: HostState,
    snapshot: Snapshot,
    identities: Mapping[str, str],
    complete: bool = True,
    hold: Collection[str] = (),
    instances: Sequence[Change] | None = None,
) -> HostPlan:
    """The plan of one host. Where ``state`` is not ``complete``, what it does not speak of stays.

    ``identities`` tells the right images, as of `images.build`; one that is not in it is right if it is there.
    Running, healthy instances of the services in ``hold`` stay as they are: what would replace them is a release.
    ``instances`` is what `of_instances` said of the same host, where somebody asked it already.
    """
    _require_own_containers(host, state, snapshot)
    accounts.require_free(host, state, snapshot)
    if instances is None:
        instances = of_instances(state, snapshot, identities)
    held = {c.name: c for c in held_of(instances, snapshot, hold)}
    try:
        changes = differences(state, snapshot, identities, complete, instances)
    except FiefdomError as error:
        raise FiefdomError(f"{host}: {error}") from error
    cuts = "docker" if _moves_bridge(state, snapshot) else ""
    marked = [_marked(c, _release(c, held, state), cuts) for c in changes]
    # One that is down comes back as what its siblings are.
    marked += [Change("container", "~", c.name, NOT_RUNNING, c) for c in held.values() if not is_healthy(c, snapshot)]
    left = snapshot.volumes - {d.path for d in state.directories} if complete else ()
    return HostPlan(host, in_order(marked), state, snapshot, left_volumes=tuple(sorted(left)))


def _marked(change: Change, release: str, cuts: str) -> Change:
    cuts = cuts if change.name in (docker.CONFIG, docker.UNIT) else ""
    return replace(change, release=release, cuts=cuts) if release or cuts else change


def _require_own_containers(host: str, state: HostState, now: Snapshot) -> None:
    """Raise FiefdomError for somebody's container under the name of one of ours. What is in the manifest is ours."""
    for name in (c.name for c in state.containers):
        if name in now.containers and not now.containers[name].ours and ("container", name) not in now.made:
            raise FiefdomError(
                f"{host}: a container {name} is there that Fiefdom did not make; give it another name (`docker "
                "rename`) or remove it"
            )


def running_versions(instances: Iterable[Change], snapshot: Snapshot, hold: Collection[str]) -> dict[str, str]:
    """Version that each service of ``hold`` keeps running, where its release is pending on this host."""
    # One that is down comes back as what it was, but what runs has the last word. One that was started by hand tells no
    # version; where none does, the host goes on saying what it says, or else what the inventory does.
    held = sorted(held_of(instances, snapshot, hold), key=lambda c: is_healthy(c, snapshot))
    said = {c.service: snapshot.offers[c.service].partition(";")[0] for c in held if c.service in snapshot.offers}
    return said | {c.service: version for c in held if (version := snapshot.containers[c.name].version)}


def held_of(instances: Iterable[Change], now: Snapshot, hold: Collection[str]) -> Iterator[Container]:
    """The instances of ``hold`` that a release would replace: of a service that serves, also those that are down."""
    changes = [c for c in instances if c.sign == "-/+"]
    replaced = [c.resource for c in changes if isinstance(c.resource, Container) and c.resource.service in hold]
    serving = {c.service for c in replaced if is_healthy(c, now)}
    yield from (c for c in replaced if c.service in serving)


def _release(change: Change, held: Mapping[str, Container], state: HostState) -> str:
    """The service whose release ``change`` is a part of: a held container, what it is made from, its image."""
    if change.kind == "container":
        return held[change.name].service if change.name in held else ""
    if change.kind in ("file", "directory"):
        # What it is made from, and what it has mounted: both until its turn, also where it is not to have it any more.
        owners = (
            c
            for c in held.values()
            if change.name in (*c.config, conf_path(c.name), *(c.volumes if change.sign == "~" else ()))
            or (change.sign == "-" and mounts.is_way_of_files(change.name, c.name))
        )
        return next((c.service for c in owners), "")
    if change.kind == "image":
        users = [c for c in state.containers if c.image == change.name]
        return users[0].service if users and all(c.name in held for c in users) else ""
    return ""


def _moves_bridge(state: HostState, now: Snapshot) -> bool:
    """Whether a dockerd that is there is to take other networks: its bridge may then take the operator's."""
    wanted = [docker.networks(f.content) for f in state.files if f.path == docker.CONFIG]
    return now.docker != "absent" and bool(wanted) and wanted[0] != now.docker_networks


def merge(plans: Iterable[HostPlan]) -> Plan:
    """The plans of single hosts as one, in the order given."""
    return Plan(tuple(plans))
