"""Containers whose unit has another name since an older Fiefdom: they go from one to the other without a stop."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.converge.containers import container_drift
from fiefdom.converge.plan import HostPlan
from fiefdom.converge.snapshot import FoundUnit, Snapshot
from fiefdom.converge.steps_script import Step
from fiefdom.converge.units import RUNNING
from fiefdom.desired.state import Container
from fiefdom.model.unit_names import former_of


def passed_on(plan: HostPlan) -> tuple[Container, ...]:
    """The containers of ``plan`` that run under a unit that goes, and run on under the one that comes.

    Others stop with the unit that goes. A gateway that is to be another one is passed on all the same: who takes it up
    lets a successor take over from it.
    """
    now = plan.snapshot
    going = {c.name for c in plan.of("unit", "-")}
    changed = {c.name for c in plan.of("container")}
    return tuple(
        c
        for c in plan.state.containers
        if former_of(c.unit) in going
        and _runs(former_of(c.unit), now)
        and c.name in now.containers
        and now.containers[c.name].running
        and (c.role == "gateway" or c.name not in changed)
    )


def at_risk(plan: HostPlan) -> frozenset[str]:
    """Services with an instance in `passed_on` that may become another one by it: their release is pending."""
    state, now = plan.state, plan.snapshot
    passed = (c for c in passed_on(plan) if c.role == "instance")
    return frozenset(c.service for c in passed if container_drift(c, now.containers[c.name], state, now))


def steps(plan: HostPlan) -> Iterator[Step]:
    """Let go of what runs, and take it up at once; an instance that does not answer then is sick, as ever."""
    passed = passed_on(plan)
    if passed:
        yield ("let-go", *(former_of(c.unit) for c in passed))
    # After a reboot that came in between, it may run under both.
    coming = [c for c in passed if not _runs(c.unit, plan.snapshot)]
    for verb, instances in ((("containers", "start"), False), (("instances",), True)):
        if units := [c.unit for c in coming if (c.role == "instance") is instances]:
            yield (*verb, *units)


def _runs(unit: str, now: Snapshot) -> bool:
    return now.units.get(unit, FoundUnit()).active in RUNNING
