"""One look for all who ask at the same moment."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What a look found that began at `began_s` of time.monotonic(): nothing that happened before is missing."""

    found: T
    began_s: float


class Shared(Generic[T]):
    """Takes looks one after the other, and hands each to everybody for whom it is young enough."""

    def __init__(self, take: Callable[[], Awaitable[T]]) -> None:
        self._take = take
        self._last: Seen[T] | None = None
        self._running: asyncio.Task[Seen[T]] | None = None
        self._began_s = 0.0
        self.taken = 0

    async def since(self, at_s: float) -> Seen[T]:
        """Return a look that began at `at_s` or later. Raises what the look raises."""
        while self._last is None or self._last.began_s < at_s:
            if self._running is None:
                self._began_s = time.monotonic()
                self._running = asyncio.create_task(self._look(self._began_s))
                # Nobody may be there any more to hear why it failed.
                self._running.add_done_callback(lambda done: done.cancelled() or done.exception())
            young_enough = self._began_s >= at_s
            running = self._running
            await asyncio.wait([running])
            if young_enough:
                return running.result()
        return self._last

    async def _look(self, began_s: float) -> Seen[T]:
        try:
            self._last = Seen(await self._take(), began_s)
        finally:
            self._running = None
            self.taken += 1
        return self._last
