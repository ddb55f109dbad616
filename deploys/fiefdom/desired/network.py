"""Host networking: names, kernel settings, time, apt's way, and a static address where the inventory asks for one.

The static address is systemd-networkd's. Where /etc/network/interfaces configures the same interface, ifupdown goes
on doing so at boot; that file is not Fiefdom's, so its stanza has to go by hand.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from pathlib import PurePath

from fiefdom.desired.context import Context
from fiefdom.desired.cutting import Cutting
from fiefdom.desired.ports import ranges
from fiefdom.desired.render import render
from fiefdom.desired.state import ANY_PACKAGE, Block, Directory, File, HostState, Package, Sysctl, Unit
from fiefdom.model import GATEWAYS, Cluster, sysctl_name
from fiefdom.model.once import once

HOSTS = "/etc/hosts"
CLOUD_HOSTS = "/etc/cloud/templates/hosts.debian.tmpl"
"""What cloud-init writes /etc/hosts from at each boot, where it does."""
SYSCTLS = "/etc/sysctl.d/60-fiefdom.conf"
MODPROBE = "/etc/modprobe.d/fiefdom.conf"
# The last of its folder, so that the inventory has the last word there.
APT = "/etc/apt/apt.conf.d/zz-fiefdom-proxy"
TIMESYNCD = "/etc/systemd/timesyncd.conf.d/10-fiefdom.conf"
TIMESYNCD_PACKAGE = "systemd-timesyncd"
TIMESYNCD_UNIT = "systemd-timesyncd.service"
LINKS = "/etc/systemd/network/"
NETWORKD = f"{LINKS}10-fiefdom.network"
NETWORKD_UNIT = "systemd-networkd.service"
RESOLV_CONF = "/etc/resolv.conf"

_PACKAGES = "what apt fetches by which way is nothing to SSH"
_CLOCK = "a key is good at any hour"
_NAMES = "the operator comes to an address, and sshd looks up no name"
_MODULES = "SSH needs none of the protocols that it keeps out"

CUTTING = Cutting(
    paths=(LINKS, "/etc/sysctl.d/"),
    units=(NETWORKD_UNIT,),
    sysctls=True,
    harmless={
        HOSTS: _NAMES,
        CLOUD_HOSTS: _NAMES,
        RESOLV_CONF: _NAMES,
        MODPROBE: _MODULES,
        str(PurePath(MODPROBE).parent): _MODULES,
        APT: _PACKAGES,
        TIMESYNCD: _CLOCK,
        str(PurePath(TIMESYNCD).parent): _CLOCK,
        TIMESYNCD_UNIT: _CLOCK,
    },
)

PRIVILEGED_PORTS_END = 1024

# Only keys that belong to a network namespace: a host that is a container must not change its machine's kernel.
# Values: what dev-sec's linux-baseline and CIS agree on, but for rp_filter; the backlogs are for bursts of connections
# to HAProxy.
# rp_filter is loose (2) where they want strict (1), which drops who comes in by another interface than the answer
# leaves by: clients, or the operator, of a host with several networks that served them before, for Debian filters
# nothing. Nor would strict keep out anybody whom the firewall lets in: who lies about an address completes no TCP
# connection, gossip is encrypted, and what pretends to be a container's is not forwarded. The kernel takes the greater
# of `all` and an interface's own, so this is loose everywhere; a host's `sysctls` may say 1.
SYSCTL_VALUES: dict[str, str] = {
    "net.core.somaxconn": "8192",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.accept_source_route": "0",
    "net.ipv4.conf.all.log_martians": "1",
    "net.ipv4.conf.all.rp_filter": "2",
    "net.ipv4.conf.all.secure_redirects": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.accept_redirects": "0",
    "net.ipv4.conf.default.accept_source_route": "0",
    "net.ipv4.conf.default.log_martians": "1",
    "net.ipv4.conf.default.rp_filter": "2",
    "net.ipv4.conf.default.secure_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv4.icmp_echo_ignore_broadcasts": "1",
    "net.ipv4.icmp_ignore_bogus_error_responses": "1",
    # Docker would set it too, but only after its own rules are there; ours stand before either.
    "net.ipv4.ip_forward": "1",
    "net.ipv4.tcp_max_syn_backlog": "8192",
    "net.ipv4.tcp_rfc1337": "1",
    "net.ipv4.tcp_syncookies": "1",
}

# The address of all gateways together stands on the loopback of each: only who holds it may tell neighbours that it is
# here, neither when they ask (arp_ignore) nor by the way when it asks them something itself (arp_announce).
MOVING_ADDRESS: dict[str, str] = {"net.ipv4.conf.all.arp_announce": "2", "net.ipv4.conf.all.arp_ignore": "1"}


def desired(context: Context) -> HostState:
    """The host's names, kernel settings, clock and address."""
    state = HostState(
        hostname=context.name,
        packages=(Package("ca-certificates"), Package("curl")),
        directories=(Directory("/etc/modprobe.d"),),  # kmod's, which not every host has
        files=(File(MODPROBE, render("modprobe.conf.j2").encode()),),
        blocks=_hosts(context.cluster),
    )
    return state + _packages(context) + _sysctls(context) + _time(context) + _static(context)


