"""What holds for the whole cluster: network, ssh, docker, serf, gateway, rollout, registry, encrypted file."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from fiefdom.model.daemon_keys import DAEMON_KEYS, DAEMON_OWN, is_plain
from fiefdom.model.public_keys import Recipient, SshPublicKey
from fiefdom.model.references import SERVER
from fiefdom.model.secrets import SecretSource
from fiefdom.model.text import (
    FIRST_GATEWAY_PORT,
    LAST_PORT,
    SHORTEST_S,
    Address,
    Cidr,
    FilePath,
    Forwarding,
    HostName,
    Jump,
    Many,
    Matches,
    Model,
    Port,
    ProxyUrl,
    User,
)
from fiefdom.model.tls import Tls
from fiefdom.wording import shown

_RULE = Matches("[ -~]*[!-~]", "a line of nftables such as 'ip saddr 10.20.0.9 tcp dport 9100 accept'")
# Comments say what they like, and `fib` has words of its own: fib saddr . iif oif missing drop.
_OTHER_WORDS = re.compile(r"\"[^\"]*\"|\bfib\s+[a-z]+(\s*\.\s*[a-z]+)*\s+(oif|oifname|type)\b")
_BY_INDEX = re.compile(r"\b([io]if)\b")


def _interfaces_by_name(rule: str) -> str:
    found = _BY_INDEX.search(_OTHER_WORDS.sub("", rule))
    if found:
        raise ValueError(
            f"{shown(rule)} wants an interface that is up, and at boot none is; write {found[1]}name in place of "
            f"{found[1]}"
        )
    return rule


class Network(Model):
    """Addresses, and who may reach what."""

    cidr: Cidr = Field(
        description="Network that every host's address lies in; gossip is accepted from it only, and with "
        "gateway.known_hosts_only from its hosts only."
    )
    admin_cidrs: Many[Cidr] = Field(
        description="Networks that may reach SSH and the gateways' statistics.", min_length=1
    )
    client_cidrs: Many[Cidr] | None = Field(
        None,
        description="Networks that may reach the gateways' service ports; the cluster's own when absent.",
    )
    firewall: bool = Field(True, description="Whether Fiefdom manages an nftables table of its own.")
    input_rules: Many[Annotated[str, _RULE, AfterValidator(_interfaces_by_name)]] = Field(
        (),
        description="Rules of your own for packets to the hosts, in nftables' words; they come before Fiefdom's. They "
        "must load before the network is up: no host names, and iifname in place of iif.",
    )

    @property
    def clients(self) -> tuple[str, ...]:
        """Networks that may reach the gateways' service ports."""
        return (self.cidr,) if self.client_cidrs is None else self.client_cidrs


class Ssh(Model):
    """How Fiefdom logs in, and what sshd allows."""

    user: User = Field("root", description="Login user: root, or one with passwordless sudo.")
    port: Port = Field(22, description="SSH port.")
    key: FilePath | None = Field(
        None, description="Private key file, relative to the inventory; agent and defaults when absent."
    )
    known_hosts: FilePath | None = Field(
        None, description="known_hosts file, relative to the inventory; the user's own when absent."
    )
    jump: Jump | None = Field(
        None,
        description="Jump hosts on the way to every host, as `ssh -J` takes them; a host of the cluster by its name. "
        "None but what your ~/.ssh/config says when absent.",
    )
    tcp_forwarding: Forwarding = Field(
        "none",
        description="What sshd forwards: nothing, `local` for what a jump host and `ssh -L` need, or `all`.",
    )
    authorized_keys: Many[SshPublicKey] = Field(
        (), description="Operators' public keys, allowed for every login user besides the user's own file."
    )
    permit_root: bool = Field(True, description="Whether root may log in, by key only.")
    crypto: Literal["compat", "pq"] = Field(
        "compat",
        description="sshd's algorithms. pq is what ssh-audit's policy of the host's Debian asks for, on 13 nothing but "
        "post-quantum key exchanges; a host whose sshd this client could then not talk to is refused.",
    )
    max_auth_tries: int = Field(3, ge=2, le=10, description="Keys a client may offer.")
    client_alive_interval_s: int = Field(300, ge=10, le=3600, description="Seconds until an idle link is probed.")
    allow_users: Many[Annotated[str, Matches("[!-~]+", "a pattern of sshd's AllowUsers such as deploy@10.20.0.*")]] = (
        Field((), description="Who may log in at all, as patterns of sshd's AllowUsers; everybody when empty.")
    )
    confirm_s: int = Field(
        60,
        ge=10,
        le=3600,
        description="Seconds in which a new login must confirm a change of sshd, firewall or network; else the host "
        "takes it back.",
    )


