"""HAProxy's word of one moment on the servers that it has, of the worker of now and of replaced ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fiefdom_gateway import edges, haproxy, workers
from fiefdom_gateway.edges import Failed, Sockets
from fiefdom_gateway.haproxy import State

_TIMEOUT_S = 2.0

T = TypeVar("T", "Row", "Busy")


class Row(NamedTuple):
    """A server of one worker. `sessions` are open ones, queued too; `requests` those since it came."""

    backend: str
    name: str
    state: State
    up: bool
    sessions: int
    requests: int


class Busy(NamedTuple):
    """A server of a replaced worker that has sessions open, queued ones too."""

    backend: str
    name: str
    sessions: int


@dataclass(frozen=True)
class View:
    """Servers of the worker that takes new connections, by host; and those of replaced ones that have sessions open.

    A replaced worker serves what is on its connections. Its servers cannot be taken out of its rotation: HAProxy 3.0
    refuses that with "Proxy is disabled." It closes each connection after the next answer, though, and asks another
    server where one has stopped.
    """

    current: Mapping[str, list[Row]] = field(default_factory=dict)
    replaced: Mapping[str, list[Busy]] = field(default_factory=dict)


def rows(servers_state: str, stat: str) -> list[Row]:
    """Return a worker's servers, from its replies to `show servers state` and `show stat`. Raises Unreadable."""
    counted = haproxy.parse_open(stat)
    return [
        Row(backend, name, state, up, *counted.get((backend, name), (0, 0)))
        for backend, name, state, up in haproxy.parse_states(servers_state)
    ]


def busy(stat: str) -> list[Busy]:
    """Return the servers with sessions open, from a worker's reply to `show stat`. Raises Unreadable."""
    return [Busy(*server, sessions) for server, (sessions, _) in haproxy.parse_open(stat).items() if sessions]


def by_host(servers: Iterable[T]) -> dict[str, list[T]]:
    """Return servers by the host that their name, HOST-PORT, tells."""
    found: dict[str, list[T]] = {}
    for server in servers:
        found.setdefault(server.name.rpartition("-")[0], []).append(server)
    return found


async def take(sockets: Sockets) -> View:
    """Ask every worker on this host. Raises Failed or Unreadable where one that is there does not tell."""
    # In this order: what is not in rotation any more gets no session after it was asked for.
    states = await edges.ask_haproxy("show servers state", sockets.admin, _TIMEOUT_S)
    current = rows(states, await edges.ask_haproxy("show stat", sockets.admin, _TIMEOUT_S))
    replaced: list[Busy] = []
    for worker in await workers.replaced(sockets):
        try:
            replaced += busy(await worker.ask("show stat"))
        except Failed:
            if worker in await workers.replaced(sockets):
                raise
    return View(by_host(current), by_host(replaced))
