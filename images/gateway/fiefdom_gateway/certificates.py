"""HAProxy's certificates: renewed in its worker without a reload, and what that says of them."""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from fiefdom_gateway import edges
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.members import Unreadable

Ask = Callable[[str], Awaitable[str]]

# Behind the two: the digest of the names of certificates, and that of what is in them.
_LISTENER = re.compile(r"^([ \t]+bind[ \t].* ssl crt-list (\S+) .*  # [0-9a-f]{12}) [0-9a-f]{12}$", re.MULTILINE)


def renewed(before: str, after: str) -> Path | None:
    """Return the list of certificates, where two static parts differ in nothing but what is in these."""
    found = _LISTENER.search(after)
    if before == after or found is None or _LISTENER.sub(r"\1", before) != _LISTENER.sub(r"\1", after):
        return None
    return Path(found[2])


async def renew(ask: Ask, listed: Path) -> None:
    """Have the worker take what is in the files of a list from now on, one after the other. Raises Failed.

    Unlike a reload it ends no connection: one of HTTP/2 would be told to go, and not all clients come again for a
    request that was on its way then. Where it fails, some may be renewed already: a reload takes them all.
    """
    for path in [Path(line) for line in _text(listed).splitlines() if line and not line.startswith("#")]:
        await renew_one(ask, path)


async def renew_one(ask: Ask, path: Path) -> None:
    """Have the worker take what is in one of these files from now on. Raises Failed."""
    # An empty line would be the end of it.
    lines = [line for line in _text(path).splitlines() if line.strip()]
    try:
        await _done(ask, f"set ssl cert {path} <<\n" + "\n".join(lines) + "\n", "Transaction created", path)
        await _done(ask, f"commit ssl cert {path}", "Success!", path)
    except Failed:
        # HAProxy knows one such change at a time, and would have none of the next.
        with suppress(Failed):
            await ask(f"abort ssl cert {path}")
        raise


async def _done(ask: Ask, command: str, welcome: str, path: Path) -> None:
    answer = await ask(command)
    if welcome not in answer:
        # Its own words are of certificates, never of a key.
        raise Failed(f"HAProxy did not renew {path.name}: {' '.join(answer.split())[:200]}")


def _text(path: Path) -> str:
    try:
        return edges.read_text(path)
    except Unreadable as error:
        raise Failed(str(error)) from None


async def served(ask: Ask) -> list[dict[str, object]]:
    """Return name, host names and end of each certificate that the worker has; one that it says nothing of is left out.

    Raises Failed.
    """
    paths = [line for line in (await ask("show ssl cert")).splitlines() if line.startswith("/")]
    rows = [row(path, await ask(f"show ssl cert {path}")) for path in paths]
    return [found for found in rows if found is not None]


def row(path: str, reply: str) -> dict[str, object] | None:
    """Return what the reply to `show ssl cert PATH` says of a certificate."""
    said = {key: value.strip() for key, colon, value in (line.partition(": ") for line in reply.splitlines()) if colon}
    try:
        ends = datetime.strptime(said.get("notAfter", ""), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    names = [name.partition(":")[2] for name in said.get("Subject Alternative Name", "").split(", ") if ":" in name]
    return {"name": Path(path).stem, "names": names, "ends": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
