"""Whose host it is that pyinfra is at: which cluster's, by what is known of the inventory that pyinfra has loaded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pyinfra.api import Inventory
from pyinfra.api.host import Host
from pyinfra.connectors.ssh import SSHConnector

from fiefdom.errors import FiefdomError
from fiefdom.inventory import foreign, read
from fiefdom.inventory.foreign import Foreign, Own
from fiefdom.inventory.read import DATA_KEY, Document
from fiefdom.model import Cluster
from fiefdom.wording import printable

_Found = tuple[Hashable, Callable[[], Cluster]]

# By what pyinfra calls them. `ssh_hostname` says where the host is, and whoever has none is found by its name.
_LOGIN = {"ssh_user": "user", "ssh_port": "port"}
_LOGIN_FILES = {"ssh_key": "key", "ssh_known_hosts_file": "known_hosts"}


def whose(inventory: Inventory, host: Host, concerns: tuple[str, ...], defaults: Any = None) -> _Found:
    """By what the host's cluster is known during a run, and what makes it; without a cluster, of the host alone.

    The making raises FiefdomError where data is wrong, and where a host outside is to have what only members have.
    """
    document = _document(inventory, host)
    if document is not None:
        own = {host.name: (list(host.groups), {DATA_KEY: document})}
        return ("document", document.folder, document.file), partial(read.cluster_of, own, {}, {})
    seen = seen_of(inventory, defaults)
    if not seen.says_something and _is_bare(inventory):
        return "bare", partial(_bare, inventory)
    if foreign.is_member(seen, host.name):
        cluster = ("cluster", foreign.cluster_name(seen, host.name), repr(defaults))
        return cluster, partial(foreign.cluster_of, seen, host.name)
    if len(concerns) != 1:
        raise FiefdomError(foreign.outside(host.name))
    which = ("alone", host.name, concerns[0], repr(defaults))
    return which, partial(foreign.alone, seen, host.name, concerns[0])


def is_member(inventory: Inventory, host: Host, defaults: Any = None) -> bool:
    """Whether the host is in a cluster; reads no more than it must. Raises FiefdomError where a namespace is wrong."""
    document = _document(inventory, host)
    if document is not None:
        return True
    seen = seen_of(inventory, defaults)
    if not seen.says_something and _is_bare(inventory):
        return True
    return foreign.is_member(seen, host.name)


def seen_of(inventory: Inventory, defaults: Any = None) -> Foreign:
    """The namespace in an inventory that pyinfra has loaded."""
    return Foreign(
        hosts={
            host.name: Own(tuple(host.groups), _plain(inventory.get_host_data(host.name)), _login(host))
            for host in inventory
        },
        groups={name: data[DATA_KEY] for name, data in inventory.group_data.items() if DATA_KEY in data},
        everywhere=inventory.get_data().get(DATA_KEY),
        defaults=defaults,
        override=inventory.get_override_data().get(DATA_KEY),
    )


def require_ssh(host: Host) -> None:
    """Raise FiefdomError where pyinfra has another way to the host than SSH."""
    if not issubclass(_class_of(host), SSHConnector):
        kind = _class_of(host).__name__.removesuffix("Connector").lower()
        raise FiefdomError(
            printable(
                f"{host.name}: pyinfra reaches it by its connector {kind}, and Fiefdom needs SSH, over which a new "
                "login confirms what could shut you out; give the host an address there"
            )
        )


def _class_of(host: Host) -> type:
    found: Any = host.connector_cls
    return found if isinstance(found, type) else type(host.connector)


def _document(inventory: Inventory, host: Host) -> Document | None:
    found = inventory.get_host_data(host.name).get(DATA_KEY)
    return found if isinstance(found, Document) else None


def _plain(data: Mapping[str, Any]) -> Any:
    own = data.get(DATA_KEY)
    return None if isinstance(own, Document) else own


def _is_bare(inventory: Inventory) -> bool:
    """Whether the inventory is one of Fiefdom's own in Python, whose data says what a YAML inventory would."""
    return "cluster" in inventory.get_data() or any("cluster" in inventory.get_host_data(h.name) for h in inventory)


def _bare(inventory: Inventory) -> Cluster:
    hosts = {other.name: (list(other.groups), inventory.get_host_data(other.name)) for other in inventory}
    return read.cluster_of(hosts, inventory.group_data, inventory.get_data())


def _login(host: Host) -> dict[str, Any]:
    """How pyinfra logs in to a host, as far as its data or its connection says so."""
    data = {key: host.data.get(key) for key in ("ssh_hostname", *_LOGIN, *_LOGIN_FILES)}
    found = {ours: data[key] for key, ours in _LOGIN.items() if data[key] is not None}
    for key, ours in _LOGIN_FILES.items():
        if data[key] is not None:
            found[ours] = str(Path(str(data[key])).expanduser().absolute())
    found["address"] = str(data["ssh_hostname"] or host.name.removeprefix("@ssh/"))
    with suppress(AttributeError):
        # What ~/.ssh/config says, or nobody, and pyinfra took.
        user = host.connector.client.get_transport().get_username()  # type: ignore[attr-defined]
        if "user" not in found and isinstance(user, str):
            found["user"] = user
    return found
