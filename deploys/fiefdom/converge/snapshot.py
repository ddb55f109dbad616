"""What a host holds now: the query, the one fact that asks it in one round trip, and the answer as values."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from pathlib import Path

from fiefdom.converge import guest
from fiefdom.converge.guest import Guest
from fiefdom.desired import containers, docker, jobs, mounts, network, programs, sshd
from fiefdom.desired.network import names_in
from fiefdom.desired.state import Block, Codename, HostState
from fiefdom.errors import HostError
from fiefdom.model import references
from fiefdom.model.unit_names import former_of

SSHD = (Path(__file__).parent / "sshd.sh").read_text()
"""What this script and steps.sh both ask sshd."""

GUEST = (Path(__file__).parent / "guest.sh").read_text()

_PARTS = {"# @FACTS@\n": containers.FACTS, "# @SSHD@\n": SSHD, "# @GUEST@\n": GUEST}
SCRIPT = reduce(
    lambda text, part: text.replace(*part), _PARTS.items(), (Path(__file__).parent / "snapshot.sh").read_text()
)
# Of each container what the plan reads; the script adds the two lines that `container_facts` makes a digest of.
_CONTAINER_FORMAT = "\t".join(
    ["{{.Name}}", "{{.State.Running}}", "{{.Image}}"]
    + [
        f'{{{{index .Config.Labels "fiefdom.{label}"}}}}'
        for label in ("spec", "role", "version", "name", "checks", "links")
    ]
    # As Docker's own type has it: for a name that only its JSON has, all is read from that, numbers in other words.
    + ["{{range .HostConfig.PortBindings}}{{range .}}{{.HostIP}} {{end}}{{end}}"]
)
_DPKG = "dpkg"
SYSCTL_ROOT = "/proc/sys/"
STAMPS = "/var/lib/fiefdom/stamps/"
CONTAINER_STAMPS = "/var/lib/fiefdom/containers/"
OFFERS = f"{programs.MADE_DIR}/"
JOBS = f"{jobs.RUNS_DIR}/"


@dataclass(frozen=True)
class FoundFile:
    """A path on a host: ``kind`` as stat names it, ``digest`` for regular files only."""

    kind: str
    mode: int
    uid: int
    gid: int
    digest: str | None = None


@dataclass(frozen=True)
class FoundUnit:
    """A unit as systemd shows it."""

    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    enabled: str = ""
    needs_reload: bool = False
    condition_failed: bool = False
    says: str = ""
    """What the unit itself tells of how it is, if it does."""
    queued: bool = False
    """Whether it waits for others before it starts or stops."""
    next: str = ""
    """When a timer elapses next, as systemd says it in UTC."""


@dataclass(frozen=True)
class FoundImage:
    """An image on a host; ``context`` is the digest of the folder that Fiefdom built it from, if it did.

    ``digests`` are those that registries know it by, whichever it was pulled from.
    """

    id: str
    context: str = ""
    digests: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StoredImage:
    """What lies under an image's id. ``context`` is as in `FoundImage`; ``tagged`` sorts by when it last got a name."""

    context: str = ""
    tagged: str = ""
    named: bool = True
    layers: tuple[str, ...] = ()
    """Digests, from the base up."""


@dataclass(frozen=True)
class Disk:
    """A file system, in KiB."""

    size_kib: int
    free_kib: int


