"""What the gateway itself answers over HTTP: a table of paths on a unix socket, which HAProxy's stats port leads to.

HAProxy stands before it and judges what is HTTP, so little is understood here: one GET or HEAD on each connection, no
body. What goes wrong here is an answer or a line, never an error of the reconciler's.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl

from fiefdom_gateway.log import Once

# HAProxy sends 16 KiB of headers at most, and its server line lets fewer connections through.
HEAD_LIMIT = 16384
OPEN_LIMIT = 32
READ_LIMIT_S = 5.0
ANSWER_LIMIT_S = 10.0
TAKE_LIMIT_S = 5.0
QUERY_FIELDS = 8

# For an answer that a browser may show: nothing from elsewhere, nothing kept, in nobody's frame, no text that becomes
# markup or a program.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Answer:
    """An answer of the table. `headers` are added to the ones that all answers have, and cannot replace those."""

    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


Page = Callable[[], Answer | Awaitable[Answer]]
"""What answers a path. One that is not async holds the reconciler up as long as it takes: milliseconds, not more."""


@dataclass(frozen=True)
class Asked:
    """A page that is also told its query: the last value of each name, of few."""

    page: Callable[[Mapping[str, str]], Answer | Awaitable[Answer]]


Table = Mapping[str, Page | Asked]


class Web:
    """Answers the paths of a table. Any other path is 404: none of them ever is a file's name."""

    def __init__(self, table: Table) -> None:
        self._table = dict(table)
        self._open = 0
        self._server: asyncio.AbstractServer | None = None
        self._say_once = Once()

    async def open(self, path: Path) -> None:
        """Listen on a unix socket. Where that fails it is said, and HAProxy answers 503 in place of the pages."""
        try:
            path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, path, limit=HEAD_LIMIT)
        except OSError as error:
            self._say_once("socket", f"the gateway's own pages cannot be served: {error}")

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        taken = False
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):  # who asked has gone, or sleeps
                method, answer = await self._exchange(reader)
                # Whoever does not take all of it is waited for, and no rest of it stays behind.
                writer.transport.set_write_buffer_limits(high=0)
                writer.write(as_bytes(answer, head_only=method == "HEAD"))
                await asyncio.wait_for(writer.drain(), TAKE_LIMIT_S)
                taken = True
        finally:
            self._open -= 1
            if not taken:
                # Closed in order, it would keep its place among HAProxy's few connections as long as its client likes.
                writer.transport.abort()
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader) -> tuple[str, Answer]:
        """Return the request's method and the answer. Raises what ends a connection without an answer."""
        if self._open > OPEN_LIMIT:
            return "GET", plain(503, "too many ask at once")
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), READ_LIMIT_S)
        except asyncio.LimitOverrunError:
            return "GET", plain(431, "too many headers")
        method, path = request_line(head)
        if method is None:
            return "GET", plain(400, "this is no HTTP/1 request")
        if method not in ("GET", "HEAD"):
            return method, plain(405, "only GET and HEAD are answered", {"Allow": "GET, HEAD"})
        page = self._table.get(path)
        return method, plain(404, "nothing is here") if page is None else await self._ask(path, page, head)

    async def _ask(self, path: str, page: Page | Asked, head: bytes) -> Answer:
        try:
            found = page.page(query_of(head)) if isinstance(page, Asked) else page()
            if inspect.isawaitable(found):
                found = await asyncio.wait_for(found, ANSWER_LIMIT_S)
        except Exception as error:  # whatever it is, it is this answer's alone
            self._say_once(path, f"{path} cannot be answered: {type(error).__name__}: {error}")
            return plain(500, "this cannot be told now")
        self._say_once(path, None, mended=f"{path} is answered again")
        return found


def request_line(head: bytes) -> tuple[str | None, str]:
    """Return method and path, without its query, of a request's head; no method where it is none of HTTP/1."""
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1") or not words[1].startswith("/"):
        return None, ""
    return words[0], words[1].partition("?")[0]


def query_of(head: bytes) -> dict[str, str]:
    """Return the query of a request line that `request_line` takes for one; nothing where there is too much of it."""
    target = head.partition(b"\r\n")[0].decode("latin-1").split(" ")[1]
    try:
        return dict(parse_qsl(target.partition("?")[2], max_num_fields=QUERY_FIELDS))
    except ValueError:
        return {}


def plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a line of text as an answer."""
    return Answer("text/plain; charset=utf-8", text.encode() + b"\n", headers or {}, status)


def redirect(path: str) -> Answer:
    """Return an answer that leads to another path of the same port."""
    return plain(302, f"see {path}", {"Location": path})


def as_bytes(answer: Answer, *, head_only: bool = False) -> bytes:
    """Return an answer as HTTP/1.1 has it, the last one of its connection."""
    headers = {
        **answer.headers,
        "Content-Type": answer.content_type,
        "Content-Length": str(len(answer.body)),
        "Connection": "close",
        **SECURITY_HEADERS,
    }
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head if head_only else head + answer.body
