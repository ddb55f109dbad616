"""Upgraded connections, such as WebSockets: found among HAProxy's sessions, and closed.

An upgraded one has status 101 and is a tunnel in both directions. The state alone tells nothing: HAProxy 3.0 has a
response that ends with its connection as `rsp.st=MSG_TUNNEL`, too, under its own status and with the request done.
"""

import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from fiefdom_gateway.log import say
from fiefdom_gateway.settings import Service

# Each takes two commands of half a millisecond, and other hosts' servers wait meanwhile. The rest is closed next time.
AT_ONCE = 300

_LISTED = re.compile(r"(0x[0-9a-f]{1,16}): .*? be=(\S+) srv=(\S+) ", re.ASCII)
_TRANSACTION = re.compile(
    r"^ +txn=\S+ .*\bstatus=101 req\.st=MSG_TUNNEL rsp\.st=MSG_TUNNEL( |$)", re.MULTILINE | re.ASCII
)
_BACKEND = re.compile(r"^ +backend=(\S+) ", re.MULTILINE | re.ASCII)
_SERVER = re.compile(r"^ +server=(\S+) ", re.MULTILINE | re.ASCII)

# How soon to look again while a server is to have no upgraded connections.
AGAIN_S = 0.5

Target = tuple[str, str]
"""Backend and name of a server."""
Ask = Callable[[str], Awaitable[str]]


def sessions_of(listed: str, servers: Collection[Target]) -> list[tuple[str, Target]]:
    """Return the sessions on some servers, in the reply of `show sess`, with their server."""
    found = (_LISTED.match(line) for line in listed.splitlines())
    return [(match[1], (match[2], match[3])) for match in found if match and (match[2], match[3]) in servers]


def is_upgraded(session: str, server: Target, *, is_tcp: bool = False) -> bool:
    """Whether the reply of `show sess ID` is about an upgraded connection to a server, or any to one that `is_tcp`."""
    backend, name = _BACKEND.search(session), _SERVER.search(session)
    if backend is None or name is None or (backend[1], name[1]) != server:
        return False
    return is_tcp or _TRANSACTION.search(session) is not None


async def close(ask: Ask, servers: Collection[Target], tcp: Collection[str] = ()) -> int:
    """Close upgraded connections to some servers, and nothing else there; return how many. Raises Failed.

    Of servers in the backends `tcp` all are closed, for there is nothing else.

    HAProxy knows a session by its place in memory, which is another one's as soon as it ends: each is looked at again
    in the last moment.
    """
    closed = 0
    for session, server in sessions_of(await ask("show sess"), servers):
        if closed < AT_ONCE and is_upgraded(await ask(f"show sess {session}"), server, is_tcp=server[0] in tcp):
            await ask(f"shutdown session {session}")
            closed += 1
    return closed


class Closing:
    """Closes them for as long as their servers drain: a request that is open there may be upgraded yet."""

    def __init__(self) -> None:
        # By worker: servers whose upgraded connections were closed last, and when.
        self._last: dict[str, tuple[frozenset[Target], float]] = {}

    @property
    def busy(self) -> bool:
        """Whether some server is to have no upgraded connections."""
        return bool(self._last)

    def keep(self, workers: Collection[str]) -> None:
        """Forget all but these workers."""
        self._last = {name: last for name, last in self._last.items() if name in workers}

    async def close(self, worker: str, ask: Ask, servers: frozenset[Target], services: Mapping[str, Service]) -> None:
        """Close those to some servers of a worker, unless that was done just now. Raises Failed."""
        before, at_s = self._last.pop(worker, (frozenset(), 0.0))
        if not servers:
            return
        now_s = time.monotonic()
        if servers <= before and now_s - at_s < AGAIN_S:
            self._last[worker] = before, at_s
            return
        self._last[worker] = servers, now_s
        tcp = {service.backend for service in services.values() if service.is_tcp}
        closed = await close(ask, servers, tcp)
        if closed:
            say(f"{closed} upgraded connections closed to {', '.join('/'.join(server) for server in sorted(servers))}")
