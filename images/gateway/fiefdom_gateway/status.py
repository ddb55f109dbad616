"""The status document: what the last look found, and HAProxy's own word of this moment."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import NamedTuple

from fiefdom_gateway import certificates, edges, replies, view, workers
from fiefdom_gateway.acme import Told
from fiefdom_gateway.members import Member, Offer, Rejection, Unreadable
from fiefdom_gateway.packed import Names
from fiefdom_gateway.refusal import Refusal
from fiefdom_gateway.settings import Service
from fiefdom_gateway.shares import Share
from fiefdom_gateway.wanted import Server

Ask = Callable[[str], Awaitable[str]]


@dataclass(frozen=True)
class Look:
    """What the last rounds of the reconciler found. Times are of time.monotonic().

    `read` are the members as Serf listed them; `members` are those that are believed, with what is believed of them.
    `names` are the versions by which codes were read; `actual` are the servers that HAProxy had after the last round.
    `closed` are the services in whose place HAProxy answers, because an operator said so, and `shares` what he said of
    versions, as HAProxy's weights have it; None before HAProxy has told. `asked_shares` are what it is to have.
    """

    node: str
    services: Mapping[str, Service]
    read: Mapping[str, Member] = field(default_factory=dict)
    members: tuple[Member, ...] = ()
    refused: tuple[Rejection, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    wanted: tuple[Server, ...] = ()
    actual: tuple[replies.Actual, ...] = ()
    serf_error: str | None = "has not answered yet"
    config_error: str | None = None
    config_digest: str | None = None
    refusal: Refusal | None = None
    reconciled_at_s: float | None = None
    closed: frozenset[str] | None = None
    names: Names = field(default_factory=dict)
    shares: tuple[Share, ...] | None = None
    asked_shares: tuple[Share, ...] = ()
    looked: bool = False
    ready: bool = False

    def offers_of(self, host: str) -> tuple[Offer, ...]:
        """What is believed of a host's offers."""
        return self._offers.get(host, ())

    def wanted_of(self, host: str) -> list[Server]:
        """The servers that HAProxy should have of a host."""
        return self._wanted.get(host, [])

    @cached_property
    def _offers(self) -> dict[str, tuple[Offer, ...]]:
        return {member.name: member.offers for member in self.members}

    @cached_property
    def _wanted(self) -> dict[str, list[Server]]:
        found: dict[str, list[Server]] = {}
        for server in self.wanted:
            found.setdefault(server.name.rpartition("-")[0], []).append(server)
        return found


class Part(NamedTuple):
    """Whose servers are asked for: those of `names` where the kind is `host` or `service`, none for a `summary`."""

    kind: str = "all"
    names: frozenset[str] = frozenset()


ALL = Part()


async def document(
    look: Look, sockets: edges.Sockets, told: Iterable[Told] = (), part: Part = ALL
) -> dict[str, object]:
    """Return the status document, or a part of it. HAProxy not answering is a fact in it, not an error."""

    async def ask(command: str) -> str:
        return await edges.ask_haproxy(command, sockets.admin, 2.0)

    try:
        servers = [] if part.kind == "summary" else await _rows(ask, look, sockets, part)
        info = replies.parse_info(await ask("show info"))
        own: dict[str, object] = {
            "version": info.get("Version"),
            "pid": whole(info.get("Pid")),
            "uptime_s": whole(info.get("Uptime_sec")),
        }
        # HAProxy's kind 1 are frontends.
        answers = replies.takes_connections(await ask("show stat -1 1 -1"))
    except (edges.Failed, Unreadable) as error:
        servers, own, answers = [], {"version": None, "pid": None, "uptime_s": None, "error": str(error)}, False
    served: list[dict[str, object]] = []
    # Who serves is well, whatever it does not say of its certificates.
    with suppress(edges.Failed):
        served = await certificates.served(ask)
    since = look.reconciled_at_s
    # Nobody is to believe what stands in the place of one that is not there yet.
    placeholders = {one.name for one in told if one.facts is None}
    return {
        "node": look.node,
        "serf": {"ok": look.serf_error is None, "error": look.serf_error},
        "members": [asdict(member) for member in look.members],
        "servers": servers,
        "certificates": [row for row in served if row["name"] not in placeholders],
        "obtained": [obtained(one) for one in told],
        **words_kept(look),
        "rejected": [asdict(rejection) for rejection in look.rejected],
        "config": config_part(look, time.monotonic()),
        "reconciled_s_ago": None if since is None else round(time.monotonic() - since, 3),
        "haproxy": own,
        "healthy": look.ready and answers,
    }


