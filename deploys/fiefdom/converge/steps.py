"""From a plan to a changed host: a few steps files, each taken by one script in one stroke."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from pathlib import Path

from fiefdom.converge import guard, old_images, originals, passing, serving
from fiefdom.converge.claims import claims
from fiefdom.converge.plan import HostPlan, merge
from fiefdom.converge.snapshot import SSHD, sysctl_path
from fiefdom.converge.units import has_stamp, unit_actions, unit_stamp
from fiefdom.desired import docker, mounts, network, sshd
from fiefdom.desired.containers import UNIT_DIR, conf_path
from fiefdom.desired.offers import conf_path as offer_conf_path
from fiefdom.desired.offers import unit_of as offer_unit
from fiefdom.desired.state import (
    ANY_PACKAGE,
    Account,
    Block,
    Container,
    Directory,
    File,
    Image,
    Offer,
    Package,
    Sysctl,
    Unit,
)
from fiefdom.model.unit_names import former_of, template_of, unit_of

_HERE = Path(__file__).parent
_PARTS = {f"# @{name.upper()}@\n": (_HERE / f"{name}.sh").read_text() for name in ("originals", "blocks")}
_PARTS["# @SSHD@\n"] = SSHD
SCRIPT = reduce(lambda text, part: text.replace(*part), _PARTS.items(), (_HERE / "steps.sh").read_text())
TURN = (_HERE / "turn.sh").read_text().replace("@APPLY@\n", SCRIPT)
"""Does what SCRIPT does, and comes to its end on the host where the operator's connection breaks off."""

_END = "end"  # what breaks off on its way must not be taken for all

PHASES = ("packages", "access", "files", "images", "containers", "removal")
"""Names of the phases, in order."""

Step = tuple[str, ...]
"""A verb of steps.sh and its arguments."""


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
            Phase("packages", (*_removal(replace(plan, changes=first)), *_packages(plan))),
            Phase("access", tuple(_access(access, kept)) if access.changes else (), guarded=kept),
            Phase("files", tuple(_host_files(calm))),
            images_phase(calm),
            Phase("containers", tuple(_serving(calm)), interrupts=_interrupts(calm)),
            Phase("removal", tuple(_removal(calm))),
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


def turn(plan: HostPlan) -> tuple[Step, ...]:
    """One host's turn in a rollout: service by service out of rotation, other containers, healthy again, back in.

    ``plan`` holds the changes of the release alone. Whatever fails from the first stage on, the host puts back what it
    kept and offers it again. What the release leaves alone stays in rotation all the while.
    """
    files = _changed_files(plan, serves=True)
    folders = [c.resource for c in plan.of("directory", "+", "~") if isinstance(c.resource, Directory)]
    changed = [c.resource for c in plan.of("container", "+", "~", "-/+") if isinstance(c.resource, Container)]
    released = {service: [c for c in changed if c.service == service] for service in _services(changed)}
    offers = {o.service: o for o in plan.state.offers if o.service in released}
    return (
        *(("remove-container", c.name) for c in plan.of("container", "-")),
        *staged(files),
        # One that goes back, or is forced, may bring what no apply has made.
        *_records(plan),
        ("keep", "begin", merge([plan]).hash),
        *(("keep", "file", f.path) for f in files),
        *(("keep", "directory", d.path) for d in folders),
        *(("keep", "container", c.name, c.unit) for c in changed),
        *(("keep", "offer", o.unit) for o in offers.values()),
        ("keep", "done"),
        *(
            step
            for service, own in released.items()
            for step in _released(
                service, own, offers.get(service), files, folders, f" {service}" if len(released) > 1 else ""
            )
        ),
        ("settled",),
    )


def _services(containers: Iterable[Container]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(container.service for container in containers))


def _released(
    service: str,
    containers: list[Container],
    offer: Offer | None,
    files: list[File],
    folders: list[Directory],
    which: str,
) -> tuple[Step, ...]:
    # What another service is made from waits for its own turn, lest an instance that ends by itself takes it up.
    own = {path for c in containers for path in (*c.config, conf_path(c.name))}
    own |= {offer_conf_path(service), f"{UNIT_DIR}/{offer_unit(service)}", f"{UNIT_DIR}/{template_of(service)}"}
    # A host outside app_hosts runs it for itself.
    offers = [offer.unit] if offer else []
    return (
        ("say", f"drain{which}"),
        *serving.all_at_once("stop", offers),
        ("say", f"replace{which}"),
        *(directory(d) for d in folders if any(mounts.is_of(d.path, c) for c in containers)),
        *(("place", f.path) for f in files if f.path in own),
        ("daemon-reload",),
        ("containers", "restart", *(c.unit for c in containers)),
        ("say", f"join{which}"),
        *serving.all_at_once("start", offers),
    )


