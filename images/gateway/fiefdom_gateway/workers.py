"""HAProxy's replaced workers, of earlier configurations and containers: each still serves its open connections."""

from dataclasses import dataclass
from pathlib import Path

from fiefdom_gateway import edges, replies
from fiefdom_gateway.edges import Failed, Sockets

_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Worker:
    """One process; only its master still reaches it."""

    master: Path
    pid: int

    async def ask(self, command: str) -> str:
        """Return the reply to a command. Raises Failed."""
        return await edges.ask_haproxy(f"@!{self.pid} {command}", self.master, _TIMEOUT_S)


async def replaced(own: Sockets) -> list[Worker]:
    """Return every worker on this host's gateway but the one that `own` is about."""
    found: list[Worker] = []
    for sockets in edges.all_sockets(own.folder.parent):
        try:
            current, old = replies.parse_workers(await edges.ask_haproxy("show proc", sockets.master, _TIMEOUT_S))
        except Failed:
            continue  # it has ended, or did not begin yet
        found += [Worker(sockets.master, pid) for pid in (old if sockets == own else (*current, *old))]
    return found
