"""A host made of plain values that takes the steps of `apply` as apply.sh would, and answers with a snapshot."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace

from fiefdom.apply import Phase
from fiefdom.desired import HostState, digest, spec_hash
from fiefdom.snapshot import FoundContainer, FoundFile, FoundImage, FoundUnit, Snapshot

LIVE = "live output"


@dataclass
class SimulatedHost:
    """``state`` is what its unit files and container configurations say; a real host reads them from its disk."""

    state: HostState
    identities: dict[str, str] = field(default_factory=dict)
    now: Snapshot = field(
        default_factory=lambda: Snapshot(0, "debian", "trixie", hostname="old", static_hostname="old")
    )
    log: list[tuple[str, ...]] = field(default_factory=list)
    staged: dict[str, FoundFile] = field(default_factory=dict)

    def take(self, phase: Phase) -> None:
        """One phase, as a whole."""
        for ref in phase.images:
            context = self.identities.get(ref, "").removeprefix("context:")
            self.now.images[ref] = FoundImage(f"sha256:{digest(ref + context)}", context)
        for step in phase.steps:
            self.log.append(step)
            getattr(self, step[0].replace("-", "_"))(*step[1:])

    def record(self, kind: str, name: str) -> None:
        self.now = replace(self.now, made=self.now.made | {(kind, name)})

    def forget(self, kind: str, name: str) -> None:
        self.now = replace(self.now, made=self.now.made - {(kind, name)})

    def packages(self, *names: str) -> None:
        self.now.packages.update(dict.fromkeys(names, "1"))

    def directory(self, path: str, mode: str, uid: str, gid: str) -> None:
        self.now.files[path] = FoundFile("directory", int(mode, 8), int(uid), int(gid))

    def stage(self, path: str, mode: str, uid: str, gid: str, content: str) -> None:
        body = base64.b64decode(content)
        self.staged[path] = FoundFile("regular file", int(mode, 8), int(uid), int(gid), digest(body))

    def check(self, path: str, *argv: str) -> None:
        assert path in self.staged and "{}" in argv

    def place(self, path: str) -> None:
        self.now.files[path] = self.staged.pop(path)

    def hostname(self, name: str) -> None:
        self.now = replace(self.now, hostname=name, static_hostname=name)

    def sysctl(self, path: str, value: str) -> None:
        self.now.sysctls[path.removeprefix("/proc/sys/")] = value

    def daemon_reload(self) -> None:
        for name, unit in self.now.units.items():
            self.now.units[name] = replace(unit, needs_reload=False)

    def unit(self, name: str, verbs: str, stamp: str, live: str) -> None:
        unit = self.now.units.get(name, FoundUnit(load="loaded"))
        for verb in verbs.split(","):
            if verb in ("enable", "disable"):
                unit = replace(unit, enabled=f"{verb}d")
            else:
                unit = replace(unit, active="inactive" if verb == "stop" else "active")
        self.now.units[name] = unit
        if stamp:
            self.now.live[name] = LIVE
            self.now.stamps[name] = f"{stamp} {LIVE if live else '-'}"

    def unstamp(self, name: str) -> None:
        self.now.stamps.pop(name, None)

    def containers(self, verb: str, *units: str) -> None:
        for container in self.state.containers:
            if container.unit in units:
                up = verb != "stop"
                spec = spec_hash(container, self.state)
                image = self.now.images[container.image].id
                self.now.containers[container.name] = FoundContainer(
                    up, image, spec, container.role, container.version, True, f"facts of {spec}"
                )
                self.now.container_stamps[container.name] = f"{spec} facts of {spec}"
                unit = self.now.units.get(container.unit, FoundUnit(load="loaded"))
                self.now.units[container.unit] = replace(unit, active="active" if up else "inactive")

    def remove_unit(self, name: str) -> None:
        self.now.units.pop(name, None)
        self.now.stamps.pop(name, None)

    def remove_container(self, name: str) -> None:
        self.now.containers.pop(name, None)
        self.now.container_stamps.pop(name, None)

    def remove_file(self, path: str) -> None:
        self.now.files.pop(path, None)

    def remove_directory(self, path: str) -> None:
        if not any(p.startswith(f"{path}/") for p in self.now.files):
            self.now.files.pop(path, None)
