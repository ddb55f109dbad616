"""An inventory as it takes effect: every value with the place it comes from, and no secret."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from fiefdom.errors import FiefdomError
from fiefdom.inventory.written import Written
from fiefdom.model import GATEWAYS, Cluster, SecretSource, links
from fiefdom.model.secrets import HIDDEN
from fiefdom.model.text import LOGIN_IN_URL
from fiefdom.wording import KeyPath, printable

DEFAULT = "default"
# A secret should not stand in an inventory. Where one does, its variable mostly says so, or it is a login in a URL.
_SECRET_NAME = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|DSN", re.IGNORECASE)


@dataclass(frozen=True)
class Leaf:
    """A value that holds no others by name, and where it comes from: file and line, or `default`."""

    value: Any
    source: str


Tree = dict[str, Any]
"""Values by name: a `Leaf`, or a tree again."""


def effective(cluster: Cluster, written: Written, host: str | None = None) -> Tree:
    """Every value of ``cluster``, merged and with its defaults; with ``host``, what is true for that one.

    A host has its own SSH settings on top of the cluster's, and the services that run on it with its overrides.

    Raises:
        FiefdomError: there is no such host.
    """
    if host is None:
        services = {name: _service(cluster, written, name) for name in cluster.services}
        return _fields(cluster, (), written, {"base_dir"}) | ({"services": services} if services else {})
    if host not in cluster.hosts:
        known = ", ".join(cluster.hosts)
        raise FiefdomError(printable(f"{host}: no such host; hosts are {known}"))
    whole = _fields(cluster, (), written, {"base_dir", "hosts", "services", "development"})
    if GATEWAYS not in cluster.hosts[host].groups:
        del whole["gateway"]
    own = _fields(cluster.hosts[host], ("hosts", host), written, {"services"})
    ssh = _over(whole.pop("ssh"), own.pop("ssh"))
    services = {name: _on(cluster, written, host, name) for name in cluster.services if cluster.count(host, name)}
    name = Leaf(host, _source(("hosts", host), written))
    return {"cluster": whole.pop("cluster"), "host": name, **own, "ssh": ssh, "services": services, **whole}


def _on(cluster: Cluster, written: Written, host: str, name: str) -> Tree:
    """A service as it is on a host, with the variables that its links make among those of its environment."""
    service = _service(cluster, written, name)
    override = cluster.hosts[host].services.get(name)
    if override is not None:
        service = _over(service, _fields(override, ("hosts", host, "services", name), written))
    source = f"{_source(('services', name, 'links'), written)}, a link"
    made = {variable: Leaf(value, source) for variable, value in links.environment(cluster, name).items()}
    own = service["environment"]
    return service | {"environment": {**(own if isinstance(own, dict) else {}), **made} or own}


def _service(cluster: Cluster, written: Written, name: str) -> Tree:
    """A service; what its links make is told beside them, for an inventory with both would be none."""
    service = _fields(cluster.services[name], ("services", name), written)
    linked = service["links"]
    if isinstance(linked, Leaf) and linked.value:
        made = " ".join(f"{variable}={value}" for variable, value in links.environment(cluster, name).items())
        service["links"] = Leaf(linked.value, f"{linked.source}, for {made}")
    return service


def _over(under: Tree, over: Tree) -> Tree:
    """``over`` on top of ``under``, where it says anything."""
    result = dict(under)
    for name, value in over.items():
        if isinstance(value, dict):
            result[name] = _over(under[name], value) if isinstance(under.get(name), dict) else value
        elif name not in under or value.value not in (None, {}):
            result[name] = value
    return result


def _fields(model: BaseModel, key: KeyPath, written: Written, without: Collection[str] = ()) -> Tree:
    return {name: _tree(inner, (*key, name), written) for name, inner in model if name not in without}


def _tree(value: Any, key: KeyPath, written: Written) -> Tree | Leaf:
    if isinstance(value, SecretSource):
        return Leaf(HIDDEN, f"{_source(key, written)}, from {value}")
    if isinstance(value, BaseModel):
        return _fields(value, key, written)
    if isinstance(value, tuple) and any(isinstance(one, BaseModel) for one in value):
        value = [one.model_dump(exclude_none=True) if isinstance(one, BaseModel) else one for one in value]
    if isinstance(value, Mapping) and value:
        return {name: _tree(inner, (*key, name), written) for name, inner in value.items()}
    if key[-2:-1] == ("environment",) and _SECRET_NAME.search(str(key[-1])):
        value = HIDDEN
    if key == ("notify", "webhook"):  # who knows it may write there
        value = HIDDEN
    return Leaf(_without_logins(value), _source(key, written))


def _without_logins(value: Any) -> Any:
    """``value`` with `***` for each text in which a URL has a password, as that of a proxy may."""
    if isinstance(value, list | tuple):
        return [_without_logins(one) for one in value]
    return HIDDEN if isinstance(value, str) and LOGIN_IN_URL.search(value) else value


def _source(key: KeyPath, written: Written) -> str:
    origin = written.origins.get(key)
    return DEFAULT if origin is None else str(origin)


def as_yaml(tree: Tree) -> Iterator[str]:
    """Lines of YAML, with the source of each value behind it."""
    for name, value in tree.items():
        if isinstance(value, Leaf):
            yield f"{_flow(name)}: {_flow(value.value)}  # {printable(value.source)}"
        elif not value:
            yield f"{_flow(name)}: {{}}"
        else:
            yield f"{_flow(name)}:"
            yield from (f"  {line}" for line in as_yaml(value))


def as_data(tree: Tree) -> dict[str, object]:
    """As JSON has it: each value as `{value, source}`."""
    return {
        name: {"value": value.value, "source": value.source} if isinstance(value, Leaf) else as_data(value)
        for name, value in tree.items()
    }


def _flow(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").removesuffix("\n")
