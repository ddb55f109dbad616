"""Groups and connections of an inventory, as pyinfra and the command line ask for them."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fiefdom.errors import FiefdomError
from fiefdom.inventory.read import DATA_KEY, Document, document_of, group_data, of_document
from fiefdom.model import LAST_PORT, Cluster
from fiefdom.wording import printable


def groups_beside(file: str) -> dict[str, list[Any]]:
    """pyinfra's groups for the YAML inventory beside the Python file ``file``, for ``globals().update(...)``.

    Raises:
        FiefdomError: the inventory is not valid; inside of pyinfra it is a PyinfraError as well, which pyinfra prints.
    """
    with _told_by_pyinfra():
        path = Path(file).with_suffix(".yaml")
        return _groups_of(path if path.exists() or not path.with_suffix(".yml").exists() else path.with_suffix(".yml"))


def fleet(path: str | Path, beside: Mapping[str, Any] | None = None) -> dict[str, list[Any]]:
    """pyinfra's groups for a cluster that is a part of a larger inventory: `globals().update(fleet("fleet.yaml"))`.

    A relative ``path`` starts from the folder of the inventory that calls this. Its hosts stand in a group with the
    file's name, each with its data, and in the groups that the file says; there is no `all`, which pyinfra makes of all
    groups. ``beside`` are the groups that are there already, such as `globals()`: lists of the same name are joined.

    Raises:
        FiefdomError: as `groups_beside`; or a name of the cluster is one of ``beside`` that cannot be joined.
    """
    caller = sys._getframe(1).f_globals.get("__file__")
    with _told_by_pyinfra():
        where = Path(path) if caller is None else Path(caller).resolve().parent / path
        groups = _groups_of(where)
        everybody = groups.pop("all")
        if where.stem in groups:
            raise FiefdomError(printable(f"{where}: has a group {where.stem}, which the file is called; rename one"))
        found = {where.stem: everybody, **groups}
        for name, hosts in found.items():
            there = (beside or {}).get(name, [])
            there = [] if callable(there) else there  # this function, mostly, which is called as the file is
            if not isinstance(there, list):
                raise FiefdomError(
                    printable(
                        f"{where}: has a group {name}, and the inventory something else; make that a list of hosts"
                    )
                )
            found[name] = [*there, *hosts]
        return found


@dataclass(frozen=True)
class HostDocument(Document):
    """What `host.data.fiefdom` says of a host of a YAML inventory: what other deploys may want to know, and no secret.

    ``ports`` and ``versions`` are by service: host ports of its instances here, and the inventory's version.
    """

    address: str = ""
    role: str = ""
    """`gateway`, `app`, or empty for a host in neither role."""
    services: tuple[str, ...] = ()
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def _groups_of(path: Path) -> dict[str, list[Any]]:
    document = document_of(path)
    cluster = of_document(document, group_data(path))
    _require_no_jump(cluster)
    groups = pyinfra_groups(cluster)
    return {
        **groups,
        "all": [(name, {**data, DATA_KEY: _of_host(document, cluster, name)}) for name, data in groups["all"]],
    }


def _of_host(document: Document, cluster: Cluster, name: str) -> HostDocument:
    ports: dict[str, tuple[int, ...]] = {}
    for instance in cluster.instances(name):
        ports[instance.service] = (*ports.get(instance.service, ()), instance.port)
    return HostDocument(
        document.file,
        document.folder,
        document.content,
        address=cluster.hosts[name].address,
        role="gateway" if name in cluster.gateways else "app" if name in cluster.app_hosts else "",
        services=tuple(ports),
        ports=ports,
        versions={service: cluster.services[service].version for service in ports},
    )


@contextmanager
def _told_by_pyinfra() -> Iterator[None]:
    """What is wrong is an error of pyinfra's too, inside of it, which it prints as one line."""
    try:
        yield
    except FiefdomError as error:
        # Only where pyinfra is there already: importing it is slow, and `fiefdom` patches for gevent first.
        exceptions = sys.modules.get("pyinfra.api.exceptions")
        if exceptions is None:
            raise
        raise type("InventoryError", (FiefdomError, exceptions.PyinfraError), {})(str(error)) from None


