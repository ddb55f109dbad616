"""Hosts, the services that they run, and the instances that follow from both."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fiefdom.model.answers import Headers, Maintenance
from fiefdom.model.jobs import Command, Job
from fiefdom.model.mounts import ContainerPath, ServiceFile, Volume
from fiefdom.model.passthrough import Capability, Device, Gpus, Size, TmpfsFolder
from fiefdom.model.references import IMAGE
from fiefdom.model.secrets import EnvValue
from fiefdom.model.text import (
    FIRST_GATEWAY_PORT,
    LAST_PORT,
    SHORTEST_S,
    Address,
    Argument,
    Cidr,
    CookieName,
    EnvName,
    FilePath,
    Forwarding,
    Group,
    HostHeader,
    HostName,
    HostPatterns,
    Jump,
    Many,
    Matches,
    Model,
    Name,
    PathPrefix,
    Port,
    SshAddress,
    StatusRanges,
    SysctlKey,
    SysctlText,
    UrlPath,
    User,
    Version,
)
from fiefdom.model.unit_names import unit_of

GATEWAYS = "gateways"
APP_HOSTS = "app_hosts"

HTTP_PORT = 80
"""Gateway port of a service of kind http that names none."""


# What HAProxy takes as a good answer where nobody says another.
_ANSWERED = ("200-399",)


class Health(Model):
    """How an instance shows that it can serve."""

    path: UrlPath = Field("/health", description="Path that is answered with `status` when the instance can serve.")
    command: Many[Argument] = Field(
        (),
        description="Of kind tcp: a command that ends with 0, in the container and as its user, when the instance can "
        "serve. Its host asks it, gateways open a connection. When empty, its host opens one as well.",
    )
    status: StatusRanges = Field(
        _ANSWERED, description='Status of a good answer: a code, a range such as "200-399", or a list of these.'
    )
    host: HostHeader | None = Field(None, description="Host header of a check; the service's name when absent.")
    container_port: Port | None = Field(
        None, description="Port in the container that checks ask, where it is not the service's own; with `base_port`."
    )
    base_port: Port | None = Field(
        None,
        description="Host port of the first instance's `container_port` of checks; the others follow. "
        "Open to gateways alone.",
    )
    interval_s: float = Field(1.0, ge=SHORTEST_S, le=60, description="Seconds between the gateway's checks.")
    timeout_s: float = Field(2.0, ge=SHORTEST_S, le=60, description="Seconds until a check counts as failed.")
    start_timeout_s: int = Field(
        60, ge=1, le=3600, description="Seconds an instance may take from its start to its first good answer."
    )

    @property
    def own_status(self) -> str:
        """Status of a good answer as HAProxy and the hosts' supervisor read it; empty where it is the default."""
        return "" if self.status == _ANSWERED else ",".join(self.status)


class Drain(Model):
    """What becomes of open requests when a host's instances are taken out of rotation."""

    timeout_s: int | None = Field(
        None,
        ge=1,
        le=3600,
        description="Seconds that is waited for open requests to end; serf.drain_timeout_s when absent.",
    )
    upgraded: Literal["wait", "close"] = Field(
        "wait",
        description="Whether upgraded connections (WebSocket), and all of kind tcp, are waited for like requests, or "
        "closed at once, as they are of one instance of kind tcp where nothing is said.",
    )


class Limits(Model):
    """What one instance may use at most."""

    memory_mib: int = Field(256, ge=16, le=1 << 24, description="Memory in MiB; the instance is killed above it.")
    cpus: float = Field(1.0, ge=0.01, le=1024, description="CPUs, in units of one core.")
    pids: int = Field(256, ge=4, le=1 << 22, description="Processes and threads.")
    nofile: int = Field(4096, ge=64, le=1048576, description="Open files.")


class LimitsOverride(Model):
    """What one host limits differently."""

    memory_mib: int | None = Field(None, ge=16, le=1 << 24, description="Memory in MiB on this host.")
    cpus: float | None = Field(None, ge=0.01, le=1024, description="CPUs on this host.")
    pids: int | None = Field(None, ge=4, le=1 << 22, description="Processes and threads on this host.")
    nofile: int | None = Field(None, ge=64, le=1048576, description="Open files on this host.")