@dataclass(frozen=True)
class FoundContainer:
    """A container as Docker shows it; ``facts`` is the digest of what it was really started with.

    ``checks`` is the host port of its health checks, where that is one of its own; ``listens`` the host's address that
    its ports are published on, empty where they are on all or none is. ``links`` are the services that it was told of.
    """

    running: bool
    image_id: str
    spec: str
    role: str
    version: str
    ours: bool
    facts: str
    checks: int | None = None
    listens: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """All that a plan needs to know of one host, at one moment."""

    uid: int
    distribution: str
    codename: str
    client: str = ""
    """Address that the operator's connection comes from, as the host sees it."""
    docker: str = "absent"
    """up, down (its client is there and gets no answer), or absent."""
    docker_networks: frozenset[str] = frozenset()
    """What its daemon.json says of addresses, as `desired.docker.networks` has it."""
    hostname: str = ""
    static_hostname: str = ""
    free_kib: int | None = None
    """Of /var/lib."""
    disk: Disk | None = None
    """Where Docker keeps images, or is to keep them."""
    architecture: str = ""
    """Debian's name for what its programs are made for, where it was asked."""
    unconfirmed_s: int | None = None
    """Seconds until the host takes back a change that waits for its confirmation, where one does; see `guard`."""
    users: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of the names and numbers that are asked for, who has them: by the user's name, uid and gid."""
    groups: dict[str, int] = field(default_factory=dict)
    files: dict[str, FoundFile] = field(default_factory=dict)
    blocks: dict[str, str] = field(default_factory=dict)
    """By path, the digest of the block there with its marks; empty where those are damaged."""
    packages: dict[str, str] = field(default_factory=dict)
    units: dict[str, FoundUnit] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    sysctls_by: dict[str, str] = field(default_factory=dict)
    """By what stands before the sign in a file that is read after Fiefdom's at boot, that file."""
    images: dict[str, FoundImage] = field(default_factory=dict)
    """By reference as Docker prints it: `image` finds one that is written in another way."""
    stored: dict[str, StoredImage] = field(default_factory=dict)
    """By id, images that were asked for, others of their repositories, what Fiefdom brought, and what has no name."""
    used: frozenset[str] = frozenset()
    """Ids of images that containers have which are nobody's business here."""
    kept_images: frozenset[str] = frozenset()
    """Ids of images that the host would put back after its last turn."""
    containers: dict[str, FoundContainer] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    container_stamps: dict[str, str] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """By the path of a file, the digest of the content that its reader refused, and why; it keeps the last good one."""
    obtained: dict[str, str] = field(default_factory=dict)
    """By host name, what a gateway says of the certificate that it gets for it: begin, end, and what went wrong."""
    offers: dict[str, str] = field(default_factory=dict)
    """By service, the word that the host offers it with, where it does."""
    jobs: dict[str, str] = field(default_factory=dict)
    """By job, what the host keeps of the last time that it ran it."""
    holds: str = ""
    """The address of all gateways together, where the host is the one that has it."""
    routers: frozenset[str] = frozenset()
    """Addresses that its routes lead to."""
    sshd: tuple[str, ...] = ()
    """A sentence for each setting that the wanted drop-in has no effect on, with the line that has it."""
    loses: dict[str, str] = field(default_factory=dict)
    """By user who could log in and could not any more with the wanted drop-in, the ways that end."""
    unforwarded: dict[str, str] = field(default_factory=dict)
    """By user whose tunnels through sshd the wanted drop-in would end, what it would go on to forward: no, or local."""
    guest: Guest = field(default_factory=Guest)
    """What it had before Fiefdom, or has beside it."""
    made: frozenset[tuple[str, str]] = frozenset()
    originals: dict[str, bool] = field(default_factory=dict)
    """By path, that the host keeps what was there before Fiefdom's; and whether somebody changed the latter since."""
    volumes: frozenset[str] = frozenset()
    """Paths of the volumes that Fiefdom keeps there, whether anybody wants them still or not."""
    units_before: frozenset[str] = frozenset()
    """Units that Fiefdom turned on or off, or took the place of; the host keeps what they were."""

    def image(self, ref: str) -> FoundImage | None:
        """What the host has under a reference, however it is written."""
        return self.images.get(references.familiar(ref))


_PAIRS = ("live", "refused", "obtained", "loses", "unforwarded", "sysctl-by", "block")
"""What is a name and a word of it, with a tab between them."""
_LINES = ("sysctl", "stamp", "offer", "job")
"""What is a path and its only line, with a colon between them."""


