"""HAProxy's word of one moment on the servers that it has, of the worker of now and of replaced ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fiefdom_gateway import edges, replies, workers
from fiefdom_gateway.edges import Failed, Sockets
from fiefdom_gateway.members import Unreadable
from fiefdom_gateway.replies import State

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


class Current:
    """Servers in a worker's replies to `show servers state` and `show stat`.

    There may be thousands, and a question is about one host: of the rest nothing is read.
    """

    def __init__(self, servers_state: str, stat: str) -> None:
        self._servers_state = whole(servers_state)
        self._stat = whole(stat)

    def get(self, host: str, default: tuple[()], /) -> Iterable[Row]:
        """Raises Unreadable."""
        found = rows(lines_about(self._servers_state, f" {host}-"), lines_about(self._stat, f",{host}-"))
        return by_host(found).get(host, default)


class Replaced:
    """Servers with sessions open in replaced workers' replies to `show stat`."""

    def __init__(self, stats: Iterable[str]) -> None:
        self._stats = [whole(stat) for stat in stats]

    def get(self, host: str, default: tuple[()], /) -> Iterable[Busy]:
        """Raises Unreadable."""
        found = [server for stat in self._stats for server in busy(lines_about(stat, f",{host}-"))]
        return by_host(found).get(host, default)


@dataclass(frozen=True)
class View:
    """Servers of the worker that takes new connections, by host; and those of replaced ones that have sessions open.

    A replaced worker serves what is on its connections. Its servers cannot be taken out of its rotation: HAProxy 3.0
    refuses that with "Proxy is disabled." It closes each connection after the next answer, though, and asks another
    server where one has stopped.
    """

    current: Mapping[str, list[Row]] | Current = field(default_factory=dict)
    replaced: Mapping[str, list[Busy]] | Replaced = field(default_factory=dict)


def whole(reply: str) -> str:
    """Return a reply that does not break off within a line. Raises Unreadable."""
    if not reply.endswith("\n"):
        raise Unreadable("HAProxy's reply breaks off")
    return reply


def lines_about(reply: str, text: str) -> str:
    """Return the header line of a reply, and its lines that have a text in them."""
    start = reply.find("# ")
    at = reply.find("\n", start) + 1
    found = [reply[start:at]]
    while (at := reply.find(text, at)) >= 0:
        begin, end = reply.rfind("\n", 0, at) + 1, reply.find("\n", at) + 1
        found.append(reply[begin:end])
        at = end
    return "".join(found)


def rows(servers_state: str, stat: str) -> list[Row]:
    """Return a worker's servers, from its replies to `show servers state` and `show stat`. Raises Unreadable."""
    counted = replies.parse_open(stat)
    return [
        Row(backend, name, state, up, *counted.get((backend, name), (0, 0)))
        for backend, name, state, up in replies.parse_states(servers_state)
    ]


def busy(stat: str) -> list[Busy]:
    """Return the servers with sessions open, from a worker's reply to `show stat`. Raises Unreadable."""
    return [Busy(*server, sessions) for server, (sessions, _) in replies.parse_open(stat).items() if sessions]


def by_host(servers: Iterable[T]) -> dict[str, list[T]]:
    """Return servers by the host that their name, HOST-PORT, tells."""
    found: dict[str, list[T]] = {}
    for server in servers:
        found.setdefault(server.name.rpartition("-")[0], []).append(server)
    return found


async def take(sockets: Sockets, backend: str | None = None) -> View:
    """Ask every worker on this host, of one backend's servers or of all.

    Raises Failed or Unreadable where one that is there does not tell.
    """
    # HAProxy's kind 4 are servers.
    show_state = "show servers state" + (f" {backend}" if backend else "")
    show_stat = "show stat" + (f" {backend} 4 -1" if backend else "")
    # In this order: what is not in rotation any more gets no session after it was asked for.
    states = await edges.ask_haproxy(show_state, sockets.admin, _TIMEOUT_S)
    if backend and "# " not in states:
        # The static part that has it was not taken up.
        return await take(sockets)
    current = Current(states, await edges.ask_haproxy(show_stat, sockets.admin, _TIMEOUT_S))
    replaced: list[str] = []
    for worker in await workers.replaced(sockets):
        try:
            # Of an earlier configuration it may not have the backend.
            replaced.append(whole(await worker.ask("show stat")))
        except Failed:
            if worker in await workers.replaced(sockets):
                raise
    return View(current, Replaced(replaced))
