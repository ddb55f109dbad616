"""Services that an operator has closed: clients get a page in their place, until the same word opens them again.

The file `closed` in the state folder, a name a line, is what was asked for. HAProxy reads it itself when it starts and
reloads, so that no request comes through in between; a worker that runs is told of what changed. It lies where a
successor container finds it.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path

from fiefdom_gateway import kept
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.settings import is_name

Ask = Callable[[str], Awaitable[str]]


def file_of(state_dir: Path) -> Path:
    """Return where the names are. HAProxy knows its list by the same path."""
    return state_dir / "closed"


def asked_for(path: Path) -> frozenset[str]:
    """Return the services that are to be closed; a line that is no name counts for nothing. Raises Unreadable."""
    return frozenset(filter(is_name, kept.lines_of(path)))


def change(path: Path, service: str, *, close: bool) -> None:
    """Close a service or open it, in the file. Raises Failed."""
    kept.change(
        path, lambda lines: sorted({line for line in lines if line != service} | ({service} if close else set()))
    )


async def follow(ask: Ask, path: Path) -> frozenset[str]:
    """Tell a worker what was asked for; return what it has closed now. Raises Failed or Unreadable."""
    wanted, actual = asked_for(path), listed(await ask(f"show acl {path}"))
    for command in commands(wanted, actual, path):
        await ask(command)
    return actual if wanted == actual else listed(await ask(f"show acl {path}"))


def commands(wanted: Collection[str], actual: Iterable[str], path: Path) -> list[str]:
    """Return what makes HAProxy's list equal to the wanted one, a line each."""
    actual = set(actual)
    added = [f"add acl {path} {name}" for name in sorted(set(wanted) - actual)]
    return added + [f"del acl {path} {name}" for name in sorted(actual - set(wanted))]


def listed(reply: str) -> frozenset[str]:
    """Return the names in the reply of `show acl FILE`: an address and a name a line. Raises Failed."""
    if "Unknown" in reply:
        raise Failed("its configuration knows of no maintenance that is switched: `fiefdom apply` brings one that does")
    rows = [line.split(" ") for line in reply.splitlines() if line.startswith("0x")]
    return frozenset(row[1] for row in rows if len(row) == 2 and is_name(row[1]))
