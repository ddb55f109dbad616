"""What gateways say of themselves and of the servers behind them, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

from fiefdom.cluster.words import text
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.model import Cluster, Instance
from fiefdom.model.obtained import Obtained
from fiefdom.waiting import looks
from fiefdom.wording import printable

T = TypeVar("T")
Part = Mapping[str, Any]

GATEWAY_STATUS = ("docker", "exec", "gateway", "fiefdom-gateway", "status")
_WORDS_MAX = 400
# What a gateway keeps of an operator's words.
_KEPT = ("maintenance", "shares", "asked_shares")


# --- What a gateway says


@dataclass(frozen=True)
class Agent:
    """Whether a gateway's Serf agent answers it, and what it says where it does not."""

    ok: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Config:
    """Whether HAProxy runs what it was given last, or why not; ``digest`` is of the configuration that it runs.

    ``refused`` is the digest of the one that the error is about: empty where it is about none, None where the gateway
    is an older one, which does not say. ``retries`` tells whether that one is tried again.
    """

    ok: bool = False
    error: str | None = None
    digest: str | None = None
    refused: str | None = None
    retries: bool = False


@dataclass(frozen=True)
class Seen:
    """A member as a gateway lists it."""

    name: str
    address: str
    status: str
    offers: frozenset[str] = frozenset()
    """Services that it offers, as far as it is believed."""


@dataclass(frozen=True)
class Server:
    """An instance in a gateway's rotation, and what was counted for it; ``state`` is up, down, drain or maint."""

    service: str
    name: str
    port: int
    state: str
    requests: int = 0
    errors_5xx: int = 0
    failures: int = 0
    version: str | None = None

    @property
    def host(self) -> str:
        """Where it runs."""
        return self.name.rpartition("-")[0]


@dataclass(frozen=True)
class Certificate:
    """A certificate that a gateway serves with: its name in the inventory, the hosts that it is for, and its end."""

    name: str
    hosts: tuple[str, ...]
    ends: datetime


@dataclass(frozen=True)
class Share:
    """The share in percent of a service's requests that its servers of one version get together."""

    service: str
    version: str
    percent: int