def _require_no_jump(cluster: Cluster) -> None:
    """Raise FiefdomError where pyinfra's own command would go straight to hosts that are behind others."""
    if getattr(sys.modules.get("pyinfra"), "is_cli", False) and any(map(cluster.jumps_of, cluster.hosts)):
        raise FiefdomError(
            "ssh.jump: pyinfra's own command does not know it; write ProxyJump to ~/.ssh/config in its place, which "
            "both commands read"
        )


def pyinfra_groups(cluster: Cluster) -> dict[str, list[Any]]:
    """Host names by group as pyinfra takes them; under `all` every host with its `connection`."""
    groups: dict[str, list[Any]] = {"all": [(name, connection(cluster, name)) for name in cluster.hosts]}
    for name, host in cluster.hosts.items():
        for group in host.groups:
            groups.setdefault(group, []).append(name)
    return groups


def connection(cluster: Cluster, host: str) -> dict[str, Any]:
    """Host data by which pyinfra's SSH connector reaches ``host``. A host key that is not known is refused."""
    user, port, key = cluster.ssh_of(host)
    data: dict[str, Any] = {
        "ssh_hostname": cluster.ssh_address(host),
        "ssh_port": port,
        "ssh_user": user,
        "ssh_strict_host_key_checking": "yes",
    }
    if key is not None:
        data["ssh_key"] = key
    if cluster.ssh.known_hosts is not None:
        data["ssh_known_hosts_file"] = str(cluster.path(cluster.ssh.known_hosts))
    if user != "root":
        data["_sudo"] = True
    return data


def limit_hosts(cluster: Cluster, patterns: Iterable[str]) -> tuple[str, ...]:
    """Names of the hosts that ``patterns`` choose, in the inventory's order; all of them where there is no pattern.

    A pattern is what pyinfra's ``--limit`` takes: a group, or a host name or glob; several with commas between.

    Raises:
        FiefdomError: a pattern chooses no host.
    """
    groups = pyinfra_groups(cluster) | {"all": list(cluster.hosts)}
    chosen: set[str] = set()
    wanted = [part.strip() for pattern in patterns for part in pattern.split(",")]
    for pattern in wanted:
        found = groups.get(pattern) or [name for name in cluster.hosts if fnmatchcase(name, pattern)]
        if not found:
            known = f"hosts are {', '.join(cluster.hosts)}; groups are {', '.join(g for g in groups if g != 'all')}"
            raise FiefdomError(printable(f"--limit {pattern!r}: no host or group of that name; {known}"))
        chosen.update(found)
    return tuple(name for name in cluster.hosts if name in chosen or not wanted)


def left_out(cluster: Cluster, names: Iterable[str]) -> tuple[str, ...]:
    """Hosts that ``names`` leave out, in the inventory's order. Raises FiefdomError for a name that is no host."""
    names = tuple(names)
    for name in names:
        if name not in cluster.hosts:
            raise FiefdomError(printable(f"--without {name!r}: no such host; hosts are {', '.join(cluster.hosts)}"))
    return tuple(name for name in cluster.hosts if name in names)


def answers_at(cluster: Cluster, values: Iterable[str]) -> dict[str, tuple[str | None, int | None]]:
    """Address and port by host of ``values`` such as ``app1=10.20.0.21``, ``app1=10.20.0.21:2222`` or ``app1=:2222``.

    Raises:
        FiefdomError: one of them is no such thing, or names a host that there is not.
    """
    found: dict[str, tuple[str | None, int | None]] = {}
    for value in values:
        name, equals, place = value.partition("=")
        address, colon, port = place.partition(":")
        try:
            where = str(ipaddress.IPv4Address(address)) if address else None
            known = bool(equals and place) and (not colon or 1 <= int(port) <= LAST_PORT)
        except ValueError:
            known = False
        if not known:
            raise FiefdomError(printable(f"--at {value!r}: write HOST=ADDRESS, HOST=ADDRESS:PORT or HOST=:PORT"))
        if name not in cluster.hosts:
            raise FiefdomError(printable(f"--at {value!r}: no such host; hosts are {', '.join(cluster.hosts)}"))
        found[name] = (where, int(port) if colon else None)
    return found