def _packages(context: Context) -> HostState:
    proxy = context.cluster.packages.proxy
    if proxy is None:
        return HostState()
    # A bare host may have no other way to its first package.
    return HostState(files=(File(APT, render("apt.conf.j2", proxy=proxy).encode(), precedes=ANY_PACKAGE),))


@once
def _hosts(cluster: Cluster) -> tuple[Block, ...]:
    """The block follows the host's own lines, so that the host's name keeps the domain that Debian's installer wrote.

    Of several lines with a name, the first says what it is called in full; addresses are taken from all of them.
    """
    hosts = sorted((ipaddress.IPv4Address(host.address), name) for name, host in cluster.hosts.items())
    content = render("hosts.block.j2", hosts=hosts).encode()
    return Block(HOSTS, content, around=render("hosts.j2").encode()), Block(CLOUD_HOSTS, content)


@lru_cache(maxsize=8)  # every host has the same
def names_in(block: Block) -> dict[str, str]:
    """By name, the address that a block of /etc/hosts gives it."""
    rows = (line.split() for line in block.content.decode().splitlines())
    return {name: address for address, *names in rows for name in names}


def _sysctls(context: Context) -> HostState:
    values = {
        **SYSCTL_VALUES,
        **(MOVING_ADDRESS if context.is_gateway and context.cluster.gateway.address else {}),
        "net.ipv4.ip_local_reserved_ports": ",".join(ranges(_own_ports(context))),
        "net.ipv4.ip_unprivileged_port_start": str(_unprivileged_port_start(context)),
        **{sysctl_name(key): " ".join(value.split()) for key, value in context.host.sysctls.items()},
    }
    pairs = sorted(values.items())
    return HostState(
        files=(File(SYSCTLS, render("sysctl.conf.j2", pairs=pairs).encode()),),
        sysctls=tuple(Sysctl(key, value) for key, value in pairs),
    )


def _own_ports(context: Context) -> set[int]:
    """Ports that the kernel must not give to an outgoing connection: ours would then fail to start."""
    cluster = context.cluster
    ports = {cluster.serf.port, cluster.serf.rpc_port}
    if cluster.monitoring.node_exporter:
        ports.add(cluster.monitoring.port)
    if context.is_gateway:
        ports |= {cluster.gateway.stats_port, *cluster.fronts}
    return ports | {port for instance in context.instances for port in instance.ports}


def _unprivileged_port_start(context: Context) -> int:
    """HAProxy is an ordinary user in the host's network, where no capability of a container gets it to port 80."""
    if GATEWAYS not in context.host.groups:
        return PRIVILEGED_PORTS_END
    return min((PRIVILEGED_PORTS_END, *context.cluster.fronts))


def _time(context: Context) -> HostState:
    state = HostState(packages=(Package(TIMESYNCD_PACKAGE),))
    if not context.cluster.time_servers:
        return state + HostState(units=(Unit(TIMESYNCD_UNIT),))
    text = render("timesyncd.conf.j2", servers=context.cluster.time_servers)
    return state + HostState(
        directories=(Directory("/etc/systemd/timesyncd.conf.d"),),
        files=(File(TIMESYNCD, text.encode()),),
        units=(Unit(TIMESYNCD_UNIT, config=(TIMESYNCD,)),),
    )


def _static(context: Context) -> HostState:
    static = context.host.static
    if static is None:
        return HostState()
    text = render("static.network.j2", address=context.host.address, static=static)
    files = [File(NETWORKD, text.encode())]
    if static.dns:
        # networkd's DNS= only reaches systemd-resolved, which a Debian server does not have.
        files.append(File(RESOLV_CONF, render("resolv.conf.j2", servers=static.dns).encode()))
    return HostState(
        directories=(Directory("/etc/systemd/network"),),
        files=tuple(files),
        units=(Unit(NETWORKD_UNIT, config=(NETWORKD,), on_change=("reload",)),),
    )