def farewell(plan: HostPlan, stays: tuple[str, ...], *, volumes: bool = False) -> tuple[Step, ...]:
    """A host's last turn: out of the cluster, then as it was before Fiefdom, but for paths in ``stays``.

    What was found at one of those comes back all the same, where it does not let the operator in. Volumes stay as well,
    unless ``volumes`` says that they go.
    """
    back = originals.given_back(plan.snapshot)
    found, going = plan.snapshot.containers, {c.name for c in plan.of("unit", "-")}
    running = [unit_of(n) for n, f in found.items() if f.role == "agent" and f.ours and f.running]
    agents = [former_of(unit) if former_of(unit) in going else unit for unit in running]
    removed = [
        s
        for s in _removal(plan)
        if not (s[0] in ("remove-file", "remove-directory") and s[1].startswith(stays) and s[1] not in back)
    ]
    return (
        ("say", "drain"),
        *(("containers", "stop", unit) for unit in agents),
        ("say", "remove"),
        *(("remove-unit", c.name) for c in plan.of("unit", "-")),
        *(("remove-container", c.name) for c in plan.of("container", "-")),
        *removed,
        ("daemon-reload",),
        *((("reload", docker.UNIT),) if docker.CONFIG in back else ()),
        *(("unit-back", name) for name in originals.units_given_back(plan.snapshot) if name not in going),
        *(("remove-volume", path) for path in sorted(plan.snapshot.volumes) if volumes),
        ("erase",),
    )


def turn_back(plan: HostPlan, aside: bool) -> tuple[Step, ...]:
    """One host's way back from the turn of ``plan``; ``aside`` keeps the release's containers for inspection.

    A turn that ended before it had kept anything changed nothing, and what an earlier release kept stays where it is.
    """
    return (
        ("kept", merge([plan]).hash),
        ("say", "restore"),
        ("restore", "aside" if aside else "replace"),
    )


def _interrupts(plan: HostPlan) -> bool:
    running = any(c.running for c in plan.snapshot.containers.values())
    return running and bool(plan.of("container") or passing.passed_on(plan))


def steps_text(steps: Iterable[Step]) -> str:
    """Steps as steps.sh reads them: a line each, fields separated by tabs.

    Raises ValueError for a field that would read as more than one.
    """
    steps = list(merged(steps))
    for step in steps:
        if any("\n" in field or "\t" in field for field in step):
            raise ValueError(f"a field of the step {step[:2]} holds a line break or a tab")
    lines = ["\t".join(field or "-" for field in step) for step in steps]
    return "".join(f"{line}\n" for line in [*lines, _END]) if lines else ""


_OF_MANY = (("record",), ("guard", "keep"))
"""How steps begin that take kinds and names, as many as there are."""


def merged(steps: Iterable[Step]) -> Iterator[Step]:
    """Steps with those that follow each other as one, where one does for many: programs and writes to the disk cost."""

    def beginning(step: Step) -> Step:
        return next((words for words in _OF_MANY if step[: len(words)] == words), ())

    for words, group in groupby(steps, beginning):
        if words:
            yield (*words, *(field for step in group for field in step[len(words) :]))
        else:
            yield from group


def _packages(plan: HostPlan) -> Iterator[Step]:
    names = [c.resource.name for c in plan.of("package") if isinstance(c.resource, Package)]
    # Not checked, which only what the package brings could.
    before = {*names, ANY_PACKAGE} if names else set()
    early = [f for f in _changed_files(plan, serves=False) if f.precedes in before]
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
    files = _changed_files(plan, serves=False)
    yield from guard.staged()
    yield from staged(files)
    yield from _staged_blocks(plan)
    yield from guard.before(kept)
    yield from _records(plan)
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
    files = _changed_files(plan, serves=False)
    entries = [f for f in files if f.path in {account.entry for account in plan.state.accounts}]
    files = [f for f in files if f not in entries]
    yield from _records(plan)
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


def _records(plan: HostPlan) -> Iterator[Step]:
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


def _changed_files(plan: HostPlan, serves: bool) -> list[File]:
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
    files = _changed_files(plan, serves=True)
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


def _removal(plan: HostPlan) -> Iterator[Step]:
    files = [c.name for c in plan.of("file", "-")]
    for path in files:
        yield ("remove-file", path)
    yield from (("remove-block", change.name) for change in plan.of("block", "-"))
    for path in sorted((c.name for c in plan.of("directory", "-")), reverse=True):
        yield ("remove-directory", path)
    if any(path.startswith("/etc/systemd/system/") for path in files):
        yield ("daemon-reload",)
    yield from _units_back(plan)
    yield from (("remove-account", change.name) for change in plan.of("account", "-"))
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
