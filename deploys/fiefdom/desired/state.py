"""What a host should hold, as plain values: the language that concerns speak and plans compare."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain
from typing import Any, Literal

Codename = Literal["bookworm", "trixie"]
CODENAMES: tuple[Codename, ...] = ("bookworm", "trixie")
Role = Literal["instance", "agent", "gateway"]
ANY_PACKAGE = "*"
"""Stands for whichever package comes first; see `File.precedes`."""


def digest(data: bytes | str) -> str:
    """sha256 of ``data`` in hexadecimal, as ``sha256sum`` prints it."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


# As snapshot.sh has it.
_SHOWN = re.compile(rb'("auth": ")[^"]*')


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
    One that ``keeps`` is a volume, the way there, or the ledger: no manifest has it and nothing removes it, whatever
    becomes of who wanted it. Its own mode and owner are looked at, and what is in it is not.
    """

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    serves: bool = False
    keeps: bool = False


@dataclass(frozen=True)
class File:
    """A file, whole.

    ``check`` validates the staged file before it is renamed into place: an argument list in which ``{}``
    stands for the staged path. A file that is ``secret`` shows no content anywhere. One that ``serves`` is what a
    container is made from: it is placed in the host's own turn, right before its containers start anew, so that a
    run which stops half way leaves no host with a configuration that its next restart would take up alone.
    ``precedes`` names a package that starts what reads it as soon as it is installed, so that it is placed before; with
    `ANY_PACKAGE`, before whichever is installed.
    One that is a ``login`` is what Docker's client shows registries. That may be another at each call, so it counts for
    nothing when files are compared, and is placed anew before every pull.
    One that is ``mounted`` is a container's own: what runs sees the very file that it began with, so that one which was
    edited is mended as it is, and only a turn puts another in its place.
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
    login: bool = False
    mounted: bool = False

    @cached_property
    def digest(self) -> str:
        """sha256 of the content, less what a login shows."""
        return digest(_SHOWN.sub(rb"\1", self.content) if self.login else self.content)


BLOCK_MARK = "# fiefdom:"
"""How both lines around a block begin; `begin` or `end` follows."""


@dataclass(frozen=True)
class Block:
    """Lines of Fiefdom's in a file that is somebody else's, between two marks.

    All other lines are not looked at and stay as they are, and so do the file's mode and owner. ``around`` is what a
    new file holds beside the block, where the host has none.
    """

    path: str
    content: bytes
    around: bytes = b""

    @property
    def text(self) -> bytes:
        """The lines with their marks."""
        begin = f"{BLOCK_MARK} begin (what stands up to the end mark comes from the inventory, the rest is yours)\n"
        return begin.encode() + self.content + f"{BLOCK_MARK} end\n".encode()

    @property
    def digest(self) -> str:
        """sha256 of the lines with their marks."""
        return digest(self.text)

    @staticmethod
    def found_in(text: str) -> str:
        """The block of a file's text with its marks; empty where it has none, or not one whole."""
        lines = text.splitlines(True)
        marks = [
            (n, line[len(BLOCK_MARK) :].split()[:1]) for n, line in enumerate(lines) if line.startswith(BLOCK_MARK)
        ]
        if [word for _, word in marks] != [["begin"], ["end"]]:
            return ""
        return "".join(lines[marks[0][0] : marks[1][0] + 1])


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
    ``goes`` is for one that a package brought and nobody but Fiefdom has a use for: it ends where it is wanted no more.
    """

    name: str
    enabled: bool = True
    active: bool = True
    config: tuple[str, ...] = ()
    on_change: tuple[Literal["reload", "restart"], ...] = ("restart",)
    live: tuple[str, ...] = ()
    goes: bool = False


@dataclass(frozen=True)
class Image:
    """A container image by what the host calls it.

    ``pull`` is what the host pulls, empty where the image is sent to it. Where the inventory has a ``digest``, what a
    registry knows by another one is not right.
    """

    ref: str
    pull: str = ""
    digest: str = ""


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
    the image. ``config`` are paths of files that the container reads only when it starts. ``volumes`` are paths of
    folders that it has mounted and Fiefdom keeps, and ``folders`` those that are the host's own, as ``devices`` are.
    ``service`` is what an instance is one of. ``probe`` is the URL that is asked from the host, and answered with
    ``probe_status`` ("200-399" when empty) when it is up; ``probe_host`` is the Host header, the service's name when
    empty; `h2c://ADDRESS:PORT/PATH` is asked in HTTP/2. `connect://ADDRESS:PORT` is a connection that is opened and
    closed, `tcp://ADDRESS:PORT` is none, for the kernel tells who listens on the host, and ``probe_command`` is a
    command in the container, in place of all of these.
    One that ``pauses`` is its service's only one: while it is replaced, nobody serves.
    """

    name: str
    unit: str
    role: Role
    image: str
    args: tuple[str, ...]
    command: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    probe: str | None = None
    probe_host: str = ""
    probe_status: str = ""
    probe_command: tuple[str, ...] = ()
    probe_timeout_s: float = 2.0
    start_timeout_s: int = 60
    stop_signal: str = "SIGTERM"
    stop_grace_s: int = 30
    version: str = ""
    service: str = ""
    pauses: bool = False


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


Resource = Account | Block | Directory | File | Image | Package | Sysctl | Unit | Container | Offer | str | None
"""What one change of a host is about, where it is more than a name."""


@dataclass(frozen=True)
class HostState:
    """Everything that one host, or one concern of it, should hold."""

    hostname: str | None = None
    packages: tuple[Package, ...] = ()
    accounts: tuple[Account, ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    blocks: tuple[Block, ...] = ()
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
        merged = {name: _together([part for state in states if (part := getattr(state, name))]) for name in _MANY}
        return HostState(hostname=next((s.hostname for s in states if s.hostname), None), **merged)

    @cached_property
    def container_units(self) -> frozenset[str]:
        """Names of the units that own containers."""
        return frozenset(container.unit for container in self.containers)

    @cached_property
    def serving_units(self) -> frozenset[str]:
        """Names of the units that only a host's turn starts and stops: those of containers and of offers."""
        return self.container_units | {offer.unit for offer in self.offers}

    def file(self, path: str) -> File:
        """The file at ``path``; KeyError where the state has none."""
        return self._by_path[path]

    @cached_property
    def _by_path(self) -> dict[str, File]:
        return {file.path: file for file in reversed(self.files)}

    def stamp(self, paths: tuple[str, ...]) -> str:
        """Digest of the content, mode and owner of the files at ``paths``."""
        parts = [(p, (f := self.file(p)).digest, f.mode, f.uid, f.gid) for p in paths]
        return digest(json.dumps(parts))


_MANY = tuple(f.name for f in fields(HostState) if f.name != "hostname")


def _together(parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    # Most is in one of the states alone: what need not be compared is not hashed.
    return parts[0] if len(parts) == 1 else tuple(dict.fromkeys(chain.from_iterable(parts)))


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
