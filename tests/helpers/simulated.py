"""Hosts made of plain values: they take steps as steps.sh would, and answer with a snapshot."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fiefdom.cluster import gossip
from fiefdom.converge import look, one_off, originals, run, steps
from fiefdom.converge.run import Known
from fiefdom.converge.snapshot import JOBS, OFFERS, FoundContainer, FoundFile, FoundImage, FoundUnit, Snapshot
from fiefdom.converge.steps import Phase
from fiefdom.converge.steps_script import Step
from fiefdom.desired import offers
from fiefdom.desired.containers import CHECKS_LABEL, FAILED, LINKS_LABEL, conf_path
from fiefdom.desired.docker import CLIENT_CONFIG
from fiefdom.desired.gateway import HAPROXY_CONFIG
from fiefdom.desired.mounts import file_path, is_volume
from fiefdom.desired.offers import is_offer
from fiefdom.desired.state import File, HostState, digest, spec_hash
from fiefdom.errors import FiefdomError, HostErrors, Unreachable
from fiefdom.model import references
from fiefdom.model.unit_names import former_of

LIVE = "live output"
AGENT_FILE = "/etc/fiefdom/serf/agent.json"
GATEWAY_AGENT_FILE = "/etc/fiefdom/gateway/agent.json"

Ring = tuple[str, ...]


def understand(one: Ring, other: Ring) -> bool:
    """Whether two agents with these keys understand each other: each encrypts with its first."""
    return bool(one and other) and one[0] in other and other[0] in one


@dataclass(frozen=True)
class Kept:
    """What a turn keeps of the time before it."""

    files: dict[str, tuple[FoundFile, bytes] | None] = field(default_factory=dict)
    containers: dict[str, tuple[str, FoundContainer | None]] = field(default_factory=dict)
    offers: dict[str, None] = field(default_factory=dict)
    directories: dict[str, FoundFile] = field(default_factory=dict)
    turn: str = ""


@dataclass
class Spoken:
    """What a host prints, until it is gone where ``lost`` says so."""

    name: str
    pieces: list[bytes]
    lost: str = ""

    def ready(self) -> bool:
        return True

    def read(self) -> bytes:
        if not self.pieces and self.lost:
            raise Unreachable(self.name, self.lost)
        return self.pieces.pop(0) if self.pieces else b""


class StepFailed(Exception):
    """What a step complains of: the thing and the reason."""


@dataclass
class SimulatedHost:
    """``state`` is what it is asked for; what a container is started as says its configuration, where it has one."""

    state: HostState
    identities: dict[str, str] = field(default_factory=dict)
    now: Snapshot = field(
        default_factory=lambda: Snapshot(0, "debian", "trixie", hostname="old", static_hostname="old")
    )
    log: list[Step] = field(default_factory=list)
    staged: dict[str, tuple[FoundFile, bytes]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    originals: dict[str, tuple[FoundFile | None, bytes]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    mounted: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By container, what it has had in its files since it last started, by their paths in it."""
    kept: Kept | None = None
    unfinished: bool = False
    undo: bool = False
    _keeping: Kept = field(default_factory=Kept)
    _built: dict[str, FoundImage] = field(default_factory=dict)

    def take(self, phase: Phase) -> None:
        """One phase, as a whole."""
        for ref in phase.images:
            context = self.identities.get(ref, "").removeprefix("context:")
            self._has(ref, FoundImage(f"sha256:{digest(ref + context)}", context))
        for step in phase.steps:
            self.take_step(step)

    def _has(self, ref: str, image: FoundImage) -> None:
        self.now.images[references.familiar(ref)] = self._built[image.id] = image

    def take_step(self, step: Step) -> None:
        """One step."""
        self.log.append(step)
        getattr(self, step[0].replace("-", "_"))(*step[1:])

    def record(self, kind: str, name: str) -> None:
        """From here on it is Fiefdom's; the host keeps what is there."""
        if kind == "file" and ("file", name) not in self.now.made and name not in self.originals:
            if name == originals.HOSTNAME:
                self.originals[name] = None, self.now.static_hostname.encode()
            elif name in self.now.files:
                self.originals[name] = self.now.files[name], self.contents.get(name, b"")
        self._tell_originals()
        self.now = replace(self.now, made=self.now.made | {(kind, name)})

    def forget(self, kind: str, name: str) -> None:
        self.now = replace(self.now, made=self.now.made - {(kind, name)})

    def packages(self, *names: str) -> None:
        self.now.packages.update(dict.fromkeys(names, "1"))

    def account(self, name: str, uid: str, entry: str) -> None:
        assert entry in self.now.files
        self.now.users[name], self.now.groups[name] = (int(uid), int(uid)), int(uid)

    def remove_account(self, name: str) -> None:
        self.now.users.pop(name, None)
        self.now.groups.pop(name, None)

    def lend(self, path: str, old: str, new: str) -> None:
        mode = self.now.files[path].mode
        self.now.files[path] = replace(self.now.files[path], mode=mode | mode >> 3 & 0o070, uid=int(old), gid=int(new))

    def own(self, path: str, mode: str, uid: str, gid: str) -> None:
        self.now.files[path] = replace(self.now.files[path], mode=int(mode, 8), uid=int(uid), gid=int(gid))

    def directory(self, path: str, mode: str, uid: str, gid: str) -> None:
        self.now.files[path] = FoundFile("directory", int(mode, 8), int(uid), int(gid))
        if is_volume(path):
            self.now = replace(self.now, volumes=self.now.volumes | {path})

    def stage_like(self, path: str, mode: str, uid: str, gid: str, other: str) -> None:
        self.stage(path, mode, uid, gid, base64.b64encode(self.staged[other][1]).decode())

    def mend(self, path: str) -> None:
        """What has the file mounted sees it."""
        self.place(path)
        for container, files in self.mounted.items():
            files |= {at: self.contents[path] for at in files if file_path(container, at) == path}

    def remove_volume(self, path: str) -> None:
        del self.now.files[path]
        self.now = replace(self.now, volumes=self.now.volumes - {path})

    def stage(self, path: str, mode: str, uid: str, gid: str, content: str) -> None:
        body = base64.b64decode(content)
        seen = File(path, body, login=path == CLIENT_CONFIG).digest
        self.staged[path] = FoundFile("regular file", int(mode, 8), int(uid), int(gid), seen), body

    def pull(self, ref: str, source: str = "") -> None:
        """What a registry has under a name does not change; what a digest names is only that."""
        which = (source or ref).partition("@")[2]
        digests = frozenset([which or f"sha256:{digest(f'manifest of {ref}')}"])
        self._has(ref, FoundImage(f"sha256:{digest(ref + which)}", "", digests))

    def check(self, path: str, *argv: str) -> None:
        # A timer's words are judged by themselves.
        assert path in self.staged and ("{}" in argv or argv[:2] == ("systemd-analyze", "calendar"))

    def place(self, path: str) -> None:
        self.now.files[path], self.contents[path] = self.staged.pop(path)

    def stage_block(self, path: str, block: str, around: str) -> None:
        content = base64.b64decode(block)
        self.staged[path] = FoundFile("regular file", 0o644, 0, 0, digest(content)), content + base64.b64decode(around)

    def place_block(self, path: str) -> None:
        found, content = self.staged.pop(path)
        self.now.blocks[path] = str(found.digest)
        self.now.files.setdefault(path, replace(found, digest=digest(content)))
        if ("file", path) in self.now.made:
            self.forget("file", path)
            self.originals.pop(path, None)
            self._tell_originals()

    def remove_block(self, path: str) -> None:
        self.now.blocks.pop(path, None)

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
        if not units:
            raise StepFailed("", f"{verb} failed: Too few arguments.")
        names = {c.unit: c.name for c in self.state.containers}
        for unit in units:
            if is_offer(unit):
                self._drive_offer(verb, unit)
            else:
                self._drive(verb, unit, names.get(unit, former_of(unit).removesuffix(".service")))

    def instances(self, *units: str) -> None:
        self.containers("restart", *units)

    def offer(self, verb: str, unit: str, *_instances: str) -> None:
        self.containers(verb, unit)

    def _drive_offer(self, verb: str, unit: str) -> None:
        service = next((o.service for o in self.state.offers if o.unit == unit), "")
        service = service or unit.removeprefix("fiefdom-offer-").removesuffix(".service")
        if verb == "stop":
            self.now.offers.pop(service, None)
        else:
            self.now.offers[service] = self._word(service)
        found_unit = self.now.units.get(unit, FoundUnit(load="loaded"))
        self.now.units[unit] = replace(found_unit, active="inactive" if verb == "stop" else "active")

    def _word(self, service: str) -> str:
        text = self.contents.get(offers.conf_path(service), b"").decode()
        words = [line.removeprefix("word ") for line in text.splitlines() if line.startswith("word ")]
        return words[0] if words else next(o.word for o in self.state.offers if o.service == service)

    def _drive(self, verb: str, unit: str, name: str) -> None:
        if verb != "stop":
            self.now.containers[name] = found = self._started(name)
            self.now.container_stamps[name] = f"{found.spec} {found.facts}"
        elif name in self.now.containers:
            self.now.containers[name] = replace(self.now.containers[name], running=False)
        found_unit = self.now.units.get(unit, FoundUnit(load="loaded"))
        self.now.units[unit] = replace(found_unit, active="inactive" if verb == "stop" else "active")

    def _started(self, name: str) -> FoundContainer:
        text = self.contents.get(conf_path(name), b"").decode()
        if text:
            conf = dict(line.split(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            spec, ref, role, version = (conf[key] for key in ("spec", "image", "role", "version"))
        else:
            wanted = next((c for c in self.state.containers if c.name == name), None)
            if wanted is None:
                raise StepFailed(name, "its configuration is missing")
            spec, ref, role, version = spec_hash(wanted, self.state), wanted.image, wanted.role, wanted.version
        self._mount(name, [line for line in text.splitlines() if line.startswith("arg --mount=")])
        image = self.now.image(ref)
        if image is None:
            raise StepFailed(name, f"image {ref} is not on this host")
        wanted = next((c for c in self.state.containers if c.name == name), None)
        labels = [arg.rpartition("=")[2] for arg in (wanted.args if wanted else ()) if CHECKS_LABEL in arg]
        checks = int(labels[0]) if labels else None
        published = [line.partition("=")[2] for line in text.splitlines() if line.startswith("arg --publish=")]
        listens = published[0].partition(":")[0] if published else ""
        told = [line.rpartition("=")[2].split(",") for line in text.splitlines() if f"={LINKS_LABEL}=" in line]
        links = tuple(told[0]) if told else ()
        return FoundContainer(True, image.id, spec, role, version, True, f"facts of {spec}", checks, listens, links)

    def _mount(self, name: str, arguments: Iterable[str]) -> None:
        """As Docker has it: no source, no container."""
        mounts = [dict(re.findall(r"(source|target)=([^,]+)", argument)) for argument in arguments]
        for mount in mounts:
            if mount["source"] not in self.now.files:
                raise StepFailed(name, f"bind source path does not exist: {mount['source']}")
        self.mounted[name] = {m["target"]: self.contents[m["source"]] for m in mounts if m["source"] in self.contents}

    def let_go(self, *names: str) -> None:
        for name in names:
            self.now.units.pop(name)
            self.now.stamps.pop(name, None)

    def renamed(self, before: str, after: str) -> None:
        if self.kept is not None:
            containers = self.kept.containers
            containers |= {name: (after, was) for name, (unit, was) in containers.items() if unit == before}

    def remove_unit(self, name: str) -> None:
        if is_offer(name):
            self._drive_offer("stop", name)
        elif self.now.units.get(name, FoundUnit()).active == "active":
            self._drive("stop", name, former_of(name).removesuffix(".service").replace("@", "-"))
        self.now.units.pop(name, None)
        self.now.stamps.pop(name, None)

    def remove_container(self, name: str) -> None:
        self.now.containers.pop(name, None)
        self.now.container_stamps.pop(name, None)

    def remove_image(self, ref: str) -> None:
        """A container that has it keeps it; no name that is left of it is its last."""
        found = self.now.images.get(ref)
        if found and all(c.image_id != found.id for c in self.now.containers.values()):
            del self.now.images[ref]
            self.forget("brought", ref)
        elif not found:
            self.now.stored.pop(ref, None)

    def image_follows(self, _container: str, image_id: str) -> None:
        """Here the gateway before has gone at once."""
        self.now.stored.pop(image_id, None)

    def remove_file(self, path: str) -> None:
        self.now.files.pop(path, None)
        self.contents.pop(path, None)
        if path in self.originals:
            found, content = self.originals.pop(path)
            if found is None:
                self.hostname(content.decode())
            else:
                self.now.files[path], self.contents[path] = found, content
            self.forget("file", path)
            self._tell_originals()

    def _tell_originals(self) -> None:
        self.now = replace(self.now, originals=dict.fromkeys(self.originals, False))

    def unit_back(self, name: str) -> None:
        self.now = replace(self.now, units_before=self.now.units_before - {name})

    def reload(self, name: str) -> None:
        assert name in self.now.units

    def remove_directory(self, path: str) -> None:
        if not any(p.startswith(f"{path}/") for p in self.now.files):
            self.now.files.pop(path, None)

    def erase(self) -> None:
        self.kept = None

    def rest(self, *units: str) -> None: ...

    def upgrade(self, *units: str) -> None: ...

    # --- What only a turn does

    def say(self, stage: str) -> None:
        self.said.append(f"fiefdom-stage\t{stage}")

    def guard(self, *_words: str) -> None:
        """Nothing that a simulated host has could lock anybody out."""

    def leave_network(self) -> None:
        """A simulated host has no interfaces."""

    def holds(self, path: str) -> None:
        assert path in self.now.files

    def reconfigure(self, interface: str) -> None:
        """A simulated host has no interfaces."""

    def keep(self, what: str, name: str = "", unit: str = "") -> None:
        if what == "begin":
            before = self.kept if self.unfinished and self.kept else Kept()
            kept = dict(before.files), dict(before.containers), dict(before.offers), dict(before.directories)
            self._keeping = Kept(*kept, name)
        elif what == "done":
            self.kept, self.unfinished, self.undo = self._keeping, True, True
        elif what == "file":
            found = self.now.files.get(name)
            self._keeping.files.setdefault(name, (found, self.contents[name]) if found else None)
        elif what == "directory":
            if found := self.now.files.get(name):
                self._keeping.directories.setdefault(name, found)
        elif what == "offer":
            self._keeping.offers[name] = None
        else:
            self._keeping.containers.setdefault(name, (unit, self.now.containers.get(name)))

    def kept_turn(self, turn: str) -> bool:
        """Whether what was kept is of this turn: otherwise it never came to change anything."""
        return self.kept is not None and self.kept.turn == turn

    def settled(self) -> None:
        self.unfinished = self.undo = False

    def restore(self, how: str) -> None:
        self.undo = False
        if self.kept is None:
            self.said.append("fiefdom-not-restored\t/var/lib/fiefdom/previous\tnothing was kept of an earlier release")
            raise StepFailed("restore", "nothing was kept")
        for unit in self.kept.offers:
            self._drive_offer("stop", unit)
        for name, (_, before) in self.kept.containers.items():
            found = self.now.containers.get(name)
            if found and before and replace(found, running=before.running) == before:
                continue
            if before and before.image_id in self._built:
                ref = next(c.image for c in self.state.containers if c.name == name)
                self.now.images.update({r: self._built[i.id] for r, i in self.now.images.items() if r != ref})
            if how == "aside" and found:
                self.now.containers[f"{name}{FAILED}"] = replace(found, running=False)
        self.now.files.update(self.kept.directories)
        for path, file in self.kept.files.items():
            if file is None:
                self.remove_file(path)
            else:
                self.now.files[path], self.contents[path] = file
        for name, (unit, _) in self.kept.containers.items():
            self._drive("start", unit, name)
        for unit in self.kept.offers:
            self._drive_offer("start", unit)
        self.unfinished = False
        self.said.append("fiefdom-restored\tthis host")


def answer(now: Snapshot) -> list[str]:
    """What snapshot.sh would print of a host."""
    lines = [
        f"uid\t{now.uid}",
        f"os\t{now.distribution}\t{now.codename}",
        f"client\t{now.client}",
        f"docker\t{now.docker}",
        f"hostname\t{now.hostname}\t{now.static_hostname}",
    ]
    lines += [f"user\t{name}\t{uid}\t{gid}" for name, (uid, gid) in now.users.items()]
    lines += [f"group\t{name}\t{gid}" for name, gid in now.groups.items()]
    lines += [f"volume\t{path}" for path in sorted(now.volumes)]
    for path, f in now.files.items():
        lines += [f"file\t{path}\t{f.kind}\t{f.mode:o}\t{f.uid}\t{f.gid}"]
        lines += [f"digest\t{path}\t{f.digest}"] * (f.digest is not None)
    lines += [f"block\t{path}\t{value}" for path, value in now.blocks.items()]
    lines += [f"package\t{name}\tinstalled\t{version}" for name, version in now.packages.items()]
    for name, u in now.units.items():
        shown = {"Id": name, "LoadState": u.load, "ActiveState": u.active, "UnitFileState": u.enabled}
        lines += [*(f"unit\t{key}={value}" for key, value in shown.items()), "unit\t"]
    lines += [f"sysctl\t/proc/sys/{key}:{value}" for key, value in now.sysctls.items()]
    for ref, i in now.images.items():
        lines += [f"image\t{ref}\t{i.id}\t{i.context}\t{' '.join(f'r@{d}' for d in sorted(i.digests))}"]
    lines += [
        f'stored\t{i}\t{s.context}\t"{s.tagged}Z"\t{"named" * s.named}\t{" ".join(s.layers)}'
        for i, s in now.stored.items()
    ]
    if now.disk is not None:
        lines.append(f"disk\t{now.disk.size_kib}\t{now.disk.free_kib}")
    lines += [f"package\tdpkg\tinstalled\t1\t{now.architecture}"] * bool(now.architecture)
    lines += [f"used\t{image_id}" for image_id in sorted(now.used)]
    lines += [f"kept-image\t{image_id}" for image_id in sorted(now.kept_images)]
    lines += [f"live\t{name}\t{value}" for name, value in now.live.items()]
    for folder, stamps in (("stamps", now.stamps), ("containers", now.container_stamps)):
        lines += [f"stamp\t/var/lib/fiefdom/{folder}/{name}:{value}" for name, value in stamps.items()]
    lines += [f"offer\t{OFFERS}{name}.offer:{word}" for name, word in now.offers.items()]
    lines += [f"job\t{JOBS}{name}:{run}" for name, run in now.jobs.items()]
    lines += [
        "\t".join(
            [
                *(f"container\t/{name}", "true" if c.running else "false", c.image_id, c.spec, c.role, c.version),
                *("yes" if c.ours else "", "" if c.checks is None else str(c.checks), ",".join(c.links)),
                *(f"{c.listens} " * 2, c.facts),
            ]
        )
        for name, c in now.containers.items()
    ]
    lines += [f"original\t{path}\t{'changed' if by_hand else '-'}" for path, by_hand in now.originals.items()]
    lines += [f"unit-before\t{name}" for name in sorted(now.units_before)]
    return [*lines, *(f"made\t{kind}\t{name}" for kind, name in sorted(now.made)), "end"]


BROKEN_OFF = object()


def broken_off(name: str, words: str = "gone") -> Unreachable:
    """What a session raises of a host whose connection broke off."""
    return Unreachable(name, f"the connection broke off: {words}")


@dataclass(frozen=True)
class Trouble:
    """What goes wrong at the step of this number of a host's turn: it fails, is killed, or loses its connection.

    A "break" of the connection heals by itself, a "cut" one has to be opened anew, and the host may be "dead".
    """

    kind: str
    step: int


def _says_nothing(_host: str, _arguments: tuple[str, ...], hear: Callable[[int, bytes], None]) -> int:
    hear(1, one_off.BEGUN)
    return 0


@dataclass
class SimulatedHosts:
    """A cluster's hosts behind the face of `engine.Session`. Gateways see whom the running agents tell of.

    ``log`` keeps who did what, in order; ``trouble`` is for the next turn of a host.
    """

    known: Known
    root: Path
    hosts: dict[str, SimulatedHost] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    trouble: dict[str, Trouble] = field(default_factory=dict)
    back_trouble: dict[str, Trouble] = field(default_factory=dict)
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    views: dict[str, Any] = field(default_factory=dict)
    """What a gateway answers instead of the truth: a document, why there is none, or BROKEN_OFF."""
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    rings: dict[str, Ring] = field(default_factory=dict)
    """Keys of each agent that runs, the one it encrypts with first."""
    strangers: dict[str, Ring] = field(default_factory=dict)
    """Members that are no host of the cluster, with the keys that they have."""
    watch: Callable[[str], object] = lambda _name: None
    """Called after every step of a host."""
    cut: set[str] = field(default_factory=set)
    """Hosts whose connection dropped."""
    gone: set[str] = field(default_factory=set)
    """Hosts to which no other connection opens."""
    one_off: Callable[[str, tuple[str, ...], Callable[[int, bytes], None]], int] = field(default=_says_nothing)
    """What a command in a container of its own says, and its exit code."""
    spoken: dict[str, list[bytes]] = field(default_factory=dict)
    """What each host prints to who listens to all of them."""
    heard: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What each was given to say that."""
    program: Callable[[str, str | None, tuple[str, ...]], int] = field(default=lambda *_: 0)
    """What a program at the operator's own terminal does, by host, script and words; its exit code."""
    closed: set[tuple[str, str]] = field(default_factory=set)
    """From whom to whom gossip's connections do not pass."""
    _ring_specs: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.known.cluster.hosts if name not in self.known.without)

    # --- What a session does

    def on_all(self, function: Callable[[str], Any], names: Iterable[str] | None = None) -> dict[str, Any]:
        errors, results = {}, {}
        for name in self.names if names is None else tuple(names):
            try:
                results[name] = function(name)
            except FiefdomError as error:
                errors[name] = error
        if errors:
            raise HostErrors(errors.values())
        return results

    def snapshot_lines(self, queries: Mapping[str, str]) -> dict[str, list[str]]:
        for name in queries:
            self._require_link(name)
        return {name: answer(self.hosts[name].now) for name in queries}

    def run(self, name: str, phase: Phase) -> None:
        self.log.append(f"{name} {phase.name}")
        self.hosts[name].take(replace(phase, steps=()))
        for step in phase.steps:
            self.hosts[name].take_step(step)
            self._gossip(name)

    def follow(self, name: str, steps: Iterable[Step], hear: Callable[[str], None]) -> None:
        steps = list(steps)
        back = any(step[0] == "restore" for step in steps)
        trouble = (self.back_trouble if back else self.trouble).pop(name, Trouble("none", -1))
        if trouble.kind == "dead":
            self.cut.add(name)
            self.gone.add(name)
        self._require_link(name)
        self.log.append(f"{name} {'back' if back else 'turn'}")
        try:
            for line in self._lines(name, steps, trouble):
                hear(line)
        except BaseException:  # the operator is gone, the host is not
            raise
        finally:
            self.log.append(f"{name} end")

    def _lines(self, name: str, steps: Sequence[Step], trouble: Trouble) -> Iterator[str]:
        """What a turn prints; it comes to its end whether anybody hears it or not."""
        printed = list(self._taken(name, steps, trouble))
        if trouble.kind in ("break", "cut"):
            yield from printed[: trouble.step]
            if trouble.kind == "cut":
                self.cut.add(name)
            raise Unreachable(name, "the connection broke off; the host ends its turn by itself")
        yield from printed

    def _taken(self, name: str, steps: Sequence[Step], trouble: Trouble) -> Iterator[str]:
        host = self.hosts[name]
        host.undo = False
        for number, step in enumerate(steps):
            try:
                if trouble == Trouble("fail", number):
                    raise StepFailed(" ".join(step[:2]), "out of luck")
                if trouble == Trouble("killed", number):
                    return
                if step[0] == "kept":
                    if not host.kept_turn(step[1]):
                        yield f"fiefdom-restored\t{name}"
                        return
                else:
                    host.take_step(step)
            except StepFailed as error:
                yield from self._said(host)
                yield "fiefdom-log\tx.service\tlast words"
                yield "\t".join(["fiefdom-failed", *error.args])
                if host.undo:
                    yield "fiefdom-stage\trestore"
                    host.restore("aside")
                    yield from self._said(host)
                return
            finally:
                self._gossip(name)
            yield from self._said(host)
            yield "\t".join(["done", step[0], step[1] if step[1:] else ""])

    @staticmethod
    def _said(host: SimulatedHost) -> Iterator[str]:
        yield from host.said
        host.said.clear()

    def attach(self, name: str, text: str, arguments: Sequence[str], hear: Callable[[int, bytes], None]) -> int:
        """A command in a container of its own does what ``one_off`` says; it is all that is ever attended."""
        assert text == one_off.SCRIPT
        self._require_link(name)
        self.log.append(f"{name} attended")
        return self.one_off(name, tuple(arguments), hear)

    @contextmanager
    def listen(self, _text: str, arguments: Mapping[str, Sequence[str]]) -> Iterator[Mapping[str, Spoken]]:
        self.heard = {name: tuple(words[:-1]) for name, words in arguments.items()}
        tokens = {
            name: f":{words[-1]}:".encode() if words[0] == "follow" else b":" for name, words in arguments.items()
        }
        yield {
            name: Spoken(
                name,
                [
                    # One that follows had said nothing before.
                    *([b":\n"] if tokens[name] != b":" else []),
                    *(said.replace(b":", tokens[name], 1) for said in self.spoken.get(name, ())),
                ],
                "it broke off" if name in self.cut else "",
            )
            for name in arguments
        }

    def interact(self, name: str, text: str | None, words: Sequence[str], *, terminal: bool) -> int:
        self._require_link(name)
        assert not terminal
        return self.program(name, text, tuple(words))

    @contextmanager
    def every(self, _seconds: float, function: Callable[[], object]) -> Iterator[None]:
        yield
        function()

    def script(
        self, name: str, text: str, arguments: Sequence[str] = (), stdin: str = "", **_: Any
    ) -> tuple[bool, str, str]:
        """The ledger's script is run with a folder for each gateway, and one that reads an agent's configuration with
        that; the others find what they hope for.
        """
        self._require_link(name)
        if arguments and arguments[0] in (AGENT_FILE, GATEWAY_AGENT_FILE):
            return self._read(name, text, arguments)
        if text == gossip.SCRIPT:
            return True, self._heard(name, arguments), ""
        if "docker logs" in text:
            kept = [n for n in arguments if n in self.hosts[name].now.containers]
            return True, "\n".join([*(f"kept\t{n}" for n in kept), *(f"log\twords of {n}" for n in kept[:1])]), ""
        if "flock" in text:
            self.log.append(f"{name} awaited")
        if "/var/lib/fiefdom/ledger" not in arguments:
            return True, "", ""
        self.log.append(f"{name} ledger {arguments[0]}")
        own = [str(self.root / name) if word.startswith("/var/lib") else word for word in arguments]
        command = ["sh", "-c", text, "fiefdom", *own, "10.0.0.1 5 10.0.0.2 22"]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout.rstrip("\n"), done.stderr

    def connect_anew(self, name: str) -> str | None:
        if name in self.gone:
            return "no answer"
        self.cut.discard(name)
        self.log.append(f"{name} connected anew")
        return None

    def _require_link(self, name: str) -> None:
        if name in self.cut:
            raise broken_off(name)

    def _read(self, name: str, text: str, paths: Sequence[str]) -> tuple[bool, str, str]:
        return _said_of(text, tuple(self.hosts[name].contents.get(path) for path in paths))

    def shell(self, name: str, argv: Iterable[str]) -> tuple[bool, str, str]:
        """What Serf is asked and told; every other command is taken for the one that asks a gateway how it is."""
        self._require_link(name)
        words = list(argv)
        if "serf" in words:
            return self._serf(name, words[words.index("serf") + 1 :])
        addresses = {member: self.known.cluster.hosts[member].address for member in self.tags}
        members = [
            {"name": n, "address": address, "status": "alive", "offers": self._offers(n)}
            for n, address in addresses.items()
        ]
        well = {"ok": True, "error": None}
        config = self.hosts[name].now.files.get(HAPROXY_CONFIG)
        taken_up = well | {"digest": config.digest if config else None}
        truth = {"serf": well, "config": taken_up, "members": members, "servers": self.servers(), "rejected": []}
        view = self.views.get(name, truth)
        if view is BROKEN_OFF:
            raise broken_off(name)
        return (False, "", view) if isinstance(view, str) else (True, json.dumps(view), "")

    def _serf(self, name: str, words: Sequence[str]) -> tuple[bool, str, str]:
        if words[0] == "force-leave":
            self.log.append(f"{name} {' '.join(words)}")
            if not understand(self.rings[name], self.strangers.get(words[-1], ())):
                self.strangers.pop(words[-1], None)
            return True, "", ""
        rows = [
            {"name": member, "addr": "10.1.0.99:7946", "status": "alive" if known else "failed"}
            for member, ring in (self.rings | self.strangers).items()
            for known in [understand(self.rings.get(name, ()), ring)]
        ]
        return True, json.dumps({"members": rows}), ""

    def _heard(self, name: str, arguments: Sequence[str]) -> str:
        """What gossip.sh would print."""
        _, members, _ = self._serf(name, ("members",))
        others = arguments[4::2]
        lines = [f"members\t{members}"] if name in self.rings else []
        lines += [f"closed\t{other}\tno answer within 3 s" for other in others if (name, other) in self.closed]
        understood = [n for n, ring in self.rings.items() if understand(self.rings.get(name, ()), ring)]
        if arguments[3] != "0":
            lines.append(f"acks\t{json.dumps({'Acks': understood, 'Responses': {}})}")
        return "\n".join(lines)

    # --- What gateways see

    def ring_on_disk(self, name: str) -> Ring:
        """Keys with which a host's agent would start now; none where it could not."""
        contents = self.hosts[name].contents
        text = contents.get(GATEWAY_AGENT_FILE if name in self.known.cluster.gateways else AGENT_FILE)
        config = json.loads(text) if text else {}
        if "keyring_file" in config:
            return tuple(json.loads(contents.get(config["keyring_file"], b"[]")))
        return (config["encrypt_key"],) if config else ()

    def _take_up_ring(self, name: str) -> None:
        role = "gateway" if name in self.known.cluster.gateways else "serf-agent"
        agent = self.hosts[name].now.containers.get(role)
        if not (agent and agent.running):
            self.rings.pop(name, None)
        elif name not in self.rings or self._ring_specs.get(name) != agent.spec:
            self._ring_specs[name] = agent.spec
            self.rings[name] = self.ring_on_disk(name)
        self.watch(name)

    def _gossip(self, name: str) -> None:
        self._take_up_ring(name)
        host = self.hosts[name]
        agent = host.now.containers.get("serf-agent")
        if not (agent and agent.running):
            self.tags.pop(name, None)
        else:
            self.tags[name] = {"role": "app", **{f"svc:{service}": word for service, word in host.now.offers.items()}}

    def servers(self) -> list[dict[str, Any]]:
        """Rows of any gateway's status document."""
        rows = []
        for name, tags in self.tags.items():
            for tag, offer in tags.items():
                if tag.startswith("svc:"):
                    version, ports, *_ = offer.split(";")
                    first, last = map(int, ports.split("-"))
                    rows += [self._row(name, tag[4:], version, port) for port in range(first, last + 1)]
        return rows

    def _offers(self, host: str) -> list[dict[str, str]]:
        return [{"service": tag[4:]} for tag in self.tags[host] if tag.startswith("svc:")]

    def _row(self, host: str, service: str, version: str, port: int) -> dict[str, Any]:
        found = self.hosts[host].now.containers.get(f"{service}-{port}")
        name = f"{host}-{port}"
        return {
            "service": service,
            "name": name,
            "port": port,
            "state": "up" if found and found.running else "down",
            "version": version,
            "requests": self.counted[name, "requests"],
            "errors_5xx": self.counted[name, "errors"],
            "failures": 0,
        }

    def versions(self, service: str) -> dict[str, set[tuple[str, bool]]]:
        """Version of every instance of a service and whether it runs, by host."""
        return {
            name: {(c.version, c.running) for n, c in host.now.containers.items() if self._is_of(n, service)}
            for name, host in self.hosts.items()
            if any(i.service == service for i in self.known.cluster.instances(name))
        }

    @staticmethod
    def _is_of(container: str, service: str) -> bool:
        return container.rpartition("-")[0] == service and not container.endswith(FAILED)


@lru_cache(maxsize=256)  # it says the same of the same files
def _said_of(text: str, contents: tuple[bytes | None, ...]) -> tuple[bool, str, str]:
    """What a script that only reads says, with a file of each content as its arguments; None is one that is missing."""
    with tempfile.TemporaryDirectory() as folder:
        own = [Path(folder, str(number)) for number in range(len(contents))]
        for path, content in zip(own, contents, strict=True):
            if content is not None:
                path.write_bytes(content)
        command = ["sh", "-c", text, "fiefdom", *map(str, own)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout, done.stderr


_CONVERGED: dict[int, SimulatedHosts] = {}
_CONVERGED_MAX = 16


def converged(known: run.Known, root: Path) -> SimulatedHosts:
    """The hosts of a cluster, all as its inventory says."""
    if id(known) not in _CONVERGED:
        while len(_CONVERGED) >= _CONVERGED_MAX:
            del _CONVERGED[next(iter(_CONVERGED))]
        _CONVERGED[id(known)] = _converged(known, root)  # which keeps `known`, so that no other one gets its id
    hosts = copied(_CONVERGED[id(known)])
    hosts.root = root
    return hosts


def _converged(known: run.Known, root: Path) -> SimulatedHosts:
    hosts = SimulatedHosts(known, root)
    for name in known.cluster.hosts:
        hosts.hosts[name] = SimulatedHost(HostState(), dict(known.identities), Snapshot(0, "debian", "trixie"))
        hosts.hosts[name].now = replace(hosts.hosts[name].now, docker="up")
    bring(hosts, known)
    hosts.log.clear()
    return hosts


def bring(hosts: SimulatedHosts, known: run.Known, hold: tuple[str, ...] | None = None) -> None:
    """Let `apply` bring all hosts to an inventory."""
    hosts.known = known
    for name, host in hosts.hosts.items():
        wanted = look.plan_of(known, name, answer(host.now), hold=hold)
        host.state = wanted.state
        for phase in steps.phases(wanted.due):
            hosts.run(name, phase)


def copied(hosts: SimulatedHosts) -> SimulatedHosts:
    """The same hosts once more, to take another course. What never changes is shared, which a deep copy copies."""
    return _copied(hosts)


def _copied(value: Any) -> Any:
    if isinstance(value, Counter):
        return Counter(value)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | set):
        return type(value)(map(_copied, value))
    if isinstance(value, SimulatedHosts | SimulatedHost | Snapshot | Kept):
        found = object.__new__(type(value))
        found.__dict__.update(_copied(value.__dict__))
        return found
    return value  # a number, a text, a tuple or a frozen value of these, a function


def dying(hosts: SimulatedHosts, *dead: str) -> None:
    """Gateways see every server of these hosts down."""
    whole = hosts.servers
    hosts.servers = lambda: [  # type: ignore[method-assign]
        r | {"state": "down"} if r["name"].rpartition("-")[0] in dead else r for r in whole()
    ]
