"""What a release leaves without a use goes: files that no container has any more, and old images.

Of these, which a rollback could want, by the audit, and who is told of what stays all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fiefdom.cluster import audit, ledger
from fiefdom.converge import look, old_images, steps
from fiefdom.converge.change import Change
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.converge.run import Hosts, Known, Say
from fiefdom.desired import mounts
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.model.mounts import is_beneath
from fiefdom.procedures.rollback import AUDITED
from fiefdom.wording import Tell

OLD = ("old images", "old files")
"""What a host is at while it removes these, as `Say` hears it."""


def with_spared(known: Known, hosts: Hosts, wanted: Plan) -> tuple[Known, Plan]:
    """What is known with the images that a rollback could want, and ``wanted`` with the removal of the others.

    The audit is asked only where any host has more images than it is to keep. Where no gateway tells, all stay.
    """
    if known.spared is not None:
        return known, wanted
    keep = known.cluster.rollout.keep_releases
    if not old_images.unasked(wanted, keep):
        return known, wanted
    found = ledger.read(hosts, known.gateways, AUDITED)
    if found.silent and len(found.silent) == len(known.gateways):
        return known, wanted
    known = replace(known, spared=spared(known.cluster, found.entries))
    return known, Plan(tuple(old_images.with_old(host, keep, known.spared) for host in wanted.hosts))


def spared(cluster: Cluster, entries: Iterable[audit.Entry]) -> frozenset[str]:
    """Images that a rollback could choose by the audit: the last healthy version of each service, and the one before.

    Whichever version runs, the last other one that was healthy is one of these two.
    """
    entries = tuple(entries)
    refs = set()
    for name in cluster.services:
        last = audit.last_healthy(entries, name, "")
        before = audit.last_healthy(entries, name, last) if last else None
        refs |= {cluster.with_version(name, version).image_ref(name) for version in (last, before) if version}
    return frozenset(refs)


def tidy(known: Known, hosts: Hosts, say: Say, warn: Tell) -> None:
    """Remove what became old by what was done just now. Whatever becomes of that, the latter is done."""
    try:
        known, wanted = with_spared(known, hosts, look.see(known, hosts.names, hosts).plan())
        old = {h.host: h for h in _removals(wanted).hosts if h.changes}
        if not old:
            return

        def remove(name: str) -> None:
            say(name, OLD[0] if old[name].of("image") else OLD[1])
            for phase in steps.phases(old[name]):
                hosts.run(name, phase)

        hosts.on_all(remove, old)
        tell_left(look.see(known, hosts.names, hosts).plan(), warn)
    except FiefdomError as error:
        warn(f"old images may be left: {error}")


def _removals(wanted: Plan) -> Plan:
    """What of a plan takes away images, and files that were mounted into a container that has others now."""
    return Plan(tuple(replace(h, changes=tuple(c for c in h.due.changes if _is_left(c, h))) for h in wanted.hosts))


def _is_left(change: Change, host: HostPlan) -> bool:
    mounted = change.kind in ("file", "directory") and change.sign == "-" and is_beneath(change.name, mounts.FILES)
    # A container that is yet to go, or to be replaced, has them until then.
    has_it = any(mounts.is_way_of_files(change.name, c.name) for c in host.of("container"))
    return (mounted and not has_it) or old_images.is_removal(change)


def tell_left(left: Plan, warn: Tell) -> None:
    """Tell of old images that hosts still have after they were to remove them."""
    for host in old_images.removals(left).hosts:
        for change in host.changes:
            warn(f"{host.host}: the old image {change.name} stays; `docker image rm {change.name}` there says why")
