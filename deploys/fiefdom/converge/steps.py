"""From a plan to a changed host: a few steps files, each taken by one script in one stroke."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fiefdom.converge import guard, old_images, passing, serving
from fiefdom.converge.claims import claims
from fiefdom.converge.plan import HostPlan
from fiefdom.converge.snapshot import sysctl_path
from fiefdom.converge.steps_script import Step
from fiefdom.converge.units import has_stamp, unit_actions, unit_stamp
from fiefdom.desired import network, sshd
from fiefdom.desired.state import (
    ANY_PACKAGE,
    Account,
    Block,
    Container,
    Directory,
    File,
    Image,
    Package,
    Sysctl,
    Unit,
)

PHASES = ("packages", "access", "files", "images", "containers", "removal")
"""Names of the phases, in order."""


@dataclass(frozen=True)
class Phase:
    """Steps that one host takes in one round trip.

    ``images`` are sent to the host before it takes the steps. ``guarded`` says what is kept of the host because a
    mistake could lock the operator out: see `guard`.
    ``interrupts`` says that the host may serve less while it runs, so hosts take turns, and each turn is seen through
    even if the operator goes away.
    """

    name: str
    steps: tuple[Step, ...] = ()
    images: tuple[str, ...] = ()
    guarded: guard.Backup | None = None
    interrupts: bool = False


def phases(plan: HostPlan, confirm_s: int = guard.CONFIRM_S) -> tuple[Phase, ...]:
    """What brings a host from its snapshot to its state, in order; only phases with something to do.

    ``confirm_s`` is how long a change that could lock the operator out waits for a new login.
    """
    access = replace(plan, changes=tuple(c for c in plan.changes if guard.cuts_line(c)))
    # A proxy that nobody wants any more may be gone, and no package would come through it.
    first = tuple(c for c in plan.of("file", "-") if c.name == network.APT and plan.of("package"))
    calm = replace(plan, changes=tuple(c for c in plan.changes if not guard.cuts_line(c) and c not in first))
    kept = guard.backup(access, confirm_s)
    return tuple(
        phase
        for phase in (
            Phase("packages", (*removal(replace(plan, changes=first)), *_packages(plan))),
            Phase("access", tuple(_access(access, kept)) if access.changes else (), guarded=kept),
            Phase("files", tuple(_host_files(calm))),
            images_phase(calm),
            Phase("containers", tuple(_serving(calm)), interrupts=_interrupts(calm)),
            Phase("removal", tuple(removal(calm))),
        )
        if phase.steps or phase.images
    )


def images_phase(plan: HostPlan) -> Phase:
    """What brings a host the images that it lacks: those that are sent to it, and steps that pull the others."""
    wanted = [c.resource for c in plan.of("image", "+", "~") if isinstance(c.resource, Image)]
    pulls = [("pull", i.ref, i.pull) if i.pull != i.ref else ("pull", i.ref) for i in wanted if i.pull]
    steps = (*_logins(plan), *pulls) if pulls else ()
    return Phase("images", steps, tuple(i.ref for i in wanted if not i.pull))


def _logins(plan: HostPlan) -> Iterator[Step]:
    """What registries are shown, as it is now: what the host has may be of yesterday."""
    for f in (f for f in plan.state.files if f.login):
        folders = [d for d in plan.state.directories if f.path.startswith(f"{d.path}/")]
        made = [("directory", d.path) for d in folders] + [("file", f.path)]
        own = claims(plan.state, plan.snapshot) - plan.snapshot.made
        yield from (("record", *item) for item in made if item in own)
        yield from (("directory", d.path, f"{d.mode:04o}", str(d.uid), str(d.gid)) for d in folders)
        yield _stage(f)
        yield ("place", f.path)


def _interrupts(plan: HostPlan) -> bool:
    running = any(c.running for c in plan.snapshot.containers.values())
    return running and bool(plan.of("container") or passing.passed_on(plan))


def _packages(plan: HostPlan) -> Iterator[Step]:
    names = [c.resource.name for c in plan.of("package") if isinstance(c.resource, Package)]
    # Not checked, which only what the package brings could.
    before = {*names, ANY_PACKAGE} if names else set()
    early = [f for f in changed_files(plan, serves=False) if f.precedes in before]
    recorded = claims(plan.state, plan.snapshot) - plan.snapshot.made
    for f in early:
        if ("file", f.path) in recorded:
            yield ("record", "file", f.path)
        yield _stage(f)
        yield ("place", f.path)
    if names:
        yield ("packages", *names)


def _access(plan: HostPlan, kept: guard.Backup) -> Iterator[Step]:
    """All that could cut the line, in one stroke: checked, kept, live, and then it waits for a new login."""
    files = changed_files(plan, serves=False)
    yield from guard.staged()
    yield from staged(files)
    yield from _staged_blocks(plan)
    yield from guard.before(kept)
    yield from records(plan)
    yield from _directories(plan)
    yield from _unstamps(plan, files)
    for f in files:
        yield ("place", f.path)
    yield from _placed_blocks(plan)
    for change in plan.of("unit", "-"):
        yield ("remove-unit", change.name)
    gone = [c.name for c in plan.of("file", "-")]
    for path in gone:
        yield ("remove-file", path)
    for change in plan.of("block", "-"):
        yield ("remove-block", change.name)
    if any(path.startswith(network.LINKS) for path in gone):
        yield ("leave-network",)
    if any(path.startswith("/etc/systemd/system/") for path in gone):
        yield ("daemon-reload",)
    yield from _units_back(plan)
    yield from _sysctls(plan)
    yield from _units(plan, files, list(plan.state.units))
    for kind, name in kept.items:
        if kind == "link":
            yield ("reconfigure", name)
    yield from _forgotten(plan)
    if any(f.path == sshd.CONFIG for f in files):
        yield ("holds", sshd.CONFIG)
    yield from guard.after()


def _host_files(plan: HostPlan) -> Iterator[Step]:
    files = changed_files(plan, serves=False)
    entries = [f for f in files if f.path in {account.entry for account in plan.state.accounts}]
    files = [f for f in files if f not in entries]
    yield from records(plan)
    yield from brought(plan)
    # Before all that belongs to them.
    yield from _files(entries)
    for change in plan.of("account", "+"):
        if isinstance(a := change.resource, Account):
            yield ("account", a.name, str(a.uid), a.entry)
    yield from _directories(plan)
    yield from _unstamps(plan, files)
    yield from _staged_blocks(plan)
    yield from _files(files)
    yield from _placed_blocks(plan)
    for change in plan.of("hostname"):
        yield ("hostname", change.name)
    owned = plan.state.serving_units
    yield from _units(plan, files, [u for u in plan.state.units if u.name not in owned])


def brought(plan: HostPlan) -> tuple[Step, ...]:
    """Steps that note in the manifest which images come, before they do."""
    coming = (c.name for c in plan.of("image", "+", "~"))
    return tuple(("record", old_images.BROUGHT, ref) for ref in old_images.newly_brought(coming, plan.snapshot))


def records(plan: HostPlan) -> Iterator[Step]:
    """Steps that note in the manifest what is made, before it is; what is there but not noted goes with `record`."""
    changed = {(c.kind, c.name) for c in plan.changes}
    for kind, name in sorted(claims(plan.state, plan.snapshot) - plan.snapshot.made):
        if plan.of("record") or (kind, name) in changed:
            yield ("record", kind, name)


def _directories(plan: HostPlan) -> Iterator[Step]:
    for change in plan.of("directory", "+", "~"):
        if isinstance(d := change.resource, Directory) and not _moves(d, plan):
            yield directory(d)


def directory(d: Directory) -> Step:
    return ("directory", d.path, *_ids(d))


def _unstamps(plan: HostPlan, files: list[File]) -> Iterator[Step]:
    # A run that dies between a file and its reload leaves no stamp, which the next run takes for a reload still due.
    due = {c.name for c in plan.of("unit")}
    for unit in plan.state.units:
        if unit.name in due and {f.path for f in files} & set(unit.config):
            yield ("unstamp", unit.name)


def _sysctls(plan: HostPlan) -> Iterator[Step]:
    for change in plan.of("sysctl"):
        if isinstance(s := change.resource, Sysctl):
            yield ("sysctl", sysctl_path(s.key), s.value)


def changed_files(plan: HostPlan, serves: bool) -> list[File]:
    """Files to create or to change: those that what serves is made from, or the others."""
    changed = [c.resource for c in plan.of("file", "+", "~")]
    return [f for f in changed if isinstance(f, File) and f.serves is serves]


def _files(files: list[File]) -> Iterator[Step]:
    """All staged and checked before the first is placed, so that a mistake or a full disk changes nothing."""
    yield from staged(files)
    for f in files:
        yield ("place", f.path)


def staged(files: Sequence[File]) -> Iterator[Step]:
    """What puts files beside their places, and checks them there."""
    first: dict[str, str] = {}
    for f in files:
        # What all instances of a service have mounted may be large, and is mostly the same: it travels once.
        like = first.setdefault(f.digest, f.path) if f.mounted else f.path
        yield _stage(f) if like == f.path else ("stage-like", f.path, *_ids(f), like)
    for f in files:
        if f.check:
            yield ("check", f.path, *f.check)


def _stage(f: File) -> Step:
    return ("stage", f.path, *_ids(f), _encoded(f.content))


def _ids(f: File | Directory) -> tuple[str, str, str]:
    return f"{f.mode:04o}", str(f.uid), str(f.gid)


def _staged_blocks(plan: HostPlan) -> Iterator[Step]:
    for change in plan.of("block", "+", "~"):
        if isinstance(block := change.resource, Block):
            yield ("stage-block", block.path, _encoded(block.text), _encoded(block.around))


def _placed_blocks(plan: HostPlan) -> Iterator[Step]:
    for change in plan.of("block", "+", "~"):
        yield ("place-block", change.name)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _units(plan: HostPlan, files: list[File], units: list[Unit]) -> Iterator[Step]:
    state, now = plan.state, plan.snapshot
    changed = {c.name for c in plan.of("unit", "+", "~")}
    verbs = {u.name: [v for a in unit_actions(u, state, now) for v in a.verbs] for u in units if u.name in changed}
    if any(f.path.startswith("/etc/systemd/system/") for f in files) or any(
        "daemon-reload" in v for v in verbs.values()
    ):
        yield ("daemon-reload",)
    for unit in units:  # in the state's order: what others need comes first
        own = [v for v in verbs.get(unit.name, []) if v != "daemon-reload"]
        if own:
            stamp = unit_stamp(unit, state) if has_stamp(unit, now) else ""
            yield ("unit", unit.name, ",".join(own), stamp, " ".join(unit.live))


def _serving(plan: HostPlan) -> Iterator[Step]:
    files = changed_files(plan, serves=True)
    moving = list(_moving(plan, files))
    for path, _, uid, _ in moving:
        before = str(plan.snapshot.files[path].uid)
        if before != uid:
            yield ("lend", path, before, uid)
    yield from staged(files)
    mended = _mended(plan, files)
    for f in files:
        yield ("mend" if f.path in mended else "place", f.path)
    owned = plan.state.serving_units
    yield from _units(plan, files, [u for u in plan.state.units if u.name in owned])
    yield from serving.of_plan(plan)
    for own in moving:
        yield ("own", *own)


def _mended(plan: HostPlan, files: list[File]) -> frozenset[str]:
    """Paths of files that what runs has mounted, and goes on to have."""
    replaced = {p for c in plan.of("container") if isinstance(c.resource, Container) for p in c.resource.config}
    found = plan.snapshot.files
    return frozenset(
        f.path for f in files if f.mounted and f.path not in replaced and f.path in found and found[f.path].digest
    )


def _moving(plan: HostPlan, files: list[File]) -> Iterator[tuple[str, str, str, str]]:
    """Path, mode, uid and gid of what goes from the user of one container to that of the next.

    Until the new one has taken over, both use it: the old one as its owner, the new one by its group.
    """
    changed = [c.resource for c in plan.of("directory", "~")]
    for d in changed:
        if isinstance(d, Directory) and _moves(d, plan):
            yield d.path, f"{d.mode:04o}", str(d.uid), str(d.gid)
    for f in files:
        found = plan.snapshot.files.get(f.path)
        if f.uid and not f.mounted and found and found.uid not in (0, f.uid):
            yield f.path, f"{f.mode:04o}", str(f.uid), str(f.gid)


def _moves(directory: Directory, plan: HostPlan) -> bool:
    return directory.serves and directory.path in plan.snapshot.files


def removal(plan: HostPlan) -> Iterator[Step]:
    """Steps that take away what is not wanted any more, but for units and containers."""
    files = [c.name for c in plan.of("file", "-")]
    for path in files:
        yield ("remove-file", path)
    for change in plan.of("block", "-"):
        yield ("remove-block", change.name)
    for path in sorted((c.name for c in plan.of("directory", "-")), reverse=True):
        yield ("remove-directory", path)
    if any(path.startswith("/etc/systemd/system/") for path in files):
        yield ("daemon-reload",)
    yield from _units_back(plan)
    for change in plan.of("account", "-"):
        yield ("remove-account", change.name)
    yield from _forgotten(plan)
    for change in plan.of("image", "-"):
        if isinstance(change.resource, str):
            yield ("remove-image", change.resource)


def _units_back(plan: HostPlan) -> Iterator[Step]:
    """What came back with the file of a unit that Fiefdom's had taken the place of."""
    for change in plan.of("unit", "-"):
        if change.name in plan.snapshot.units_before:
            yield ("unit-back", change.name)


def _forgotten(plan: HostPlan) -> Iterator[Step]:
    gone = {(c.kind, c.name) for c in plan.changes if c.sign == "-"}
    for kind, name in sorted(gone & plan.snapshot.made):
        yield ("forget", kind, name)