class Route(Model):
    """How clients reach a service at the gateways."""

    port: Annotated[int, Field(ge=FIRST_GATEWAY_PORT, le=LAST_PORT)] | None = Field(
        None,
        description="Gateway port; the gateway may not bind any below 80. When absent, 80 for kind http, and none for "
        "kind tcp, which only its own hosts and what links to it reach then.",
    )
    host: HostPatterns = Field(
        (),
        description='Host name that selects the service, or a list; "*.example.org" is every name below that. Any when '
        "absent.",
    )
    path_prefix: PathPrefix | None = Field(None, description="Path prefix that selects the service; any when absent.")
    redirect_from: HostPatterns = Field(
        (), description="Host names, or a list, that only lead to the first `host` (308)."
    )
    strip_prefix: bool = Field(
        False, description="Whether instances get paths without the prefix, which X-Forwarded-Prefix tells them."
    )
    allow_from: Many[Cidr] = Field(
        (), description="Networks whose clients alone are served, others get 403; all when empty."
    )
    sticky_cookie: CookieName | None = Field(
        None,
        description="Cookie by which a client comes back to the instance that it met first, while that is in rotation; "
        "each request to any when absent.",
    )
    balancer_path: PathPrefix | None = Field(
        None,
        description="Path at which a gateway itself answers 200 while it has an instance of the service up, and 503 "
        "otherwise, for a balancer before it; none when absent.",
    )
    max_body_kib: int | None = Field(
        None,
        ge=1,
        le=1 << 30,
        description="Size of a request's body in KiB, beyond which it gets 413, and without a length 411; unlimited "
        "when absent.",
    )
    server_timeout_s: float | None = Field(
        None, ge=SHORTEST_S, le=86400, description="Seconds an instance may take to answer; the gateway's when absent."
    )
    tunnel_timeout_s: float | None = Field(
        None,
        ge=SHORTEST_S,
        le=604800,
        description="Seconds an upgraded connection (WebSocket) may be silent; an hour when absent.",
    )
    headers: Headers = Field(default_factory=Headers, description="Headers that the gateway sets or takes away.")
    maintenance: Maintenance = Field(
        default_factory=Maintenance, description="What clients get while the service is looked after."
    )


class Service(Model):
    """A containerised service."""

    image: Annotated[
        str,
        Matches(
            IMAGE,
            "an image name such as team/predictor, without tag: that is `version`; a digest may follow, as @sha256:...",
        ),
    ] = Field(
        description="Image name without tag, such as team/predictor. A digest may follow (team/predictor@sha256:...): "
        "then what a registry has under it is what runs."
    )
    version: Version = Field(description="Image tag to run. The inventory's version is the truth.")
    build: FilePath | None = Field(
        None,
        description="Folder of a Dockerfile to build the image from on the operator's machine; "
        "relative to the inventory.",
    )
    registry: Name | None = Field(
        None,
        description="Which of `registries` has the image; when absent, the one that the image's name begins with, else "
        "`registry`.",
    )
    kind: Literal["http", "tcp"] = Field(
        "http",
        description="What it speaks: http, or tcp for all that is only connections to Fiefdom, such as redis or "
        "postgres.",
    )
    h2c: bool = Field(
        False,
        description="Of kind http: whether its instances speak HTTP/2 in clear text and nothing else, as servers of "
        "gRPC do. Checks do too, but for those with a `health.base_port`.",
    )
    instances: int = Field(1, ge=0, le=1000, description="Instances on each host that runs the service.")
    base_port: Port = Field(8000, description="Host port of the first instance; the others follow.")
    container_port: Port = Field(8000, description="Port that the process in the container listens on.")
    groups: Many[Group] = Field((APP_HOSTS,), description="Groups whose hosts run the service.", min_length=1)
    health: Health = Field(default_factory=Health, description="Health check.")
    drain: Drain = Field(default_factory=Drain, description="How open requests end when it leaves a host's rotation.")
    links: Many[Name] = Field(
        (),
        description="Services that it uses: each such as redis gives it REDIS_HOST and REDIS_PORT, and lets its hosts "
        "reach that.",
    )
    environment: dict[EnvName, EnvValue] = Field(
        default_factory=dict, description="Environment of the process; kept in a root-only file on the host."
    )
    limits: Limits = Field(default_factory=Limits, description="Resource limits of one instance.")
    route: Route = Field(default_factory=Route, description="How clients reach it at the gateways.")
    stop_grace_s: int = Field(
        30, ge=1, le=3600, description="Seconds between SIGTERM and SIGKILL when an instance stops."
    )
    user: (
        Annotated[str, Matches("[1-9][0-9]{0,8}(:[0-9]{1,9})?", "a number or two and not root, such as 1000:1000")]
        | None
    ) = Field(
        None,
        description="uid or uid:gid of the process; the image's own when absent. Neither may be root's.",
    )
    tmpfs: Many[TmpfsFolder] = Field(
        ("/tmp",),  # noqa: S108 -- a path inside the container, which is its own
        description="Writable in-memory folders; the rest of the root file system is read-only. One from which "
        "programs may be run is {path: /tmp, exec: true}.",
    )
    writable_root: bool = Field(
        False,
        description="Whether the whole root file system is writable; what is written there goes with the container.",
    )
    capabilities: Many[Capability] = Field(
        (),
        description="Capabilities that its programs may have, such as NET_BIND_SERVICE; none when empty. With any, "
        "setuid programs and file capabilities of the image have effect.",
    )
    shm_size: Size | None = Field(
        None,
        description="Size of /dev/shm, such as 256m, within the instance's memory; Docker's own (64m) when absent.",
    )
    devices: Many[Device] = Field(
        (), description="Devices of the host that it may use, such as /dev/ttyUSB0; on every host of the service."
    )
    gpus: Gpus | None = Field(
        None,
        description="NVIDIA GPUs that it may use, by number or `all`; their container toolkit on the hosts is yours.",
    )
    extra_hosts: dict[HostName, Address] = Field(
        default_factory=dict, description="Further lines of its /etc/hosts: addresses by name."
    )
    volumes: Many[Volume] = Field((), description="Folders that outlive its containers.")
    files: dict[ContainerPath, ServiceFile] = Field(
        default_factory=dict,
        description="Files in its containers, by their paths there; read-only. Another content is a release.",
    )
    command: Many[Argument] = Field((), description="Command of the container; the image's own when empty.")
    release: Command = Field(
        (),
        description="Command that runs once for each version that a rollout brings, in the new image on one host, "
        "before the first host changes; its failure ends the rollout.",
    )
    release_timeout_s: int = Field(
        600, ge=1, le=86400, description="Seconds after which the command of `release` is stopped and has failed."
    )
    jobs: dict[Name, Job] = Field(
        default_factory=dict, description="Commands that run by the clock, each on one of its hosts that are alive."
    )
    verbatim: bool = Field(
        False,
        description="Whether ${NAME} and {{ NAME }} in environment, command, release, jobs and a file's text are for "
        "the program; refused otherwise, for Fiefdom fills nothing in.",
    )

    @model_validator(mode="before")
    @classmethod
    def _http_has_a_gateway_port(cls, value: object) -> object:
        if not isinstance(value, dict) or value.get("kind", "http") != "http":
            return value
        route = value.get("route", {})
        if isinstance(route, dict) and route.get("port") is None:
            return {**value, "route": {**route, "port": HTTP_PORT}}
        if isinstance(route, Route) and route.port is None:
            return {**value, "route": route.model_copy(update={"port": HTTP_PORT})}
        return value

    @property
    def gateway_port(self) -> int | None:
        """Port at which gateways have it; None where they do not."""
        return self.route.port


