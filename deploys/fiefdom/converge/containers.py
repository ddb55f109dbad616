"""Containers and offers of a host: whether they are what is wanted, and whether they serve."""

from __future__ import annotations

from fiefdom.converge.snapshot import FoundContainer, FoundUnit, Snapshot
from fiefdom.converge.units import RUNNING, owner_of
from fiefdom.desired.state import Container, HostState, Offer, spec_hash

NOT_RUNNING = "not running"


def container_drift(wanted: Container, found: FoundContainer, state: HostState, now: Snapshot) -> list[str]:
    """Why what runs under a container's name is not what is wanted; nothing where it is."""
    why = []
    if not found.ours:
        why.append("started by hand")
    elif found.spec != spec_hash(wanted, state):
        if found.version and found.version != wanted.version:
            why.append(f"{found.version} -> {wanted.version}")
        else:
            why.append("specification")
    elif (stamp := now.container_stamps.get(wanted.name)) != f"{found.spec} {found.facts}":
        edited = stamp == f"{found.spec} {found.facts} edited"
        what = "an edited environment or file" if len(wanted.config) > 1 else "an edited environment"
        why.append(f"made from {what}" if edited else "started by hand with other settings")
    image = now.image(wanted.image)
    if found.ours and image is not None and found.image_id != image.id:
        why.append(f"image {short_id(found.image_id)} -> {short_id(image.id)}")
    if not why:
        unit = owner_of(wanted, now)
        if not found.running:
            why.append(NOT_RUNNING)
        elif unit.active not in RUNNING:
            why += [NOT_RUNNING, f"its unit is {unit.active}"]
    return why


def is_healthy(container: Container, now: Snapshot) -> bool:
    """Whether the host runs something under this container's name, and its unit says that it answers."""
    found = now.containers.get(container.name)
    return found is not None and found.running and owner_of(container, now).active in RUNNING


def is_made(offer: Offer, now: Snapshot) -> bool:
    """Whether the host offers a service, with whatever word."""
    return offer.service in now.offers and now.units.get(offer.unit, FoundUnit()).active in RUNNING


def short_id(image_id: str) -> str:
    return image_id.removeprefix("sha256:").removeprefix("context:")[:12]