def query(states: Iterable[HostState], data_root: str = docker.DATA_ROOT) -> str:
    """The text that asks a host for all that the states of every Debian that it may run would need.

    ``data_root`` is where Docker keeps images, or is to.
    """
    # The script looks for the disk in the first line.
    lines: dict[str, None] = {f"disk\t{data_root}": None, f"container-format\t{_CONTAINER_FORMAT}": None}
    for state in states:
        asked = (
            [("file", f.path) for f in state.files]
            + [("login", f.path) for f in state.files if f.login]
            + [("file", d.path) for d in state.directories]
            + [(kind, b.path) for b in state.blocks for kind in ("file", "block")]
            + [("package", p.name) for p in state.packages]
            + [("account", f"{a.name}\t{a.uid}") for a in state.accounts]
            + [("unit", u.name) for u in state.units]
            + [("sysctl", sysctl_path(s.key)) for s in state.sysctls]
            + [("image", references.familiar(i.ref)) for i in state.images]
            + [("repository", references.repository(i.ref)) for i in state.images]
            + [("container", c.name) for c in state.containers]
            + [("file", path) for c in state.containers for path in (*c.folders, *c.devices)]
            + [("unit", former_of(c.unit)) for c in state.containers]
            + [("live", f"{u.name}\t{' '.join(u.live)}") for u in state.units if u.live]
        )
        lines.update(dict.fromkeys(f"{kind}\t{name}" for kind, name in asked))
    return "\n".join(lines) + "\n"


def query_of(states: Mapping[Codename, HostState]) -> str:
    """As `query`, of one host under each Debian that it may run.

    It asks as well what its sshd makes of what is wanted, for packages that may stand in for wanted ones, for the one
    that tells what the host's programs are made for, and for what else /etc/hosts says of the names in its block.
    """
    drop_ins = {
        codename: file for codename, state in states.items() for file in state.files if file.path == sshd.CONFIG
    }
    lines = [
        f"sshd\t{codename}\t{file.path}\t{base64.b64encode(file.content).decode()}\n"
        for codename, file in drop_ins.items()
    ]
    lines += [f"package\t{name}\n" for name in (*guest.PACKAGES, _DPKG)]
    lines.append(_names_asked(frozenset(b for s in states.values() for b in s.blocks if b.path == network.HOSTS)))
    roots = [docker.data_root(f.content) for s in states.values() for f in s.files if f.path == docker.CONFIG]
    return query(states.values(), *roots[:1]) + "".join(lines)


@lru_cache(maxsize=8)  # every host has the same
def _names_asked(blocks: frozenset[Block]) -> str:
    return "".join(f"name\t{name}\n" for name in sorted({name for block in blocks for name in names_in(block)}))


def sysctl_path(key: str) -> str:
    """The file under /proc/sys of a setting; `net/ipv4/conf/eth0.1/...` may be written with slashes."""
    return SYSCTL_ROOT + (key if "/" in key else key.replace(".", "/"))


def parse(host: str, lines: Iterable[str]) -> Snapshot:
    """The answer of the script as a `Snapshot`. Raises HostError where it is not one, whatever it holds."""
    parser = _Parser()
    for line in lines:
        parser.take(line)
    if not parser.complete and parser.uid == 0:
        raise HostError(host, "the snapshot broke off; run again, and look at the host if it happens twice")
    return parser.snapshot(host)


