"""A connection to the Serf agent's RPC port: its members, its log, the queries that reach it, and answers to them.

The protocol is a stream of msgpack maps over TCP: https://github.com/hashicorp/serf/blob/v0.10.1/docs/agent/rpc.html.markdown
Texts are left as bytes here, for what members say of themselves may be anything.
"""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from fiefdom_gateway.edges import Failed

TIMEOUT_S = 2.0
_VERSION = 1
# Of all members: 10,000 of them with 512 bytes of tags each.
_LARGEST = 16 * 1024 * 1024

# Serf holds events back for a second to merge them (1.0 s in 0.10.1, also where the agent is asked by this connection),
# but logs them at once; "leaving" is no event at all, only this message. So the log tells when to look, and the events
# that nothing was missed. What else it logs, our own questions to it, too, must not make us look.
_MEMBER_WORDS = (
    b"serf: EventMember",
    b"serf: messageLeaveType",
    b"serf: messageJoinType",
    b"agent: Received event: member",
)
_MEMBER_EVENTS = ("member-join", "member-leave", "member-failed", "member-update", "member-reap")


class Lost(Failed):
    """The connection to the agent has ended, or what came over it is not the protocol's."""


@dataclass(frozen=True)
class Query:
    """A question that reached the agent; `number` is the agent's own for it."""

    number: int
    name: str
    payload: str


@dataclass(frozen=True)
class News:
    """Something about the members may have changed."""


class Agent:
    """One connection. `events` reads it, and everything else needs `events` to be read meanwhile."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=_LARGEST)
        self._last = 0
        # By the number of the request: whether its answer has a body, and who waits for it.
        self._waiting: dict[int, tuple[bool, asyncio.Future[Any]]] = {}
        self._streams: set[int] = set()

    async def members(self) -> dict[str, dict[str, object]]:
        """Return the members by name, each in the shape of `serf members -format json`. Raises Failed."""
        body = await self._ask("members", with_body=True)
        listed = body.get(b"Members") if isinstance(body, dict) else None
        if not isinstance(listed, list):
            raise Failed("Serf's agent answered without a list of members")
        members = [_as_listed(entry) for entry in listed if isinstance(entry, dict)]
        return {str(member["name"]): member for member in members}

    async def respond(self, query: Query, answer: str) -> None:
        """Answer a query. Raises Failed: for one that has expired, too, or that somebody has answered before."""
        await self._ask("respond", {"ID": query.number, "Payload": answer.encode()})

    async def events(self) -> AsyncIterator[Query | News]:
        """Yield what happens until the connection ends. Raises Lost when it does."""
        try:
            while True:
                header = await self._next_map()
                event = await self._handled(header)
                if event is not None:
                    yield event
        finally:
            for _, answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(Lost("the connection to Serf's agent has ended"))
                    answer.exception()  # nobody may be waiting any more
            self._waiting.clear()

    async def _handled(self, header: Mapping[object, object]) -> Query | News | None:
        number = header.get(b"Seq")
        if not isinstance(number, int):
            raise Lost("Serf's agent answers without a number")
        with_body, answer = self._waiting.pop(number, (False, None))
        error = header.get(b"Error")
        body = (
            await self._next_map() if not error and (with_body or (answer is None and number in self._streams)) else {}
        )
        if answer is None:
            return _event(body)
        if not answer.done():
            if error:
                answer.set_exception(Failed(f"Serf's agent refuses: {_text(error)}"))
                answer.exception()
            else:
                answer.set_result(body)
        return None

    async def _ask(self, command: str, body: Mapping[str, object] | None = None, *, with_body: bool = False) -> Any:
        _, answer = self._send(command, body, with_body=with_body)
        try:
            return await asyncio.wait_for(asyncio.shield(answer), TIMEOUT_S)
        except asyncio.TimeoutError:
            raise Failed(f"Serf's agent did not answer {command} within {TIMEOUT_S:g} s") from None
        except OSError as error:
            raise Lost(f"the connection to Serf's agent broke off: {error}") from None

    def _send(
        self, command: str, body: Mapping[str, object] | None = None, *, with_body: bool = False
    ) -> tuple[int, "asyncio.Future[Any]"]:
        self._last += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._last] = (with_body, answer)
        self._writer.write(msgpack.packb({"Command": command, "Seq": self._last}))
        if body is not None:
            self._writer.write(msgpack.packb(body))
        return self._last, answer

    def begin(self, key: str | None, queries: tuple[str, ...]) -> "list[asyncio.Future[Any]]":
        """Say who we are and what we want to hear of; return what must come true while `events` is read."""
        said = [self._send("handshake", {"Version": _VERSION})]
        if key is not None:
            said.append(self._send("auth", {"AuthKey": key}))
        wanted = (*_MEMBER_EVENTS, *(f"query:{name}" for name in queries))
        streams = [self._send("monitor", {"LogLevel": "DEBUG"}), self._send("stream", {"Type": ",".join(wanted)})]
        self._streams.update(number for number, _ in streams)
        return [answer for _, answer in (*said, *streams)]

    def close(self) -> None:
        self._writer.close()

    async def _next_map(self) -> dict[object, object]:
        try:
            found = await self._next()
        except (OSError, ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise Lost(f"the connection to Serf's agent broke off: {error}") from None
        if not isinstance(found, dict):
            raise Lost("Serf's agent sends what is no map")
        return found

    async def _next(self) -> object:
        while True:
            try:
                return self._unpacker.unpack()
            except msgpack.OutOfData:
                more = await self._reader.read(65536)
                if not more:
                    raise Lost("Serf's agent has closed the connection") from None
                self._unpacker.feed(more)


async def connect(rpc_addr: str) -> Agent:
    """Return a connection to the agent at HOST:PORT. Raises Failed."""
    host, _, port = rpc_addr.rpartition(":")
    try:
        return Agent(*await asyncio.wait_for(asyncio.open_connection(host, int(port)), TIMEOUT_S))
    except (OSError, ValueError, OverflowError, asyncio.TimeoutError) as error:
        raise Failed(f"Serf's agent cannot be reached at {rpc_addr}: {error}") from None


def _event(body: Mapping[object, object]) -> Query | News | None:
    log, kind = body.get(b"Log"), body.get(b"Event")
    if isinstance(log, bytes):
        return News() if tells_of_members(log) else None
    if kind != b"query":
        return News() if isinstance(kind, bytes) and kind.startswith(b"member-") else None
    number = body.get(b"ID")
    if not isinstance(number, int):
        return None
    return Query(number, _text(body.get(b"Name")), _text(body.get(b"Payload")))


def tells_of_members(line: bytes) -> bool:
    """Whether a line of the agent's log may mean that members have changed."""
    return any(word in line for word in _MEMBER_WORDS)


def _as_listed(entry: Mapping[object, object]) -> dict[str, object]:
    tags = entry.get(b"Tags")
    return {
        "name": _text(entry.get(b"Name")),
        "addr": f"{_address(entry.get(b'Addr'))}:{entry.get(b'Port')}",
        "status": _text(entry.get(b"Status")),
        "tags": {_text(key): _text(value) for key, value in tags.items()} if isinstance(tags, dict) else {},
    }


def _address(packed: object) -> str:
    try:
        address = ipaddress.ip_address(packed if isinstance(packed, bytes) else b"")
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or f"[{address}]")
    return str(address)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
