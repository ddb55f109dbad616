"""What gateways say of themselves and of the servers behind them, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.waiting import looks
from fiefdom.wording import printable


def await_serving(cluster: Cluster, hosts: Hosts, name: str, gateways: Collection[str] | None = None) -> None:
    """Wait until all gateways, or these, have a host's servers up. Raises FiefdomError where that takes long."""
    instances = cluster.instances(name)
    start_s = sum(cluster.services[i.service].health.start_timeout_s for i in instances)
    for late in looks(start_s + cluster.serf.join_timeout_s + 60):
        missing = not_up(_views(cluster, hosts, gateways), cluster, name)
        if missing is None:
            return
        if late:
            raise FiefdomError(f"{name}: does not serve again: {missing}; the other hosts were left alone")


def _views(cluster: Cluster, hosts: Hosts, gateways: Collection[str] | None = None) -> dict[str, Any]:
    asked = cluster.gateways if gateways is None else gateways
    return hosts.on_all(lambda name: gateway_view(hosts, name), asked)


# So few errors may be anybody's: a client that gave up, a check that came late.
LEAST_ERRORS = 3


# --- What the gateways count


@dataclass(frozen=True)
class Count:
    """Requests that the gateways sent to some servers, and how many of them went wrong."""

    requests: int = 0
    errors: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.requests + other.requests, self.errors + other.errors)

    def since(self, before: Count) -> Count:
        """What was counted after ``before``; all of it where counting began anew, as a reload makes it."""
        if self.requests < before.requests or self.errors < before.errors:
            return self
        return Count(self.requests - before.requests, self.errors - before.errors)


Counts = Mapping[tuple[str, str], Count]
"""By gateway and server."""


def counts(views: Mapping[str, Any], hosts: Collection[str], services: Collection[str]) -> dict[tuple[str, str], Count]:
    """What the gateways counted for the servers of ``hosts``; a gateway that did not answer counts nothing."""
    found = {}
    for gateway, view in views.items():
        for server in _servers(view, hosts):
            if server.get("service") in services:
                errors = sum(_number(server.get(key)) for key in ("errors_5xx", "failures"))
                found[gateway, str(server["name"])] = Count(_number(server.get("requests")), errors)
    return found


def verdict(before: Counts, now: Counts, most_errors: float) -> str | None:
    """Why the servers counted do not do well, or None; ``most_errors`` is the share of requests that may go wrong."""
    # What has no beginning, for its gateway did not answer then, has counted for longer than the release is there.
    total = sum((count.since(before[key]) for key, count in now.items() if key in before), Count())
    if total.errors < LEAST_ERRORS or total.errors <= most_errors * max(total.requests, 1):
        return None
    return f"{total.errors} of {total.requests} requests went wrong on the new version, as the gateways count"


def erring(before: Counts, now: Counts) -> set[str]:
    """Servers of which the gateways counted something that went wrong since ``before``."""
    return {key[1] for key, count in now.items() if key in before and count.since(before[key]).errors}


@dataclass(frozen=True)
class Missing:
    """What a host lacks to be up: ``unit`` is an instance's, or whoever else is to blame."""

    unit: str
    reason: str


def missing(views: Mapping[str, Any], cluster: Cluster, host: str) -> Missing | None:
    """The first thing missing until every gateway has each of the host's instances up, or None."""
    for gateway, view in views.items():
        if not isinstance(view, dict):
            return Missing("the gateways", f"{gateway} does not answer: {view}")
        states = {(s.get("service"), s.get("port")): s for s in _servers(view, [host])}
        for i in cluster.instances(host):
            state = states.get((i.service, i.port), {}).get("state", "out of rotation")
            if state != "up":
                return Missing(i.unit, f"{gateway} has {i.service} at {host}:{i.port} {state}")
    return None


def not_up(views: Mapping[str, Any], cluster: Cluster, host: str) -> str | None:
    """What is missing until every gateway has each of the host's instances up, or None."""
    found = missing(views, cluster, host)
    return found.reason if found else None


def alone(views: Mapping[str, Any], cluster: Cluster, hosts: Collection[str], *, if_up: bool = False) -> str | None:
    """What would have no server up while ``hosts`` are out together, or None.

    A service that by the inventory runs nowhere else does not count; nor, with ``if_up``, one that a gateway has up on
    none of ``hosts``, for it loses nothing.
    """
    others = [name for name in cluster.hosts if name not in hosts]
    for service in cluster.services:
        if not all(any(cluster.count(name, service) for name in group) for group in (hosts, others)):
            continue
        for gateway, view in views.items():
            if not isinstance(view, dict):
                return f"{gateway} does not answer: {view}"
            if not _serves(view, others, service) and (not if_up or _serves(view, hosts, service)):
                return f"{gateway} has {service} up nowhere else"
    return None


def _serves(view: Any, hosts: Collection[str], service: str) -> bool:
    return any(s["service"] == service and s.get("state") == "up" for s in _servers(view, hosts))


def _servers(view: Any, hosts: Collection[str]) -> list[Mapping[str, Any]]:
    servers = view.get("servers") if isinstance(view, dict) else None
    return [
        server
        for server in (servers if isinstance(servers, list) else [])
        if isinstance(server, dict)
        and str(server.get("name")).rpartition("-")[0] in hosts
        and isinstance(server.get("service"), str)
        and isinstance(server.get("port"), int)
    ]


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def views_of(hosts: Hosts, gateways: Iterable[str]) -> dict[str, Any]:
    """What gateways say of themselves; of one whose connection broke off why, in words."""

    def view(name: str) -> Any:
        try:
            return hosts.on_all(lambda name: gateway_view(hosts, name), [name])[name]
        except FiefdomError as error:
            return str(error)

    return {name: view(name) for name in gateways}


GATEWAY_STATUS = ("docker", "exec", "gateway", "fiefdom-gateway", "status")
_WORDS_MAX = 400


def gateway_view(hosts: Hosts, name: str) -> dict[str, Any] | str:
    """What a gateway says of itself, as data; or in words why it does not."""
    ok, output, error = hosts.shell(name, GATEWAY_STATUS)
    return parse_view(output) if ok else printable(error)[:200] or "no answer"


def parse_view(text: str) -> dict[str, Any] | str:
    """A gateway's status document, every part in its shape and fit to be printed; or in words why it is none.

    What a part holds besides texts and numbers is left out.
    """
    try:
        view = json.loads(text)
    except (ValueError, RecursionError):
        return "its answer is not JSON"
    if not isinstance(view, dict):
        return "its answer is not an object"
    facts = {key: view.get(key, {}) for key in ("serf", "config")}
    lists = {key: view.get(key, []) for key in ("members", "servers", "rejected")}
    for key, part in facts.items():
        if not isinstance(part, dict):
            return f"its answer has no object in {key}"
    for key, entries in lists.items():
        if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
            return f"its answer has no list of objects in {key}"
    return {
        **{key: _flat(part) for key, part in facts.items()},
        **{key: [_flat(entry) for entry in entries] for key, entries in lists.items()},
    }


def _flat(part: Mapping[str, object]) -> dict[str, Any]:
    return {
        key: printable(value[:_WORDS_MAX])[:_WORDS_MAX] if isinstance(value, str) else value
        for key, value in part.items()
        if isinstance(value, str | int | float | bool | None)
    }
