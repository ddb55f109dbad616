"""From a plan to a changed host: a few steps files, each taken by one script in one stroke."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fiefdom.desired import Container, Directory, File, Package, Sysctl, Unit
from fiefdom.plan import HostPlan, claims, has_stamp, unit_actions, unit_stamp
from fiefdom.snapshot import sysctl_path

SCRIPT = (Path(__file__).parent / "apply.sh").read_text()

PHASES = ("packages", "files", "images", "containers", "removal")
"""Names of the phases, in order."""

Step = tuple[str, ...]
"""A verb of apply.sh and its arguments."""


@dataclass(frozen=True)
class Phase:
    """Steps that one host takes in one round trip.

    ``cuts_line`` says that a mistake in it could lock the operator out, so a new login must be proven after it.
    ``interrupts`` says that the host may serve less while it runs, so hosts take turns.
    """

    name: str
    steps: tuple[Step, ...] = ()
    images: tuple[str, ...] = ()
    cuts_line: bool = False
    interrupts: bool = False


def phases(plan: HostPlan) -> tuple[Phase, ...]:
    """What brings a host from its snapshot to its state, in order; only phases with something to do."""
    return tuple(
        phase
        for phase in (
            Phase("packages", tuple(_packages(plan))),
            Phase("files", tuple(_host_files(plan)), cuts_line=_cuts_line(plan)),
            Phase("images", images=tuple(c.name for c in plan.of("image"))),
            Phase("containers", tuple(_serving(plan)), interrupts=_interrupts(plan)),
            Phase("removal", tuple(_removal(plan))),
        )
        if phase.steps or phase.images
    )


def _interrupts(plan: HostPlan) -> bool:
    running = any(c.running for c in plan.snapshot.containers.values())
    return running and bool(plan.of("container"))


def steps_text(steps: Iterable[Step]) -> str:
    """Steps as apply.sh reads them: a line each, fields separated by tabs.

    Raises ValueError for a field that would read as more than one.
    """
    steps = list(steps)
    for step in steps:
        if any("\n" in field or "\t" in field for field in step):
            raise ValueError(f"a field of the step {step[:2]} holds a line break or a tab")
    return "".join("\t".join(field or "-" for field in step) + "\n" for step in steps)


def _packages(plan: HostPlan) -> Iterator[Step]:
    names = [c.resource.name for c in plan.of("package") if isinstance(c.resource, Package)]
    if names:
        yield ("packages", *names)


def _host_files(plan: HostPlan) -> Iterator[Step]:
    for kind, name in sorted(claims(plan.state, plan.snapshot) - plan.snapshot.made):
        yield ("record", kind, name)
    for change in plan.of("directory", "+", "~"):
        if isinstance(d := change.resource, Directory):
            yield ("directory", d.path, f"{d.mode:04o}", str(d.uid), str(d.gid))
    files = _changed_files(plan, serves=False)
    # A run that dies between a file and its reload leaves no stamp, which the next run takes for a reload still due.
    due = {c.name for c in plan.of("unit")}
    for unit in plan.state.units:
        if unit.name in due and {f.path for f in files} & set(unit.config):
            yield ("unstamp", unit.name)
    yield from _files(files)
    for change in plan.of("hostname"):
        yield ("hostname", change.name)
    for change in plan.of("sysctl"):
        if isinstance(s := change.resource, Sysctl):
            yield ("sysctl", sysctl_path(s.key), s.value)
    owned = plan.state.container_units
    yield from _units(plan, files, [u for u in plan.state.units if u.name not in owned])


def _changed_files(plan: HostPlan, serves: bool) -> list[File]:
    changed = [c.resource for c in plan.of("file", "+", "~")]
    return [f for f in changed if isinstance(f, File) and f.serves is serves]


def _files(files: list[File]) -> Iterator[Step]:
    """All staged and checked before the first is placed, so that a mistake or a full disk changes nothing."""
    for f in files:
        yield ("stage", f.path, f"{f.mode:04o}", str(f.uid), str(f.gid), base64.b64encode(f.content).decode())
    for f in files:
        if f.check:
            yield ("check", f.path, *f.check)
    for f in files:
        yield ("place", f.path)


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
    yield from _files(files)
    owned = plan.state.container_units
    yield from _units(plan, files, [u for u in plan.state.units if u.name in owned])
    yield from _containers(plan)


def _containers(plan: HostPlan) -> Iterator[Step]:
    changed = [c.resource for c in plan.of("container", "+", "~", "-/+") if isinstance(c.resource, Container)]
    unwanted_units = [c.name for c in plan.of("unit", "-")]
    unwanted = [c.name for c in plan.of("container", "-")]
    instances = [c.unit for c in changed if c.role == "instance"]
    agents = {name: f for name, f in plan.snapshot.containers.items() if f.role == "agent" and f.ours}
    # Before anything that serves is touched, the host leaves the cluster; it joins again when all is healthy.
    touched = {c.name for c in plan.of("container", "~", "-/+", "-")} - set(agents)
    leaving = [f"{name}.service" for name, found in agents.items() if touched and found.running]
    if leaving:
        yield ("containers", "stop", *leaving)
    for unit in unwanted_units:
        yield ("remove-unit", unit)
    for name in unwanted:
        yield ("remove-container", name)
    if instances:
        yield ("containers", "restart", *instances)
    for role in ("gateway", "agent"):
        units = [c.unit for c in changed if c.role == role]
        if role == "agent":
            units = list(dict.fromkeys([*units, *leaving]))
        if units:
            yield ("containers", "restart", *units)


def _removal(plan: HostPlan) -> Iterator[Step]:
    files = [c.name for c in plan.of("file", "-")]
    for path in files:
        yield ("remove-file", path)
    for path in sorted((c.name for c in plan.of("directory", "-")), reverse=True):
        yield ("remove-directory", path)
    if any(path.startswith("/etc/systemd/system/") for path in files):
        yield ("daemon-reload",)
    gone = {(c.kind, c.name) for c in plan.changes if c.sign == "-"}
    for kind, name in sorted(gone & plan.snapshot.made):
        yield ("forget", kind, name)


# What sshd, the firewall and the network read: a mistake in any of these can end the operator's access.
_LINE = ("/etc/ssh/", "/etc/fiefdom/firewall", "/etc/systemd/network/", "/etc/sysctl.d/")


def _cuts_line(plan: HostPlan) -> bool:
    paths = [c.name for c in plan.of("file", "+", "~")]
    units = [c.resource for c in plan.of("unit", "+", "~") if isinstance(c.resource, Unit)]
    return any(p.startswith(_LINE) for p in [*paths, *(path for u in units for path in u.config)])