class ServiceOverride(Model):
    """What one host does differently for a service."""

    instances: int | None = Field(None, ge=0, le=1000, description="Instances on this host.")
    environment: dict[EnvName, EnvValue] = Field(
        default_factory=dict, description="Added to the service's environment."
    )
    limits: LimitsOverride | None = Field(None, description="Limits on this host where they differ.")


class HostSsh(Model):
    """SSH settings of one host where they differ from the cluster's."""

    user: User | None = Field(None, description="Login user: root, or one with passwordless sudo.")
    port: Port | None = Field(None, description="SSH port.")
    key: FilePath | None = Field(None, description="Private key file; relative to the inventory.")
    address: SshAddress | None = Field(
        None,
        description="Where SSH finds the host: an address, a name, or a Host of your ~/.ssh/config; its own `address` "
        "when absent.",
    )
    jump: Jump | None = Field(None, description="Jump hosts on the way to it, as in ssh.jump; `none` for none.")
    tcp_forwarding: Forwarding | None = Field(None, description="What its sshd forwards, as in ssh.tcp_forwarding.")
    listen: Many[Address] = Field((), description="Addresses that sshd listens on; all of the host's when empty.")


class Static(Model):
    """A static address through systemd-networkd."""

    interface: Annotated[
        str,
        # networkctl and ip would take a dash for an option.
        Matches("[A-Za-z0-9_][A-Za-z0-9._-]{0,14}", "an interface name such as eth0"),
    ] = Field(description="Interface name.")
    prefix_length: int = Field(24, ge=1, le=32, description="Prefix length of the host's address.")
    gateway: Address | None = Field(None, description="Default gateway.")
    dns: Many[Address] = Field((), description="Name servers.")


class Host(Model):
    """A machine of the cluster."""

    address: Address = Field(
        description="IPv4 address in the cluster's network; SSH uses it as well where ssh.address says no other."
    )
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


class Instance(Model):
    """One container of a service on one host. ``check_port`` is the host port of its checks where it is another."""

    host: str
    service: str
    port: int
    check_port: int | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """Every host port of it, all for gateways alone."""
        return (self.port,) if self.check_port is None else (self.port, self.check_port)

    @property
    def unit(self) -> str:
        """The systemd unit that owns it."""
        return unit_of(f"{self.service}@{self.port}")

    @property
    def container(self) -> str:
        """Its container's name."""
        return f"{self.service}-{self.port}"
