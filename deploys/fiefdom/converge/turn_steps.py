"""A host's turns, as steps: its release, its way back from one, and its farewell to the cluster."""

from __future__ import annotations

from collections.abc import Iterable

from fiefdom.converge import originals, serving
from fiefdom.converge.plan import HostPlan, merge
from fiefdom.converge.steps import changed_files, directory, records, removal, staged
from fiefdom.converge.steps_script import Step
from fiefdom.desired import docker, mounts
from fiefdom.desired.containers import UNIT_DIR, conf_path
from fiefdom.desired.offers import conf_path as offer_conf_path
from fiefdom.desired.offers import unit_of as offer_unit
from fiefdom.desired.state import Container, Directory, File, Offer
from fiefdom.model.unit_names import former_of, template_of, unit_of


def turn(plan: HostPlan) -> tuple[Step, ...]:
    """One host's turn in a rollout: service by service out of rotation, other containers, healthy again, back in.

    ``plan`` holds the changes of the release alone. Whatever fails from the first stage on, the host puts back what it
    kept and offers it again. What the release leaves alone stays in rotation all the while.
    """
    files = changed_files(plan, serves=True)
    folders = [c.resource for c in plan.of("directory", "+", "~") if isinstance(c.resource, Directory)]
    changed = [c.resource for c in plan.of("container", "+", "~", "-/+") if isinstance(c.resource, Container)]
    released = {service: [c for c in changed if c.service == service] for service in _services(changed)}
    offers = {o.service: o for o in plan.state.offers if o.service in released}
    return (
        *(("remove-container", c.name) for c in plan.of("container", "-")),
        *staged(files),
        # One that goes back, or is forced, may bring what no apply has made.
        *records(plan),
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
        for s in removal(plan)
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
