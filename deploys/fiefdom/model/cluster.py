"""What a person may write in an inventory: the one home of every key, default, description and rule."""

from __future__ import annotations

import ipaddress
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    TypeAdapter,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fiefdom.wording import KeyPath, dotted, shown

GATEWAYS = "gateways"
APP_HOSTS = "app_hosts"
LAST_PORT = 65535
# What the sysctl net.ipv4.ip_unprivileged_port_start of a gateway is set to.
FIRST_GATEWAY_PORT = 80
# memberlist sends a member's tags in one field of this size, and refuses to start above it.
TAGS_MAX_BYTES = 512

Problem = tuple[KeyPath, str]
"""What is wrong and how to mend it, and where."""


@dataclass(frozen=True)
class _Matches:
    """Text of one shape. ``says`` follows "must be" in the error; the pattern goes into the JSON schema.

    A ``private`` text is not repeated in the error.
    """

    pattern: str
    says: str
    private: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$"}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            given = "what stands there" if self.private else shown(value)
            raise ValueError(f"{given} is not possible here; it must be {self.says}")
        return value


T = TypeVar("T")
# Python's own lists are welcome where a tuple is kept; everything else is taken as strictly as it was written.
Many = Annotated[tuple[T, ...], Strict(False)]


def _whole_number_as_text(value: object) -> object:
    if isinstance(value, bool | float):
        # YAML has read 1.10 as 1.1 and yes as true by now: what the person meant is lost.
        raise ValueError(f"{shown(value)} is not text; put it in quotes as you mean it")
    return str(value) if isinstance(value, int) else value


_TextOrNumber = Annotated[
    str, BeforeValidator(_whole_number_as_text), WithJsonSchema({"type": ["string", "integer"]}, mode="validation")
]


def _path(value: str) -> str:
    try:
        Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{shown(value)} begins with a user that this machine does not know") from error
    return value


Name = Annotated[
    str,
    # RFC 1123 labels; what Linux, Serf, HAProxy and container names all accept.
    _Matches(
        "[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
        "at most 40 lower-case letters, digits and dashes, from a letter to a letter or digit",
    ),
]
Group = Annotated[
    str,
    # A pyinfra group is a Python variable; `all` is pyinfra's own.
    _Matches(
        "(?!all$)[a-z][a-z0-9_]{0,39}",
        "at most 40 lower-case letters, digits and underscores, from a letter, and not `all`",
    ),
]
Version = Annotated[
    str,
    # What Docker accepts as a tag, less the characters that Serf tags use as separators.
    _Matches(
        "[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", "an image tag: at most 64 letters, digits, dots, dashes and underscores"
    ),
]
Port = Annotated[int, Field(ge=1, le=LAST_PORT)]
EnvName = Annotated[
    str,
    _Matches(
        "(?!FIEFDOM_)[A-Za-z_][A-Za-z0-9_]*",
        "letters, digits and underscores, not from a digit; names in FIEFDOM_ are Fiefdom's own",
    ),
]
EnvText = Annotated[
    _TextOrNumber, _Matches(r"[^\x00\n\r]*", "one line, which is all that Docker's env files carry", private=True)
]
SysctlKey = Annotated[str, _Matches(r"[a-z0-9_]+([./][A-Za-z0-9_-]+)+", "a kernel setting such as net.core.somaxconn")]
SysctlText = Annotated[_TextOrNumber, _Matches(r"[!-~]([ -~\t]*[!-~])?", "one line of plain text")]
User = Annotated[str, _Matches("[a-z_][a-z0-9_-]{0,31}", "a login name such as root or operator")]
FilePath = Annotated[str, _Matches(r"[^\x00-\x1f]+", "a path"), AfterValidator(_path)]
Argument = Annotated[str, _Matches(r"[^\x00\n\r]*", "one line")]
UrlPath = Annotated[str, _Matches("/[!-~]*", "a path from / without blanks")]
PathPrefix = Annotated[str, _Matches("/[A-Za-z0-9._~/-]*", "a path from /, of letters, digits and . _ ~ - /")]
HostName = Annotated[str, _Matches("[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", "a host name or address")]
SecretName = Annotated[
    str, _Matches("[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", "at most 64 letters, digits, dots, dashes and underscores")
]


