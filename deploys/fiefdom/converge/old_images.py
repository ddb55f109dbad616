"""Images that a host has no more use for: releases beyond the last few, and builds that another one replaced.

Fiefdom's are those that it brought, of which the manifest tells, and those of its services' names that it built, which
have a label. Others are none of its business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from fiefdom.converge.change import Change, in_order
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.converge.snapshot import Snapshot, StoredImage
from fiefdom.desired.state import HostState
from fiefdom.grouping import grouped
from fiefdom.model.references import familiar
from fiefdom.model.references import repository as repository_of

BROUGHT = "brought"
"""What a manifest calls a reference that Fiefdom sent or pulled."""


def with_old(host: HostPlan, keep_releases: int, spared: Collection[str] | None) -> HostPlan:
    """``host`` with the removal of its old images, and of no others.

    ``spared`` are references that a rollback could want. Where it is None nobody has asked the audit for them, and of
    the services that the host runs all stay.
    """
    others = (c for c in host.changes if not is_removal(c))
    stays = _services(host.state) if spared is None else frozenset()
    old = [
        c for c in _old(host.state, host.snapshot, keep_releases, spared or ()) if repository_of(c.name) not in stays
    ]
    return replace(host, changes=in_order([*others, *old]))


def is_removal(change: Change) -> bool:
    """Whether a change takes an image away."""
    return change.kind == "image" and change.sign == "-"


def removals(wanted: Plan) -> Plan:
    """What of a plan takes images away."""
    return Plan(tuple(replace(h, changes=tuple(filter(is_removal, h.changes))) for h in wanted.hosts))


def unasked(wanted: Plan, keep_releases: int) -> bool:
    """Whether any host has images of its services that would go unless a rollback could want them."""
    return any(
        repository_of(c.name) in _services(h.state)
        for h in wanted.hosts
        for c in _old(h.state, h.snapshot, keep_releases, ())
    )


def newly_brought(refs: Iterable[str], now: Snapshot) -> Iterator[str]:
    """Of references that are about to come to a host those that its manifest does not know, as Docker prints them."""
    return (ref for ref in map(familiar, refs) if (BROUGHT, ref) not in now.made)


def _services(state: HostState) -> frozenset[str]:
    return frozenset(repository_of(c.image) for c in state.containers if c.role == "instance")


def _old(state: HostState, now: Snapshot, keep_releases: int, spared: Collection[str]) -> Iterator[Change]:
    wanted = {familiar(image.ref) for image in state.images}
    stays = _needed(now) | set(map(familiar, spared))
    # Two services may run one image.
    services = {(c.service, repository_of(c.image)) for c in state.containers if c.role == "instance"}
    keeps = Counter({name: keep_releases * n for name, n in Counter(name for _, name in services).items()})
    found = grouped((repository_of(ref), ref) for ref in now.images.keys() - wanted if _is_ours(ref, state, now))
    going: dict[str, str] = {}
    for name, refs in found.items():
        more = max(0, keeps[name] - sum(repository_of(ref) == name for ref in wanted))
        refs.sort(key=lambda ref: (_stored(ref, now).tagged, ref), reverse=True)
        count = keeps[name]
        why = f"{count} newer {'is' if count == 1 else 'are'} kept" if count else "nothing uses it any more"
        going |= {ref: why for ref in refs[more:] if ref not in stays}
    for image_id in now.kept_images:
        # The way back names it anew, but needs one name of it until then.
        last = [ref for ref, image in now.images.items() if image.id == image_id]
        if last and going.keys() >= set(last):
            going.pop(max(last))
    yield from (Change("image", "-", ref, why, ref) for ref, why in going.items())
    in_use = {c.image_id for c in now.containers.values()} | now.used | now.kept_images
    for image_id, stored in now.stored.items():
        if stored.context and not stored.named and image_id not in in_use:
            short = image_id.removeprefix("sha256:")[:12]
            yield Change("image", "-", short, "a build that another one replaced", image_id)


def _needed(now: Snapshot) -> set[str]:
    """Names of images that containers have. One of Fiefdom's is made anew by the name of its version, and no other."""
    needed = {ref for ref, image in now.images.items() if image.id in now.used}
    for found in now.containers.values():
        names = {ref for ref, image in now.images.items() if image.id == found.image_id}
        own = {ref for ref in names if found.ours and found.version and ref.endswith(f":{found.version}")}
        needed |= own or names
    return needed


def _is_ours(ref: str, state: HostState, now: Snapshot) -> bool:
    if (BROUGHT, ref) in now.made:
        return True
    return bool(now.images[ref].context) and repository_of(ref) in {repository_of(i.ref) for i in state.images}


def _stored(ref: str, now: Snapshot) -> StoredImage:
    return now.stored.get(now.images[ref].id, StoredImage())
