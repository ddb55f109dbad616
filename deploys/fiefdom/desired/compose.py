"""What a developer's laptop should hold of a cluster: one document for `docker compose`, which has no secret in it.

It is what Compose files were from docker-compose 1.27 on, so that Debian 12's reads it as well as Debian 13's: no key
is used that one of the two does not know, `name` for one. Every text is in quotes, because YAML readers differ in what
they take for numbers, and a dollar is doubled, because Compose fills in variables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from fiefdom.desired import process
from fiefdom.desired.containers import service_image
from fiefdom.errors import FiefdomError
from fiefdom.model import LAST_PORT, Cluster, SecretSource, Service
from fiefdom.model import links as model_links
from fiefdom.model.mounts import Volume
from fiefdom.wording import KeyPath, dotted, printable

HOST = "localhost"
"""What a service is told of where it runs; no host of a cluster can have this name."""
LOOPBACK = "127.0.0.1"

_HEAD = """\
# Made by `fiefdom compose`: edit the inventory, not this file. `fiefdom dev up` starts it with its secrets.
"""


@dataclass(frozen=True)
class Check:
    """How one sees from the laptop that a container is up: an answer over HTTP, that somebody listens, or a command
    in the container.
    """

    port: int
    start_timeout_s: int
    timeout_s: float = 2.0
    path: str | None = None
    """Path to ask for; whether somebody listens is enough where there is none."""
    host: str = ""
    status: tuple[str, ...] = ("200-399",)
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Container:
    """A container of the document. ``name`` is what Compose calls it, and ``of`` the inventory."""

    name: str
    of: str
    key: KeyPath
    """Where the inventory speaks of it."""
    image: str
    build: str | None
    """Folder that the image is built from."""
    port: int
    check: Check
    ports: Mapping[int, KeyPath]
    """Loopback ports that it wants, and the keys that say so."""
    volumes: tuple[str, ...] = ()
    """Names of those that Compose keeps."""
    needs_user: bool = False
    """Whether the image has to say that its process is not root's, as hosts want it."""
    spec: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Composed:
    """A document for `docker compose`, and what the inventory says of what stands in it."""

    project: str
    """Name that sets these containers apart from those of other clusters."""
    containers: tuple[Container, ...]
    text: str = field(repr=False)
    secrets: Mapping[str, tuple[KeyPath, SecretSource]]
    """Where the variables come from that the document refers to, each with the key that says so."""

    def named(self, wanted: str) -> tuple[str, ...]:
        """What Compose calls the containers of a service, or the one of this name."""
        return tuple(c.name for c in self.containers if wanted in (c.of, c.name))


def project_of(cluster: Cluster) -> str:
    """The project of a cluster's containers on a laptop."""
    return f"fiefdom-dev-{cluster.cluster}"


def compose(cluster: Cluster, only: Collection[str] = (), *, strict: bool = True) -> Composed:
    """What a laptop should hold: of ``only`` these services or middleware with what they link to; of all without.

    Raises:
        FiefdomError: no such service; or, if ``strict``, two containers want one port, which production may have on
            different hosts.
    """
    chosen = _chosen(cluster, only)
    secrets = _References()
    containers = (*_services(cluster, chosen, secrets), *_middleware(cluster, chosen, secrets))
    if strict:
        _require_files(cluster, dict.fromkeys(c.of for c in containers))
        _require_ports(containers)
        _require_names(containers)
    document: dict[str, Any] = {"services": {c.name: dict(c.spec) for c in containers}}
    volumes = [volume for container in containers for volume in container.volumes]
    if volumes:
        document["volumes"] = {volume: {} for volume in volumes}
    body = yaml.dump(_quoted(document), Dumper=_Dumper, sort_keys=False, width=float("inf"), allow_unicode=True)
    return Composed(project_of(cluster), containers, _HEAD + body, secrets.sources)


def _chosen(cluster: Cluster, only: Collection[str]) -> tuple[str, ...]:
    """Names of services and middleware, in the inventory's order, the middleware last."""
    development = cluster.development
    known = (*cluster.services, *development.services)
    for name in only:
        if name not in known:
            raise FiefdomError(printable(f"{name}: no such service; known are {', '.join(known)}"))
    left, wanted = list(only or known), set[str]()
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += _links(cluster, name)
    return tuple(name for name in known if name in wanted)


def _links(cluster: Cluster, service: str) -> tuple[str, ...]:
    """What a service links to on a laptop: services that are there, and what `development` adds."""
    if service not in cluster.services:
        return ()
    override = cluster.development.overrides.get(service)
    own = tuple(link for link in cluster.services[service].links if _count(cluster, link))
    return own if override is None else own + override.links


def _count(cluster: Cluster, service: str) -> int:
    """How many instances of a service a laptop has."""
    override = cluster.development.overrides.get(service)
    return 1 if override is None else override.instances


def _base_port(cluster: Cluster, service: str) -> int:
    override = cluster.development.overrides.get(service)
    own = None if override is None else override.base_port
    return cluster.services[service].base_port if own is None else own


