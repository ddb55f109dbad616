"""What only all keys of an inventory together can break."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from fiefdom.model.acme_rules import acme_problems
from fiefdom.model.development import Middleware
from fiefdom.model.development_rules import development_problems
from fiefdom.model.draft import Draft
from fiefdom.model.front_rules import balancer_problems, front_problems, h2c_problems, sticky_problems
from fiefdom.model.hosts import APP_HOSTS, GATEWAYS, Service
from fiefdom.model.image_rules import image_problems, registry_problems
from fiefdom.model.job_rules import job_problems
from fiefdom.model.jumps import address_problems, jump_problems
from fiefdom.model.kind_rules import kind_problems
from fiefdom.model.link_rules import link_problems
from fiefdom.model.monitoring_rules import monitoring_problems
from fiefdom.model.mount_rules import mount_problems
from fiefdom.model.moving_rules import moving_address_problems
from fiefdom.model.passthrough_rules import passthrough_problems
from fiefdom.model.route_rules import route_problems, tls_problems, way_problems
from fiefdom.model.tag_rules import tag_problems
from fiefdom.model.text import LAST_PORT, Problem, sysctl_name, twice
from fiefdom.wording import KeyPath, dotted


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
    found = [problem for rule in _RULES for problem in rule.find(cluster)]
    return found or list(_idle_problems(cluster))  # an idle host is mostly what comes of another mistake


def problems_beside(cluster: Draft, unknown: Collection[KeyPath]) -> list[Problem]:
    """As `problems`, where the values at ``unknown`` are stand-ins: only what holds whatever stood there."""
    found = [problem for rule in _RULES for problem in _found_beside(rule, cluster, unknown)]
    return [(key, says) for key, says in found if not any(_is_about(key, says, other) for other in unknown)]


def _is_about(key: KeyPath, says: str, unknown: KeyPath) -> bool:
    inside = key[: len(unknown)] == unknown or key[-len(unknown) :] == unknown
    return inside or f" {dotted(unknown)} " in says


@dataclass(frozen=True)
class _Rule:
    """A rule between keys. ``reads`` are those without which it says nothing of the rest, with * for any name."""

    find: Callable[[Draft], Iterable[Problem]]
    reads: tuple[str, ...]
    of_all: bool = False
    """Whether it says that something is missing everywhere, so that one host or service unknown leaves it open."""


def _found_beside(rule: _Rule, cluster: Draft, unknown: Collection[KeyPath]) -> Iterable[Problem]:
    touched = [key for key in unknown if any(_reads(pattern, key) for pattern in rule.reads)]
    if touched and (rule.of_all or any(len(key) < 2 or key[0] not in ("hosts", "services") for key in touched)):
        return ()
    for kind in ("hosts", "services"):
        left_out = {key[1] for key in touched if key[0] == kind}
        kept = {name: value for name, value in getattr(cluster, kind).items() if name not in left_out}
        cluster = cluster.model_copy(update={kind: kept})
    return rule.find(cluster)


def _reads(pattern: str, key: KeyPath) -> bool:
    return all(part in ("*", name) for part, name in zip(pattern.split("."), key, strict=False))


def _address_problems(cluster: Draft) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, host in cluster.hosts.items():
        if host.address in seen:
            says = f"{host.address} is also the address of {seen[host.address]}; give each host its own"
            yield ("hosts", name, "address"), says
        seen.setdefault(host.address, name)


def _network_problems(cluster: Draft) -> Iterator[Problem]:
    network = ipaddress.IPv4Network(cluster.network.cidr)
    for name, host in cluster.hosts.items():
        key: KeyPath = ("hosts", name, "address")
        address = ipaddress.IPv4Address(host.address)
        if address not in network:
            yield key, f"{address} is outside network.cidr {network}; mend one of the two"
        elif network.prefixlen < 31 and address in (network.network_address, network.broadcast_address):
            yield key, f"{address} is an address that {network} keeps for itself; choose another"


def _static_problems(cluster: Draft) -> Iterator[Problem]:
    for name, host in cluster.hosts.items():
        address = ipaddress.IPv4Address(host.address)
        if host.static is not None and host.static.gateway is not None:
            reach = ipaddress.IPv4Network(f"{address}/{host.static.prefix_length}", strict=False)
            if ipaddress.IPv4Address(host.static.gateway) not in reach:
                yield (
                    ("hosts", name, "static", "gateway"),
                    f"{host.static.gateway} cannot be reached from {reach}; mend it or prefix_length",
                )


def _role_problems(cluster: Draft) -> Iterator[Problem]:
    if not cluster.gateways:
        yield ("hosts",), "no host is in the group gateways; add `groups: [gateways]` to one"
    if not cluster.app_hosts:
        yield ("hosts",), "no host is in the group app_hosts; add `groups: [app_hosts]` to one"


def _group_problems(cluster: Draft) -> Iterator[Problem]:
    groups = {group: name for name, host in reversed(cluster.hosts.items()) for group in host.groups}
    for name, host in cluster.hosts.items():
        key: KeyPath = ("hosts", name, "groups")
        if name == "localhost":
            yield ("hosts", name), "every machine calls itself localhost; choose another name"
        elif name == "all":
            yield ("hosts", name), "--limit and pyinfra call all hosts together so; choose another name"
        elif name in groups:
            says = f"{groups[name]} is in a group of this name, and --limit would take that; choose another name"
            yield ("hosts", name), says
        yield from twice(key, host.groups)
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


def _membership_problems(cluster: Draft) -> Iterator[Problem]:
    groups = {group for host in cluster.hosts.values() for group in host.groups}
    for name, service in cluster.services.items():
        for i, group in enumerate(service.groups):
            if group not in groups:
                yield (
                    ("services", name, "groups", i),
                    f"no host is in the group {group}; known are {', '.join(sorted(groups))}",
                )


def _name_problems(cluster: Draft) -> Iterator[Problem]:
    for name, host in cluster.hosts.items():
        for service in host.services:
            if service not in cluster.services:
                known = ", ".join(sorted(cluster.services))
                yield ("hosts", name, "services", service), f"no such service; known are {known}"


def _override_problems(cluster: Draft) -> Iterator[Problem]:
    for name, host in cluster.hosts.items():
        for service_name, override in host.services.items():
            key: KeyPath = ("hosts", name, "services", service_name)
            if service_name in cluster.services and override.instances and not cluster.count(name, service_name):
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
    if cluster.monitoring.node_exporter:
        yield _Range(("monitoring", "port"), cluster.monitoring.port)
    if GATEWAYS in host.groups:
        yield _Range(("gateway", "stats_port"), cluster.gateway.stats_port)
        # Services may share a gateway port.
        for port, front in cluster.fronts.items():
            yield _Range(front, port)
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
    if cluster.secrets is None:
        sources = dict([*cluster.secret_sources(), *cluster.laptop_secrets(), *cluster.operators_secrets()])
        for key, source in sources.items():
            if source.secret is not None:
                says = f"there is no encrypted file to hold {source.secret}"
                yield key, f"{says}; add `secrets` with file and recipients"


# What Docker turns on when it starts, and containers are reached by.
_FORWARDING = ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv4.conf.default.forwarding")


def _sysctl_problems(cluster: Draft) -> Iterator[Problem]:
    for host_name, host in cluster.hosts.items():
        for written, value in host.sysctls.items():
            key: KeyPath = ("hosts", host_name, "sysctls", written)
            if sysctl_name(written) in _FORWARDING and value != "1":
                yield key, f"{value} would keep requests from every container; take it out"
            elif sysctl_name(written) == "net.ipv4.ip_local_reserved_ports":
                yield key, "Fiefdom sets it to the ports of services and agents, which would be lost; take it out"


def _low_port_problems(cluster: Draft) -> Iterator[Problem]:
    first = min(cluster.fronts, default=LAST_PORT)
    for host_name in cluster.gateways:
        for written, value in cluster.hosts[host_name].sysctls.items():
            low = value.isdecimal() and int(value) <= first
            if sysctl_name(written) == "net.ipv4.ip_unprivileged_port_start" and not low:
                says = f"HAProxy could not listen on port {first}; write {first} or less"
                yield ("hosts", host_name, "sysctls", written), says


# As Compose, shells and Terraform write what is to be filled in, and as Ansible, Jinja and Helm do.
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_]\w*)[^{}]*\}|\{\{[-~]?\s*([A-Za-z_][\w.]*)[^{}]*\}\}")
_MIDDLEWARE: KeyPath = ("development", "services")
_COMMANDS = ("command", "release")
_SHELLS = frozenset({"sh", "bash", "dash", "ash"})


def _placeholder_problems(cluster: Draft) -> Iterator[Problem]:
    for key, text in _texts(cluster.model_dump(exclude={"base_dir"}), ()):
        if found := _PLACEHOLDER.search(text):
            at, name = _program_of(key)
            known: Mapping[str, Service | Middleware]
            known = cluster.development.services if at == _MIDDLEWARE else cluster.services
            if name in known and _is_for(known[name], key, found):
                continue
            if "command" in key and not name:  # of a secret, whose program may know them
                continue
            # Less a default: it may be a secret.
            given = f"${{{found[1]}}}" if found[1] else f"{{{{ {found[2]} }}}}"
            mend = f"{given} would be taken as it stands, for nothing is filled in here; write the value"
            if key[-2:-1] == ("environment",):
                mend += f" or {{env: {found[1] or 'NAME'}}}"
            if _is_inline(key):
                mend += ", name a `template`"
            if name:
                mend += f", or {dotted((*at, name))}.verbatim: true if it is for the program"
            yield key, mend


def _is_inline(key: KeyPath) -> bool:
    """Whether ``key`` is the text of a service's file."""
    return key[:1] == ("services",) and key[2:3] == ("files",) and key[-1] == "text"


