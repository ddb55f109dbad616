"""Making HAProxy's workers like what is wanted: all of the one that serves, and of replaced ones what is to go."""

import time
from collections.abc import Iterable, Mapping

from fiefdom_gateway import edges, haproxy, news, servers, upgraded, workers
from fiefdom_gateway.edges import Failed, Sockets
from fiefdom_gateway.log import Once
from fiefdom_gateway.members import Unreadable
from fiefdom_gateway.replies import Actual
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Server

Services = Mapping[str, Service]


class Applying:
    """What workers are told, and what they said last."""

    def __init__(self, sockets: Sockets, say_once: Once) -> None:
        self._sockets = sockets
        self._say_once = say_once
        # When HAProxy was last told anything, of time.monotonic().
        self.acted_at_s = time.monotonic()
        # The same, but for replaced workers, which may be told in vain for as long as they live.
        self.changed_at_s = self.acted_at_s
        self._closing = upgraded.Closing()
        # What HAProxy's workers say, by worker; by an empty name the one that serves.
        self._workers: dict[str, servers.Worker] = {}

    @property
    def closing(self) -> bool:
        """Whether a server is to have no upgraded connections: a request that is open there may be upgraded yet."""
        return self._closing.busy

    async def ask(self, command: str) -> str:
        """Return the reply of the worker that serves. Raises Failed."""
        return await edges.ask_haproxy(command, self._sockets.admin)

    async def reload(self, timeout_s: float) -> str:
        """Have another worker serve from now on, with the configuration as it is; what HAProxy says. Raises Failed."""
        try:
            return await edges.ask_haproxy("reload", self._sockets.master, timeout_s)
        finally:
            self.acted_at_s = time.monotonic()
            self._workers.pop("", None)

    def forget(self) -> None:
        """Whatever workers said: others may have told them anything meanwhile."""
        self._workers.clear()

    async def apply(
        self, wanted: tuple[Server, ...], services: Services, age_s: float
    ) -> tuple[tuple[Actual, ...], bool]:
        """Do what can be done now; what servers there are then, and whether these are exactly the wanted ones.

        What was said less than ``age_s`` ago of servers that are as they should be is believed.
        Raises Failed or Unreadable.
        """
        try:
            own = self._worker("")
            actual = await own.servers_for(self.ask, wanted, services, age_s)
            rest = own.compared.rest(wanted, actual, services)
            commands = haproxy.next_commands(*rest, services)
            if commands:
                try:
                    await self._command(commands)
                finally:
                    self.acted_at_s = self.changed_at_s = time.monotonic()
                changed = (command.backend for command in commands)
                actual = await own.servers_again(self.ask, actual, changed, wanted, services)
                rest = own.compared.rest(wanted, actual, services)
            await self._close_upgraded("", self.ask, *rest, services)
            return actual, own.compared.note(rest, services)
        except (Failed, Unreadable):
            self._workers.pop("", None)
            raise

    async def drain_stragglers(self, wanted: tuple[Server, ...], services: Services) -> None:
        """Keep replaced workers, which know no reconciler of their own any more, from servers that are to go."""
        replaced = await workers.replaced(self._sockets)
        there = {"", *map(str, replaced)}
        self._closing.keep(there)
        self._workers = {name: worker for name, worker in self._workers.items() if name in there}
        for worker in replaced:
            try:
                actual = await self._worker(str(worker)).servers(worker.ask, wanted, services)
                for command in haproxy.stragglers(wanted, actual, services):
                    await worker.ask(haproxy.command_line(command))
                    self.acted_at_s = time.monotonic()
                await self._close_upgraded(str(worker), worker.ask, wanted, actual, services)
            except (Failed, Unreadable):
                continue  # it ended just now

    async def _close_upgraded(
        self, worker: str, ask: upgraded.Ask, wanted: Iterable[Server], actual: Iterable[Actual], services: Services
    ) -> None:
        """Close upgraded connections to servers that drain, where their service says so."""
        await self._closing.close(worker, ask, haproxy.to_close(wanted, actual, services), services)

    def _worker(self, name: str) -> servers.Worker:
        return self._workers.setdefault(name, servers.Worker())

    async def _command(self, commands: Iterable[haproxy.Command]) -> None:
        refused: set[tuple[str, str]] = set()
        for command in commands:
            key = (command.backend, command.name)
            if key in refused:
                continue
            line = haproxy.command_line(command)
            refusal = haproxy.command_error(command, await self.ask(line))
            if refusal is None:
                news.of_command(command)
            else:
                refused.add(key)
                if haproxy.must_wait(command, refusal):
                    continue
            self._say_once(f"command {'/'.join(key)}", refusal and f"HAProxy refused '{line}': {refusal}")
