"""What a host had before Fiefdom, or has beside it: facts of guest.sh, and how a wanted state makes room for them."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from fiefdom.desired import daemon_json, docker, network
from fiefdom.desired.state import HostState
from fiefdom.grouping import grouped

TIMEKEEPERS = ("chrony", "ntpsec", "openntpd")
"""Debian's packages that keep time in place of systemd-timesyncd, which conflicts with them."""
DOCKER_CE = "docker-ce"
"""Docker's own package of the daemon; it conflicts with Debian's and serves as well."""
PACKAGES = (*TIMEKEEPERS, DOCKER_CE)
"""What a snapshot asks for beside a state's own packages."""

_DEBIANS_DOCKER = frozenset({"docker.io", "docker-cli"})


@dataclass(frozen=True)
class Rule:
    """One of a packet filter: protocols, ports, and addresses that packets come from or go to; each empty for all."""

    protocols: frozenset[str]
    ports: tuple[range, ...]
    addresses: tuple[ipaddress.IPv4Network, ...]

    def takes(self, protocol: str, port: int) -> bool:
        """Whether it is about such packets."""
        return (not self.protocols or protocol in self.protocols) and (
            not self.ports or any(port in span for span in self.ports)
        )

    def has(self, address: ipaddress.IPv4Address) -> bool:
        """Whether ``address`` is among its own."""
        return not self.addresses or any(address in network for network in self.addresses)


@dataclass(frozen=True)
class Listener:
    """Who waits for packets: `tcp` or `udp`, the port, the address as `ss` shows it, and a process or container."""

    protocol: str
    port: int
    address: str
    process: str


@dataclass(frozen=True)
class Guest:
    """What guest.sh found; all empty on a host that is Fiefdom's alone."""

    firewalls: tuple[str, ...] = ()
    """Those that drop what they do not know: `ufw`, `firewalld`, `iptables`, or an nftables table."""
    passes: tuple[Rule, ...] = ()
    """With which they let packets in, by where those come from."""
    docker: frozenset[str] = frozenset()
    """Of `snap`, `podman` and `swarm`."""
    daemon: daemon_json.Keys | None = field(default=None, repr=False)
    """Its daemon.json as it is now, where there is one that can be read."""
    own_daemon: daemon_json.Own | None = None
    """The one that it had before Fiefdom's, where it had any."""
    data_root: str = ""
    containers: int = 0
    """How many there are in ``data_root``, running or not, whoever made them."""
    listeners: tuple[Listener, ...] = ()
    publishes: tuple[Listener, ...] = ()
    """Ports that containers of somebody else publish."""
    turns: tuple[Rule, ...] = ()
    """Rules that turn packets elsewhere before a socket sees them, by where those go to; without Docker's own."""
    named: tuple[tuple[str, str], ...] = ()
    """Address and name of lines of /etc/hosts outside of Fiefdom's block, of names that stand in it."""
    clock_s: int | None = None
    """Seconds since 1970 by its own clock, as it was asked."""
    ssh_socket: bool = False
    reboot: str | None = None
    """Packages that want a reboot; None where none is wanted."""
    cloud_init_hosts: str | None = None
    """The template that cloud-init writes /etc/hosts from at each boot, where it does; empty where there is none."""
    upgrades: tuple[str, ...] = ()
    """What apt is told of unattended upgrades, as `apt-config dump` has it."""


def parse(records: Iterable[tuple[str, ...]]) -> Guest:
    """The facts of guest.sh's records, each without its first word; what cannot be read is passed over."""
    found = grouped((kind, tuple(fields)) for kind, *fields in records)

    def first(kind: str, index: int = 0) -> str:
        of_kind = found.get(kind, [()])[0]
        return of_kind[index] if len(of_kind) > index else ""

    def column(kind: str) -> Iterable[str]:
        return (fields[0] for fields in found.get(kind, []) if fields)

    clock, containers = first("clock"), first("data-root", 1)
    return Guest(
        firewalls=tuple(dict.fromkeys(column("firewall"))),
        passes=tuple(rule for line in column("passes") if (rule := _rule(line, _SOURCE))),
        docker=frozenset(column("docker")),
        daemon=daemon_json.keys_in(_decoded(first("daemon"))) if first("daemon") else None,
        own_daemon=_own_daemon(first("own-daemon"), first("own-daemon", 1)) if "own-daemon" in found else None,
        data_root=first("data-root"),
        containers=int(containers) if containers.isdecimal() else 0,
        listeners=tuple(one for fields in found.get("listens", []) if (one := _listener(fields))),
        publishes=tuple(one for fields in found.get("publishes", []) for one in _published(fields)),
        turns=tuple(rule for line in column("turns") if (rule := _rule(line, _DESTINATION)) and rule.ports),
        named=tuple((fields[0], fields[1]) for fields in found.get("named", []) if len(fields) == 2),
        clock_s=int(clock) if clock.isdecimal() else None,
        ssh_socket="ssh-socket" in found,
        reboot=first("reboot").strip() if "reboot" in found else None,
        cloud_init_hosts=first("cloud-init-hosts") if "cloud-init-hosts" in found else None,
        upgrades=tuple(column("upgrades")),
    )


