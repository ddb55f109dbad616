"""What a release is, as values: whose turn it is and when, what forbids it, and what the gateways count against it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fiefdom.converge import old_images, plan
from fiefdom.converge.change import Change
from fiefdom.converge.plan import HostPlan
from fiefdom.desired import mounts, offers
from fiefdom.desired.containers import FAILED, UNIT_DIR, conf_path
from fiefdom.desired.state import Container
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.model.unit_names import template_of
from fiefdom.wording import printable


def release_of(plan: HostPlan, services: Collection[str]) -> HostPlan:
    """What of ``plan`` is the release of ``services``: their running containers, what these are made from and owned by,
    the host's word of them, and what an earlier release left aside.
    """
    instances = [
        c.resource
        for c in plan.of("container", "-/+")
        if isinstance(c.resource, Container) and c.resource.service in services
    ]
    if not instances:
        return replace(plan, changes=())
    offered = {c.service for c in instances}
    paths = {path for c in instances for path in (*c.config, conf_path(c.name))}
    paths |= {path for name in offered for path in (offers.conf_path(name), f"{UNIT_DIR}/{template_of(name)}")}
    paths |= {f"{UNIT_DIR}/{offers.unit_of(name)}" for name in offered}
    images = {c.image for c in instances}
    names = {c.name for c in instances}

    def belongs(change: Change) -> bool:
        if change.kind == "container":
            return change.name in names or change.name.endswith(FAILED)
        if change.kind == "offer":
            return change.name in offered
        if change.kind == "directory":
            return change.sign != "-" and any(mounts.is_of(change.name, c) for c in instances)
        return (change.kind == "file" and change.name in paths) or (change.kind == "image" and change.name in images)

    return replace(plan, changes=tuple(c for c in plan.changes if belongs(c)))


def versions_of(release: HostPlan) -> list[tuple[str, str, str]]:
    """Service, version before and after of each instance that ``release`` replaces."""
    return [
        (c.resource.service, release.snapshot.containers[c.name].version, c.resource.version)
        for c in release.of("container", "-/+")
        if isinstance(c.resource, Container) and c.resource.role == "instance"
    ]


@dataclass(frozen=True)
class Release:
    """Hosts whose instances are replaced: ``turns`` holds for each, in order, the changes of the release alone."""

    services: Mapping[str, tuple[tuple[str, ...], str]]
    """Versions before, at least one, and after by service."""
    turns: Mapping[str, plan.HostPlan] = field(repr=False)
    batches: tuple[tuple[str, ...], ...]
    """Hosts that take their turn at once, batch after batch."""
    left: tuple[str, ...] = ()
    """Hosts that stay as they are, because a canary comes first."""
    asked: frozenset[str] = frozenset()
    """Services that were asked for, changed or not."""
    already: tuple[str, ...] = ()
    """Hosts that ran the new version of a service before the release began: a canary, or what an earlier run did."""
    pauses: tuple[str, ...] = ()
    """Services that nobody serves during their turn, for each has one instance."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host that takes a turn, in order."""
        return tuple(name for batch in self.batches for name in batch)

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {', '.join(before)} -> {after}" if before != (after,) else f"{name} {after} with other settings"
            for name, (before, after) in self.services.items()
        )


@dataclass(frozen=True)
class Order:
    """How a person wants the hosts to go."""

    batch: str = "1"
    first: tuple[str, ...] = ()
    canary: str | None = None
    all_at_once: bool = False


def chosen_services(cluster: Cluster, service: str | None) -> frozenset[str]:
    """The service of that name, or all. Raises FiefdomError for one that the inventory lacks."""
    if service is None:
        return frozenset(cluster.services)
    if service not in cluster.services:
        known = ", ".join(sorted(cluster.services))
        raise FiefdomError(f"{printable(service)} is no service of this inventory; it has {known}")
    return frozenset({service})


def check(cluster: Cluster, service: str | None, order: Order, without: Collection[str] = ()) -> None:
    """Raise FiefdomError for what no host has to be asked for: an unknown service, host or batch."""
    _queue(cluster, chosen_services(cluster, service), [], order)
    _batch_size(order.batch, 1)
    if order.canary in without:
        raise FiefdomError(f"--canary {order.canary}: is left out by --without")


