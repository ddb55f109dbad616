"""How much of a service's requests one of its versions gets, as an operator said, whatever number of servers has it.

The file `shares` in the state folder, `SERVICE VERSION PERCENT` a line, is what was asked for. It becomes weights of
servers: of each that is added, in the configuration that a new worker begins with, and in the worker that runs.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fiefdom_gateway import kept, packed
from fiefdom_gateway.wanted import Server

# HAProxy knows weights up to 256; one of 0 gets nothing at all.
MOST = 256
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,62}) ([A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}) ([1-9][0-9]?)", re.ASCII)


@dataclass(frozen=True, order=True)
class Share:
    """All servers of `version` together get `percent` of the requests, those of others the rest."""

    service: str
    version: str
    percent: int

    def __str__(self) -> str:
        return f"{self.service} {self.version} {self.percent}"


def file_of(state_dir: Path) -> Path:
    """Return where the shares are."""
    return state_dir / "shares"


def parse(line: str) -> Share | None:
    """Return the share that a line says; None where it says none."""
    match = _LINE.fullmatch(line)
    return None if match is None else Share(match[1], match[2], int(match[3]))


def asked_for(path: Path) -> tuple[Share, ...]:
    """Return the shares, one of a service at most; a line that is none counts for nothing. Raises Unreadable."""
    found = {share.service: share for share in map(parse, kept.lines_of(path)) if share is not None}
    return tuple(sorted(found.values()))


def weighted(servers: Iterable[Server], shares: Iterable[Share]) -> tuple[Server, ...]:
    """Return the servers with the weights that give each version its share, as near as weights come to it.

    Where all servers that get requests are of that version, or none is, there is nothing to share out.
    """
    servers, by_service = tuple(servers), {share.service: share for share in shares}
    # Of a host with very many services the code of the version may be all that is known.
    named = {name: packed.spellings(share.version) for name, share in by_service.items()}
    weights = {name: _weights(share, named[name], servers) for name, share in by_service.items()}
    return tuple(
        replace(server, weight=own[server.version in named[server.service]])
        if (own := weights.get(server.service))
        else server
        for server in servers
    )


def _weights(share: Share, named: Container[str], servers: Iterable[Server]) -> Mapping[bool, int] | None:
    """The weight of a server that has the version, and of one that has another."""
    has = [s.version in named for s in servers if s.service == share.service and not s.drain]
    new, old = has.count(True), has.count(False)
    if not (new and old):
        return None
    parts = {True: share.percent * old, False: (100 - share.percent) * new}
    return {which: max(1, round(MOST * part / max(parts.values()))) for which, part in parts.items()}