def _cidr(value: str) -> str:
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        # ipaddress's own words do not say how to mend "10.0.0.1/24".
        try:
            network = ipaddress.IPv4Network(value, strict=False)
        except ValueError:
            raise ValueError(f"{shown(value)} is not an IPv4 network; write one like 10.0.0.0/24") from error
        raise ValueError(f"{shown(value)} has host bits set; did you mean {network}?") from error


def _address(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise ValueError(f"{shown(value)} is not an IPv4 address; write one like 10.0.0.11") from error


Cidr = Annotated[str, AfterValidator(_cidr)]
Address = Annotated[str, AfterValidator(_address)]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"patternProperties": {"^x-": {}}},
    )

    @model_validator(mode="before")
    @classmethod
    def _without_own_keys(cls, value: object) -> object:
        # As in Compose files: a place for YAML anchors and for notes of the person's own.
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if not (isinstance(k, str) and k.startswith("x-"))}
        return value


_SOURCES = ("env", "command", "secret")


class SecretSource(_Model):
    """Where a secret comes from: one of three places, none of them the inventory."""

    model_config = ConfigDict(
        json_schema_extra={
            "patternProperties": {"^x-": {}},
            "oneOf": [{"required": [name]} for name in _SOURCES],
        },
    )

    env: Annotated[str, _Matches("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")] | None = Field(
        None, description="Environment variable of the operator that holds it."
    )
    command: Annotated[Many[Argument], Field(min_length=1)] | None = Field(
        None,
        description="Command that prints it, as a list such as [pass, show, web/token]; "
        "run without a shell in the inventory's folder, on the operator's machine.",
    )
    secret: SecretName | None = Field(None, description="Name under which the encrypted file `secrets.file` holds it.")

    @model_validator(mode="before")
    @classmethod
    def _exactly_one(cls, value: object) -> object:
        mend = "write one of {env: NAME}, {command: [PROGRAM, ARGUMENT]}, {secret: NAME}"
        if isinstance(value, SecretSource):
            return value
        if not isinstance(value, dict):
            # Not told what stands there: it may be the secret itself.
            raise ValueError(f"a secret does not stand in the inventory, only where it comes from; {mend}")
        given = [str(name) for name, content in value.items() if content is not None and not str(name).startswith("x-")]
        if len(given) != 1 or given[0] not in _SOURCES:
            raise ValueError(f"has {' and '.join(map(shown, given)) or 'no source'}; {mend}")
        return value

    def __str__(self) -> str:
        """As a person would say it."""
        if self.env is not None:
            return f"the environment variable {self.env}"
        if self.command is not None:
            return f"the command `{shlex.join(self.command)}`"
        return f"the secret {self.secret}"


_ENV_TEXT: TypeAdapter[str] = TypeAdapter(EnvText, config=ConfigDict(strict=True))


def _text_or_source(value: object, _: object) -> str | SecretSource:
    # Not pydantic's own choice, which complains of either kind in words that no person has written.
    if isinstance(value, dict | SecretSource):
        return SecretSource.model_validate(value)
    return _ENV_TEXT.validate_python(value)


EnvValue = Annotated[EnvText | SecretSource, WrapValidator(_text_or_source)]


class Health(_Model):
    """How an instance shows that it can serve."""

    path: UrlPath = Field("/health", description="Path that answers 2xx or 3xx when the instance can serve.")
    interval_s: float = Field(1.0, gt=0, le=60, description="Seconds between the gateway's checks.")
    timeout_s: float = Field(2.0, gt=0, le=60, description="Seconds until a check counts as failed.")
    start_timeout_s: int = Field(
        60, ge=1, le=3600, description="Seconds an instance may take from its start to its first good answer."
    )


class Limits(_Model):
    """What one instance may use at most."""

    memory_mib: int = Field(256, ge=16, le=1 << 24, description="Memory in MiB; the instance is killed above it.")
    cpus: float = Field(1.0, gt=0, le=1024, description="CPUs, in units of one core.")
    pids: int = Field(256, ge=4, le=1 << 22, description="Processes and threads.")
    nofile: int = Field(4096, ge=64, le=1048576, description="Open files.")


