"""What only all keys of an inventory together can break."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fiefdom.model.draft import Draft
from fiefdom.model.hosts import APP_HOSTS, GATEWAYS
from fiefdom.model.text import LAST_PORT, Problem
from fiefdom.wording import KeyPath, dotted

# memberlist sends a member's tags in one field of this size, and refuses to start above it.
TAGS_MAX_BYTES = 512


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


def problems(cluster: Draft) -> list[Problem]:
    """Every rule that an inventory breaks, as key and sentence, in the order in which a person mends them."""
    found = [problem for rule in _RULES for problem in rule(cluster)]
    return found or list(_idle_problems(cluster))  # an idle host is mostly what comes of another mistake


def _address_problems(cluster: Draft) -> Iterator[Problem]:
    network = ipaddress.IPv4Network(cluster.network.cidr)
    seen: dict[str, str] = {}
    for name, host in cluster.hosts.items():
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


def _group_problems(cluster: Draft) -> Iterator[Problem]:
    if not cluster.gateways:
        yield ("hosts",), "no host is in the group gateways; add `groups: [gateways]` to one"
    if not cluster.app_hosts:
        yield ("hosts",), "no host is in the group app_hosts; add `groups: [app_hosts]` to one"
    for name, host in cluster.hosts.items():
        key: KeyPath = ("hosts", name, "groups")
        if name == "localhost":
            yield ("hosts", name), "every machine calls itself localhost; choose another name"
        if twice := [group for group, count in Counter(host.groups).items() if count > 1]:
            yield key, f"{twice[0]} stands there twice; once is enough"
        if {GATEWAYS, APP_HOSTS} <= set(host.groups):
            # Each of the two roles brings a Serf agent of its own on the same ports.
            yield key, "a host is either a gateway or an app host; take one of the two out"


def _idle_problems(cluster: Draft) -> Iterator[Problem]:
    for name in cluster.app_hosts:
        if not any(cluster.count(name, service) for service in cluster.services):
            yield (
                ("hosts", name),
                "an app host without service; let a service name one of its groups, "
                "set instances above 0, or take it out of app_hosts",
            )


def _service_problems(cluster: Draft) -> Iterator[Problem]:
    groups = {group for host in cluster.hosts.values() for group in host.groups}
    for name, service in cluster.services.items():
        for i, group in enumerate(service.groups):
            if group not in groups:
                yield (
                    ("services", name, "groups", i),
                    f"no host is in the group {group}; known are {', '.join(sorted(groups))}",
                )
    for name, host in cluster.hosts.items():
        for service_name, override in host.services.items():
            key: KeyPath = ("hosts", name, "services", service_name)
            if service_name not in cluster.services:
                yield key, f"no such service; known are {', '.join(sorted(cluster.services))}"
            elif override.instances and not cluster.count(name, service_name):
                wanted = " or ".join(cluster.services[service_name].groups)
                yield key, f"{service_name} does not run on {name}, which is not in {wanted}; mend the groups"


def _port_problems(cluster: Draft) -> Iterator[Problem]:
    told: set[tuple[KeyPath, KeyPath]] = set()
    for name in cluster.hosts:
        taken: list[_Range] = []
        for new in _port_ranges(cluster, name):
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


def _port_ranges(cluster: Draft, name: str) -> Iterator[_Range]:
    """Every port that something of Fiefdom's listens on, with the key that says so."""
    host = cluster.hosts[name]
    if host.ssh.port is not None:
        yield _Range(("hosts", name, "ssh", "port"), host.ssh.port)
    else:
        yield _Range(("ssh", "port"), cluster.ssh.port)
    if {GATEWAYS, APP_HOSTS} & set(host.groups):
        yield _Range(("serf", "port"), cluster.serf.port)
        yield _Range(("serf", "rpc_port"), cluster.serf.rpc_port)
    if GATEWAYS in host.groups:
        yield _Range(("gateway", "stats_port"), cluster.gateway.stats_port)
        # Services may share a gateway port.
        fronts = {s.route.port: n for n, s in reversed(cluster.services.items())}
        for port, service in reversed(fronts.items()):
            yield _Range(("services", service, "route", "port"), port)
    for service in cluster.services:
        if count := cluster.count(name, service):
            override = host.services.get(service)
            key: KeyPath = ("services", service, "base_port")
            if override is not None and override.instances is not None:
                key = ("hosts", name, "services", service, "instances")
            yield _Range(key, cluster.services[service].base_port, count)
            if (first := cluster.services[service].health.base_port) is not None:
                yield _Range(("services", service, "health", "base_port"), first, count)


