"""The order in which a host's containers change: out of rotation, the ones after the others, back in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fiefdom.converge import passing
from fiefdom.converge.containers import is_healthy, is_made
from fiefdom.converge.plan import HostPlan
from fiefdom.converge.snapshot import Snapshot
from fiefdom.converge.steps_script import Step
from fiefdom.desired.offers import is_offer
from fiefdom.desired.offers import unit_of as offer_unit
from fiefdom.desired.state import Container, Offer
from fiefdom.model.unit_names import former_of, unit_of


def of_plan(plan: HostPlan) -> Iterator[Step]:
    """What is touched goes out of rotation first and comes back last; what is not stays there.

    A service that does not come up ends nothing: the others are offered all the same.
    """
    changed = [c.resource for c in plan.of("container", "+", "~", "-/+") if isinstance(c.resource, Container)]
    instances = [c for c in changed if c.role == "instance"]
    agents = [c for c in changed if c.role == "agent"]
    # A timer before what it would start once more.
    going = sorted((c.name for c in plan.of("unit", "-")), key=lambda unit: not unit.endswith(".timer"))
    renamed = [c for c in plan.state.containers if former_of(c.unit) in going]
    # It may be of a Fiefdom that knew no offers: then all that the host serves goes out with it.
    leaving = [c.unit for c in agents if is_healthy(c, plan.snapshot) and c not in renamed]
    touched, wanted = _touched(plan), {offer.unit for offer in plan.state.offers}
    returning = [unit for unit in touched if unit in wanted]
    if leaving or returning:
        yield ("rest", *leaving, *returning)
    yield from all_at_once("stop", [unit for unit in touched if unit not in going])
    yield from all_at_once("stop", leaving)
    for c in renamed:
        yield ("renamed", former_of(c.unit), c.unit)
    parting = [unit_of(name) for name, found in plan.snapshot.containers.items() if found.role == "agent"]
    first = [unit for unit in going if is_offer(unit)]
    first += [unit for unit in going if unit in (*parting, *map(former_of, parting))]
    passed = {former_of(c.unit) for c in passing.passed_on(plan)}
    yield from _removed_units(unit for unit in first if unit not in passed)
    yield from passing.steps(plan)
    yield from _removed_units(unit for unit in going if unit not in first and unit not in passed)
    if resting := [c.unit for c in agents if c in renamed]:
        yield ("rest", *resting, *returning)
    for change in plan.of("container", "-"):
        yield ("remove-container", change.name)
    if instances:
        yield ("instances", *(c.unit for c in instances))
    for gateway in (c for c in changed if c.role == "gateway"):
        # One that serves hands its listening sockets over to the new one, so that port 80 never refuses anybody.
        verb = "reload" if is_healthy(gateway, plan.snapshot) else "restart"
        yield ("containers", verb, gateway.unit)
        if verb == "reload" and (before := _left_behind(gateway, plan)):
            yield ("image-follows", gateway.name, before)
    yield from all_at_once("restart", [c.unit for c in agents])
    made = [c.resource for c in plan.of("offer") if isinstance(c.resource, Offer)]
    for offer in dict.fromkeys([*made, *(o for o in plan.state.offers if o.unit in returning)]):
        stays = offer.unit not in returning and is_made(offer, plan.snapshot)
        yield ("offer", "reload" if stays else "start", offer.unit, *offer.instances)


def _left_behind(gateway: Container, plan: HostPlan) -> str:
    """Id of the image that a gateway's container gives up for another one, where that was Fiefdom's build."""
    now = plan.snapshot
    found, image = now.containers[gateway.name], now.image(gateway.image)
    stays = (
        image is not None and image.id == found.image_id and not any(c.name == gateway.image for c in plan.of("image"))
    )
    stored = now.stored.get(found.image_id)
    return found.image_id if stored is not None and stored.context and not stays else ""


def _removed_units(units: Iterable[str]) -> Iterator[Step]:
    for unit in units:
        yield ("remove-unit", unit)


def _touched(plan: HostPlan) -> list[str]:
    """Units of the offers that are made and lose an instance, for good or for a moment."""
    now = plan.snapshot
    gone = [c.name for c in plan.of("container", "~", "-/+", "-")]
    lost = {name.rpartition("-")[0] for name in gone if _is_running_instance(name, now)} | passing.at_risk(plan)
    return [offer_unit(service) for service in sorted(now.offers) if service in lost]


def _is_running_instance(name: str, now: Snapshot) -> bool:
    found = now.containers.get(name)
    return found is not None and found.running and found.role == "instance"


def all_at_once(verb: str, units: list[str]) -> list[Step]:
    # systemctl takes no empty list.
    return [("containers", verb, *units)] if units else []