class _Parser:
    """Collects records; unknown kinds and broken lines are passed over, for a host's output is not to be trusted."""

    def __init__(self) -> None:
        self.uid: int | None = None
        self.complete = False
        self._scalars: dict[str, list[str]] = {}
        self._files: dict[str, list[str]] = {}
        self._digests: dict[str, str] = {}
        self._units: list[dict[str, str]] = [{}]
        self._maps: dict[str, dict[str, str]] = {kind: {} for kind in (*_PAIRS, *_LINES, "package")}
        self._images: dict[str, FoundImage] = {}
        self._stored: dict[str, StoredImage] = {}
        self._containers: dict[str, FoundContainer] = {}
        self._made: set[tuple[str, str]] = set()
        self._originals: dict[str, bool] = {}
        self._lists: dict[str, list[str]] = {
            kind: []
            for kind in ("docker-network", "guest", "sshd", "unit-before", "used", "kept-image", "volume", "router")
        }
        self._users: dict[str, tuple[int, int]] = {}
        self._groups: dict[str, int] = {}

    def take(self, line: str) -> None:
        if not line.replace("\t", "").isprintable():
            # Nothing that Fiefdom made is named so, and some of it is printed.
            line = "\t".join(_visible(part) for part in line.split("\t"))
        kind, _, rest = line.partition("\t")
        fields = rest.split("\t")
        if kind == "end":
            self.complete = True
        elif kind == "uid" and rest.isdecimal() and len(rest) <= 10:
            self.uid = int(rest)
        elif kind in ("os", "client", "docker", "hostname", "free-kib", "disk", "guard", "holds"):
            self._scalars[kind] = fields
        elif kind == "file" and len(fields) == 5:
            self._files[fields[0]] = fields[1:]
        elif kind == "digest" and len(fields) == 2:
            self._digests[fields[0]] = fields[1]
        elif kind == "unit":
            self._take_unit(rest)
        elif kind == "stored" and len(fields) == 5:
            self._stored[fields[0]] = _stored(fields)
        else:
            self._take_value(kind, rest, fields)

    def _take_value(self, kind: str, rest: str, fields: list[str]) -> None:
        if kind == "package" and len(fields) in (3, 4):
            if fields[0] == _DPKG:
                self._scalars["architecture"] = fields[3:]
            elif fields[1] == "installed":
                self._maps[kind][fields[0]] = fields[2]
        elif kind == "image" and len(fields) == 4:
            digests = frozenset(name.rpartition("@")[2] for name in fields[3].split())
            context = fields[2].replace("<no value>", "")
            self._images[references.familiar(fields[0])] = FoundImage(fields[1], context, digests)
        elif kind == "user" and len(fields) == 3 and all(map(_is_number, fields[1:])):
            self._users[fields[0]] = int(fields[1]), int(fields[2])
        elif kind == "group" and len(fields) == 2 and _is_number(fields[1]):
            self._groups[fields[0]] = int(fields[1])
        elif kind in self._lists:
            self._lists[kind].append(rest)
        elif kind in _PAIRS and len(fields) == 2:
            self._maps[kind][fields[0]] = fields[1]
        elif kind in _LINES:
            path, _, value = rest.partition(":")
            self._maps[kind][path] = "\t".join(value.split("\t"))
        elif kind == "container" and len(fields) == 11:
            name, running, image_id, spec, role, version, ours, checks, links, listens, facts = (
                f.replace("<no value>", "") for f in fields
            )
            port = int(checks) if re.fullmatch("[0-9]{1,5}", checks, re.ASCII) else None
            self._containers[name.lstrip("/")] = FoundContainer(
                running == "true",
                image_id,
                spec,
                role,
                version,
                bool(ours),
                facts,
                port,
                listens.partition(" ")[0],
                tuple(filter(None, links.split(","))),
            )
        elif kind == "made" and len(fields) == 2:
            self._made.add((fields[0], fields[1]))
        elif kind == "original" and len(fields) == 2:
            self._originals[fields[0]] = fields[1] == "changed"

    def _take_unit(self, text: str) -> None:
        if not text:
            self._units.append({})
            return
        key, _, value = text.partition("=")
        self._units[-1][key] = value

    def snapshot(self, host: str) -> Snapshot:
        try:
            return self._snapshot()
        except (ValueError, IndexError, KeyError) as error:
            raise HostError(host, f"the snapshot could not be read ({error}); is its /bin/sh a POSIX shell?") from error

    def _snapshot(self) -> Snapshot:
        distribution, codename = self._scalars.get("os", ["", ""])[:2]
        hostname, static_hostname = self._scalars.get("hostname", ["", ""])[:2]
        free = self._scalars.get("free-kib", [""])[0]
        disk = self._scalars.get("disk", [])
        left = self._scalars.get("guard", [""])[0]
        if self.uid is None:
            raise ValueError("no user id")
        return Snapshot(
            uid=self.uid,
            distribution=distribution,
            codename=codename,
            docker=self._scalars.get("docker", ["absent"])[0],
            docker_networks=frozenset(self._lists["docker-network"]),
            client=self._scalars.get("client", [""])[0],
            hostname=hostname,
            static_hostname=static_hostname,
            free_kib=int(free) if free.isdecimal() else None,
            disk=Disk(*map(int, disk)) if len(disk) == 2 and all(map(str.isdecimal, disk)) else None,
            architecture="".join(self._scalars.get("architecture", [])),
            unconfirmed_s=int(left) if left.lstrip("-").isdecimal() else None,
            users=self._users,
            groups=self._groups,
            files={
                path: FoundFile(kind, int(mode, 8), int(uid), int(gid), self._digests.get(path))
                for path, (kind, mode, uid, gid) in self._files.items()
            },
            blocks=self._maps["block"],
            packages=self._maps["package"],
            units={u["Id"]: _found_unit(u) for u in self._units if u.get("Id")},
            sysctls={p.removeprefix(SYSCTL_ROOT): _words(v) for p, v in self._maps["sysctl"].items()},
            sysctls_by=self._maps["sysctl-by"],
            images=self._images,
            stored=self._stored,
            used=frozenset(self._lists["used"]),
            kept_images=frozenset(self._lists["kept-image"]),
            containers=self._containers,
            stamps=_under(STAMPS, self._maps["stamp"]),
            container_stamps=_under(CONTAINER_STAMPS, self._maps["stamp"]),
            live=self._maps["live"],
            refused=self._maps["refused"],
            obtained=self._maps["obtained"],
            offers={n.removesuffix(".offer"): w for n, w in _under(OFFERS, self._maps["offer"]).items()},
            jobs=_under(JOBS, self._maps["job"]),
            made=frozenset(self._made),
            originals=self._originals,
            volumes=frozenset(filter(mounts.is_volume, self._lists["volume"])),
            units_before=frozenset(rest.partition("\t")[0] for rest in self._lists["unit-before"]),
            holds=self._scalars.get("holds", [""])[0],
            routers=frozenset(self._lists["router"]),
            sshd=tuple(" ".join(rest.split()) for rest in self._lists["sshd"]),
            loses=self._maps["loses"],
            unforwarded=self._maps["unforwarded"],
            guest=guest.parse(tuple(rest.split("\t")) for rest in self._lists["guest"]),
        )


