"""What of a host is Fiefdom's own: what it may remove again, and what its manifest there lists."""

from __future__ import annotations

from fiefdom.converge import originals
from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired.state import HostState


def made(state: HostState) -> frozenset[tuple[str, str]]:
    """What of ``state`` is Fiefdom's own to remove again, as (kind, name).

    Packages stay, for others may use them by now, and so do units that a package brought, but for those that are said
    to go. Volumes stay whatever happens.
    """
    paths = {f.path for f in state.files}
    return frozenset(
        [("file", path) for path in paths]
        + [("block", b.path) for b in state.blocks]
        + ([("file", originals.HOSTNAME)] if state.hostname else [])
        + [("directory", d.path) for d in state.directories if not d.keeps]
        + [("account", a.name) for a in state.accounts]
        + [("unit", c.unit) for c in state.containers]
        + [("unit", u.name) for u in state.units if u.goes or f"/etc/systemd/system/{u.name}" in paths]
        + [("container", c.name) for c in state.containers]
    )


def claims(state: HostState, now: Snapshot) -> frozenset[tuple[str, str]]:
    """What of `made` Fiefdom may call its own on this host: of what it found there only what it replaces."""
    found = {("directory" if f.kind == "directory" else "file", path) for path, f in now.files.items()}
    found = (found | {("file", originals.HOSTNAME)}) - originals.replaced(state, now)
    found |= {("account", name) for name in now.users}
    return frozenset(item for item in made(state) if item in now.made or item not in found)
