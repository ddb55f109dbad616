"""What has to change: the pure difference between what a host should hold and what it holds."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from fiefdom.converge import accounts, effect, originals
from fiefdom.converge.claims import claims, made
from fiefdom.converge.containers import NOT_RUNNING, container_drift, is_healthy, is_made, short_id
from fiefdom.converge.doctor import Finding
from fiefdom.converge.snapshot import FoundUnit, Snapshot, sysctl_path
from fiefdom.converge.units import RUNNING, name_now, unit_actions
from fiefdom.desired import docker, mounts
from fiefdom.desired.containers import FAILED, HANDING_OVER, conf_path
from fiefdom.desired.state import Block, Container, Directory, File, HostState, Resource, Unit, digest
from fiefdom.errors import FiefdomError

Sign = Literal["+", "~", "-", "-/+"]

# The order in which a plan lists kinds; also, roughly, the order in which they are applied.
KINDS: tuple[str, ...] = ("hostname", "package", "account", "directory", "file", "block", "sysctl")
KINDS += ("unit", "image", "container", "offer", "record")

PAUSE = "a pause: its one instance stops before the next one starts"

_SUPPORTED = {("debian", "bookworm"), ("debian", "trixie")}


@dataclass(frozen=True)
class Change:
    """One difference. ``why`` is for people; ``resource`` is what apply needs and never printed.

    ``release`` names the service whose running, healthy instances it would replace: such a change is a rollout's to
    make, and apply leaves it alone. ``cuts`` names the concern that could end the operator's access by it, where that
    depends on what the host holds now; what is always so is `guard`'s to say.
    """

    kind: str
    sign: Sign
    name: str
    why: str
    resource: Resource = field(default=None, repr=False, compare=False)
    release: str = ""
    cuts: str = field(default="", repr=False, compare=False)

    def as_data(self) -> dict[str, str | None]:
        """The change as plain data, for JSON: no content, no secret."""
        release = self.release or None
        return {"kind": self.kind, "sign": self.sign, "name": self.name, "why": self.why, "release": release}


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
        found: dict[str, list[Change]] = {}
        for change in self.changes:
            found.setdefault(change.kind, []).append(change)
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
        found: dict[tuple[str, str, str], list[str]] = {}
        for host in self.hosts:
            for service, (before, after) in host.pending.items():
                found.setdefault((service, before, after), []).append(host.host)
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
        changes = _differences(state, snapshot, identities, complete, instances)
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


def of_instances(state: HostState, now: Snapshot, identities: Mapping[str, str]) -> tuple[Change, ...]:
    """What becomes of a host's instances; nothing where nobody knows what runs, for dockerd is down."""
    return () if now.docker == "down" else tuple(_containers(state, now, identities, instances=True))


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


def _differences(
    state: HostState, snapshot: Snapshot, identities: Mapping[str, str], complete: bool, instances: Sequence[Change]
) -> list[Change]:
    if snapshot.docker == "down" and state.containers:
        _require_docker_startable(state, snapshot)
        # Nobody knows what runs; starting dockerd comes first, and a second look tells the rest. What runs must not
        # come up as something else meanwhile, so files that it is made from wait as well.
        files = tuple(f for f in state.files if not (f.serves and f.path in snapshot.files))
        directories = tuple(d for d in state.directories if not ((d.serves or d.keeps) and d.path in snapshot.files))
        state = replace(state, files=files, directories=directories, images=(), containers=(), offers=())
        complete = False
    return [
        *_hostname(state, snapshot),
        *_packages(state, snapshot),
        *(Change("account", "+", account.name, why, account) for account, why in accounts.missing(state, snapshot)),
        *_directories(state, snapshot),
        *_files(state, snapshot),
        *_blocks(state, snapshot),
        *_sysctls(state, snapshot),
        *_units(state, snapshot),
        *_images(state, snapshot, identities),
        *instances,
        *_containers(state, snapshot, identities, instances=False),
        *_offers(state, snapshot),
        *(_unwanted(state, snapshot, complete) if complete or snapshot.docker != "down" else ()),
        *_record(state, snapshot),
    ]


