"""What HAProxy says of its certificates, asked now and then, so that nobody who reads it asks HAProxy."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fiefdom_gateway import certificates, edges
from fiefdom_gateway.edges import Sockets
from fiefdom_gateway.log import Once

EVERY_S = 60.0
RETRY_S = 1.0


class Served:
    """`rows` are as `certificates.served` returns them, of the last time that HAProxy answered."""

    def __init__(self, sockets: Sockets) -> None:
        self.rows: tuple[Mapping[str, Any], ...] = ()
        self._sockets = sockets
        self._say_once = Once()

    async def run(self) -> None:
        """Look until cancelled. Whatever goes wrong, the gateway goes on without it."""
        while True:
            await asyncio.sleep(EVERY_S if await self._look() else RETRY_S)

    async def _look(self) -> bool:
        try:
            self.rows = tuple(await certificates.served(self._ask))
        except edges.Failed:
            return False  # as in the moment of its start; the reconciler says so where it lasts
        except Exception as error:
            self._say_once("certificates", f"what HAProxy tells of its certificates is not understood: {error!r}")
        return True

    async def _ask(self, command: str) -> str:
        return await edges.ask_haproxy(command, self._sockets.admin)
