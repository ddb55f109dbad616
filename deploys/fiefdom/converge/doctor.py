"""Findings: what of a host's own life stands in Fiefdom's way, what would come of it, and how it is mended."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fiefdom.converge.guest import DOCKER_CE, TIMEKEEPERS, Guest
from fiefdom.converge.snapshot import FoundFile, FoundUnit, Snapshot
from fiefdom.desired import daemon_json, docker, gateway, network, serf
from fiefdom.desired.context import Context
from fiefdom.desired.ports import ranges
from fiefdom.desired.state import HostState
from fiefdom.errors import FiefdomError
from fiefdom.inventory import certificates
from fiefdom.model import links
from fiefdom.model.certificates import SOON_DAYS, lasts
from fiefdom.model.daemon_keys import DAEMON_KEYS, DAEMON_OWN, NEWER_KEYS
from fiefdom.wording import dotted, duration, printable

CLOCK_MAX_S = 30
"""Seconds that a clock may be off from the operator's: more is not the way there, but a clock that nobody sets."""

Level = Literal["refused", "warning"]


@dataclass(frozen=True)
class Finding:
    """What was seen on a host. `refused` is one with which `apply` would do harm; a `warning` is lived with."""

    level: Level
    what: str
    """Its kind in a word."""
    seen: str
    effect: str = ""
    mend: str = ""

    def __str__(self) -> str:
        """As one sentence."""
        return self.seen + f": {self.effect}" * bool(self.effect) + f"; {self.mend}" * bool(self.mend)

    def as_data(self) -> dict[str, str]:
        """It as plain data, for JSON."""
        return {"level": self.level, "what": self.what, "seen": self.seen, "effect": self.effect, "mend": self.mend}


def findings(context: Context, found: Snapshot) -> tuple[Finding, ...]:
    """All that a snapshot says of what is a host's own, the worst first."""
    return tuple(sorted((one for look in _LOOKS for one in look(context, found)), key=lambda f: f.level))


def require_none_refused(host: str, of_host: Iterable[Finding]) -> None:
    """Raise FiefdomError with all that `apply` refuses, where anything is."""
    refused = [str(finding) for finding in of_host if finding.level == "refused"]
    if refused:
        raise FiefdomError(f"{host}: {'. '.join(refused)}")


def of_masked(state: HostState, found: Snapshot) -> Iterator[Finding]:
    """Units that are to be there and that somebody has masked: systemd neither starts nor enables those."""
    for unit in state.units:
        if unit.enabled and found.units.get(unit.name, FoundUnit()).enabled.startswith("masked"):
            mend = f"`systemctl unmask {unit.name}` there, then `fiefdom apply`"
            yield Finding("warning", "unit", f"{unit.name} is masked", "it does not start any more", mend)


FOLDER = "folder"
"""The kind of a finding without whose mend Docker would make no container of a service."""


def of_folders(state: HostState, found: Snapshot) -> tuple[Finding, ...]:
    """Folders and devices of the host that containers are to have, and that are not there."""
    folders: dict[str, dict[str, None]] = {}
    devices: dict[str, dict[str, None]] = {}
    for container in state.containers:
        for users, paths in ((folders, container.folders), (devices, container.devices)):
            for path in paths:
                users.setdefault(path, {}).setdefault(container.service)
    missing = [
        _of_folder(path, list(services), found.files.get(path))
        for path, services in folders.items()
        if not (path in found.files and found.files[path].kind == "directory")
    ]
    # What is there is Docker's to judge: a node, a folder of nodes, or a link to one.
    missing += [_of_device(path, list(services)) for path, services in devices.items() if path not in found.files]
    return tuple(missing)


def _of_device(path: str, services: Sequence[str]) -> Finding:
    effect = f"{' and '.join(services)} could not start, which is to have it"
    mend = f"plug it in, load its driver, or mend services.{services[0]}.devices"
    return Finding("refused", FOLDER, f"the device {path} is not there", effect, mend)


def _of_folder(path: str, services: Sequence[str], there: FoundFile | None) -> Finding:
    seen = f"{path} is a {there.kind} and no folder" if there else f"the folder {path} is not there"
    mend = "name the folder that it leads to" if there and "link" in there.kind else "make it there"
    effect = f"{' and '.join(services)} could not start, which is to have it"
    return Finding("refused", FOLDER, seen, effect, f"{mend}, or mend services.{services[0]}.volumes")


