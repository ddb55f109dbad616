"""What a host should hold, as plain values: the language that concerns speak and plans compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

Codename = Literal["bookworm", "trixie"]
CODENAMES: tuple[Codename, ...] = ("bookworm", "trixie")
Role = Literal["instance", "agent", "gateway"]


def digest(data: bytes | str) -> str:
    """sha256 of ``data`` in hexadecimal, as ``sha256sum`` prints it."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


@dataclass(frozen=True)
class Package:
    """A Debian package that is installed."""

    name: str


@dataclass(frozen=True)
class Account:
    """A system user and its group, of one name and one number, as systemd-sysusers makes them from ``entry``."""

    name: str
    uid: int
    entry: str


@dataclass(frozen=True)
class Directory:
    """A folder with its mode and numeric owner.

    One that ``serves`` is where a container keeps what it writes. With all that is in it, it goes to another owner in
    the host's own turn, so that neither the container before nor the one after is shut out of it.
    """

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    serves: bool = False


@dataclass(frozen=True)
class File:
    """A file, whole.

    ``check`` validates the staged file before it is renamed into place: an argument list in which ``{}``
    stands for the staged path. A file that is ``secret`` shows no content anywhere. One that ``serves`` is what a
    container is made from: it is placed in the host's own turn, right before its containers start anew, so that a
    run which stops half way leaves no host with a configuration that its next restart would take up alone.
    ``precedes`` names a package that starts what reads it as soon as it is installed, so that it is placed before.
    """

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    secret: bool = False
    check: tuple[str, ...] = ()
    serves: bool = False
    precedes: str = ""

    @property
    def digest(self) -> str:
        """sha256 of the content."""
        return digest(self.content)


@dataclass(frozen=True)
class Sysctl:
    """A kernel setting's live value; the file that keeps it over a reboot is a `File`."""

    key: str
    value: str


@dataclass(frozen=True)
class Unit:
    """A systemd unit.

    ``config`` are paths of this state whose content the running unit must have read. The host keeps a stamp
    of what it last came up with, so a restart that was lost with its run is still seen by the next.
    ``on_change`` is how it takes a new configuration in; as a tuple, one after the other.
    ``live`` is a read-only command whose output is recorded with the stamp: where it differs later, somebody
    changed behind the unit's back what it had set up.
    """

    name: str
    enabled: bool = True
    active: bool = True
    config: tuple[str, ...] = ()
    on_change: tuple[Literal["reload", "restart"], ...] = ("restart",)
    live: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """A container image by reference; where the host gets it is not the state's business."""

    ref: str


@dataclass(frozen=True)
class LocalImage:
    """An image on the operator's machine. ``architecture`` is Docker's name for what it runs on, such as amd64.

    ``layers`` are digest and bytes of each, from the base up. Where it is not ``exact``, nobody knows which layer has
    how much, and the last one has all. ``context`` is the digest of the folder that Fiefdom built it from, if it did.
    """

    architecture: str
    layers: tuple[tuple[str, int], ...]
    exact: bool = True
    context: str = ""


@dataclass(frozen=True)
class Container:
    """A container that a unit owns.

    ``args`` are arguments of `docker create` before the image, without name and labels; ``command`` follows
    the image. ``config`` are paths of files that the container reads only when it starts.
    ``service`` is what an instance is one of. ``probe`` is the URL that is asked from the host, and answered with
    ``probe_status`` ("200-399" when empty) when it is up; ``probe_host`` is the Host header, the service's name when
    empty.
    """

    name: str
    unit: str
    role: Role
    image: str
    args: tuple[str, ...]
    command: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    probe: str | None = None
    probe_host: str = ""
    probe_status: str = ""
    probe_timeout_s: float = 2.0
    start_timeout_s: int = 60
    stop_signal: str = "SIGTERM"
    stop_grace_s: int = 30
    version: str = ""
    service: str = ""


@dataclass(frozen=True)
class Offer:
    """One service of this host in the gateways' rotation, as ``unit`` makes and withdraws it.

    ``word`` is what the host says of it to gateways: `VERSION;FIRST-LAST[;CHECKS]`, the others being ports.
    ``instances`` are the units that it needs.
    """

    service: str
    unit: str
    word: str
    instances: tuple[str, ...] = ()


Resource = Account | Directory | File | Package | Sysctl | Unit | Container | Offer | str | None
"""What one change of a host is about, where it is more than a name."""


@dataclass(frozen=True)
class HostState:
    """Everything that one host, or one concern of it, should hold."""

    hostname: str | None = None
    packages: tuple[Package, ...] = ()
    accounts: tuple[Account, ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    units: tuple[Unit, ...] = ()
    images: tuple[Image, ...] = ()
    containers: tuple[Container, ...] = ()
    offers: tuple[Offer, ...] = ()

    def __add__(self, other: HostState) -> HostState:
        """Both states at once, as `together`."""
        return HostState.together((self, other))

    @staticmethod
    def together(states: Iterable[HostState]) -> HostState:
        """All states at once; what stands in several stands once, and the hostname is the first that is given."""
        states = tuple(states)
        merged = {
            f.name: tuple(dict.fromkeys(item for state in states for item in getattr(state, f.name)))
            for f in fields(HostState)
            if f.name != "hostname"
        }
        return HostState(hostname=next((s.hostname for s in states if s.hostname), None), **merged)

    @property
    def container_units(self) -> frozenset[str]:
        """Names of the units that own containers."""
        return frozenset(container.unit for container in self.containers)

    @property
    def serving_units(self) -> frozenset[str]:
        """Names of the units that only a host's turn starts and stops: those of containers and of offers."""
        return self.container_units | {offer.unit for offer in self.offers}

    def file(self, path: str) -> File:
        """The file at ``path``; KeyError where the state has none."""
        for file in self.files:
            if file.path == path:
                return file
        raise KeyError(path)

    def stamp(self, paths: tuple[str, ...]) -> str:
        """Digest of the content, mode and owner of the files at ``paths``."""
        parts = [(p, (f := self.file(p)).digest, f.mode, f.uid, f.gid) for p in paths]
        return digest(json.dumps(parts))


def spec_hash(container: Container, state: HostState) -> str:
    """Digest of all that makes ``container`` what it is, less the image's id, which a registry decides."""
    parts: Mapping[str, object] = {
        "name": container.name,
        "image": container.image,
        "args": container.args,
        "command": container.command,
        "stop": [container.stop_signal, container.stop_grace_s],
        "config": state.stamp(container.config),
    }
    return digest(json.dumps(parts, sort_keys=True))
