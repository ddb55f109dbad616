"""Services that an operator has closed: clients get a page in their place, until the same word opens them again.

The file `closed` in the state folder, a name a line, is what was asked for. HAProxy reads it itself when it starts and
reloads, so that no request comes through in between; a worker that runs is told of what changed. It lies where a
successor container finds it.
"""

import re
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from fiefdom_gateway import kept
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.settings import is_name

Ask = Callable[[str], Awaitable[str]]


class NoSwitch(Failed):
    """HAProxy's configuration has nothing that could be closed."""


def file_of(state_dir: Path) -> Path:
    """Return where the names are. HAProxy knows its list by the same path."""
    return state_dir / "closed"


def asked_for(path: Path) -> frozenset[str]:
    """Return the services that are to be closed; a line that is no name counts for nothing. Raises Unreadable."""
    return frozenset(filter(is_name, kept.lines_of(path)))


async def follow(ask: Ask, path: Path) -> frozenset[str]:
    """Tell a worker what was asked for; return what it has closed now, by all its lists. Raises Failed or Unreadable,
    and NoSwitch where nothing can be closed.

    Each backend that can be closed reads the file by itself, so HAProxy has a list for each, under one path; it would
    change the first of them alone for who names the path.
    """
    wanted = asked_for(path)
    lists = lists_of(await ask("show acl"), path)
    if not wanted and not any(lists.values()):
        return wanted
    found = []
    for number in lists:
        actual = listed(await ask(f"show acl #{number}"))
        for command in (changes := commands(wanted, actual, number)):
            await ask(command)
        found.append(listed(await ask(f"show acl #{number}")) if changes else actual)
    if len(set(found)) > 1:
        raise Failed("HAProxy did not take it up in each of its lists")
    return found[0]


def lists_of(reply: str, path: Path) -> dict[str, int]:
    """Return how many names each of HAProxy's lists has, by its number, of those that the reply of `show acl` has from
    the path. Raises NoSwitch where there is none."""
    found = re.finditer(rf"^([0-9]+) \({re.escape(str(path))}\) .* entry_cnt=([0-9]+)$", reply, re.MULTILINE)
    lists = {row[1]: int(row[2]) for row in found}
    if not lists:
        raise NoSwitch(
            "its configuration knows of no maintenance that is switched: `fiefdom apply` brings one that does"
        )
    return lists


def commands(wanted: Collection[str], actual: Collection[str], number: str) -> list[str]:
    """Return what makes a list of HAProxy's equal to the wanted one, a line each."""
    added = [f"add acl #{number} {name}" for name in sorted(set(wanted) - set(actual))]
    return added + [f"del acl #{number} {name}" for name in sorted(set(actual) - set(wanted))]


def listed(reply: str) -> frozenset[str]:
    """Return the names in the reply of `show acl #NUMBER`: an address and a name a line. Raises Failed."""
    if "Unknown" in reply:
        raise Failed("the list of what is closed went with its configuration")
    rows = [line.split(" ") for line in reply.splitlines() if line.startswith("0x")]
    return frozenset(row[1] for row in rows if len(row) == 2 and is_name(row[1]))
