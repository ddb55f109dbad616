"""`systemd-analyze security` on Fiefdom's own units as they run: 10 is a unit without any sandbox."""

from __future__ import annotations

import re

from helpers.audited import Target

# A bare unit's is 9.6. A unit of a container may talk to Docker, and has no file system of its own, for each would see
# every mount of every container.
MOST = 2.5


def test_no_unit_is_exposed_more_than_its_work_needs(target: Target) -> None:
    units = own_units(target)
    assert units, "Fiefdom has no unit here"
    asked = {unit: exposure(target, unit) for unit in units}
    target.say("systemd-analyze security", ", ".join(f"{unit} {value}" for unit, value in asked.items()))
    assert {u: v for u, v in asked.items() if v > MOST} == {}


def own_units(target: Target) -> list[str]:
    """Those that stay. What changes a host for a moment (`fiefdom-turn`, `fiefdom-revert`) is root's by design."""
    made = [line.split("\t") for line in target.run("cat /var/lib/fiefdom/manifest").splitlines()]
    return sorted(name for kind, name in made if kind == "unit")


def exposure(target: Target, unit: str) -> float:
    said = target.run(f"systemd-analyze --no-pager security {unit}")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found, said
    return float(found[1])