def of_certificates(context: Context, now_s: float) -> Iterator[Finding]:
    """Certificates that a gateway is to have, and that are over, about to be, or not valid yet."""
    for name, facts in certificates.facts(context.cluster, context.secrets).items() if context.is_gateway else ():
        days = facts.days_left(now_s)
        key = f"gateway.tls.certificates.{name}"
        mend = f"renew it, give the new one to {key}, and `fiefdom apply`"
        seen = f"the certificate {name} ({', '.join(facts.names)}) {lasts(facts.ends, days)}"
        if days < 0:
            yield Finding("refused", "certificate", seen, "clients would not talk to the gateway", mend)
        elif facts.begins.timestamp() > now_s:
            seen = f"the certificate {name} is valid from {facts.begins:%Y-%m-%d %H:%M} UTC on"
            mend = f"wait until then, or give another one to {key}; look at this machine's clock as well"
            yield Finding("refused", "certificate", seen, "clients would not talk to the gateway until then", mend)
        elif days < SOON_DAYS:
            yield Finding("warning", "certificate", seen, "clients will not talk to the gateway then", mend)


def of_links(context: Context, found: Snapshot) -> Iterator[Finding]:
    """Links that instances run with and no service of this host has any more: their way is open to these no longer."""
    cluster, gone = context.cluster, set[tuple[str, str]]()
    for name, container in found.containers.items():
        if container.ours and container.running and container.role == "instance":
            for link in container.links:
                if link not in cluster.services or context.name not in links.linking_hosts(cluster, link):
                    gone.add((name.rpartition("-")[0], link))
    for service, link in sorted(gone):
        seen = f"{service} runs with a link to {link} that the inventory has no more"
        effect = "apply closes the way, while what runs may still take it"
        mend = "keep the link until a version that does without it is rolled out"
        if service not in cluster.services or not cluster.count(context.name, service):
            mend = f"until {service} is stopped here, requests that need {link} fail"
        yield Finding("warning", "link", seen, effect, mend)


# --- Docker

_OTHER_DOCKERS = {
    "snap": (
        "Docker from a snap",
        "it is confined, and its dockerd is no unit that Fiefdom can set",
        "`snap remove docker`",
    ),
    "podman": ("podman in Docker's place", "it has no daemon that keeps containers", "`apt-get remove podman-docker`"),
    "swarm": (
        "a node of a Docker Swarm",
        "a Swarm and live-restore, on which Fiefdom's promises rest, exclude each other: dockerd would not start again",
        "`docker swarm leave`, or take another host",
    ),
}


def _docker(context: Context, found: Snapshot) -> Iterator[Finding]:
    guest = found.guest
    for word in sorted(guest.docker & _OTHER_DOCKERS.keys()):
        seen, effect, mend = _OTHER_DOCKERS[word]
        yield Finding("refused", "docker", seen, effect, mend)
    newer = sorted(NEWER_KEYS & context.cluster.docker.daemon.keys())
    if newer and context.codename == "bookworm" and DOCKER_CE not in found.packages:
        seen = f"docker.daemon.{newer[0]} is for a newer Docker than Debian 12 has"
        yield Finding("refused", "daemon.json", seen, "dockerd would not start", "take it out of the inventory")
    wanted = docker.daemon_config(context)
    wanted_root = str({**daemon_json.kept(guest.own_daemon, wanted), **wanted}.get("data-root", docker.DATA_ROOT))
    if ("file", docker.CONFIG) in found.made:
        root = str((guest.daemon or {}).get("data-root", docker.DATA_ROOT))
        yield from _data_root(root, len(found.containers), wanted_root)
    else:
        yield from _data_root(guest.data_root, guest.containers, wanted_root)
    yield from _own_daemon(context, found, wanted)
    yield from _overruled(context, found, wanted)


