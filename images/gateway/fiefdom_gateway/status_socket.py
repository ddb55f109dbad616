"""Answers who asks for the status: with all of it, or with the part that is asked for.

A line before the answer names the part: `summary` has no servers, `host NAME...` and `service NAME...` have those of
some. Who says nothing, as older programs do, gets all, and so does who says what is not understood here.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from fiefdom_gateway import edges, status
from fiefdom_gateway.acme import Told
from fiefdom_gateway.shared import Shared
from fiefdom_gateway.status import Look, Part

# Who names a part does so at once.
_WORD_LIMIT_S = 0.1


def part_of(line: bytes) -> Part:
    """Return the part that a line names."""
    match line.decode(errors="replace").split():
        case ["summary"]:
            return Part("summary")
        case ["host" | "service" as kind, *names] if names:
            return Part(kind, frozenset(names))
    return status.ALL


async def serve(
    path: Path,
    shared: Path,
    look: Callable[[], Look],
    sockets: edges.Sockets,
    told: Callable[[], tuple[Told, ...]] = lambda: (),
) -> tuple[asyncio.AbstractServer, asyncio.AbstractServer]:
    """Answer every connection to two unix sockets; `shared` is taken over from who had it before."""

    async def text(part: Part) -> bytes:
        return json.dumps(await status.document(look(), sockets, told(), part)).encode() + b"\n"

    # Many ask for these at the same moment.
    common = {part: Shared(partial(text, part)) for part in (status.ALL, Part("summary"))}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = b""
        try:
            with suppress(asyncio.TimeoutError, ValueError):
                line = await asyncio.wait_for(reader.readline(), _WORD_LIMIT_S)
            part = part_of(line)
            looks = common.get(part)
            writer.write(await text(part) if looks is None else (await looks.since(time.monotonic())).found)
            await writer.drain()
        except OSError:
            pass  # who asked has gone
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    beside = sockets.folder / shared.name
    servers = await asyncio.start_unix_server(answer, path), await asyncio.start_unix_server(answer, beside)
    beside.replace(shared)
    return servers