def _is_of_job(key: KeyPath) -> bool:
    """Whether ``key`` is a word of a job's command."""
    return key[:1] == ("services",) and key[2:3] == ("jobs",) and key[-2:-1] == ("command",)


def _program_of(key: KeyPath) -> tuple[KeyPath, str]:
    """Whose environment, command or file holds ``key``: where its like stand, and its name; none for nobody's."""
    at = _MIDDLEWARE if key[:2] == _MIDDLEWARE else ("services",)
    if key[-2:-1] == ("environment",):
        return at, str(key[-3])
    if _is_inline(key) or _is_of_job(key):
        return at, str(key[1])
    return at, str(key[-3]) if key[:-3] == at and key[-2] in _COMMANDS else ""


def _is_for(service: Service | Middleware, key: KeyPath, found: re.Match[str]) -> bool:
    """Whether the program itself understands a placeholder: it was said so, or is a shell."""
    if isinstance(service, Service) and _is_of_job(key):
        command = service.jobs[str(key[3])].command
    else:
        command = getattr(service, str(key[-2])) if key[-2] in _COMMANDS else ("",)
    shell = command[0].rpartition("/")[2] in _SHELLS
    return service.verbatim or (shell and found[1] is not None)


def _texts(value: object, key: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, (*key, name))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _texts(inner, (*key, i))