def _health_problems(cluster: Draft) -> Iterator[Problem]:
    for name, service in cluster.services.items():
        health = service.health
        key: KeyPath = ("services", name, "health")
        if (health.base_port is None) != (health.container_port is None):
            missing = "container_port" if health.container_port is None else "base_port"
            yield key, f"checks on a port of their own need base_port and container_port; add {missing}"
        elif health.container_port == service.container_port:
            yield (
                (*key, "container_port"),
                f"{service.container_port} is the service's own port, which checks ask anyway; "
                "take health.base_port and health.container_port out",
            )


def _route_problems(cluster: Draft) -> Iterator[Problem]:
    seen: dict[tuple[int, str, str], str] = {}
    for name, service in cluster.services.items():
        route = service.route
        reached = (route.port, (route.host or "").lower(), (route.path_prefix or "").rstrip("/"))
        if reached in seen:
            yield (
                ("services", name, "route"),
                f"{name} is reached the same way as {seen[reached]}; give it its own port, host or path_prefix",
            )
        seen.setdefault(reached, name)


def _tag_problems(cluster: Draft) -> Iterator[Problem]:
    for name in cluster.app_hosts:
        tags = {"role": "app"}
        for service in cluster.services:
            if count := cluster.count(name, service):
                base, checks = cluster.services[service].base_port, cluster.services[service].health.base_port
                ports = f"{base}-{base + count - 1}" + (f";{checks}" if checks is not None else "")
                tags[f"svc:{service}"] = f"{cluster.services[service].version};{ports}"
        # Serf's magic byte and MessagePack's own: 3 for a map, 1 or 3 for a string.
        size = 4 + sum(len(text) + (1 if len(text) < 32 else 3) for pair in tags.items() for text in pair)
        if size > TAGS_MAX_BYTES:
            yield (
                ("hosts", name),
                f"names and versions of its {len(tags) - 1} services need {size} bytes and Serf carries "
                f"{TAGS_MAX_BYTES}; shorten them or spread the services over more hosts",
            )


def _docker_problems(cluster: Draft) -> Iterator[Problem]:
    own = ipaddress.IPv4Network(cluster.network.cidr)
    bridge = ipaddress.IPv4Interface(cluster.docker.bridge_address).network
    pool = ipaddress.IPv4Network(cluster.docker.address_pool)
    for key, network in (("bridge_address", bridge), ("address_pool", pool)):
        if network.overlaps(own):
            yield ("docker", key), f"{network} overlaps network.cidr {own}; choose a free network"
        # What a host has on a bridge of its own it answers there, and not to who comes from outside.
        for name in ("admin_cidrs", "client_cidrs"):
            for other in map(ipaddress.IPv4Network, getattr(cluster.network, name) or ()):
                if other.prefixlen and network.overlaps(other):
                    yield ("docker", key), f"{network} overlaps {other} of network.{name}; choose a free network"
    if bridge.overlaps(pool):
        yield ("docker", "bridge_address"), f"{bridge} overlaps docker.address_pool {pool}; choose a free network"
    if cluster.docker.address_pool_size < pool.prefixlen:
        yield (
            ("docker", "address_pool_size"),
            f"no /{cluster.docker.address_pool_size} fits into docker.address_pool {pool}; "
            f"write {pool.prefixlen} or more",
        )


def _secret_problems(cluster: Draft) -> Iterator[Problem]:
    if cluster.serf.key is not None and cluster.serf.key_file is not None:
        yield ("serf", "key"), "the key comes from serf.key_file already; take one of the two out"
    if cluster.registry is not None and (cluster.registry.user is None) != (cluster.registry.password is None):
        yield ("registry",), "user and password go together; add the other one"
    if cluster.secrets is None:
        for key, source in dict(cluster.secret_sources()).items():
            if source.secret is not None:
                says = f"there is no encrypted file to hold {source.secret}"
                yield key, f"{says}; add `secrets` with file and recipients"


_RULES = (
    _address_problems,
    _group_problems,
    _service_problems,
    _port_problems,
    _health_problems,
    _route_problems,
    _tag_problems,
    _docker_problems,
    _secret_problems,
)