def _own_daemon(context: Context, found: Snapshot, wanted: daemon_json.Keys) -> Iterator[Finding]:
    """What of a host's own daemon.json cannot go on in Fiefdom's, which would take its place, or has done so."""
    own, now = found.guest.own_daemon, found.guest.daemon or {}
    made = ("file", docker.CONFIG) in found.made
    if own is None or (made and own.keys is None):
        return
    if own.keys is None:
        yield Finding(
            "refused",
            "daemon.json",
            f"{docker.CONFIG} holds no JSON object",
            "nobody can tell which keys of it are to be kept",
            "mend it there, or move it away",
        )
        return
    # Docker's own package may be any version, and what is on Debian 13 checks the file itself before it is placed.
    judges = DOCKER_CE in found.packages or (context.codename == "trixie" and "docker.io" in found.packages)
    known = daemon_json.KNOWN[context.codename] | DAEMON_OWN.keys()
    going_on = daemon_json.kept(own, wanted)
    for key, value in sorted(own.keys.items()):
        if key in context.cluster.docker.daemon:  # whose value it is that counts
            continue
        # With what is there dockerd runs; what the inventory held back until now comes unjudged.
        if made and (key not in going_on or (key in now and now[key] == value)):
            continue
        debian = "12" if context.codename == "bookworm" else "13"
        effect = daemon_json.harm(key, value)
        if not judges and key not in known:
            effect = f"dockerd of Debian {debian} does not know it and would not start"
        kind = DAEMON_KEYS.get(key)
        if (made or found.docker == "absent") and kind is not None and not kind.fits(value):
            effect = f"dockerd would not start, for it must be {kind.words}"
        if key == "live-restore" and value is not True:
            effect = DAEMON_OWN[key]
        if effect:
            place = "the host's own daemon.json of before" if made else docker.CONFIG
            seen = f"{place} sets {printable(key)} to {daemon_json.said(key, value, private=own.private)}"
            mend = "give it another value in docker.daemon" if made else "take it out there, or give it another value"
            yield Finding("refused", "daemon.json", seen, effect, mend)


def _overruled(context: Context, found: Snapshot, wanted: daemon_json.Keys) -> Iterator[Finding]:
    """What of a host's own is not what it will be; once it is, there is no more to tell."""
    own, now = found.guest.own_daemon, found.guest.daemon or {}
    if own is None:
        return
    for key, value in sorted((own.keys or {}).items()):
        seen = f"{docker.CONFIG} sets {printable(key)} to {daemon_json.said(key, value, private=own.private)}"
        if key in daemon_json.LEFT_OUT and key in now:
            effect = f"Fiefdom leaves it out: {daemon_json.LEFT_OUT[key]}"
            yield Finding("warning", "daemon.json", seen, effect, "what needs it has to do without")
        if key not in wanted or value == wanted[key] or now.get(key) == wanted[key] or key == "live-restore":
            continue
        given = key in context.cluster.docker.daemon
        effect = (
            f"it becomes {daemon_json.said(key, wanted[key])}, {'by the inventory' if given else 'as Fiefdom has it'}"
        )
        mend = "take it out of docker.daemon to keep the host's" if given else DAEMON_OWN[key]
        yield Finding("warning", "daemon.json", seen, effect, mend or "nothing, unless something there needs it so")


def _data_root(root: str, count: int, wanted: str) -> Iterator[Finding]:
    if root and count and root.rstrip("/") != wanted.rstrip("/"):
        yield Finding(
            "refused",
            "data-root",
            f"{count} container{'s lie' if count != 1 else ' lies'} in {root}",
            f"with {wanted} as data-root Docker would know none of them any more",
            f"say docker.daemon: {{data-root: {root}}}, or remove them",
        )


# --- Ports and firewalls

# Published ports: whose container it is, the plan knows better.
_DOCKERS = frozenset({"dockerd", "docker-proxy"})
_IN_CONTAINERS = frozenset({"serf", "haproxy"})


def _needs(context: Context) -> dict[tuple[str, int], tuple[str, str]]:
    """By protocol and port, the container that listens there and the key that gives it another port."""
    cluster = context.cluster
    agent = gateway.NAME if context.is_gateway else serf.NAME
    gossip = (agent, "serf.port")
    found = {("tcp", cluster.serf.port): gossip, ("udp", cluster.serf.port): gossip}
    found["tcp", cluster.serf.rpc_port] = (agent, "serf.rpc_port")
    if context.is_gateway:
        found["tcp", cluster.gateway.stats_port] = (gateway.NAME, "gateway.stats_port")
        found |= {("tcp", port): (gateway.NAME, dotted(key)) for port, key in cluster.fronts.items()}
    for instance in cluster.instances(context.name):
        for port in instance.ports:
            found["tcp", port] = (instance.container, f"services.{instance.service}.base_port")
    return found


