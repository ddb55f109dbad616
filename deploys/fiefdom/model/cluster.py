"""What a person may write in an inventory: the one home of every key, default, description and rule."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from fiefdom.model.hosts import APP_HOSTS, GATEWAYS, Host, Instance, Service
from fiefdom.model.rules import TAGS_MAX_BYTES, TAKEN_UNITS, Range
from fiefdom.model.secrets import SecretSource
from fiefdom.model.settings import Docker, EncryptedFile, Gateway, Network, Registry, Rollout, Serf, Ssh
from fiefdom.model.text import LAST_PORT, FilePath, HostName, Many, Model, Name, Problem
from fiefdom.wording import KeyPath, dotted


class Cluster(Model):
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
            if name in TAKEN_UNITS or name.startswith("systemd-"):
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
            taken: list[Range] = []
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

    def _port_ranges(self, name: str) -> Iterator[Range]:
        """Every port that something of Fiefdom's listens on, with the key that says so."""
        host = self.hosts[name]
        if host.ssh.port is not None:
            yield Range(("hosts", name, "ssh", "port"), host.ssh.port)
        else:
            yield Range(("ssh", "port"), self.ssh.port)
        if {GATEWAYS, APP_HOSTS} & set(host.groups):
            yield Range(("serf", "port"), self.serf.port)
            yield Range(("serf", "rpc_port"), self.serf.rpc_port)
        if GATEWAYS in host.groups:
            yield Range(("gateway", "stats_port"), self.gateway.stats_port)
            # Services may share a gateway port.
            fronts = {s.route.port: n for n, s in reversed(self.services.items())}
            for port, service in reversed(fronts.items()):
                yield Range(("services", service, "route", "port"), port)
        for service in self.services:
            if count := self.count(name, service):
                override = host.services.get(service)
                key: KeyPath = ("services", service, "base_port")
                if override is not None and override.instances is not None:
                    key = ("hosts", name, "services", service, "instances")
                yield Range(key, self.services[service].base_port, count)

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