class Docker(Model):
    """Docker's daemon."""

    log_max_size: Annotated[str, Matches("[1-9][0-9]{0,5}[kmg]", "a size such as 10m")] = Field(
        "10m", description="Size of one log file of a container."
    )
    log_max_file: int = Field(5, ge=1, le=100, description="Log files kept for a container.")
    bridge_address: str = Field("172.31.255.1/24", description="Address and network of Docker's default bridge.")
    address_pool: Cidr = Field("172.31.0.0/17", description="Network that further Docker networks are cut from.")
    address_pool_size: int = Field(24, ge=16, le=29, description="Prefix length of each of them.")
    nofile: int = Field(
        16384,
        ge=1024,
        le=1048576,
        description="Default limit of open files; not above the host's own hard limit.",
    )
    live_restore: Literal[True] = Field(
        True,
        description="Containers outlive the daemon. Fiefdom's promises need it, so it cannot be turned off.",
    )

    daemon: dict[str, Any] = Field(
        default_factory=dict,
        description="Further keys of Docker's daemon.json, as Docker has them: registry-mirrors, insecure-registries, "
        "data-root, dns, mtu, proxies (Debian 13) and the like.",
        json_schema_extra={"patternProperties": {f"^({'|'.join(DAEMON_KEYS)})$": {}}, "additionalProperties": False},
    )

    @field_validator("daemon")
    @classmethod
    def _options(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, found in value.items():
            if key in DAEMON_OWN:
                raise ValueError(f"{key} is Fiefdom's to set" + f": {DAEMON_OWN[key]}" * bool(DAEMON_OWN[key]))
            kind = DAEMON_KEYS.get(key)
            if kind is None:
                close = difflib.get_close_matches(key, DAEMON_KEYS, n=1)
                mend = f"did you mean {close[0]}?" if close else f"these may: {', '.join(DAEMON_KEYS)}"
                raise ValueError(f"{shown(key)} is no key that may be given; {mend}")
            if not kind.fits(found):
                raise ValueError(f"{key} is {shown(found)}; it must be {kind.words}")
            if not is_plain(found):
                raise ValueError(f"{key} holds what JSON or dockerd has no word for; write plain texts and numbers")
        return value

    @field_validator("bridge_address")
    @classmethod
    def _interface(cls, value: str) -> str:
        try:
            bridge = ipaddress.IPv4Interface(value)
        except ValueError as error:
            raise ValueError(f"{shown(value)} is not an address with prefix such as 172.31.255.1/24") from error
        if bridge.network.prefixlen > 29 or bridge.ip == bridge.network.network_address:
            raise ValueError(f"{shown(value)} leaves no addresses for containers; write one like 172.31.255.1/24")
        return str(bridge)


class Packages(Model):
    """Debian's packages on hosts."""

    proxy: ProxyUrl | None = Field(
        None,
        description="Proxy (http:// or https://) that the hosts' apt goes through, such as an apt-cacher-ng at "
        "http://10.20.0.5:3142; each host's own way when absent.",
    )


class Serf(Model):
    """Membership and gossip."""

    key_file: FilePath | None = Field(
        None,
        description="File with the gossip key, relative to the inventory. "
        "The environment variable FIEFDOM_GOSSIP_KEY comes first. `fiefdom keygen` makes one.",
    )
    key: SecretSource | None = Field(None, description="Where the gossip key comes from, in place of a file.")
    port: int = Field(7946, ge=1024, le=LAST_PORT, description="Gossip port, TCP and UDP.")
    rpc_port: int = Field(7373, ge=1024, le=LAST_PORT, description="RPC port on loopback.")
    profile: Literal["lan", "wan", "local"] = Field("lan", description="Serf's timing profile.")
    join_timeout_s: int = Field(
        30, ge=1, le=3600, description="Seconds that a joining host waits to be in every gateway's rotation."
    )
    drain_timeout_s: int | None = Field(
        None,
        ge=1,
        le=3600,
        description="Seconds that a leaving host waits for its open requests to end; when absent, "
        "gateway.server_timeout_s, but 60 to 3600.",
    )
    memory_mib: int = Field(64, ge=32, le=1 << 24, description="Memory limit of an agent in MiB.")


class SourceLimits(Model):
    """What one client address may use of a gateway."""

    requests_per_s: int | None = Field(
        None,
        ge=1,
        le=1000000,
        description="Requests per second of one address, over 10 seconds; further ones get 429, and count as well.",
    )
    connections: int | None = Field(
        None, ge=1, le=200000, description="Connections of one address at once; further ones are closed."
    )
    exempt_cidrs: Many[Cidr] = Field(
        (), description="Networks without limits, such as that of proxies, which send many clients' requests."
    )

    @model_validator(mode="after")
    def _limits_something(self) -> SourceLimits:
        if self.requests_per_s is None and self.connections is None:
            raise ValueError("limits nothing; set requests_per_s or connections, or leave it out")
        return self


def patience_s(server_timeout_s: float) -> int:
    """Seconds that is waited for open requests where an instance may take so long for one."""
    return min(max(60, math.ceil(server_timeout_s)), 3600)


class Gateway(Model):
    """HAProxy on the gateways."""

    address: Address | None = Field(
        None,
        description="IPv4 address of all gateways together, in network.cidr: one of them holds it, and another takes "
        "over from that (VRRP); clients then know no other. None when absent.",
    )
    stats_port: int = Field(
        8404,
        ge=FIRST_GATEWAY_PORT,
        le=LAST_PORT,
        description="Port of the gateway's page, statistics and metrics, for admins and `monitoring.from_cidrs` only.",
    )
    stats_names: Many[HostName] = Field(
        (),
        description="Further names and addresses that the statistics port may be asked for by, such as "
        "gw1.example.org; all but the gateways' own are refused.",
    )
    balance: Literal["roundrobin", "leastconn", "random"] = Field("roundrobin", description="Balancing algorithm.")
    maxconn: int = Field(4000, ge=100, le=200000, description="Connections at once.")
    retries: int = Field(
        10,
        ge=0,
        le=100,
        description="Further tries of a connection that failed, each on another instance; "
        "a request that an instance may have read is tried once more at most.",
    )
    connect_timeout_s: float = Field(2.0, ge=SHORTEST_S, le=86400, description="Seconds to connect to an instance.")
    server_timeout_s: float = Field(
        60.0, ge=SHORTEST_S, le=86400, description="Seconds an instance may take to answer."
    )
    client_timeout_s: float = Field(60.0, ge=SHORTEST_S, le=86400, description="Seconds a client may be silent.")
    request_timeout_s: float = Field(
        10.0,
        ge=SHORTEST_S,
        le=86400,
        description="Seconds a client may take for a request's headers, and then for its body or 8 KiB of that.",
    )
    source_limits: SourceLimits | None = Field(
        None, description="Limits for each client address; none when absent. Counted by each gateway for itself."
    )
    proxies: Many[Cidr] = Field(
        (),
        description="Networks of proxies before the gateways: what they say in X-Forwarded-For and Forwarded is passed "
        "on, what other clients say there is not.",
    )
    proxy_protocol: Many[Cidr] = Field(
        (),
        description="Networks of balancers before the gateways that begin each connection with a PROXY header "
        "(version 1 or 2), which says where the client is; nobody else may send one.",
    )
    buffer_kib: int = Field(
        16,
        ge=16,
        le=1024,
        description="KiB of a buffer: line and headers of a request, or an answer, have to fit into it, less 1 KiB.",
    )
    dot_segments: Literal["pass", "refuse"] = Field(
        "pass",
        description="Requests whose path has . or .. as a part, also where that is encoded: `refuse` answers 400, so "
        "that nobody leaves a `path_prefix` by them.",
    )
    tls: Tls | None = Field(
        None, description="HTTPS, with certificates that are given or got from an authority; none when absent."
    )
    access_log: bool = Field(
        False,
        description="Whether gateways write a line for each request, with an X-Request-ID that client and instance see "
        "too; `fiefdom logs --gateway` shows them.",
    )
    known_hosts_only: bool = Field(
        False,
        description="Whether a host gets traffic only once the gateways know it from the inventory; "
        "otherwise a new one joins before they are converged.",
    )
    memory_mib: int = Field(512, ge=128, le=1 << 24, description="Memory limit of the gateway container in MiB.")
    stop_grace_s: int | None = Field(
        None,
        ge=1,
        le=3600,
        description="Seconds open requests may take when it stops; when absent, the longest server_timeout_s of all "
        "services, but 60 to 3600.",
    )


class Rollout(Model):
    """How releases go."""

    soak_s: float = Field(
        5.0, ge=0, le=86400, description="Seconds that each batch is watched under traffic before the next begins."
    )
    most_errors: float = Field(
        0.01, ge=0, le=1, description="Share of requests that may go wrong on the new version meanwhile."
    )
    keep_releases: int = Field(
        3,
        ge=1,
        le=1000,
        description="Images of each service that a host keeps, the one that runs among them; beyond those only what a "
        "container has and what `rollback` would go back to.",
    )


class Registry(Model):
    """Where hosts pull images from, instead of getting them over SSH."""

    server: Annotated[
        str,
        Matches(SERVER, "a registry such as registry.example.org:5000/team, no https://"),
    ] = Field(description="Registry, and a path prefix if any, such as registry.example.org:5000/team.")
    user: Annotated[str, Matches("[!-9;-~]+", "a login name without blanks and colons")] | None = Field(
        None, description="Whom the registry knows; anonymous when absent."
    )
    password: SecretSource | None = Field(
        None,
        description="Where the user's password or token comes from. Another is no drift: hosts get it when they pull.",
    )


class EncryptedFile(Model):
    """The cluster's secrets, encrypted, to be kept in the repository."""

    file: FilePath = Field(description="Encrypted file, relative to the inventory. `fiefdom secret set` makes it.")
    recipients: Many[Recipient] = Field(
        description="Who may read it: age keys or SSH public keys (ssh-ed25519, ssh-rsa). "
        "`fiefdom secret rekey` takes a change up.",
        min_length=1,
    )