class LimitsOverride(_Model):
    """What one host limits differently."""

    memory_mib: int | None = Field(None, ge=16, le=1 << 24, description="Memory in MiB on this host.")
    cpus: float | None = Field(None, gt=0, le=1024, description="CPUs on this host.")
    pids: int | None = Field(None, ge=4, le=1 << 22, description="Processes and threads on this host.")
    nofile: int | None = Field(None, ge=64, le=1048576, description="Open files on this host.")


class Route(_Model):
    """How clients reach a service at the gateways."""

    port: int = Field(
        80, ge=FIRST_GATEWAY_PORT, le=LAST_PORT, description="Gateway port; the gateway may not bind any below 80."
    )
    host: HostName | None = Field(None, description="Host name that selects the service; any when absent.")
    path_prefix: PathPrefix | None = Field(
        None, description="Path prefix that selects the service; any when absent. It is not stripped."
    )


class Service(_Model):
    """A containerised HTTP service."""

    image: Annotated[
        str,
        _Matches(
            r"([A-Za-z0-9.-]+:[0-9]+/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*",
            "an image name such as team/predictor, without tag: that is `version`",
        ),
    ] = Field(description="Image name without tag, such as team/predictor.")
    version: Version = Field(description="Image tag to run. The inventory's version is the truth.")
    build: FilePath | None = Field(
        None,
        description="Folder of a Dockerfile to build the image from on the operator's machine; "
        "relative to the inventory.",
    )
    instances: int = Field(1, ge=0, le=1000, description="Instances on each host that runs the service.")
    base_port: Port = Field(8000, description="Host port of the first instance; the others follow.")
    container_port: Port = Field(8000, description="Port that the process in the container listens on.")
    groups: Many[Group] = Field((APP_HOSTS,), description="Groups whose hosts run the service.", min_length=1)
    health: Health = Field(default_factory=Health, description="Health check.")
    environment: dict[EnvName, EnvValue] = Field(
        default_factory=dict, description="Environment of the process; kept in a root-only file on the host."
    )
    limits: Limits = Field(default_factory=Limits, description="Resource limits of one instance.")
    route: Route = Field(default_factory=Route, description="How clients reach it at the gateways.")
    stop_grace_s: int = Field(
        30, ge=1, le=3600, description="Seconds between SIGTERM and SIGKILL when an instance stops."
    )
    user: (
        Annotated[str, _Matches("[1-9][0-9]{0,8}(:[0-9]{1,9})?", "a number or two and not root, such as 1000:1000")]
        | None
    ) = Field(
        None,
        description="uid or uid:gid of the process; the image's own when absent. Neither may be root's.",
    )
    tmpfs: Many[Annotated[str, _Matches("/[A-Za-z0-9._/-]+", "an absolute folder such as /tmp")]] = Field(
        ("/tmp",),  # noqa: S108 -- a path inside the container, which is its own
        description="Writable in-memory folders; the rest of the root file system is read-only.",
    )
    command: Many[Argument] = Field((), description="Command of the container; the image's own when empty.")


class ServiceOverride(_Model):
    """What one host does differently for a service."""

    instances: int | None = Field(None, ge=0, le=1000, description="Instances on this host.")
    environment: dict[EnvName, EnvValue] = Field(
        default_factory=dict, description="Added to the service's environment."
    )
    limits: LimitsOverride | None = Field(None, description="Limits on this host where they differ.")


class HostSsh(_Model):
    """SSH settings of one host where they differ from the cluster's."""

    user: User | None = Field(None, description="Login user: root, or one with passwordless sudo.")
    port: Port | None = Field(None, description="SSH port.")
    key: FilePath | None = Field(None, description="Private key file; relative to the inventory.")
    listen: Many[Address] = Field((), description="Addresses that sshd listens on; all of the host's when empty.")


class Static(_Model):
    """A static address through systemd-networkd."""

    interface: Annotated[str, _Matches("[A-Za-z0-9._-]{1,15}", "an interface name such as eth0")] = Field(
        description="Interface name."
    )
    prefix_length: int = Field(24, ge=1, le=32, description="Prefix length of the host's address.")
    gateway: Address | None = Field(None, description="Default gateway.")
    dns: Many[Address] = Field((), description="Name servers.")