def _linked(cluster: Cluster, link: str) -> tuple[str, int]:
    """What Compose calls the container that a link leads to, its first one, and the port of its process."""
    if link in cluster.services:
        return f"{link}-{_base_port(cluster, link)}", cluster.services[link].container_port
    return link, cluster.development.services[link].port


def _services(cluster: Cluster, chosen: Collection[str], secrets: _References) -> Iterator[Container]:
    for name in chosen:
        if name in cluster.services:
            for number in range(_count(cluster, name)):
                yield _instance(cluster, name, number, secrets)


def _instance(cluster: Cluster, name: str, number: int, secrets: _References) -> Container:
    service, override = cluster.services[name], cluster.development.overrides.get(name)
    own = None if override is None else override.base_port
    base = _base_port(cluster, name)
    base_key: KeyPath = ("services", name, "base_port")
    port = base + number
    health, limits = service.health, service.limits
    ports = {port: base_key if own is None else ("development", "overrides", name, "base_port")}
    published = [f"{LOOPBACK}:{port}:{service.container_port}"]
    if health.base_port is not None:
        ports[health.base_port + number] = ("services", name, "health", "base_port")
        published.append(f"{LOOPBACK}:{health.base_port + number}:{health.container_port}")
    image = service_image(cluster, name)
    build = None if service.build is None else str(cluster.path(service.build))
    given = _environment(cluster, name, secrets)
    mounts = _mounts(cluster, name, port)
    spec = {
        "image": image.pull or image.ref,
        **({} if build is None else {"build": {"context": _escaped(build)}}),
        **({"command": [_escaped(word) for word in service.command]} if service.command else {}),
        "environment": process.environment(service, given, name, HOST, port),
        **({"user": service.user} if service.user else {}),
        "init": True,
        "read_only": not service.writable_root,
        "tmpfs": [f"{path}:{options}" for path, options in process.tmpfs(service).items()],
        "cap_drop": ["ALL"],
        "security_opt": [process.privileges(service)],
        **_given(service),
        "mem_limit": f"{limits.memory_mib}m",
        "memswap_limit": f"{limits.memory_mib}m",
        "cpus": limits.cpus,
        "pids_limit": limits.pids,
        "ulimits": {"nofile": {"soft": limits.nofile, "hard": limits.nofile}},
        **({"volumes": mounts} if mounts else {}),
        "ports": published,
        "stop_grace_period": f"{service.stop_grace_s}s",
        **({"depends_on": [_linked(cluster, link)[0] for link in links]} if (links := _links(cluster, name)) else {}),
    }
    check = Check(
        port=port if health.base_port is None else health.base_port + number,
        start_timeout_s=health.start_timeout_s,
        timeout_s=health.timeout_s,
        # The laptop's check speaks HTTP/1.1.
        path=None if service.kind == "tcp" or (service.h2c and health.base_port is None) else health.path,
        host=health.host or name,
        status=health.status,
        command=health.command,
    )
    return Container(
        name=f"{name}-{port}",
        of=name,
        key=("services", name),
        image=str(spec["image"]),
        build=build,
        port=port,
        check=check,
        ports=ports,
        volumes=tuple(_own_volume(name, v, port) for v in service.volumes if v.name is not None),
        needs_user=service.user is None,
        spec=spec,
    )


def _given(service: Service) -> dict[str, Any]:
    """What a container's sandbox gives way in, in Compose's words."""
    gpus = {"capabilities": ["gpu"], "count": int(service.gpus) if service.gpus and service.gpus != "all" else "all"}
    given = {
        "cap_add": list(service.capabilities),
        "shm_size": service.shm_size,
        "devices": list(service.devices),
        "deploy": service.gpus and {"resources": {"reservations": {"devices": [gpus]}}},
        "extra_hosts": [f"{name}:{address}" for name, address in service.extra_hosts.items()],
    }
    return {key: value for key, value in given.items() if value}


def _environment(cluster: Cluster, name: str, secrets: _References) -> dict[str, str]:
    """Production's variables, over them those of links, and over these what `development` says itself."""
    override = cluster.development.overrides.get(name)
    own = {} if override is None else override.environment
    linked: dict[str, str] = {}
    for link in _links(cluster, name):
        linked |= model_links.variables(link, *_linked(cluster, link))
    inherited = {**cluster.services[name].environment, **linked}
    return {
        **secrets.texts(("services", name), {k: v for k, v in inherited.items() if k not in own}),
        **secrets.texts(("development", "overrides", name), own),
    }


