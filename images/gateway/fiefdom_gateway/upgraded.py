"""Upgraded connections, such as WebSockets: found among HAProxy's sessions, and closed.

An upgraded one has status 101 and is a tunnel in both directions. The state alone tells nothing: HAProxy 3.0 has a
response that ends with its connection as `rsp.st=MSG_TUNNEL`, too, under its own status and with the request done.
"""

import re
from collections.abc import Awaitable, Callable, Collection

# Each takes two commands of half a millisecond, and other hosts' servers wait meanwhile. The rest is closed next time.
AT_ONCE = 300

_LISTED = re.compile(r"(0x[0-9a-f]{1,16}): .*? be=(\S+) srv=(\S+) ", re.ASCII)
_TRANSACTION = re.compile(
    r"^ +txn=\S+ .*\bstatus=101 req\.st=MSG_TUNNEL rsp\.st=MSG_TUNNEL( |$)", re.MULTILINE | re.ASCII
)
_BACKEND = re.compile(r"^ +backend=(\S+) ", re.MULTILINE | re.ASCII)
_SERVER = re.compile(r"^ +server=(\S+) ", re.MULTILINE | re.ASCII)

Target = tuple[str, str]
"""Backend and name of a server."""


def sessions_of(listed: str, servers: Collection[Target]) -> list[tuple[str, Target]]:
    """Return the sessions on some servers, in the reply of `show sess`, with their server."""
    found = (_LISTED.match(line) for line in listed.splitlines())
    return [(match[1], (match[2], match[3])) for match in found if match and (match[2], match[3]) in servers]


def is_upgraded(session: str, server: Target, *, is_tcp: bool = False) -> bool:
    """Whether the reply of `show sess ID` is about an upgraded connection to a server, or any to one that `is_tcp`."""
    backend, name = _BACKEND.search(session), _SERVER.search(session)
    if backend is None or name is None or (backend[1], name[1]) != server:
        return False
    return is_tcp or _TRANSACTION.search(session) is not None


async def close(ask: Callable[[str], Awaitable[str]], servers: Collection[Target], tcp: Collection[str] = ()) -> int:
    """Close upgraded connections to some servers, and nothing else there; return how many. Raises Failed.

    Of servers in the backends `tcp` all are closed, for there is nothing else.

    HAProxy knows a session by its place in memory, which is another one's as soon as it ends: each is looked at again
    in the last moment.
    """
    closed = 0
    for session, server in sessions_of(await ask("show sess"), servers):
        if closed < AT_ONCE and is_upgraded(await ask(f"show sess {session}"), server, is_tcp=server[0] in tcp):
            await ask(f"shutdown session {session}")
            closed += 1
    return closed
