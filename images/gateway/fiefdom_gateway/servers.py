"""What a worker of HAProxy's says of its servers: asked for as much of it as matters, for there may be thousands."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace

from fiefdom_gateway import haproxy, replies
from fiefdom_gateway.compared import Compared
from fiefdom_gateway.replies import Actual
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Server

Ask = Callable[[str], Awaitable[str]]


class Worker:
    """One worker, by what answers its commands."""

    def __init__(self) -> None:
        self._rows = replies.Servers()
        self._parts: dict[str, replies.Servers] = {}
        self._all: tuple[Actual, ...] = ()
        self._all_at_s: float | None = None
        self.compared = Compared()

    async def servers_for(
        self, ask: Ask, wanted: tuple[Server, ...], services: Mapping[str, Service], age_s: float
    ) -> tuple[Actual, ...]:
        """As `servers`, of which those may be of that age that are in backends of which nothing else is wanted now."""
        backends = self.compared.unlike(wanted, services)
        if not backends or self._all_at_s is None or time.monotonic() - self._all_at_s >= age_s:
            return await self.servers(ask, wanted, services)
        return await self.servers_again(ask, self._all, backends, wanted, services)

    async def servers(
        self, ask: Ask, wanted: tuple[Server, ...], services: Mapping[str, Service]
    ) -> tuple[Actual, ...]:
        """Return all its servers; which of them is busy is true of those alone that are not wanted as they are.

        Raises Failed or Unreadable.
        """
        began_s = time.monotonic()
        self._all = self._rows.read(await ask("show servers state"))
        self._all_at_s = began_s
        return await self._busy(ask, self._all, wanted, services)

    async def servers_again(
        self,
        ask: Ask,
        before: Iterable[Actual],
        backends: Iterable[str],
        wanted: tuple[Server, ...],
        services: Mapping[str, Service],
    ) -> tuple[Actual, ...]:
        """As `servers`, where nothing but some backends has changed since ``before``."""
        changed = sorted(set(backends))
        found = [server for server in before if server.backend not in changed]
        for backend in changed:
            rows = self._parts.setdefault(backend, replies.Servers())
            reply = await ask(f"show servers state {backend}")
            if "# " not in reply:
                # The static part that has it was not taken up.
                return await self.servers(ask, wanted, services)
            found += [server for server in rows.read(reply) if server.backend == backend]
        self._all = tuple(replace(s, busy=False) if s.busy else s for s in replies.in_order(found))
        return await self._busy(ask, self._all, wanted, services)

    async def _busy(
        self,
        ask: Ask,
        servers: tuple[Actual, ...],
        wanted: tuple[Server, ...],
        services: Mapping[str, Service],
    ) -> tuple[Actual, ...]:
        for backend in haproxy.backends_to_wait_for(*self.compared.rest(wanted, servers, services), services):
            servers = replies.with_busy(servers, await ask(f"show servers conn {backend}"))
        return servers