async def _rows(ask: Ask, look: Look, sockets: edges.Sockets, part: Part) -> list[dict[str, object]]:
    """Return the rows of the servers that a part has. Raises Failed or Unreadable."""
    if part.kind == "service":
        backends = sorted(s.backend for name, s in look.services.items() if name in part.names)
        told = [(await ask(f"show servers state {b}"), await ask(f"show stat {b} 4 -1")) for b in backends]
        # Of a configuration that was not taken up yet it does not have the backend.
        told = [(states, stat) for states, stat in told if "# " in states]
    else:
        told = [(await ask("show servers state"), await ask("show stat"))]
    elsewhere = await _sessions_elsewhere(sockets)
    rows: list[dict[str, object]] = []
    for states, stat in told:
        for host in sorted(part.names) if part.kind == "host" else ("",):
            if host:
                own = view.lines_about(view.whole(states), f" {host}-"), view.lines_about(view.whole(stat), f",{host}-")
            else:
                own = states, stat
            found = replies.Servers().read(own[0])
            actual = [server for server in found if not host or server.name.rpartition("-")[0] == host]
            rows += server_rows(look, actual, replies.traffic(own[1]), elsewhere)
    return rows


def words_kept(look: Look) -> dict[str, object]:
    """What an operator said, as far as HAProxy does so: who waits for it is not to take silence for an answer."""
    found: dict[str, object] = {"asked_shares": [asdict(share) for share in look.asked_shares]}
    if look.closed is not None:
        found["maintenance"] = [{"service": name} for name in sorted(look.closed & look.services.keys())]
    if look.shares is not None:
        found["shares"] = [asdict(share) for share in look.shares if share.service in look.services]
    return found


def config_part(look: Look, now_s: float) -> dict[str, object]:
    """Return what HAProxy runs, and what it does not and when that is tried again, if ever."""
    refusal = look.refusal
    again_at_s = None if refusal is None else refusal.again_at_s
    return {
        "ok": look.config_error is None,
        "error": look.config_error,
        "digest": look.config_digest,
        "refused": None if refusal is None else refusal.digest,
        "retry_in_s": None if again_at_s is None else round(max(again_at_s - now_s, 0.0), 1),
    }


def obtained(told: Told) -> dict[str, object]:
    """Return the row of a name for which an authority is asked."""
    return {
        "name": told.name,
        "begins": told.facts and _as_time(told.facts.begins_s),
        "ends": told.facts and _as_time(told.facts.ends_s),
        "error": told.error,
        "failures": told.failures,
        "retry_in_s": round(told.retry_in_s),
    }


def _as_time(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))


async def _sessions_elsewhere(sockets: edges.Sockets) -> Counter[tuple[str, str]]:
    """Count the open sessions of each server in replaced workers: a host that leaves must wait for these, too."""
    sessions: Counter[tuple[str, str]] = Counter()
    for worker in await workers.replaced(sockets):
        try:
            found = replies.traffic(await worker.ask("show stat"))
        except (edges.Failed, Unreadable):
            continue  # it ended just now
        sessions.update({key: counted.sessions for key, counted in found.items()})
    return sessions


def server_rows(
    look: Look,
    actual: Iterable[replies.Actual],
    traffic: Mapping[tuple[str, str], replies.Traffic],
    elsewhere: Mapping[tuple[str, str], int],
) -> list[dict[str, object]]:
    """Return a row per server that HAProxy has in the services' backends; `elsewhere` are sessions of other workers."""
    service_of = {service.backend: service.name for service in look.services.values()}
    version_of = {(server.service, server.name): server.version for server in look.wanted}
    return [
        {
            "service": service_of[server.backend],
            "name": server.name,
            "address": server.address,
            "port": server.port,
            "state": shown_state(server),
            **_counted(server, traffic, elsewhere),
            "version": version_of.get((service_of[server.backend], server.name)),
        }
        for server in actual
        if server.backend in service_of
    ]


def _counted(
    server: replies.Actual,
    traffic: Mapping[tuple[str, str], replies.Traffic],
    elsewhere: Mapping[tuple[str, str], int],
) -> dict[str, int]:
    key = (server.backend, server.name)
    own = traffic.get(key, replies.Traffic())
    return {**vars(own), "sessions": own.sessions + elsewhere.get(key, 0)}


def shown_state(server: replies.Actual) -> str:
    """Return a server's state as people read it: up, down, drain or maint."""
    if server.state is replies.State.READY:
        return "up" if server.up else "down"
    return "drain" if server.state is replies.State.DRAIN else "maint"


def whole(text: str | None) -> int | None:
    """Return a word as a number; None where it is none."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
