"""An inventory as it is written, every default filled in, before anybody asked whether its keys agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from pydantic import Field

from fiefdom.model import references
from fiefdom.model.development import Development
from fiefdom.model.hooks import Hooks, Notify
from fiefdom.model.hosts import APP_HOSTS, GATEWAYS, Host, Instance, Service
from fiefdom.model.monitoring import Monitoring
from fiefdom.model.once import once
from fiefdom.model.secrets import SecretSource
from fiefdom.model.settings import (
    Docker,
    EncryptedFile,
    Gateway,
    Network,
    Packages,
    Registry,
    Rollout,
    Serf,
    Ssh,
    patience_s,
)
from fiefdom.model.text import FilePath, HostName, Many, Model, Name
from fiefdom.wording import KeyPath


class Draft(Model):
    """Every key of an inventory, and what follows from them alone."""

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
    registries: dict[Name, Registry] = Field(
        default_factory=dict,
        description="Further registries by name, for services that name one or whose image begins with its server.",
    )
    secrets: EncryptedFile | None = Field(None, description="Encrypted file that holds secrets by name.")
    packages: Packages = Field(default_factory=Packages, description="Debian's packages on hosts.")
    time_servers: Many[HostName] = Field((), description="NTP servers; Debian's own when empty.")
    development: Development = Field(
        default_factory=Development,
        description="What is true on a developer's laptop alone (`fiefdom compose`, `fiefdom dev`); hosts know nothing "
        "of it.",
    )
    hooks: Hooks = Field(
        default_factory=Hooks, description="Programs of your own that run on your machine around a release."
    )
    monitoring: Monitoring = Field(default_factory=Monitoring, description="What Prometheus may ask.")
    notify: Notify | None = Field(None, description="Who is told of releases; nobody when absent.")
    base_dir: FilePath = Field(".", description="Folder that relative paths start from; the inventory's own.")

    @property
    @once
    def gateways(self) -> tuple[str, ...]:
        """Names of the gateways, in the inventory's order."""
        return tuple(name for name, host in self.hosts.items() if GATEWAYS in host.groups)

    @property
    @once
    def app_hosts(self) -> tuple[str, ...]:
        """Names of the app hosts, in the inventory's order."""
        return tuple(name for name, host in self.hosts.items() if APP_HOSTS in host.groups)

    def front_ports(self, service: str) -> tuple[int, ...]:
        """Gateway ports that ``service`` is reached at, that of its route first; none where gateways do not have it."""
        port, tls = self.services[service].gateway_port, self.gateway.tls
        if port is None:
            return ()
        by_tls = tls is not None and tls.port != port == tls.plain_port and self.services[service].kind == "http"
        return (port, tls.port) if tls is not None and by_tls else (port,)

    def is_over_tls_alone(self, service: str) -> bool:
        """Whether clients of ``service`` have to speak TLS to gateways."""
        port, tls = self.services[service].gateway_port, self.gateway.tls
        if tls is None or self.services[service].kind == "tcp":
            return False
        return port == tls.port or (tls.redirect and port == tls.plain_port)

    @property
    def fronts(self) -> dict[int, KeyPath]:
        """Every gateway port that clients reach services at, with the key that says so."""
        found: dict[int, KeyPath] = {}
        for name, service in self.services.items():
            if service.gateway_port is not None:
                found.setdefault(service.gateway_port, ("services", name, "route", "port"))
        if self.gateway.tls is not None:
            found.setdefault(self.gateway.tls.port, ("gateway", "tls", "port"))
            if self.gateway.tls.acme is not None:
                # An authority asks there, whether or not services are reached there.
                found.setdefault(self.gateway.tls.plain_port, ("gateway", "tls", "plain_port"))
        return found

    def server_timeout_s(self, service: str) -> float:
        """Seconds that an instance of ``service`` may take to answer."""
        own = self.services[service].route.server_timeout_s
        return self.gateway.server_timeout_s if own is None else own

    @property
    def longest_server_timeout_s(self) -> float:
        """The longest of these."""
        return max(map(self.server_timeout_s, self.services), default=self.gateway.server_timeout_s)

    @property
    def gateway_grace_s(self) -> int:
        """Seconds that open requests may take when a gateway stops."""
        own = self.gateway.stop_grace_s
        return patience_s(self.longest_server_timeout_s) if own is None else own

    def drain_timeout_s(self, service: str) -> int:
        """Seconds that a withdrawn offer of ``service`` waits for its open requests to end."""
        own = self.services[service].drain.timeout_s
        patience = patience_s(self.server_timeout_s(service))
        cluster = patience if self.serf.drain_timeout_s is None else self.serf.drain_timeout_s
        return cluster if own is None else own

    def longest_drain_s(self, host: str) -> int:
        """Seconds that a host waits for the open requests of all that it offers."""
        offered = (name for name in self.services if self.is_routed(name) and self.count(host, name))
        return max(map(self.drain_timeout_s, offered), default=1)

    def is_routed(self, service: str) -> bool:
        """Whether gateways have ``service``: what they do not have, nobody offers them."""
        return self.services[service].gateway_port is not None

    def routed(self, host: str) -> tuple[Instance, ...]:
        """Every instance on ``host`` that gateways are to have, by service and port."""
        return tuple(i for i in self.instances(host) if self.is_routed(i.service))

    def runs_on(self, service: str) -> tuple[str, ...]:
        """Names of the hosts that run ``service``, in the inventory's order."""
        return tuple(self._counts()[service])

    def ports_on(self, hosts: Iterable[str], service: str | None = None) -> tuple[int, ...]:
        """Ports at which instances of ``service``, or of any, are on ``hosts``, in order."""
        found = {i.port for host in hosts for i in self.instances(host) if service in (None, i.service)}
        return tuple(sorted(found))

    def pauses(self, service: str) -> bool:
        """Whether ``service`` is gone for a moment when it is replaced, for it is of kind tcp and has one instance."""
        return self.services[service].kind == "tcp" and self.instances_of(service) == 1

    def instances_of(self, service: str) -> int:
        """How many instances of ``service`` run on all hosts together."""
        return self._totals()[service]

    @once
    def _totals(self) -> dict[str, int]:
        return {service: sum(on.values()) for service, on in self._counts().items()}

    @once
    def _counts(self) -> dict[str, dict[str, int]]:
        """By service, how many instances run on each host that runs any, in the inventory's order."""
        return {
            service: {name: count for name in self.hosts if (count := self.count(name, service))}
            for service in self.services
        }

    def count(self, host: str, service: str) -> int:
        """How many instances of ``service`` run on ``host``."""
        wanted = self.services[service]
        if not set(wanted.groups) & set(self.hosts[host].groups):
            return 0
        override = self.hosts[host].services.get(service)
        return wanted.instances if override is None or override.instances is None else override.instances

    def instances(self, host: str) -> tuple[Instance, ...]:
        """Every instance that runs on ``host``, by service and port."""
        return self._instances()[host]

    @once
    def _instances(self) -> dict[str, tuple[Instance, ...]]:
        return {
            host: tuple(
                Instance(
                    host=host,
                    service=name,
                    port=service.base_port + i,
                    check_port=None if service.health.base_port is None else service.health.base_port + i,
                )
                for name, service in self.services.items()
                for i in range(self.count(host, name))
            )
            for host in self.hosts
        }

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

    def registry_of(self, service: str) -> Registry | None:
        """Where hosts pull the image of ``service`` from; None where they get it over SSH."""
        wanted = self.services[service]
        if wanted.registry is not None:
            return self.registries.get(wanted.registry)
        image = references.parse(wanted.image)
        for registry in self.registries.values():
            if image.named and image.domain == references.domain_of(registry.server):
                return registry
        return self.registry

    def image_ref(self, service: str) -> str:
        """What hosts call the image of ``service``: its name with the version as tag, at its registry if it has one."""
        wanted, registry = self.services[service], self.registry_of(service)
        ref = references.tagged(wanted.image, wanted.version)
        return ref if registry is None else references.at(registry.server, ref)

    def secret_sources(self) -> Iterator[tuple[KeyPath, SecretSource]]:
        """Where each secret comes from, with the key that says so; those that nothing here uses are left out.

        The gossip key comes first, in case that `serf.key` names it. What several hosts share is named several times.
        """
        if self.serf.key is not None:
            yield ("serf", "key"), self.serf.key
        if self.registry is not None and self.registry.password is not None:
            yield ("registry", "password"), self.registry.password
        if self.gateway.tls is not None:
            yield from ((key, of) for key, of in self.gateway.tls.holders() if isinstance(of, SecretSource))
        used = [self.registry_of(name) for name in self.services if self.runs_on(name)]
        for name, registry in self.registries.items():
            if registry.password is not None and any(registry is one for one in used):
                yield ("registries", name, "password"), registry.password
        for host in self.hosts:
            for name in self.services:
                if not self.count(host, name):
                    continue
                for path, file in self.services[name].files.items():
                    if file.source is not None:
                        yield ("services", name, "files", path), file.source
                override = self.hosts[host].services.get(name)
                own = override.environment if override is not None else {}
                for variable, value in self.service_on(host, name).environment.items():
                    if isinstance(value, SecretSource):
                        above: KeyPath = ("hosts", host) if variable in own else ()
                        yield (*above, "services", name, "environment", variable), value

    def laptop_secrets(self) -> Iterator[tuple[KeyPath, SecretSource]]:
        """Where secrets come from that only `development` names, with the key that says so."""
        found: Iterator[tuple[str, str, Mapping[str, object]]] = chain(
            (("overrides", name, override.environment) for name, override in self.development.overrides.items()),
            (("services", name, service.environment) for name, service in self.development.services.items()),
        )
        for kind, name, environment in found:
            for variable, value in environment.items():
                if isinstance(value, SecretSource):
                    yield ("development", kind, name, "environment", variable), value

    def operators_secrets(self) -> Iterator[tuple[KeyPath, SecretSource]]:
        """Where secrets come from that neither a host nor a laptop is given, with the key that says so."""
        if self.notify is not None and isinstance(self.notify.webhook, SecretSource):
            yield ("notify", "webhook"), self.notify.webhook