@dataclass(frozen=True)
class Refused:
    """A member that a gateway does not believe."""

    member: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class View:
    """What a gateway says: every text of it is one line that can be printed."""

    serf: Agent = Agent()
    config: Config = Config()
    members: tuple[Seen, ...] = ()
    servers: tuple[Server, ...] = ()
    rejected: tuple[Refused, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    obtained: tuple[Obtained, ...] = ()
    maintenance: tuple[str, ...] = ()
    """Services that an operator switched to maintenance."""
    shares: tuple[Share, ...] = ()
    asked_shares: tuple[Share, ...] = ()
    """What HAProxy is to have of them; it may have others yet."""

    @property
    def silence(self) -> str | None:
        """Why the gateway does not answer; None where it does."""
        return None

    def servers_of(self, hosts: Collection[str]) -> list[Server]:
        """Servers that run on ``hosts``."""
        return [server for server in self.servers if server.host in hosts]

    def offers_of(self, host: str) -> frozenset[str]:
        """Services that a host offers, as the gateway believes it."""
        return next((member.offers for member in self.members if member.name == host), frozenset())

    def may_list(self, host: str) -> bool:
        """Whether the gateway knows a host. One that does not answer has not said that it forgot it."""
        return self.silence is not None or host in {m.name for m in self.members} | {s.host for s in self.servers}


@dataclass(frozen=True)
class Silent(View):
    """A gateway that does not answer, or not in a way that can be understood: so it has nothing to show."""

    why: str

    @property
    def silence(self) -> str:
        """Why it does not."""
        return self.why


Views = Mapping[str, View]
"""By gateway."""


SUMMARY = ("summary",)
"""The part of a gateway's status that has no servers."""


def gateway_view(hosts: Hosts, name: str, part: Sequence[str] = ()) -> View:
    """What a gateway says of itself: all, or ``part`` of it, as `SUMMARY` or a host's servers by ("host", NAME).

    An older gateway says all.
    """
    ok, output, error = hosts.shell(name, (*GATEWAY_STATUS, *part))
    if not ok and part and "usage: fiefdom-gateway" in error:
        ok, output, error = hosts.shell(name, GATEWAY_STATUS)
    return parse_view(output) if ok else Silent(printable(error)[:200] or "no answer")


def views_of(hosts: Hosts, gateways: Iterable[str], part: Sequence[str] = ()) -> dict[str, View]:
    """What gateways say of themselves; one whose connection broke off is silent like any other."""
    return hosts.on_all(lambda name: _view_or_silence(hosts, name, part), gateways)


def _view_or_silence(hosts: Hosts, name: str, part: Sequence[str] = ()) -> View:
    """As `gateway_view`, also where the connection broke off."""
    try:
        return gateway_view(hosts, name, part)
    except Unreachable as error:
        return Silent(str(error))


def parse_view(document: str) -> View:
    """A gateway's status document. What is not as it should be is left out, and so is a row that is not whole."""
    try:
        view = json.loads(document)
    except (ValueError, RecursionError):
        return Silent("its answer is not JSON")
    if not isinstance(view, dict):
        return Silent("its answer is not an object")
    facts = {key: view.get(key, {}) for key in ("serf", "config")}
    lists = {key: view.get(key, []) for key in ("members", "servers", "rejected", "certificates", "obtained", *_KEPT)}
    for key, part in facts.items():
        if not isinstance(part, dict):
            return Silent(f"its answer has no object in {key}")
    for key, entries in lists.items():
        if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
            return Silent(f"its answer has no list of objects in {key}")
    return View(
        serf=Agent(facts["serf"].get("ok") is True, _words_or_none(facts["serf"].get("error"))),
        config=_config(facts["config"]),
        members=_rows(lists["members"], _seen),
        servers=_rows(lists["servers"], _server),
        rejected=_rows(lists["rejected"], lambda row: Refused(_words(row["member"]), _words(row["reason"]))),
        certificates=_rows(lists["certificates"], _certificate),
        obtained=_rows(lists["obtained"], _obtained),
        shares=_rows(lists["shares"], _share),
        asked_shares=_rows(lists["asked_shares"], _share),
        maintenance=_rows(lists["maintenance"], lambda row: _words(row["service"])),
    )


def _config(part: Part) -> Config:
    return Config(
        ok=part.get("ok") is True,
        error=_words_or_none(part.get("error")),
        digest=_words_or_none(part.get("digest")),
        refused=(_words_or_none(part["refused"]) or "") if "refused" in part else None,
        retries=part.get("retry_in_s") is not None,
    )


def _seen(row: Part) -> Seen:
    listed = row.get("offers")
    offers = [offer["service"] for offer in listed if isinstance(offer, dict)] if isinstance(listed, list) else []
    return Seen(_words(row["name"]), _words(row["address"]), _words(row["status"]), frozenset(map(_words, offers)))


def _server(row: Part) -> Server:
    return Server(
        service=_words(row["service"]),
        name=_words(row["name"]),
        port=_whole(row["port"]),
        state=_words(row["state"]),
        requests=_count(row.get("requests")),
        errors_5xx=_count(row.get("errors_5xx")),
        failures=_count(row.get("failures")),
        version=_words_or_none(row.get("version")),
    )


def _share(row: Part) -> Share:
    return Share(_words(row["service"]), _words(row["version"]), _whole(row["percent"]))


def _certificate(row: Part) -> Certificate:
    hosts = row["names"] if isinstance(row["names"], list) else []
    return Certificate(_words(row["name"]), tuple(map(_words, hosts)), _time(row["ends"]))


def _obtained(row: Part) -> Obtained:
    begins_s, ends_s = (None if row[key] is None else _time(row[key]).timestamp() for key in ("begins", "ends"))
    return Obtained(_words(row["name"]), begins_s, ends_s, _words_or_none(row.get("error")))


def _time(value: object) -> datetime:
    try:
        return datetime.strptime(_words(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError as error:
        raise TypeError(value) from error


def _rows(rows: Iterable[Part], of: Callable[[Part], T]) -> tuple[T, ...]:
    found: list[T] = []
    for row in rows:
        with suppress(KeyError, TypeError):
            found.append(of(row))
    return tuple(found)


def _words(value: object) -> str:
    return printable(text(value)[:_WORDS_MAX])[:_WORDS_MAX]


def _words_or_none(value: object) -> str | None:
    return _words(value) if isinstance(value, str) else None


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value


def _count(value: object) -> int:
    try:
        return _whole(value)
    except TypeError:
        return 0


# --- What follows from it


def await_serving(
    cluster: Cluster,
    hosts: Hosts,
    name: str,
    gateways: Collection[str] | None = None,
    instances: Collection[Instance] | None = None,
) -> None:
    """Wait until all gateways, or these, have a host's servers up: of ``instances``, or all that they are to have.

    Raises FiefdomError where that takes long.
    """
    wanted = cluster.routed(name) if instances is None else instances
    start_s = max((cluster.services[i.service].health.start_timeout_s for i in wanted), default=0)
    for late in looks(2 * start_s + cluster.serf.join_timeout_s + 60):
        missing = not_up(_views(cluster, hosts, gateways, ("host", name)), cluster, name, wanted)
        if missing is None:
            return
        if late:
            raise FiefdomError(f"{name}: does not serve again: {missing}; the other hosts were left alone")


def _views(cluster: Cluster, hosts: Hosts, gateways: Collection[str] | None, part: Sequence[str]) -> Views:
    asked = cluster.gateways if gateways is None else gateways
    return hosts.on_all(lambda name: gateway_view(hosts, name, part), asked)


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


def counts(views: Views, hosts: Collection[str], services: Collection[str]) -> dict[tuple[str, str], Count]:
    """What the gateways counted for the servers of ``hosts``; a gateway that did not answer counts nothing."""
    found = {}
    for gateway, view in views.items():
        for server in view.servers_of(hosts):
            if server.service in services:
                found[gateway, server.name] = Count(server.requests, server.errors_5xx + server.failures)
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


def missing(views: Views, cluster: Cluster, host: str, instances: Collection[Instance] | None = None) -> Missing | None:
    """The first thing missing until every gateway has each of the host's instances, or of these, up; or None."""
    for gateway, view in views.items():
        if view.silence is not None:
            return Missing("the gateways", f"{gateway} does not answer: {view.silence}")
        states = {(s.service, s.port): s.state for s in view.servers_of([host])}
        for i in cluster.routed(host) if instances is None else instances:
            state = states.get((i.service, i.port), "out of rotation")
            if state != "up":
                return Missing(i.unit, f"{gateway} has {i.service} at {host}:{i.port} {state}")
    return None


def not_up(views: Views, cluster: Cluster, host: str, instances: Collection[Instance] | None = None) -> str | None:
    """What is missing until every gateway has each of the host's instances, or of these, up; or None."""
    found = missing(views, cluster, host, instances)
    return found.reason if found else None


def up(views: Views, cluster: Cluster, host: str) -> tuple[Instance, ...]:
    """Instances of a host that any gateway has up."""
    seen = {(s.service, s.port) for view in views.values() for s in view.servers_of([host]) if s.state == "up"}
    return tuple(i for i in cluster.routed(host) if (i.service, i.port) in seen)


def alone(
    views: Views,
    cluster: Cluster,
    hosts: Collection[str],
    *,
    if_up: bool = False,
    services: Collection[str] | None = None,
) -> str | None:
    """What would have no server up while ``hosts`` withdraw ``services``, or all of them, together; or None.

    A service that by the inventory runs nowhere else, or that gateways do not have, does not count; nor, with
    ``if_up``, one that a gateway has up on none of ``hosts``, for it loses nothing.
    """
    others = [name for name in cluster.hosts if name not in hosts]
    for service in cluster.services if services is None else services:
        if not cluster.is_routed(service):
            continue
        if not all(any(cluster.count(name, service) for name in group) for group in (hosts, others)):
            continue
        for gateway, view in views.items():
            if view.silence is not None:
                return f"{gateway} does not answer: {view.silence}"
            if not _serves(view, others, service) and (not if_up or _serves(view, hosts, service)):
                return f"{gateway} has {service} up nowhere else"
    return None


def _serves(view: View, hosts: Collection[str], service: str) -> bool:
    return any(server.service == service and server.state == "up" for server in view.servers_of(hosts))