_IMAGES = ("services.*.image", "services.*.registry")
_RUNS = ("hosts.*.groups", "hosts.*.services", "services.*.groups", "services.*.instances")
_RULES = (
    _Rule(_address_problems, ("hosts.*.address",)),
    _Rule(_network_problems, ("network.cidr", "hosts.*.address")),
    _Rule(moving_address_problems, ("network.cidr", "hosts", "gateway.address")),
    _Rule(_static_problems, ("hosts.*.address", "hosts.*.static")),
    _Rule(_role_problems, ("hosts.*.groups",), of_all=True),
    _Rule(_group_problems, ("hosts.*.groups",)),
    _Rule(_membership_problems, ("hosts.*.groups", "services.*.groups"), of_all=True),
    _Rule(_name_problems, ()),
    _Rule(_override_problems, _RUNS),
    _Rule(
        _port_problems,
        (
            *(*_RUNS, "hosts.*.ssh.port", "services.*.base_port", "services.*.route", "services.*.kind"),
            *("services.*.health", "gateway.tls", "monitoring"),
        ),
    ),
    _Rule(monitoring_problems, ("monitoring", "network", "docker")),
    _Rule(_health_problems, ("services.*.health", "services.*.container_port")),
    _Rule(route_problems, ("services.*.route", "services.*.kind", "gateway.tls")),
    _Rule(kind_problems, (*_RUNS, "services.*.kind", "services.*.route", "services.*.health", "gateway.tls")),
    _Rule(
        way_problems,
        (
            *(*_RUNS, "hosts.*.address", "services.*.links", "services.*.route", "services.*.kind", "docker"),
            *("gateway.dot_segments", "gateway.proxies", "gateway.proxy_protocol", "network"),
        ),
        of_all=True,
    ),
    _Rule(front_problems, ("gateway", "network", "hosts.*.address"), of_all=True),
    _Rule(sticky_problems, ("services.*.route",)),
    _Rule(balancer_problems, ("services.*.route", "services.*.kind", "gateway.tls")),
    _Rule(h2c_problems, ("services.*.h2c", "services.*.kind", "services.*.route")),
    _Rule(tls_problems, ("services.*.route", "services.*.kind", "gateway.tls"), of_all=True),
    _Rule(acme_problems, ("services.*.route", "services.*.kind", "gateway.tls"), of_all=True),
    _Rule(
        tag_problems,
        (*_RUNS, *(f"services.*.{key}" for key in ("base_port", "health", "kind", "route", "version"))),
    ),
    _Rule(_docker_problems, ("network", "docker")),
    _Rule(registry_problems, ("registry", "registries")),
    _Rule(image_problems, ("registry", "registries", *_IMAGES, "services.*.version", "services.*.build")),
    _Rule(
        _secret_problems,
        (
            *("serf", "registry", "registries", "secrets", *_IMAGES, "hosts.*.services"),
            *("services.*.environment", "services.*.files", "development", "notify"),
        ),
    ),
    _Rule(
        link_problems,
        (
            *(*_RUNS, "hosts.*.address", "services.*.links", "services.*.environment", "services.*.kind"),
            *("services.*.route", "services.*.base_port", "gateway", "docker.bridge_address", "development"),
        ),
        of_all=True,
    ),
    _Rule(job_problems, (*_RUNS, "services.*.jobs")),
    _Rule(mount_problems, ("docker", "services.*.volumes", "services.*.files", "services.*.tmpfs", "services.*.user")),
    _Rule(
        passthrough_problems,
        (*_RUNS, *(f"services.*.{key}" for key in ("capabilities", "devices", "shm_size", "limits"))),
    ),
    _Rule(_sysctl_problems, ("hosts.*.sysctls",)),
    _Rule(
        _low_port_problems,
        ("hosts.*.sysctls", "hosts.*.groups", "services.*.route", "services.*.kind", "gateway.tls"),
    ),
    _Rule(_placeholder_problems, ()),
    _Rule(development_problems, ("development",)),
    _Rule(jump_problems, ("ssh.jump", "ssh.tcp_forwarding", "hosts.*.ssh")),
    _Rule(address_problems, ("ssh.port", "ssh.jump", "hosts.*.ssh")),
)