def _ports(context: Context, found: Snapshot) -> Iterator[Finding]:
    """Who listens where a container of ours is to, and is not it: ours runs there already where it runs at all."""
    # One of ours that is about to make way, for another name, role or port of it, is not in the way.
    ours = _DOCKERS | (_IN_CONTAINERS if any(c.ours and c.running for c in found.containers.values()) else frozenset())
    needs = _needs(context)
    seen: dict[tuple[str, str], list[int]] = {}
    for (protocol, port), (container, key) in needs.items():
        there = found.containers.get(container)
        runs = there is not None and there.running
        # Somebody's container gets packets before a socket of the host's does, also where ours has that already.
        others = [one for one in found.guest.publishes if one.process.removeprefix("container ") != container]
        others += [one for one in found.guest.listeners if not runs and one.process not in ours]
        for other in others:
            if (other.protocol, other.port) == (protocol, port) and _is_here(other.address, key, context):
                seen.setdefault((other.process, key), []).append(port)
    for (process, key), ports in seen.items():
        listens = "publishes" if process.startswith("container ") else "listens on"
        yield Finding(
            "refused",
            "port",
            f"{process} {listens} port {', '.join(ranges(sorted(set(ports))))}",
            "what Fiefdom puts there could not start, or nobody would reach it",
            f"stop it, or give {key} another value",
        )
    yield from _turned(context, found, needs)


def _is_here(address: str, key: str, context: Context) -> bool:
    at = address.partition("%")[0]
    own = context.host.address
    return at in ("0.0.0.0", "*", "::", own) or (key == "serf.rpc_port" and at == "127.0.0.1")  # noqa: S104


def _turned(context: Context, found: Snapshot, needs: Mapping[tuple[str, int], tuple[str, str]]) -> Iterator[Finding]:
    """Ports that a NAT rule of somebody's may take; whether a packet ever comes to it, nobody can tell from here."""
    own = ipaddress.IPv4Address(context.host.address)
    turned = [
        port
        for (protocol, port), (_, key) in needs.items()
        # From the host itself, which these rules do not see.
        if key != "serf.rpc_port" and any(rule.takes(protocol, port) and rule.has(own) for rule in found.guest.turns)
    ]
    if turned:
        yield Finding(
            "warning",
            "port",
            f"a NAT rule turns packets to port {', '.join(ranges(sorted(set(turned))))} elsewhere",
            "what Fiefdom puts there may never get them",
            "look at `nft list ruleset` and `iptables-save -t nat`, and take the rule away or use another port",
        )


def _firewall(context: Context, found: Snapshot) -> Iterator[Finding]:
    """Another one that drops what it does not know: a drop is final, whatever Fiefdom's own table accepts."""
    if not found.guest.firewalls:
        return
    # ufw's rules are iptables' rules.
    name = " and ".join(n for n in found.guest.firewalls if n != "iptables" or "ufw" not in found.guest.firewalls)
    missing = _closed(context, found.guest)
    if not missing:
        seen = f"{name} is active and lets Fiefdom's ports pass"
        yield Finding("warning", "firewall", seen, "its rules have to follow each change of ports", "keep it in mind")
        return
    members = ", ".join(_others(context))
    wanted = [f"{port}/{protocol}" + f" from {members}" * is_gossip for protocol, port, is_gossip in missing]
    yield Finding(
        "refused",
        "firewall",
        f"{name} is active and drops {', '.join(f'{port}/{protocol}' for protocol, port, _ in missing)}",
        "hosts and gateways would not hear of one another",
        f"let pass {', '.join(wanted)}, such as with: {_command(found.guest.firewalls[0], *missing[0][:2])}",
    )


def _closed(context: Context, guest: Guest) -> list[tuple[str, int, bool]]:
    """What it does not let pass: protocol, port, and whether that is gossip, which has to pass from every host."""
    cluster = context.cluster
    missing = []
    for protocol in ("tcp", "udp"):
        rules = [rule for rule in guest.passes if rule.takes(protocol, cluster.serf.port)]
        others = map(ipaddress.IPv4Address, _others(context))
        if not all(any(rule.has(address) for rule in rules) for address in others):
            missing.append((protocol, cluster.serf.port, True))
    if context.is_gateway:
        ports = {cluster.gateway.stats_port, *cluster.fronts}
        # From where is the other firewall's to say.
        missing += [("tcp", p, False) for p in sorted(ports) if not any(r.takes("tcp", p) for r in guest.passes)]
    return missing


def _others(context: Context) -> list[str]:
    cluster = context.cluster
    return [cluster.hosts[n].address for n in (*cluster.gateways, *cluster.app_hosts) if n != context.name]


