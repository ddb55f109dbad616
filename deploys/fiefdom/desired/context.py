"""All that a concern may know of its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fiefdom.desired.state import Codename
from fiefdom.model import APP_HOSTS, GATEWAYS, Cluster, Host, Instance, Secrets


@dataclass(frozen=True)
class Context:
    """All that a concern may know: one validated host of a cluster, and what can only be known on its way there."""

    name: str
    cluster: Cluster
    codename: Codename
    secrets: Secrets
    running: Mapping[str, str] = field(default_factory=dict)
    """Version of each service that keeps, for now, another one than the inventory's: its release is pending."""
    checks: Mapping[str, int] = field(default_factory=dict)
    """Of these, how far from an instance's own port the port of its checks is, where it has one."""
    going: tuple[int, ...] = ()
    """Ports of instances that the host still runs, and is not to any more once it had its turn."""

    @property
    def host(self) -> Host:
        """The host itself."""
        return self.cluster.hosts[self.name]

    @property
    def is_gateway(self) -> bool:
        """Whether it runs the gateway container."""
        return GATEWAYS in self.host.groups

    @property
    def is_app_host(self) -> bool:
        """Whether it runs a Serf agent beside service instances."""
        return APP_HOSTS in self.host.groups

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        """Every instance that runs on it, by service and port; several concerns ask."""
        return self.cluster.instances(self.name)
