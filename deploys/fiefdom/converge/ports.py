"""Host ports of what runs, while it runs: what the inventory says of them is true once a host had its turn."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from fiefdom.converge.change import Change
from fiefdom.converge.containers import is_healthy
from fiefdom.converge.plan import held_of
from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired.state import HostState


def running_checks(instances: Iterable[Change], snapshot: Snapshot, hold: Collection[str]) -> dict[str, int]:
    """How far from its own port the port of an instance's checks is, for each service as in `running_versions`.

    A service whose checks ask its own port is left out.
    """
    held = [c for c in held_of(instances, snapshot, hold) if is_healthy(c, snapshot)]
    found = {c.service: (snapshot.containers[c.name].checks, _port(c.name)) for c in held}
    return {name: checks - port for name, (checks, port) in found.items() if checks is not None and port is not None}


def going_ports(state: HostState, now: Snapshot) -> tuple[int, ...]:
    """Host ports of running instances that ``state`` has no more."""
    wanted = {container.name: container for container in state.containers}
    going: set[int | None] = set()
    for name, found in now.containers.items():
        if not (found.ours and found.running and found.role == "instance"):
            continue
        if name not in wanted:
            going |= {_port(name), found.checks}
        elif found.checks != urlsplit(wanted[name].probe or "").port:
            going.add(found.checks)
    return tuple(sorted(port for port in going if port is not None))


def _port(name: str) -> int | None:
    """Host port of an instance, by its container's name."""
    port = name.rpartition("-")[2]
    return int(port) if port.isdecimal() else None
