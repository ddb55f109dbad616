"""What systemd is asked to do with a unit, from what it is and what it has read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fiefdom.converge.snapshot import FoundUnit, Snapshot
from fiefdom.desired.state import Container, HostState, Unit
from fiefdom.model.unit_names import PREFIX, former_of

RUNNING = ("active", "reloading")
"""What systemd calls a unit that runs, or is about to without anybody's help."""
_ENABLED = ("enabled", "static", "alias", "indirect", "generated")


@dataclass(frozen=True)
class UnitAction:
    """What systemctl is asked to do with a unit, and why. ``daemon-reload`` concerns all units at once."""

    verbs: tuple[str, ...]
    why: str


def owner_of(container: Container, now: Snapshot) -> FoundUnit:
    """The unit that ``container`` runs under: its own, or the one of an older Fiefdom as long as that has it."""
    own, former = now.units.get(container.unit, FoundUnit()), former_of(container.unit)
    before = now.units.get(former, FoundUnit()) if ("unit", former) in now.made else own
    return before if before.active in RUNNING and own.active not in RUNNING else own


def name_now(kind: str, name: str) -> str:
    """What is called today what an older Fiefdom called ``name``: of a unit, or of the file that one stands in."""
    folder, slash, unit = name.rpartition("/")
    return f"{folder}{slash}{PREFIX}{unit}" if kind in ("unit", "file") else name


def unit_actions(unit: Unit, state: HostState, now: Snapshot) -> list[UnitAction]:
    """What brings ``unit`` where it should be, in order; nothing where it is there."""
    return list(_unit_actions(unit, now.units.get(unit.name, FoundUnit()), state, now))


def _unit_actions(unit: Unit, found: FoundUnit, state: HostState, now: Snapshot) -> Iterator[UnitAction]:
    if found.needs_reload:
        yield UnitAction(("daemon-reload",), "systemd has an older unit file loaded")
    if unit.enabled and found.enabled not in _ENABLED:
        yield UnitAction(("enable",), "enable")
    elif not unit.enabled and found.enabled == "enabled":
        yield UnitAction(("disable",), "disable")
    if unit.name in state.serving_units:
        return  # whether it runs is told with its container, or its offer
    running = found.active in RUNNING
    if not unit.active:
        if running:
            yield UnitAction(("stop",), "stop")
    elif found.condition_failed:
        return
    elif not running:
        # Installing its package may start it before its configuration is there: only `on_change` is sure to read it.
        verbs = unit.on_change if unit.config and not _begins_with_it(unit, state, now) else ("start",)
        yield UnitAction(verbs, "start again after its failure" if found.active == "failed" else "start")
    elif has_stamp(unit, now):
        stamp, _, live = now.stamps.get(unit.name, "").partition(" ")
        if any(_has_other_content(path, state, now) for path in unit.config):
            # Whoever changed the file may have made the unit read it, which no stamp tells.
            yield UnitAction(unit.on_change, f"{unit.on_change[-1]}: its configuration changes")
        elif stamp != unit_stamp(unit, state):
            yield UnitAction(unit.on_change, f"{unit.on_change[-1]}: runs an older configuration")
        elif unit.live and now.live.get(unit.name) != live:
            yield UnitAction(unit.on_change, f"{unit.on_change[-1]}: changed behind its back")


def _begins_with_it(unit: Unit, state: HostState, now: Snapshot) -> bool:
    """Whether all of a unit's configuration is in its place before the package comes that starts it.

    dockerd would be started twice in a row on each new host.
    """
    coming = {package.name for package in state.packages} - now.packages.keys()
    return all(state.file(path).precedes in coming for path in unit.config)


def _has_other_content(path: str, state: HostState, now: Snapshot) -> bool:
    found = now.files.get(path)
    return found is None or found.digest != state.file(path).digest


def has_stamp(unit: Unit, now: Snapshot) -> bool:
    """Whether the host keeps a stamp for ``unit``: it reads files of ours, or did until the inventory dropped them."""
    return bool(unit.config) or unit.name in now.stamps


def unit_stamp(unit: Unit, state: HostState) -> str:
    """Digest of the configuration that ``unit`` must have come up with."""
    return state.stamp(unit.config)
