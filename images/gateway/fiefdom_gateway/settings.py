"""reconciler.json, validated: what this gateway routes, which hosts it knows and where its files are."""

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
# These words end up on a line of HAProxy's configuration and in a command to its socket, where ; # " \ mean something.
_SERVER_OPTIONS = re.compile(r"[A-Za-z0-9_./:,@%() -]{0,400}", re.ASCII)
LAST_PORT = 65535


def is_name(text: str) -> bool:
    """Whether a text can be the name of a service."""
    return _NAME.fullmatch(text) is not None


class BadSettings(ValueError):
    """reconciler.json cannot be used; the message names the key."""


@dataclass(frozen=True)
class Service:
    """What is routed. `closes_upgraded`: where its servers drain, upgraded connections are closed, not waited for.

    Of one that `is_tcp`, all connections are as upgraded ones. One that is `sticky` has a cookie that leads a client
    back to its server, and HAProxy follows it to one that drains as well: such a server goes by maintenance.
    """

    name: str
    backend: str
    base_port: int
    max_instances: int
    server_options: str
    closes_upgraded: bool = False
    is_tcp: bool = False
    sticky: bool = False

    @property
    def last_port(self) -> int:
        return min(self.base_port + self.max_instances - 1, LAST_PORT)


@dataclass(frozen=True)
class Host:
    """What the inventory says of a host: its address, and the services that it runs, with the last port of each.

    A service without a last port is one that an older Fiefdom wrote: it may have all that the service may have.
    """

    address: str
    services: frozenset[str]
    last_ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Inventory:
    """The hosts of the inventory; `network` is where others may be, unless `known_hosts_only`."""

    network: ipaddress.IPv4Network
    known_hosts_only: bool
    hosts: Mapping[str, Host]

    def owner(self, address: str) -> str | None:
        """Return the name of the host that has an address."""
        return self._owners.get(address)

    @cached_property
    def _owners(self) -> dict[str, str]:
        return {host.address: name for name, host in self.hosts.items()}


@dataclass(frozen=True)
class Settings:
    cluster: str
    node: str
    haproxy_config: Path
    state_dir: Path
    serf_config: Path
    rpc_addr: str
    interval_s: float
    absent_grace_s: float
    stop_grace_s: float
    services: Mapping[str, Service]
    inventory: Inventory


def parse_settings(text: str) -> Settings:
    """Return the settings in the JSON document `text`. Raises BadSettings."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSettings(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadSettings("not a JSON object")
    listed = data.get("services")
    if not isinstance(listed, list):
        raise BadSettings("services: must be a list")
    services = [_service(entry, f"services[{index}]") for index, entry in enumerate(listed)]
    by_name = {service.name: service for service in services}
    if len(by_name) != len(services):
        raise BadSettings("services: two have the same name")
    return Settings(
        cluster=_name(data, "cluster", ""),
        node=_name(data, "node", ""),
        haproxy_config=_path(data, "haproxy_config"),
        state_dir=_path(data, "state_dir"),
        serf_config=_path(data, "serf_config"),
        rpc_addr=_text(data, "rpc_addr", ""),
        interval_s=_seconds(data, "interval_s"),
        absent_grace_s=_seconds(data, "absent_grace_s"),
        stop_grace_s=_seconds(data, "stop_grace_s"),
        services=by_name,
        inventory=_inventory(data),
    )


def _inventory(data: Mapping[str, Any]) -> Inventory:
    network, only, listed = data.get("network"), data.get("known_hosts_only"), data.get("hosts")
    if not isinstance(network, str):
        raise BadSettings("network: must be a string")
    try:
        allowed = ipaddress.IPv4Network(network)
    except ValueError:
        raise BadSettings("network: must be an IPv4 network") from None
    if not isinstance(only, bool):
        raise BadSettings("known_hosts_only: must be true or false")
    if not isinstance(listed, dict):
        raise BadSettings("hosts: must be an object")
    hosts = {name: _host(entry, f"hosts.{name}") for name, entry in listed.items()}
    if len({host.address for host in hosts.values()}) != len(hosts):
        raise BadSettings("hosts: two have the same address")
    return Inventory(allowed, only, hosts)


def _host(entry: object, where: str) -> Host:
    if not isinstance(entry, dict):
        raise BadSettings(f"{where}: must be an object")
    services = entry.get("services")
    if not isinstance(services, list) or not all(isinstance(name, str) for name in services):
        raise BadSettings(f"{where}.services: must be a list of names")
    ports = entry.get("last_ports", {})
    if not isinstance(ports, dict):
        raise BadSettings(f"{where}.last_ports: must be an object")
    last_ports = {name: _whole(ports, name, f"{where}.last_ports", 1, LAST_PORT) for name in ports}
    try:
        address = str(ipaddress.IPv4Address(_text(entry, "address", where)))
    except ValueError as error:
        if isinstance(error, BadSettings):
            raise
        raise BadSettings(f"{where}.address: must be an IPv4 address") from None
    return Host(address, frozenset(services), last_ports)


def _service(entry: object, where: str) -> Service:
    if not isinstance(entry, dict):
        raise BadSettings(f"{where}: must be an object")
    options = _text(entry, "server_options", where)
    if not _SERVER_OPTIONS.fullmatch(options):
        raise BadSettings(f"{where}.server_options: holds a character that has no place on a server line")
    return Service(
        name=_name(entry, "name", where),
        backend=_name(entry, "backend", where),
        base_port=_whole(entry, "base_port", where, 1, LAST_PORT),
        max_instances=_whole(entry, "max_instances", where, 1, LAST_PORT),
        server_options=options,
        closes_upgraded=_choice(entry, "upgraded", where, "wait", "close") == "close",
        is_tcp=_choice(entry, "kind", where, "http", "tcp") == "tcp",
        sticky=_flag(entry, "sticky", where),
    )


def _key(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise BadSettings(f"{_key(where, key)}: must be a string")
    return value


def _name(data: Mapping[str, Any], key: str, where: str) -> str:
    value = _text(data, key, where)
    if not _NAME.fullmatch(value):
        raise BadSettings(f"{_key(where, key)}: must be a name of letters, digits, dots, dashes and underscores")
    return value


def _choice(data: Mapping[str, Any], key: str, where: str, *words: str) -> str:
    """Return one of some words, the first where the key is not there."""
    value = data.get(key, words[0])
    if not (isinstance(value, str) and value in words):
        raise BadSettings(f"{_key(where, key)}: must be {' or '.join(words)}")
    return value


def _flag(data: Mapping[str, Any], key: str, where: str) -> bool:
    """Return whether a key is true; it is not where it is not there."""
    value = data.get(key, False)
    if not isinstance(value, bool):
        raise BadSettings(f"{_key(where, key)}: must be true or false")
    return value


def _path(data: Mapping[str, Any], key: str) -> Path:
    path = Path(_text(data, key, ""))
    if not path.is_absolute():
        raise BadSettings(f"{key}: must be an absolute path")
    return path


def _whole(data: Mapping[str, Any], key: str, where: str, least: int, most: int) -> int:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadSettings(f"{_key(where, key)}: must be a whole number from {least} to {most}")
    return value


def _seconds(data: Mapping[str, Any], key: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 86400:
        raise BadSettings(f"{key}: must be a number of seconds, more than 0 and at most 86400")
    return float(value)