def of_plan(
    cluster: Cluster, wanted: plan.Plan, services: Collection[str], order: Order, without: Collection[str] = ()
) -> Release:
    """The release of ``services`` in a plan that held nothing of them back, where hosts ``without`` serve nobody.

    Raises FiefdomError for an order that names other hosts, and for one that leaves a service without any.
    """
    turns = {h.host: release_of(h, services) for h in wanted.hosts}
    turns = {name: turn for name, turn in turns.items() if turn.changes}
    versions: dict[str, tuple[dict[str, None], str]] = {}
    for turn in turns.values():
        for service, before, after in versions_of(turn):
            versions.setdefault(service, ({}, after))[0].setdefault(before)
    queue = _queue(cluster, services, list(turns), order)
    size = _batch_size(order.batch, len(queue))
    batches = [tuple(queue[i : i + size]) for i in range(0, len(queue), size)]
    left: tuple[str, ...] = ()
    if order.canary is not None and turns:
        left = tuple(name for name in queue if name != order.canary)
        batches = [(order.canary,)] if order.canary in turns else []
    if not order.all_at_once:
        require_others(cluster, [name for name in versions if not cluster.pauses(name)], batches, without)
    return Release(
        {name: (tuple(before), after) for name, (before, after) in sorted(versions.items())},
        turns,
        tuple(batches),
        left,
        frozenset(services),
        tuple(h.host for h in wanted.hosts if _is_already_there(h, turns.get(h.host), versions)),
        tuple(name for name in sorted(versions) if cluster.pauses(name)),
    )


def _is_already_there(host: plan.HostPlan, turn: plan.HostPlan | None, services: Collection[str]) -> bool:
    """Whether a host runs one of ``services`` as it shall be, so that its turn, if it has one, leaves that alone."""
    replaced = {c.name for c in turn.of("container")} if turn else set()
    by_service: dict[str, list[bool]] = {}
    for c in host.state.containers:
        if c.role == "instance" and c.service in services:
            found = host.snapshot.containers.get(c.name)
            there = found is not None and found.running and found.version == c.version and c.name not in replaced
            by_service.setdefault(c.service, []).append(there)
    return any(all(there) for there in by_service.values())


def _queue(cluster: Cluster, services: Collection[str], hosts: Sequence[str], order: Order) -> list[str]:
    running = [name for name in cluster.hosts if any(i.service in services for i in cluster.instances(name))]
    asked = [("--order", name) for name in order.first]
    if order.canary is not None:
        asked.append(("--canary", order.canary))
    for option, name in asked:
        if name not in running:
            raise FiefdomError(
                f"{option} {printable(name)!r}: runs no {' or '.join(sorted(services))}; "
                f"these hosts do: {', '.join(running)}"
            )
    first = [name for name in dict.fromkeys(order.first) if name in hosts]
    return first + [name for name in hosts if name not in first]


def _batch_size(text: str, count: int) -> int:
    match = re.fullmatch(r"([0-9]{1,4})(%?)", text)
    number = int(match[1]) if match else 0
    if not match or number < 1 or (match[2] and number > 100):
        raise FiefdomError(f"--batch {printable(text)!r}: say a number of hosts such as 2, or a share such as 25%")
    return max(1, number * count // 100) if match[2] else number


def require_others(
    cluster: Cluster, services: Collection[str], batches: Iterable[Sequence[str]], without: Collection[str] = ()
) -> None:
    """Raise FiefdomError for a batch that leaves a service without any host; those ``without`` do not count."""
    for service in sorted(services):
        running = [name for name in cluster.runs_on(service) if name not in without]
        for batch in batches:
            if running and set(running) <= set(batch):
                raise FiefdomError(
                    f"{service} runs on {', '.join(running)} only, so that this batch takes all of it out at once and "
                    "requests fail meanwhile; choose a smaller --batch, or say --all-at-once"
                )


def unapplied(wanted: plan.Plan, turns: Mapping[str, plan.HostPlan]) -> list[str]:
    """What `apply` would have to do before a release of ``turns``."""
    reasons = []
    for host in wanted.due.hosts:
        released = {(c.kind, c.name) for c in turns[host.host].changes} if host.host in turns else set()
        others = [
            c
            for c in host.changes
            if (c.kind, c.name) not in released and not c.name.endswith(FAILED) and not old_images.is_removal(c)
        ]
        if others:
            what = f"{others[0].kind} {others[0].name}"
            many = f" and {len(others) - 1} more" if len(others) > 1 else ""
            reasons.append(f"{host.host}: another change is pending, {what}{many}; `fiefdom apply` makes it")
    return reasons