def _stored(fields: list[str]) -> StoredImage:
    context, tagged, named, layers = fields[1:]
    # Docker leaves out the zeros at the end of a second's fraction, so that as they stand they would not sort.
    seconds, _, fraction = tagged.strip('"').rstrip("Z").partition(".")
    return StoredImage(
        context.replace("<no value>", ""), f"{seconds}.{fraction.ljust(9, '0')}", bool(named), tuple(layers.split())
    )


def _found_unit(shown: dict[str, str]) -> FoundUnit:
    return FoundUnit(
        load=shown.get("LoadState", "not-found"),
        active=shown.get("ActiveState", "inactive"),
        sub=shown.get("SubState", "dead"),
        enabled=shown.get("UnitFileState", ""),
        needs_reload=shown.get("NeedDaemonReload") == "yes",
        # A condition that was tried and did not hold: systemd itself decided that the unit is not for this host.
        condition_failed=shown.get("ConditionResult") == "no"
        and shown.get("ConditionTimestampMonotonic", "0") not in ("", "0"),
        says=shown.get("StatusText", ""),
        queued=shown.get("Job", "0") not in ("", "0"),
        next=shown.get("NextElapseUSecRealtime", ""),
    )


def _under(root: str, values: dict[str, str]) -> dict[str, str]:
    return {path.removeprefix(root): value for path, value in values.items() if path.startswith(root)}


def _is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{1,10}", text, re.ASCII) is not None


def _visible(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _words(value: str) -> str:
    """Kernel settings with several numbers come with tabs; people write spaces."""
    return " ".join(value.split())