def _middleware(cluster: Cluster, chosen: Collection[str], secrets: _References) -> Iterator[Container]:
    for name, middleware in cluster.development.services.items():
        if name not in chosen:
            continue
        key: KeyPath = ("development", "services", name)
        image = middleware.image or f"{project_of(cluster)}/{name}:latest"
        build = None if middleware.build is None else str(cluster.path(middleware.build))
        port = middleware.loopback_port
        environment = secrets.texts(key, middleware.environment)
        mounts = [f"{_volume(name, volume)}:{path}" for volume, path in middleware.volumes.items()]
        spec = {
            "image": image,
            **({} if build is None else {"build": {"context": _escaped(build)}}),
            **({"command": [_escaped(word) for word in middleware.command]} if middleware.command else {}),
            **({"environment": environment} if environment else {}),
            **({"volumes": mounts} if mounts else {}),
            "ports": [f"{LOOPBACK}:{port}:{middleware.port}"],
        }
        yield Container(
            name=name,
            of=name,
            key=key,
            image=image,
            build=build,
            port=port,
            check=Check(port, middleware.start_timeout_s, path=middleware.health_path, host=name),
            ports={port: (*key, "port" if middleware.host_port is None else "host_port")},
            volumes=tuple(_volume(name, volume) for volume in middleware.volumes),
            spec=spec,
        )


def _mounts(cluster: Cluster, name: str, port: int) -> list[dict[str, Any]]:
    """Volumes, folders of this machine, and files of the repository."""
    service = cluster.services[name]
    found: list[dict[str, Any]] = [
        {"type": "bind", "source": _escaped(v.host), "target": v.path}
        if v.host is not None
        else {"type": "volume", "source": _own_volume(name, v, port), "target": v.path}
        for v in service.volumes
    ]
    for mount, volume in zip(found, service.volumes, strict=True):
        if not volume.is_writable:
            mount["read_only"] = True
    for path, source in service.files.items():
        if source.file is not None:
            own = _escaped(str(cluster.path(source.file)))
            found.append({"type": "bind", "source": own, "target": path, "read_only": True})
    return found


def _own_volume(service: str, volume: Volume, port: int) -> str:
    return _volume(service, f"{volume.name}_{port}" if volume.each_instance else str(volume.name))


def _require_files(cluster: Cluster, chosen: Collection[str]) -> None:
    """Raise FiefdomError for a file whose content stands nowhere in the repository as it is."""
    for name in chosen:
        for path, source in cluster.services[name].files.items() if name in cluster.services else ():
            if source.file is None:
                raise FiefdomError(
                    f"{dotted(('services', name, 'files', path))}: only a file of the repository comes to a laptop; "
                    f"leave it out with development.overrides.{name}.instances: 0, or name services without it, "
                    "and without what links to it"
                )


def _volume(of: str, name: str) -> str:
    # No name has an underscore of its own, so that two never become one.
    return f"{of}_{name}"


def _require_ports(containers: Collection[Container]) -> None:
    taken: dict[int, KeyPath] = {}
    for container in containers:
        for port, key in container.ports.items():
            if port > LAST_PORT:
                raise FiefdomError(f"{dotted(key)}: {container.name} would go past port {LAST_PORT}; lower it")
            if port in taken:
                raise FiefdomError(
                    f"{dotted(key)}: port {port} of a laptop is also taken by {dotted(taken[port])}; "
                    f"{port_mend(container, key)}"
                )
            taken[port] = key


def port_mend(container: Container, key: KeyPath) -> str:
    """What to do where ``container`` cannot have the port that ``key`` says."""
    if "health" in key:
        return "change it, or name the services to run"
    own = dotted(("development", "overrides", container.of, "base_port"))
    if container.key[0] == "development":
        own = f"{dotted(container.key)}.host_port"
    return f"give it another with {own}, or name the services to run"


def _require_names(containers: Collection[Container]) -> None:
    seen: dict[str, KeyPath] = {}
    for container in containers:
        if container.name in seen:
            raise FiefdomError(
                f"{dotted(container.key)}: {container.name} is also an instance of {dotted(seen[container.name])}; "
                "choose another name"
            )
        seen[container.name] = container.key


class _References:
    """Secrets become references to variables, which `fiefdom dev` sets for the program that reads the document."""

    def __init__(self) -> None:
        self.sources: dict[str, tuple[KeyPath, SecretSource]] = {}

    def texts(self, of: KeyPath, values: Mapping[str, str | SecretSource]) -> dict[str, str]:
        """Values of the environment of the service at ``of`` as they stand in the document."""
        return {
            name: self._reference(of, name, value) if isinstance(value, SecretSource) else _escaped(value)
            for name, value in values.items()
        }

    def _reference(self, of: KeyPath, name: str, source: SecretSource) -> str:
        variable = f"FIEFDOM_SECRET_{model_links.prefix_of(str(of[-1]))}_{name}"
        # Two may have one name, as the B of web-a and the A_B of web.
        new = ((*of, "environment", name), source)
        while self.sources.get(variable, new) != new:
            variable += "_"
        self.sources[variable] = new
        return f"${{{variable}?is a secret of {of[-1]}: `fiefdom dev` sets it}}"


def _escaped(text: str) -> str:
    return text.replace("$", "$$")


class _Text(str):
    """A text that stands in quotes."""


class _Dumper(yaml.SafeDumper):
    """Without anchors, which only hide what is said twice."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 -- PyYAML's
        return True


_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _quoted(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _quoted(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_quoted(inner) for inner in value]
    return _Text(value) if isinstance(value, str) else value