class Host(_Model):
    """A machine of the cluster."""

    address: Address = Field(description="IPv4 address in the cluster's network; SSH uses it as well.")
    groups: Many[Group] = Field(description="gateways, app_hosts, or groups of your own.", min_length=1)
    ssh: HostSsh = Field(default_factory=HostSsh, description="SSH settings that differ from the cluster's.")
    services: dict[Name, ServiceOverride] = Field(
        default_factory=dict, description="Overrides by service: instances, environment, limits."
    )
    sysctls: dict[SysctlKey, SysctlText] = Field(
        default_factory=dict, description="Kernel settings besides Fiefdom's own."
    )
    static: Static | None = Field(
        None, description="Static address by systemd-networkd; absent leaves addressing alone."
    )


_RULE = _Matches("[ -~]*[!-~]", "a line of nftables such as 'ip saddr 10.20.0.9 tcp dport 9100 accept'")
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


class Network(_Model):
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


class Ssh(_Model):
    """How Fiefdom logs in, and what sshd allows."""

    user: User = Field("root", description="Login user: root, or one with passwordless sudo.")
    port: Port = Field(22, description="SSH port.")
    key: FilePath | None = Field(
        None, description="Private key file, relative to the inventory; agent and defaults when absent."
    )
    known_hosts: FilePath | None = Field(
        None, description="known_hosts file, relative to the inventory; the user's own when absent."
    )
    authorized_keys: Many[
        Annotated[
            str,
            _Matches(
                "(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [ -~]*)?",
                "a public key line such as 'ssh-ed25519 AAAA... name'",
            ),
        ]
    ] = Field((), description="Operators' public keys, allowed for every login user besides the user's own file.")
    permit_root: bool = Field(True, description="Whether root may log in, by key only.")
    crypto: Literal["compat", "pq"] = Field(
        "compat",
        description="sshd's algorithms. pq is what ssh-audit's policy of the host's Debian asks for, on 13 nothing but "
        "post-quantum key exchanges; a host whose sshd this client could then not talk to is refused.",
    )
    max_auth_tries: int = Field(3, ge=2, le=10, description="Keys a client may offer.")
    client_alive_interval_s: int = Field(300, ge=10, le=3600, description="Seconds until an idle link is probed.")
    allow_users: Many[Annotated[str, _Matches("[!-~]+", "a pattern of sshd's AllowUsers such as deploy@10.20.0.*")]] = (
        Field((), description="Who may log in at all, as patterns of sshd's AllowUsers; everybody when empty.")
    )
    confirm_s: int = Field(
        60,
        ge=10,
        le=3600,
        description="Seconds in which a new login must confirm a change of sshd, firewall or network; else the host "
        "takes it back.",
    )