def _command(firewall: str, protocol: str, port: int) -> str:
    return {
        "ufw": f"`ufw allow {port}/{protocol}`",
        "firewalld": f"`firewall-cmd --permanent --add-port={port}/{protocol} && firewall-cmd --reload`",
        "iptables": f"`iptables -I INPUT -p {protocol} --dport {port} -j ACCEPT`",
    }.get(firewall, f"`{protocol} dport {port} accept` in that table")


# --- The host itself


def _names(context: Context, found: Snapshot) -> Iterator[Finding]:
    """Its own lines that say something else: who asks for such a name gets both addresses, in an order of its own."""
    if ("file", network.HOSTS) in found.made:  # by an earlier Fiefdom, and about to go
        return
    hosts = context.cluster.hosts
    for address, name in found.guest.named:
        # A host's own name is commonly on 127.0.1.1, where Debian's installer writes it with the domain.
        if name not in hosts or address == hosts[name].address or (name == context.name and _is_loopback(address)):
            continue
        yield Finding(
            "warning",
            "names",
            f"{network.HOSTS} has {name} at {address} as well",
            f"programs there may ask that for {name}, which is {hosts[name].address} in the inventory",
            "take the name out of that line there, or give the host in the inventory another name or address",
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


_CLOUD_SSHD = "/etc/ssh/sshd_config.d/50-cloud-init.conf"


def _sshd(_: Context, found: Snapshot) -> Iterator[Finding]:
    """Where cloud-init's own drop-in matters: Fiefdom's is read before it, so that mostly it has no effect."""
    overruled = [sentence for sentence in found.sshd if _CLOUD_SSHD in sentence]
    if overruled:
        yield Finding(
            "warning",
            "cloud-init",
            f"cloud-init's sshd settings overrule Fiefdom's: {'; '.join(overruled)}",
            "`apply` refuses that, and cloud-init may write the file again at a boot",
            "`ssh_pwauth: false` in its user data or in a file of /etc/cloud/cloud.cfg.d, and remove the file",
        )


def _time(context: Context, found: Snapshot) -> Iterator[Finding]:
    keepers = [name for name in TIMEKEEPERS if name in found.packages]
    if keepers and context.cluster.time_servers:
        yield Finding(
            "warning",
            "time",
            f"{keepers[0]} keeps the time",
            "time_servers of the inventory mean nothing to it",
            "name the servers in its own configuration",
        )


def of_clock(off_s: float | None) -> tuple[Finding, ...]:
    """What is to be said of a clock that is ``off_s`` seconds ahead of the operator's; None where nobody knows."""
    if off_s is None or abs(off_s) <= CLOCK_MAX_S:
        return ()
    return (
        Finding(
            "warning",
            "clock",
            f"its clock is {duration(abs(off_s))} {'ahead' if off_s > 0 else 'behind'}",
            "logs and the audit tell another time, and certificates may not be valid yet",
            "look there with `timedatectl`, and at this machine's own clock",
        ),
    )


def _boot(_: Context, found: Snapshot) -> Iterator[Finding]:
    guest = found.guest
    if guest.reboot is not None:
        seen = "a reboot is pending" + (f" for {guest.reboot}" if guest.reboot else "")
        yield Finding("warning", "reboot", seen, "it runs what was replaced on disk", "`fiefdom reboot`")
    if guest.cloud_init_hosts == "":
        yield Finding(
            "warning",
            "cloud-init",
            f"cloud-init writes {network.HOSTS} at each boot, but not from {network.CLOUD_HOSTS}",
            "the other hosts' names go, and `plan` finds drift after each reboot",
            "`manage_etc_hosts: false` in the user data, or else in a file of /etc/cloud/cloud.cfg.d",
        )
    if guest.ssh_socket:
        yield Finding(
            "warning",
            "ssh.socket",
            "systemd listens for sshd (ssh.socket)",
            "ports and addresses of sshd_config have no effect",
            "`systemctl disable --now ssh.socket && systemctl enable --now ssh.service`",
        )
    on = any(line.startswith("APT::Periodic::Unattended-Upgrade ") and '"0"' not in line for line in guest.upgrades)
    spared = any("Blacklist" in line and "docker" in line for line in guest.upgrades)
    if on and not spared:
        yield Finding(
            "warning",
            "upgrades",
            "unattended-upgrades may upgrade Docker",
            "its daemon restarts at a time that nobody chose; containers live on",
            'Unattended-Upgrade::Package-Blacklist { "docker"; "containerd"; }; and `fiefdom reboot --upgrade`',
        )


_LOOKS = (_docker, _ports, _firewall, _names, _sshd, _time, _boot)