def _moves_bridge(state: HostState, now: Snapshot) -> bool:
    """Whether a dockerd that is there is to take other networks: its bridge may then take the operator's."""
    wanted = [docker.networks(f.content) for f in state.files if f.path == docker.CONFIG]
    return now.docker != "absent" and bool(wanted) and wanted[0] != now.docker_networks


def _require_docker_startable(state: HostState, now: Snapshot) -> None:
    unit = now.units.get("docker.service", FoundUnit())
    if unit.active in RUNNING and not unit_actions(Unit("docker.service"), state, now):
        raise FiefdomError(
            "dockerd does not answer although docker.service is active; see `journalctl -u docker` there"
        )


def in_order(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Changes of one host, as a plan has them."""
    return tuple(sorted(changes, key=lambda c: (KINDS.index(c.kind), c.name, c.sign)))


def _hostname(state: HostState, now: Snapshot) -> Iterator[Change]:
    if state.hostname is not None and {now.hostname, now.static_hostname} != {state.hostname}:
        found = now.hostname if now.hostname != state.hostname else now.static_hostname
        yield Change("hostname", "~", state.hostname, f"is {found or 'not set'}", state.hostname)


def _packages(state: HostState, now: Snapshot) -> Iterator[Change]:
    for package in state.packages:
        if package.name not in now.packages:
            yield Change("package", "+", package.name, "not installed", package)


def _directories(state: HostState, now: Snapshot) -> Iterator[Change]:
    for directory in state.directories:
        found = now.files.get(directory.path)
        if found is None:
            yield Change("directory", "+", directory.path, f"mode {directory.mode:04o}", directory)
        elif found.kind != "directory":
            raise FiefdomError(f"{directory.path} is a {found.kind} where a folder should be; move it away")
        elif why := _ownership(directory, found.mode, found.uid, found.gid):
            yield Change("directory", "~", directory.path, why, directory)


def _files(state: HostState, now: Snapshot) -> Iterator[Change]:
    for file in state.files:
        found = now.files.get(file.path)
        if found is None:
            why = [f"mode {file.mode:04o}", *effect.of_file(file, now)]
            yield Change("file", "+", file.path, ", ".join(why), file)
            continue
        if found.kind == "directory":
            raise FiefdomError(f"{file.path} is a folder where a file should be; move it away")
        why = originals.of_content(file, found, now)
        why += filter(None, [_ownership(file, found.mode, found.uid, found.gid), _refusal(file, now)])
        why += effect.of_file(file, now)
        if why:
            yield Change("file", "~", file.path, ", ".join(why), file)


def _blocks(state: HostState, now: Snapshot) -> Iterator[Change]:
    for block in state.blocks:
        there = now.files.get(block.path)
        if there is not None and there.kind == "directory":
            raise FiefdomError(f"{block.path} is a folder where a file should be; move it away")
        found = now.blocks.get(block.path)
        if ("file", block.path) in now.made:
            yield Change("block", "~", block.path, originals.of_whole(block.path, now), block)
        elif found is None:
            yield Change("block", "+", block.path, "beside what is there" if there else "in a new file", block)
        elif found != block.digest:
            why = "content" if found else "its marks are damaged; lines that are not Fiefdom's stay"
            yield Change("block", "~", block.path, why, block)


def _refusal(file: File, now: Snapshot) -> str:
    """Why what reads ``file`` runs an older one, where it says so itself: placed again, it is awaited again."""
    refused, _, reason = now.refused.get(file.path, "").partition(" ")
    return f"refused, the last good one runs: {reason}" if refused == file.digest else ""


def _ownership(wanted: File | Directory, mode: int, uid: int, gid: int) -> str:
    why = []
    if mode != wanted.mode:
        why.append(f"mode {mode:04o} -> {wanted.mode:04o}")
    if (uid, gid) != (wanted.uid, wanted.gid):
        why.append(f"owner {uid}:{gid} -> {wanted.uid}:{wanted.gid}")
    return ", ".join(why)


def _sysctls(state: HostState, now: Snapshot) -> Iterator[Change]:
    for sysctl in state.sysctls:
        found = now.sysctls.get(sysctl_path(sysctl.key).removeprefix("/proc/sys/"))
        if found != sysctl.value:
            why = f"{found or 'unset'} -> {sysctl.value}{effect.of_sysctl(sysctl.key, now)}"
            yield Change("sysctl", "~", sysctl.key, why, sysctl)


def _units(state: HostState, now: Snapshot) -> Iterator[Change]:
    for unit in state.units:
        actions = unit_actions(unit, state, now)
        if actions:
            sign: Sign = "+" if now.units.get(unit.name, FoundUnit()).load == "not-found" else "~"
            yield Change("unit", sign, unit.name, ", ".join(a.why for a in actions), unit)


def _images(state: HostState, now: Snapshot, identities: Mapping[str, str]) -> Iterator[Change]:
    for image in state.images:
        found, wanted = now.image(image.ref), identities.get(image.ref)
        if found is None:
            yield Change("image", "+", image.ref, "not on the host", image)
        elif image.digest and image.digest not in found.digests:
            before = min(found.digests, default=found.id)
            yield Change("image", "~", image.ref, f"{short_id(before)} -> {short_id(image.digest)}", image)
        elif not image.digest and wanted is not None and wanted not in (found.id, f"context:{found.context}"):
            yield Change("image", "~", image.ref, f"{short_id(found.context or found.id)} -> {short_id(wanted)}", image)


def _containers(state: HostState, now: Snapshot, identities: Mapping[str, str], *, instances: bool) -> Iterator[Change]:
    replaced_images = {c.name for c in _images(state, now, identities) if c.sign == "~"}
    for container in state.containers:
        if (container.role == "instance") != instances:
            continue
        found = now.containers.get(container.name)
        if found is None:
            yield Change("container", "+", container.name, f"image {container.image}", container)
            continue
        why = container_drift(container, found, state, now)
        if container.image in replaced_images:
            why = [*(w for w in why if w != NOT_RUNNING), "new image"]
        if why:
            replaced = why[0] != NOT_RUNNING
            yield Change("container", "-/+" if replaced else "~", container.name, ", ".join(why), container)


def _offers(state: HostState, now: Snapshot) -> Iterator[Change]:
    for offer in state.offers:
        unit, word = now.units.get(offer.unit, FoundUnit()), now.offers.get(offer.service)
        if is_made(offer, now):
            if word != offer.word:
                yield Change("offer", "~", offer.service, f"{_said(word or '')} -> {_said(offer.word)}", offer)
        elif unit.load == "not-found":
            yield Change("offer", "+", offer.service, _said(offer.word), offer)
        else:
            yield Change(
                "offer",
                "~",
                offer.service,
                unit.says or f"not made, its unit is {'queued' if unit.queued else unit.active}",
                offer,
            )


def _said(word: str) -> str:
    """The word of an offer as a person would say it."""
    version, _, ports = word.partition(";")
    return f"{version} on {ports}"


def _unwanted(state: HostState, now: Snapshot, complete: bool) -> Iterator[Change]:
    # A file that was Fiefdom's whole is on its way to a block in it.
    wanted = made(state) | {("file", block.path) for block in state.blocks}
    for kind, name in sorted(now.made - wanted):
        renamed = (kind, later := name_now(kind, name)) in wanted
        if renamed or (complete and kind in KINDS):
            why = f"is {later} now" if renamed else originals.of_removal(kind, name, now)
            yield Change(kind, "-", name, why, name)
    containers = {name for kind, name in wanted | now.made if kind == "container"}
    for name, found in now.containers.items():
        if complete and found.ours and name not in containers and not any(word in name for word in HANDING_OVER):
            why = "a failed release, kept aside" if name.endswith(FAILED) else "no longer in the inventory"
            yield Change("container", "-", name, why, name)


def _record(state: HostState, now: Snapshot) -> Iterator[Change]:
    if claims(state, now) - now.made:
        yield Change("record", "~", "manifest", "what Fiefdom made on this host")


def merge(plans: Iterable[HostPlan]) -> Plan:
    """The plans of single hosts as one, in the order given."""
    return Plan(tuple(plans))