class Docker(_Model):
    """Docker's daemon."""

    log_max_size: Annotated[str, _Matches("[1-9][0-9]{0,5}[kmg]", "a size such as 10m")] = Field(
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


class Serf(_Model):
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


class SourceLimits(_Model):
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


class Gateway(_Model):
    """HAProxy on the gateways."""

    stats_port: int = Field(
        8404,
        ge=FIRST_GATEWAY_PORT,
        le=LAST_PORT,
        description="Port of statistics and Prometheus metrics, for admins only.",
    )
    balance: Literal["roundrobin", "leastconn", "random"] = Field("roundrobin", description="Balancing algorithm.")
    maxconn: int = Field(4000, ge=100, le=200000, description="Connections at once.")
    retries: int = Field(5, ge=0, le=100, description="Further tries of a request that may be repeated.")
    connect_timeout_s: float = Field(2.0, gt=0, le=86400, description="Seconds to connect to an instance.")
    server_timeout_s: float = Field(60.0, gt=0, le=86400, description="Seconds an instance may take to answer.")
    client_timeout_s: float = Field(60.0, gt=0, le=86400, description="Seconds a client may be silent.")
    request_timeout_s: float = Field(
        10.0,
        gt=0,
        le=86400,
        description="Seconds a client may take for a request's headers, and then for its body or 8 KiB of that.",
    )
    source_limits: SourceLimits | None = Field(
        None, description="Limits for each client address; none when absent. Counted by each gateway for itself."
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
        description="Seconds open requests may take when it stops; when absent, server_timeout_s, but 60 to 3600.",
    )

    @property
    def patience_s(self) -> int:
        """Seconds that is waited for open requests where the person set no other limit: what an instance may take."""
        return min(max(60, math.ceil(self.server_timeout_s)), 3600)

    @property
    def grace_s(self) -> int:
        """Seconds open requests may take when it stops."""
        return self.patience_s if self.stop_grace_s is None else self.stop_grace_s


class Rollout(_Model):
    """How releases go."""

    soak_s: float = Field(
        5.0, ge=0, le=86400, description="Seconds that each batch is watched under traffic before the next begins."
    )
    most_errors: float = Field(
        0.01, ge=0, le=1, description="Share of requests that may go wrong on the new version meanwhile."
    )


class Registry(_Model):
    """Where hosts pull images from, instead of getting them over SSH."""

    server: Annotated[
        str,
        _Matches(
            "[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*", "a registry such as registry.example.org:5000/team, no https://"
        ),
    ] = Field(description="Registry, and a path prefix if any, such as registry.example.org:5000/team.")
    user: Annotated[str, _Matches("[!-9;-~]+", "a login name without blanks and colons")] | None = Field(
        None, description="Whom the registry knows; anonymous when absent."
    )
    password: SecretSource | None = Field(None, description="Where the user's password or token comes from.")


class EncryptedFile(_Model):
    """The cluster's secrets, encrypted, to be kept in the repository."""

    file: FilePath = Field(description="Encrypted file, relative to the inventory. `fiefdom secret set` makes it.")
    recipients: Many[
        Annotated[
            str,
            # Not ECDSA keys nor keys in hardware, which age cannot encrypt to.
            _Matches(
                "age1[a-z0-9]{58}|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( [ -~]*)?",
                "an age key (age1...) or an SSH public key line of type ssh-ed25519 or ssh-rsa",
            ),
        ]
    ] = Field(
        description="Who may read it: age keys or SSH public keys (ssh-ed25519, ssh-rsa). "
        "`fiefdom secret rekey` takes a change up.",
        min_length=1,
    )


class Instance(_Model):
    """One container of a service on one host."""

    host: str
    service: str
    port: int

    @property
    def unit(self) -> str:
        """The systemd unit that owns it."""
        return f"{self.service}@{self.port}.service"

    @property
    def container(self) -> str:
        """Its container's name."""
        return f"{self.service}-{self.port}"


# Template units of Debian 12 and 13, which a service of the same name would replace, and Fiefdom's own units.
_TAKEN_UNITS = frozenset(
    {
        *(
            "autovt",
            "blockdev",
            "capsule",
            "container-getty",
            "e2scrub",
            "getty",
            "modprobe",
            "quotaon",
            "serial-getty",
        ),
        *("ssh", "sshd", "user", "user-runtime-dir", "docker", "containerd", "gateway", "serf-agent"),
    }
)


@dataclass(frozen=True)
class _Range:
    key: KeyPath
    first: int
    count: int = 1

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    @property
    def ports(self) -> str:
        return f"port {self.first}" if self.count == 1 else f"ports {self.first}-{self.last}"

    @property
    def are(self) -> str:
        return "is" if self.count == 1 else "are"


class Cluster(_Model):
    """A whole inventory, every default filled in."""

    cluster: Name = Field(description="Name of the cluster.")
    hosts: dict[Name, Host] = Field(description="Hosts by name.", min_length=1)
    services: dict[Name, Service] = Field(description="Services by name.", min_length=1)
    network: Network = Field(description="Addresses, and who may reach what.")
    ssh: Ssh = Field(default_factory=Ssh, description="How Fiefdom logs in, and what sshd allows.")
    docker: Docker = Field(default_factory=Docker, description="Docker's daemon.")
    serf: Serf = Field(default_factory=Serf, description="Membership and gossip.")
    gateway: Gateway = Field(default_factory=Gateway, description="HAProxy on the gateways.")
    rollout: Rollout = Field(default_factory=Rollout, description="How releases go.")
    registry: Registry | None = Field(None, description="Registry to pull from; images travel over SSH when absent.")
    secrets: EncryptedFile | None = Field(None, description="Encrypted file that holds secrets by name.")
    time_servers: Many[HostName] = Field((), description="NTP servers; Debian's own when empty.")
    base_dir: FilePath = Field(".", description="Folder that relative paths start from; the inventory's own.")

    @model_validator(mode="after")
    def _consistent(self) -> Cluster:
        problems = [
            problem
            for check in (
                self._address_problems,
                self._group_problems,
                self._service_problems,
                self._port_problems,
                self._route_problems,
                self._tag_problems,
                self._docker_problems,
                self._secret_problems,
            )
            for problem in check()
        ] or list(self._idle_problems())  # an idle host is mostly what comes of another mistake
        if problems:
            # The context carries all of them, so that `complaint` can order and count them.
            key, says = problems[0]
            raise PydanticCustomError("inconsistent", "{first}", {"first": f"{dotted(key)}: {says}", "all": problems})
        return self

    def _address_problems(self) -> Iterator[Problem]:
        network = ipaddress.IPv4Network(self.network.cidr)
        seen: dict[str, str] = {}
        for name, host in self.hosts.items():
            key: KeyPath = ("hosts", name, "address")
            address = ipaddress.IPv4Address(host.address)
            if host.address in seen:
                yield key, f"{address} is also the address of {seen[host.address]}; give each host its own"
            elif address not in network:
                yield key, f"{address} is outside network.cidr {network}; mend one of the two"
            elif network.prefixlen < 31 and address in (network.network_address, network.broadcast_address):
                yield key, f"{address} is an address that {network} keeps for itself; choose another"
            seen.setdefault(host.address, name)
            if host.static is not None and host.static.gateway is not None:
                reach = ipaddress.IPv4Network(f"{address}/{host.static.prefix_length}", strict=False)
                if ipaddress.IPv4Address(host.static.gateway) not in reach:
                    yield (
                        ("hosts", name, "static", "gateway"),
                        f"{host.static.gateway} cannot be reached from {reach}; mend it or prefix_length",
                    )

    def _group_problems(self) -> Iterator[Problem]:
        if not self.gateways:
            yield ("hosts",), "no host is in the group gateways; add `groups: [gateways]` to one"
        if not self.app_hosts:
            yield ("hosts",), "no host is in the group app_hosts; add `groups: [app_hosts]` to one"
        for name, host in self.hosts.items():
            key: KeyPath = ("hosts", name, "groups")
            if name == "localhost":
                yield ("hosts", name), "every machine calls itself localhost; choose another name"
            if twice := [group for group, count in Counter(host.groups).items() if count > 1]:
                yield key, f"{twice[0]} stands there twice; once is enough"
            if {GATEWAYS, APP_HOSTS} <= set(host.groups):
                # Each of the two roles brings a Serf agent of its own on the same ports.
                yield key, "a host is either a gateway or an app host; take one of the two out"

    def _idle_problems(self) -> Iterator[Problem]:
        for name in self.app_hosts:
            if not any(self.count(name, service) for service in self.services):
                yield (
                    ("hosts", name),
                    "an app host without service; let a service name one of its groups, "
                    "set instances above 0, or take it out of app_hosts",
                )

    def _service_problems(self) -> Iterator[Problem]:
        groups = {group for host in self.hosts.values() for group in host.groups}
        for name, service in self.services.items():
            if name in _TAKEN_UNITS or name.startswith("systemd-"):
                yield ("services", name), f"{name} is the name of a unit of the system; choose another"
            for i, group in enumerate(service.groups):
                if group not in groups:
                    yield (
                        ("services", name, "groups", i),
                        f"no host is in the group {group}; known are {', '.join(sorted(groups))}",
                    )
        for name, host in self.hosts.items():
            for service_name, override in host.services.items():
                key: KeyPath = ("hosts", name, "services", service_name)
                if service_name not in self.services:
                    yield key, f"no such service; known are {', '.join(sorted(self.services))}"
                elif override.instances and not self.count(name, service_name):
                    wanted = " or ".join(self.services[service_name].groups)
                    yield key, f"{service_name} does not run on {name}, which is not in {wanted}; mend the groups"

    def _port_problems(self) -> Iterator[Problem]:
        told: set[tuple[KeyPath, KeyPath]] = set()
        for name in self.hosts:
            taken: list[_Range] = []
            for new in self._port_ranges(name):
                for old in taken:
                    # A clash of two services is the same on every host that runs both: told once.
                    if new.first <= old.last and old.first <= new.last and (new.key, old.key) not in told:
                        told.add((new.key, old.key))
                        yield (
                            new.key,
                            f"{new.ports} on {name} {new.are} also taken by {dotted(old.key)} ({old.ports}); move one",
                        )
                if new.last > LAST_PORT and (new.key, new.key) not in told:
                    told.add((new.key, new.key))
                    yield new.key, f"{new.ports} on {name} would go past {LAST_PORT}; lower base_port or instances"
                taken.append(new)

    def _port_ranges(self, name: str) -> Iterator[_Range]:
        """Every port that something of Fiefdom's listens on, with the key that says so."""
        host = self.hosts[name]
        if host.ssh.port is not None:
            yield _Range(("hosts", name, "ssh", "port"), host.ssh.port)
        else:
            yield _Range(("ssh", "port"), self.ssh.port)
        if {GATEWAYS, APP_HOSTS} & set(host.groups):
            yield _Range(("serf", "port"), self.serf.port)
            yield _Range(("serf", "rpc_port"), self.serf.rpc_port)
        if GATEWAYS in host.groups:
            yield _Range(("gateway", "stats_port"), self.gateway.stats_port)
            # Services may share a gateway port.
            fronts = {s.route.port: n for n, s in reversed(self.services.items())}
            for port, service in reversed(fronts.items()):
                yield _Range(("services", service, "route", "port"), port)
        for service in self.services:
            if count := self.count(name, service):
                override = host.services.get(service)
                key: KeyPath = ("services", service, "base_port")
                if override is not None and override.instances is not None:
                    key = ("hosts", name, "services", service, "instances")
                yield _Range(key, self.services[service].base_port, count)

    def _route_problems(self) -> Iterator[Problem]:
        seen: dict[tuple[int, str, str], str] = {}
        for name, service in self.services.items():
            route = service.route
            reached = (route.port, (route.host or "").lower(), (route.path_prefix or "").rstrip("/"))
            if reached in seen:
                yield (
                    ("services", name, "route"),
                    f"{name} is reached the same way as {seen[reached]}; give it its own port, host or path_prefix",
                )
            seen.setdefault(reached, name)

    def _tag_problems(self) -> Iterator[Problem]:
        for name in self.app_hosts:
            tags = {"role": "app"}
            for service in self.services:
                if count := self.count(name, service):
                    base = self.services[service].base_port
                    tags[f"svc:{service}"] = f"{self.services[service].version};{base}-{base + count - 1}"
            # Serf's magic byte and MessagePack's own: 3 for a map, 1 or 3 for a string.
            size = 4 + sum(len(text) + (1 if len(text) < 32 else 3) for pair in tags.items() for text in pair)
            if size > TAGS_MAX_BYTES:
                yield (
                    ("hosts", name),
                    f"names and versions of its {len(tags) - 1} services need {size} bytes and Serf carries "
                    f"{TAGS_MAX_BYTES}; shorten them or spread the services over more hosts",
                )

    def _docker_problems(self) -> Iterator[Problem]:
        cluster = ipaddress.IPv4Network(self.network.cidr)
        bridge = ipaddress.IPv4Interface(self.docker.bridge_address).network
        pool = ipaddress.IPv4Network(self.docker.address_pool)
        for key, network in (("bridge_address", bridge), ("address_pool", pool)):
            if network.overlaps(cluster):
                yield ("docker", key), f"{network} overlaps network.cidr {cluster}; choose a free network"
        if bridge.overlaps(pool):
            yield ("docker", "bridge_address"), f"{bridge} overlaps docker.address_pool {pool}; choose a free network"
        if self.docker.address_pool_size < pool.prefixlen:
            yield (
                ("docker", "address_pool_size"),
                f"no /{self.docker.address_pool_size} fits into docker.address_pool {pool}; "
                f"write {pool.prefixlen} or more",
            )

    def _secret_problems(self) -> Iterator[Problem]:
        if self.serf.key is not None and self.serf.key_file is not None:
            yield ("serf", "key"), "the key comes from serf.key_file already; take one of the two out"
        if self.registry is not None and (self.registry.user is None) != (self.registry.password is None):
            yield ("registry",), "user and password go together; add the other one"
        if self.secrets is None:
            for key, source in dict(self.secret_sources()).items():
                if source.secret is not None:
                    says = f"there is no encrypted file to hold {source.secret}"
                    yield key, f"{says}; add `secrets` with file and recipients"

    def secret_sources(self) -> Iterator[tuple[KeyPath, SecretSource]]:
        """Where each secret comes from, with the key that says so; those that nothing here uses are left out.

        The gossip key comes first, in case that `serf.key` names it. What several hosts share is named several times.
        """
        if self.serf.key is not None:
            yield ("serf", "key"), self.serf.key
        if self.registry is not None and self.registry.password is not None:
            yield ("registry", "password"), self.registry.password
        for host in self.hosts:
            for name in self.services:
                if not self.count(host, name):
                    continue
                override = self.hosts[host].services.get(name)
                own = override.environment if override is not None else {}
                for variable, value in self.service_on(host, name).environment.items():
                    if isinstance(value, SecretSource):
                        above: KeyPath = ("hosts", host) if variable in own else ()
                        yield (*above, "services", name, "environment", variable), value

    @property
    def gateways(self) -> tuple[str, ...]:
        """Names of the gateways, in the inventory's order."""
        return tuple(name for name, host in self.hosts.items() if GATEWAYS in host.groups)

    @property
    def app_hosts(self) -> tuple[str, ...]:
        """Names of the app hosts, in the inventory's order."""
        return tuple(name for name, host in self.hosts.items() if APP_HOSTS in host.groups)

    @property
    def drain_timeout_s(self) -> int:
        """Seconds that a leaving host waits for its open requests to end."""
        return self.gateway.patience_s if self.serf.drain_timeout_s is None else self.serf.drain_timeout_s

    def count(self, host: str, service: str) -> int:
        """How many instances of ``service`` run on ``host``."""
        wanted = self.services[service]
        if not set(wanted.groups) & set(self.hosts[host].groups):
            return 0
        override = self.hosts[host].services.get(service)
        return wanted.instances if override is None or override.instances is None else override.instances

    def instances(self, host: str) -> tuple[Instance, ...]:
        """Every instance that runs on ``host``, by service and port."""
        return tuple(self._instances(host))

    def _instances(self, host: str) -> Iterator[Instance]:
        for name, service in self.services.items():
            for i in range(self.count(host, name)):
                yield Instance(host=host, service=name, port=service.base_port + i)

    def service_on(self, host: str, service: str) -> Service:
        """``service`` with the overrides of ``host``."""
        base, override = self.services[service], self.hosts[host].services.get(service)
        if override is None:
            return base
        changes: dict[str, object] = {"environment": {**base.environment, **override.environment}}
        if override.limits is not None:
            own = {name: value for name, value in override.limits if value is not None}
            changes["limits"] = base.limits.model_copy(update=own)
        return base.model_copy(update=changes)

    def with_version(self, service: str, version: str) -> Cluster:
        """This cluster with another version of ``service``, whose image is taken as it is: never built anew.

        Raises ValidationError for what cannot be a version.
        """
        changed = Service.model_validate({**self.services[service].model_dump(), "version": version, "build": None})
        return self.model_copy(update={"services": {**self.services, service: changed}})

    def ssh_of(self, host: str) -> tuple[str, int, str | None]:
        """Login user, port and private key file (absolute, or None) of ``host``."""
        own = self.hosts[host].ssh
        key = own.key or self.ssh.key
        return (
            own.user or self.ssh.user,
            own.port or self.ssh.port,
            None if key is None else str(self.path(key)),
        )

    def path(self, relative: str) -> Path:
        """A path of the inventory as an absolute one."""
        return (Path(self.base_dir) / Path(relative).expanduser()).resolve()
