"""The configuration that a restarted HAProxy begins with: the last good static part, with the servers of now.

HAProxy takes a while to judge one of thousands of servers. No change of servers waits for that: HAProxy has them
already, and a gateway that starts puts this file together anew. So servers are written beside the rounds, one text at a
time, and only a static part that HAProxy is to run is judged at once.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from fiefdom_gateway import edges, haproxy
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.log import Once
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Server
from fiefdom_gateway.written import Written

Parts = tuple[str, tuple[Server, ...], Mapping[str, Service]]
"""A static part, the servers, and the services that they are of."""


class LastGood:
    """Writes it, when HAProxy has found nothing wrong with it."""

    def __init__(self, state_dir: Path, written: Written, say_once: Once) -> None:
        self.config_file = state_dir / "haproxy.cfg"
        self.static_file = state_dir / "static.cfg"
        self._written = written
        self._say_once = say_once
        self._kept: Parts | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def install(self, parts: Parts) -> None:
        """Make this the configuration that HAProxy reads next. Raises Failed."""
        await self.stand_still()
        self._kept = None
        await self._write(parts)

    def keep(self, parts: Parts, *, calm: bool) -> None:
        """See to it that this becomes what HAProxy would begin with; what is on its way ends first.

        While it is not calm, servers that are new wait: more of them are likely to follow.
        """
        if self._keeping is not None and not self._keeping.done():
            return
        if not calm and self._kept is not None and self._kept[0] is parts[0]:
            return
        if self._kept is None or any(new is not old for new, old in zip(parts, self._kept, strict=True)):
            self._keeping = asyncio.create_task(self._keep(parts))

    async def stand_still(self) -> None:
        """End what is on its way, half done or not."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def go_on(self) -> None:
        """Another container has written the files."""
        self._kept = None

    async def _keep(self, parts: Parts) -> None:
        try:
            await self._write(parts)
            self._written.write(self.static_file, parts[0])
        except Failed as error:
            self._say_once("last good", f"the last good configuration is not of today: {error}")
            return
        self._kept = parts
        self._say_once("last good", None, mended="the last good configuration is of today again")

    async def _write(self, parts: Parts) -> None:
        text = haproxy.render(*parts)
        if self._written.has(self.config_file, text):
            return
        candidate = self.config_file.with_name("candidate.cfg")
        edges.write_atomically(candidate, text)
        await edges.validate(candidate)
        self._written.write(self.config_file, text)
