"""Fiefdom as a library for other pyinfra repositories: each function is a deploy of pyinfra's.

    from pyinfra import host
    from fiefdom import deploys as fiefdom

    fiefdom.sshd()
    if fiefdom.is_member(host):
        fiefdom.site()

Each takes pyinfra's global arguments and no others: what it is to do stands in the data `fiefdom` of the inventory. It
returns `Changes`, whose `did_change` goes into `_if=` of what follows. What is wrong with data, call or host is one
sentence, and nothing was changed.
"""

from __future__ import annotations

from typing import Any

from fiefdom.engine import library
from fiefdom.engine.deploys import Changes

__all__ = [
    "Changes",
    "address",
    "docker",
    "firewall",
    "gateway",
    "is_member",
    "monitoring",
    "network",
    "offers",
    "serf",
    "services",
    "site",
    "sshd",
]


@library.concern("sshd")
def sshd() -> Changes:
    """The host's sshd: keys only, modern algorithms, the operators' keys. On any host.

    Reads `ssh`, of which nothing must be said, and `network.admin_cidrs`, from where failed logins are forgiven. The
    change waits for a new login, and takes itself back where none comes.
    """
    raise NotImplementedError


@library.concern("docker")
def docker() -> Changes:
    """Docker as Debian packages it, and its daemon.json. On any host.

    Reads `docker`, of which nothing must be said; on a member, which registries its services come from as well.
    """
    raise NotImplementedError


@library.concern("network")
def network() -> Changes:
    """The host's name, its line of /etc/hosts, kernel settings, clock, apt's proxy, a static address where asked for.

    Reads `address`, `static`, `sysctls`, `packages` and `time_servers`. Outside of a cluster `address` is needed,
    unless `ssh_hostname` is an IPv4 address. /etc/hosts gets the cluster's hosts on a member.
    """
    raise NotImplementedError


@library.concern("firewall")
def firewall() -> Changes:
    """An nftables table that lets in SSH from `network.admin_cidrs`, `network.input_rules`, and on a member its roles.

    Reads `network`, of which `admin_cidrs` is needed, and `ssh.port`. The change waits for a new login.
    """
    raise NotImplementedError


@library.concern("serf")
def serf() -> Changes:
    """The Serf agent of a member."""
    raise NotImplementedError


@library.concern("services")
def services() -> Changes:
    """The containers of a member's services; another version than the one that runs waits for `fiefdom rollout`."""
    raise NotImplementedError


@library.concern("offers")
def offers() -> Changes:
    """What an app host offers to the gateways: each of its services, once its instances answer."""
    raise NotImplementedError


@library.concern("gateway")
def gateway() -> Changes:
    """HAProxy and its Serf agent on a member in the group gateways."""
    raise NotImplementedError


@library.concern("address")
def address() -> Changes:
    """keepalived on a member in the group gateways, which moves `gateway.address`; nothing where there is none."""
    raise NotImplementedError


@library.concern("monitoring")
def monitoring() -> Changes:
    """Debian's node exporter on a member, and what it tells of instances; nothing where `monitoring` asks for none."""
    raise NotImplementedError


@library.concern()
def site() -> Changes:
    """Everything that a member of the cluster is to hold, and nothing of Fiefdom's that it is not."""
    raise NotImplementedError


def is_member(host: Any) -> bool:
    """Whether pyinfra's ``host`` is in a cluster: its `fiefdom` data has `groups`, or comes from a fleet's file.

    Raises:
        DeployError: `fiefdom` is no mapping, or has a key that does not exist.
    """
    return library.is_member(host)


def __getattr__(name: str) -> Any:
    raise library.unknown(name, tuple(__all__))
