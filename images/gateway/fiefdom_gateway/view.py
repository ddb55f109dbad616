"""HAProxy's word of one moment on the servers that it has, of the worker of now and of replaced ones."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fiefdom_gateway import edges, haproxy, workers
from fiefdom_gateway.edges import Failed, Sockets
from fiefdom_gateway.haproxy import State

_TIMEOUT_S = 2.0


class Row(NamedTuple):
    """A server of one worker. `sessions` are open ones, queued too; `requests` those since it came."""

    backend: str
    name: str
    state: State
    up: bool
    sessions: int
    requests: int


@dataclass(frozen=True)
class View:
    """Servers by host: of the worker that takes new connections, and of those that finish their own."""

    current: Mapping[str, list[Row]] = field(default_factory=dict)
    replaced: Mapping[str, list[Row]] = field(default_factory=dict)


def rows(servers_state: str, stat: str) -> list[Row]:
    """Return a worker's servers, from its replies to `show servers state` and `show stat`. Raises Unreadable."""
    counted = haproxy.parse_open(stat)
    return [
        Row(backend, name, state, up, *counted.get((backend, name), (0, 0)))
        for backend, name, state, up in haproxy.parse_states(servers_state)
    ]


def by_host(servers: Iterable[Row]) -> dict[str, list[Row]]:
    """Return servers by the host that their name, HOST-PORT, tells."""
    found: dict[str, list[Row]] = {}
    for server in servers:
        found.setdefault(server.name.rpartition("-")[0], []).append(server)
    return found


async def take(sockets: Sockets) -> View:
    """Ask every worker on this host. Raises Failed or Unreadable where one that is there does not tell."""

    async def ask(command: str) -> str:
        return await edges.ask_haproxy(command, sockets.admin, _TIMEOUT_S)

    current = await _rows_of(ask)
    replaced: list[Row] = []
    for worker in await workers.replaced(sockets):
        try:
            replaced += await _rows_of(worker.ask)
        except Failed:
            if worker in await workers.replaced(sockets):
                raise
    return View(by_host(current), by_host(replaced))


async def _rows_of(ask: Callable[[str], Awaitable[str]]) -> list[Row]:
    # In this order: what is not in rotation any more gets no session after it was asked for.
    states = await ask("show servers state")
    return rows(states, await ask("show stat"))
