"""Answers hosts' questions over the Serf agent's RPC stream, and wakes the reconciler when the members change.

Many hosts ask at once, so nothing is done per question that can be done once: HAProxy is looked at for all questions of
200 ms, Serf's members for all that came before the look began. A host takes what it is told for a leave to stop its
instances. So what is told of it holds for what the agent lists of it after the question came, as the reconciler has
looked at it and brought it to HAProxy; where one lags behind the other, that is the answer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from fiefdom_gateway import edges, rotation, serf
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.log import Once, printable
from fiefdom_gateway.members import Unreadable, read_member
from fiefdom_gateway.settings import Settings
from fiefdom_gateway.shared import Seen, Shared
from fiefdom_gateway.status import Look
from fiefdom_gateway.view import View

VIEW_AGE_S = 0.2
# How long a question waits for its word to become true, so that who asks hears of it at once; he waits a while longer.
# Meanwhile it is looked at again after a pause, or after this many times what the last look took.
HOLD_S = 0.4
_HELD_PAUSE_S = 0.03
_HELD_SHARE = 4
# HAProxy is changed in bursts, and a view that began before the last one is not used.
_TRIES = 3
# A query lives for a second or so, and who got no answer asks again: a flood must not become a queue.
_PENDING_MAX = 1000
_ANSWER_MAX = 200

Members = Shared[dict[str, dict[str, object]]]
"""Serf's list of the members by name."""


class Reconciling(Protocol):
    """What is asked of the reconciler."""

    settings: Settings
    look: Look
    looking: asyncio.Lock

    @property
    def acted_at_s(self) -> float: ...

    def look_again(self) -> None: ...

    def hear(self, host: str, service: str | None, version: str) -> None: ...


class Answers:
    """Answers while it is this container's turn: from `go_on` until `stand_still`."""

    def __init__(self, reconciler: Reconciling, take_view: Callable[[str | None], Awaitable[View]]) -> None:
        # By backend; those of all backends by none.
        self.views: dict[str | None, Shared[View]] = {}
        self._take_view = take_view
        self._reconciler = reconciler
        self._has_turn = False
        self._pending: set[asyncio.Task[None]] = set()
        self._say_once = Once()

    @property
    def looks(self) -> int:
        """How often HAProxy was looked at."""
        return sum(views.taken for views in self.views.values())

    async def stand_still(self) -> None:
        """Answer nobody: another container does. Who has no answer yet asks again."""
        self._has_turn = False
        for task in list(self._pending):
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    def go_on(self) -> None:
        """Answer from now on."""
        self._has_turn = True

    async def follow(self) -> None:
        """Follow the agent until the connection to it ends."""
        settings = self._reconciler.settings
        try:
            agent = await serf.connect(settings.rpc_addr)
        except Failed:
            return  # it starts, or starts again; the reconciler tells where it stays away
        began = asyncio.gather(*agent.begin(edges.rpc_key(settings.serf_config), tuple(rotation.QUERIES)))
        began.add_done_callback(lambda done: self._begun(agent, done))
        late = asyncio.get_running_loop().call_later(serf.TIMEOUT_S, began.cancel)
        try:
            await self._read(agent)
        except serf.Lost:
            pass
        finally:
            late.cancel()
            agent.close()
            for task in list(self._pending):
                task.cancel()

    def _begun(self, agent: serf.Agent, began: "asyncio.Future[list[object]]") -> None:
        error = "it took too long" if began.cancelled() else began.exception()
        if error is None:
            self._say_once("stream", None, mended="hosts' questions are heard again")
            # What happened before is in no stream.
            self._reconciler.look_again()
            return
        agent.close()
        if not isinstance(error, serf.Lost):
            self._say_once("stream", f"hosts' questions cannot be heard: {error}")

    async def _read(self, agent: serf.Agent) -> None:
        members = Shared(agent.members)
        async for event in agent.events():
            if isinstance(event, serf.News):
                self._reconciler.look_again()
            elif self._has_turn and len(self._pending) < _PENDING_MAX:
                task = asyncio.create_task(self._answer(agent, members, event))
                self._pending.add(task)
                task.add_done_callback(self._pending.discard)

    async def _answer(self, agent: serf.Agent, members: Members, query: serf.Query) -> None:
        question = rotation.understood(query.name, query.payload)
        if question is None:
            words = rotation.NOT_UNDERSTOOD
        else:
            words = await self._held(question, members)
        with suppress(Failed):  # it has expired: who asked asks again
            await agent.respond(query, printable(words, _ANSWER_MAX))

    async def _held(self, question: rotation.Question, members: Members) -> str:
        """Return the word that is asked for as soon as it is true, or what there is instead after a while."""
        came_s = time.monotonic()
        age_s = VIEW_AGE_S
        while True:
            began_s = time.monotonic()
            words = await self.words(question, members, age_s)
            pause_s = max(_HELD_PAUSE_S, (time.monotonic() - began_s) * _HELD_SHARE)
            if words == question.word or began_s + pause_s > came_s + HOLD_S:
                return words
            await asyncio.sleep(pause_s)
            age_s = min(pause_s, VIEW_AGE_S)

    async def words(self, question: rotation.Question, members: Members, age_s: float = VIEW_AGE_S) -> str:
        """Return the answer to a question as it is now, from a view of HAProxy that is no older than ``age_s``."""
        try:
            listed = await members.since(time.monotonic())
            # One that began before that list may find less than it.
            async with self._reconciler.looking:
                pass
            view = await self._view(age_s, self._backend(question.service))
        except (Failed, Unreadable) as error:
            return f"the gateway cannot tell: {error}"
        if view is None:
            return "HAProxy is being changed"
        if not self._has_looked_at(question.host, listed.found):
            self._reconciler.look_again()
            return f"the gateway has yet to look at what {question.host} says now"
        if question.version is not None:
            self._reconciler.hear(question.host, question.service, question.version)
        try:
            return rotation.answer(question, self._reconciler.look, view.found)
        except Unreadable as error:
            return f"the gateway cannot tell: {error}"

    def _backend(self, service: str | None) -> str | None:
        """What HAProxy is asked about for a service: of one that is routed no more it is asked all."""
        known = None if service is None else self._reconciler.look.services.get(service)
        return None if known is None else known.backend

    async def _view(self, age_s: float, backend: str | None) -> Seen[View] | None:
        """Return a view of a backend, or all, of that age, no older than HAProxy's last change; None if it fails."""
        young_s = time.monotonic() - age_s
        views = self.views.setdefault(backend, Shared(lambda: self._take_view(backend)))
        for _ in range(_TRIES):
            view = await views.since(max(young_s, self._reconciler.acted_at_s))
            if view.began_s >= self._reconciler.acted_at_s:
                return view
        return None

    def _has_looked_at(self, host: str, listed: Mapping[str, Mapping[str, object]]) -> bool:
        """Whether the reconciler's last look found of a host what Serf lists of it now."""
        look = self._reconciler.look
        return look.read.get(host) == read_member(listed.get(host), look.services, look.names)
