"""Rows that are many, as few: what is well or the same stands once, with its count; what is not well stands alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from fiefdom.cluster.status import OFFERED, HostStatus, InstanceStatus, OfferStatus
from fiefdom.converge.change import Change
from fiefdom.converge.plan import Plan
from fiefdom.grouping import grouped
from fiefdom.procedures.release import Release, versions_of

FEW = 40
"""So many rows are read one by one: about what a terminal shows at once."""

LINES_OF_HOST = 2
"""What a plan has of a host with nothing to change: its name, and that."""

Row = TypeVar("Row")


def are_many(rows: int) -> bool:
    """Whether so many rows are to be gathered."""
    return rows > FEW


def gather(rows: Iterable[Row], key: Callable[[Row], Hashable | None]) -> list[list[Row]]:
    """Rows with the same key together, where the first of them stands; a row whose key is None stands alone."""
    found: dict[Hashable, list[Row]] = {}
    for number, row in enumerate(rows):
        of_row = key(row)
        found.setdefault((number,) if of_row is None else (of_row, "same"), []).append(row)
    return list(found.values())


def hosts(found: Sequence[HostStatus], every: bool) -> list[list[HostStatus]]:
    """Hosts of a status; those that are well by system and role. Gateways are few, and columns have their names."""

    def key(host: HostStatus) -> Hashable | None:
        well = host.member == "alive" and host.running == host.wanted and not host.silence
        return (host.release, host.role) if well and host.gateway == "-" else None

    return gather(found, key if are_many(len(found)) and not every else lambda _: None)


def offers(found: Sequence[OfferStatus], every: bool) -> list[list[OfferStatus]]:
    """Offers of a status; those that are whole by service and version."""

    def key(offer: OfferStatus) -> Hashable | None:
        return (offer.service, offer.version) if offer.state == OFFERED and not offer.why else None

    return gather(found, key if are_many(len(found)) and not every else lambda _: None)


def instances(found: Sequence[InstanceStatus], every: bool) -> list[list[InstanceStatus]]:
    """Instances of a status; those that are up by service, version and host, or by service and version."""

    def by_host(one: InstanceStatus) -> Hashable | None:
        return (one.service, one.version, one.host, one.servers) if one.is_up else None

    def by_service(one: InstanceStatus) -> Hashable | None:
        return (one.service, one.version, one.servers) if one.is_up else None

    if every or not are_many(len(found)):
        return [[one] for one in found]
    of_hosts = gather(found, by_host)
    return gather(found, by_service) if are_many(len(of_hosts)) else of_hosts


def is_wide(plan: Plan, every: bool) -> bool:
    """Whether a plan's hosts are too many to show one by one, unless a person wants ``every`` one."""
    return are_many(LINES_OF_HOST * len(plan.hosts)) and not every


def crowd(hosts: int, every: bool) -> int | None:
    """So many hosts that change, where they are too many to tell each phase or stage of each."""
    return hosts if are_many(LINES_OF_HOST * hosts) and not every else None


def changes(plan: Plan) -> list[tuple[tuple[str, ...], list[Change]]]:
    """A plan's changes by the hosts that have them, the most hosts first, else in the plan's order."""
    where = grouped((change, host.host) for host in plan.hosts for change in host.changes)
    found = grouped((tuple(names), change) for change, names in where.items())
    return sorted(found.items(), key=lambda item: -len(item[0]))


def diffs(texts: Mapping[tuple[str, str], str]) -> list[tuple[tuple[str, ...], str, str]]:
    """Diffs by host and path as hosts, path and text: the same text of a path once."""
    alike = gather(texts.items(), lambda item: (item[0][1], item[1]))
    return [(tuple(host for (host, _), _ in same), same[0][0][1], same[0][1]) for same in alike]


def batches(release: Release) -> list[list[int]]:
    """The batches of a release by number; those together that follow each other and do the same on each host."""
    found: list[list[int]] = []
    last = None
    for number, batch in enumerate(release.batches):
        does = {tuple(versions_of(release.turns[name])) for name in batch}
        if found and len(does) == 1 and does == last:
            found[-1].append(number)
        else:
            found.append([number])
        last = does
    return found
