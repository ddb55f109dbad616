"""What a worker of HAProxy's says of its servers: asked for as much of it as matters, for there may be thousands."""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from fiefdom_gateway import haproxy
from fiefdom_gateway.haproxy import Actual
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Server

Ask = Callable[[str], Awaitable[str]]


class Worker:
    """One worker, by what answers its commands."""

    def __init__(self) -> None:
        self._rows = haproxy.Servers()
        self._parts: dict[str, haproxy.Servers] = {}

    async def servers(
        self, ask: Ask, wanted: tuple[Server, ...], services: Mapping[str, Service]
    ) -> tuple[Actual, ...]:
        """Return all its servers; which of them is busy is true of those alone that are not wanted as they are.

        Raises Failed or Unreadable.
        """
        return await self._busy(ask, self._rows.read(await ask("show servers state")), wanted, services)

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
            rows = self._parts.setdefault(backend, haproxy.Servers())
            reply = await ask(f"show servers state {backend}")
            if "# " not in reply:
                # The static part that has it was not taken up.
                return await self.servers(ask, wanted, services)
            found += [server for server in rows.read(reply) if server.backend == backend]
        return await self._busy(ask, haproxy.in_order(found), wanted, services)

    async def _busy(
        self,
        ask: Ask,
        servers: tuple[Actual, ...],
        wanted: tuple[Server, ...],
        services: Mapping[str, Service],
    ) -> tuple[Actual, ...]:
        for backend in haproxy.backends_to_wait_for(wanted, servers, services):
            servers = haproxy.with_busy(servers, await ask(f"show servers conn {backend}"))
        return servers