def adapted(state: HostState, packages: Collection[str], guest: Guest) -> HostState:
    """``state`` without what a host with ``packages`` has in another way already: its keeper of time, its Docker.

    And without a block in a template that nobody writes /etc/hosts from; with the host's own keys in Docker's
    daemon.json.
    """
    if guest.cloud_init_hosts != network.CLOUD_HOSTS:
        state = replace(state, blocks=tuple(b for b in state.blocks if b.path != network.CLOUD_HOSTS))
    if any(name in packages for name in TIMEKEEPERS):
        state = replace(
            state,
            packages=tuple(p for p in state.packages if p.name != network.TIMESYNCD_PACKAGE),
            units=tuple(u for u in state.units if u.name != network.TIMESYNCD_UNIT),
            files=tuple(f for f in state.files if f.path != network.TIMESYNCD),
            directories=tuple(d for d in state.directories if not network.TIMESYNCD.startswith(d.path + "/")),
        )
    if guest.own_daemon is not None:
        own = guest.own_daemon
        files = tuple(daemon_json.with_own(f, own) if f.path == docker.CONFIG else f for f in state.files)
        state = replace(state, files=files)
    if DOCKER_CE in packages:
        files = tuple(replace(f, precedes="") if f.path == docker.CONFIG else f for f in state.files)
        kept = tuple(p for p in state.packages if p.name not in _DEBIANS_DOCKER)
        state = replace(state, packages=kept, files=files)
    return state


# In the words of iptables-save (-s, -p, --dport, --dports) or of nft (saddr, tcp, dport), with its sets in braces.
_SOURCE = re.compile(r"(?:\s-s|\bip saddr) (\{[^}]*\}|\S+)")
_DESTINATION = re.compile(r"(?:\s-d|\bip daddr) (\{[^}]*\}|\S+)")
_PORTS = re.compile(r"(?:--dports?|\bdport) (\{[^}]*\}|\S+)")
_PROTOCOL = re.compile(r"(?:-p|\bl4proto|\bprotocol) (\{[^}]*\}|tcp|udp)\b|\b(tcp|udp) dport")
_LOOPBACK = re.compile(r"""(?:-i|\biif(?:name)?) "?lo"?(?:\s|$)""")


def _rule(line: str, address: re.Pattern[str]) -> Rule | None:
    """A rule as one of the two programs prints it; None where it says neither port nor address, or of loopback only."""
    if _LOOPBACK.search(line):
        return None
    protocol = _PROTOCOL.search(line)
    ports, addresses = _PORTS.search(line), address.search(line)
    if not (ports or addresses):
        return None
    try:
        return Rule(
            frozenset(_elements(protocol[1] or protocol[2])) if protocol else frozenset(),
            tuple(_span(text) for text in _elements(ports[1])) if ports else (),
            tuple(ipaddress.IPv4Network(text, strict=False) for text in _elements(addresses[1])) if addresses else (),
        )
    except ValueError:  # named sets, services by name
        return None


def _elements(text: str) -> list[str]:
    return [part for part in re.split(r"[\s,{}]+", text) if part]


def _span(text: str) -> range:
    first, _, last = text.replace(":", "-").partition("-")
    return range(int(first), int(last or first) + 1)


def _listener(fields: tuple[str, ...]) -> Listener | None:
    if len(fields) != 3:
        return None
    protocol, at, process = fields
    address, _, port = at.rpartition(":")
    return Listener(protocol, int(port), address.strip("[]"), process) if port.isdecimal() else None


_PUBLISHED = re.compile(r"(.*):(\d+)(?:-(\d+))?->[\d-]+/(tcp|udp)")


def _published(fields: tuple[str, ...]) -> Iterable[Listener]:
    """A container's name, and what `docker ps` shows of its ports."""
    name, ports = fields if len(fields) == 2 else ("", "")
    for part in ports.split(", "):
        if found := _PUBLISHED.fullmatch(part):
            address, first, last, protocol = found.groups()
            for port in range(int(first), int(last or first) + 1):
                yield Listener(protocol, port, address.strip("[]"), f"container {name}")


def _own_daemon(encoded: str, mode: str) -> daemon_json.Own:
    # For whom it was is not told by who broke the answer: for root alone then.
    return daemon_json.read(_decoded(encoded), int(mode, 8) if re.fullmatch("[0-7]{1,4}", mode) else 0)


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return encoded.encode()  # no JSON either
