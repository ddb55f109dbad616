"""Kind by kind, what a host holds that it should not, and what it does not hold that it should: a change each. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fiefdom.converge import accounts, effect, originals
from fiefdom.converge.change import KINDS, Change, Sign
from fiefdom.converge.claims import claims, made
from fiefdom.converge.containers import NOT_RUNNING, container_drift, is_made, short_id
from fiefdom.converge.snapshot import FoundUnit, Snapshot, sysctl_path
from fiefdom.converge.units import RUNNING, name_now, unit_actions
from fiefdom.desired.containers import FAILED, HANDING_OVER
from fiefdom.desired.state import Directory, File, HostState, Unit
from fiefdom.errors import FiefdomError


def differences(
    state: HostState, snapshot: Snapshot, identities: Mapping[str, str], complete: bool, instances: Sequence[Change]
) -> list[Change]:
    """Every difference of a host; ``instances`` are its own as `of_instances` tells them, else as `plan.of_host`.

    Raises FiefdomError for what is in the way on the host.
    """
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


def of_instances(state: HostState, now: Snapshot, identities: Mapping[str, str]) -> tuple[Change, ...]:
    """What becomes of a host's instances; nothing where nobody knows what runs, for dockerd is down."""
    return () if now.docker == "down" else tuple(_containers(state, now, identities, instances=True))


def _require_docker_startable(state: HostState, now: Snapshot) -> None:
    unit = now.units.get("docker.service", FoundUnit())
    if unit.active in RUNNING and not unit_actions(Unit("docker.service"), state, now):
        raise FiefdomError(
            "dockerd does not answer although docker.service is active; see `journalctl -u docker` there"
        )


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
            why = "a failed release, kept aside" if name.endswith(FAILED) else originals.DROPPED
            yield Change("container", "-", name, why, name)


def _record(state: HostState, now: Snapshot) -> Iterator[Change]:
    if claims(state, now) - now.made:
        yield Change("record", "~", "manifest", "what Fiefdom made on this host")
