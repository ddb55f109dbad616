"""The page of admins, live: what its files and its document are answered from, computed once for all who look.

A look is taken when somebody asks and the last one is older than a second, or than ten times what that one took. It
runs beside the reconciler, which waits for nothing here.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fiefdom_gateway import edges, figures, page, replies, status, web
from fiefdom_gateway.acme import Told
from fiefdom_gateway.edges import Failed, Sockets
from fiefdom_gateway.ledger import Reader
from fiefdom_gateway.log import printable
from fiefdom_gateway.members import Unreadable
from fiefdom_gateway.settings import Settings
from fiefdom_gateway.shared import Shared
from fiefdom_gateway.status import Look

AGE_S = 1.0
# A look is not taken more often than lets this share of the time to others.
_SHARE = 10
_TIMEOUT_S = 2.0
_OF_MAX = 64
# As many answers of one look are kept, for who asks the same.
_ANSWERS_MAX = 8
_PROCESS = {
    "uptime_s": "Uptime_sec",
    "connections": "CurrConns",
    "connections_max": "Maxconn",
    "idle_percent": "Idle_pct",
}

FILES = Path(__file__).parent / "page"
_TYPES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Sources:
    """Where what the gateway knows is had from at any moment."""

    look: Callable[[], Look]
    settings: Callable[[], Settings]
    told: Callable[[], tuple[Told, ...]]
    served: Callable[[], tuple[Mapping[str, object], ...]]
    sockets: Sockets


class Live:
    """Answers the document of the page. `files` names the page that goes with it: one that is open may be older."""

    def __init__(self, sources: Sources, files: str = "") -> None:
        self._sources = sources
        self._files = files
        self._rates = figures.Rates()
        self._ledger = Reader(sources.settings().state_dir.with_name("ledger"))
        self._took_s = 0.0
        self.looks: Shared[page.Base] = Shared(self._take)
        self._answered: page.Base | None = None
        self._answers: dict[str, asyncio.Task[web.Answer]] = {}

    async def answer(self, query: Mapping[str, str]) -> web.Answer:
        """Return the document, with the instances and hosts that `of` in the query stands in."""
        young_s = time.monotonic() - max(AGE_S, self._took_s * _SHARE)
        seen = await self.looks.since(young_s)
        if seen.found is not self._answered:
            self._answered, self._answers = seen.found, {}
        wanted = printable(query.get("of", ""), _OF_MAX)
        if wanted not in self._answers:
            if len(self._answers) >= _ANSWERS_MAX:
                self._answers = {}
            self._answers[wanted] = asyncio.create_task(asyncio.to_thread(self._written, seen.found, wanted))
        # Who waits no longer takes it from nobody else.
        return await asyncio.shield(self._answers[wanted])

    def _written(self, base: page.Base, wanted: str) -> web.Answer:
        return web.Answer("application/json", written({"files": self._files, **base.of(wanted)}).encode())

    async def _take(self) -> page.Base:
        began_s = time.monotonic()
        sources = self._sources
        settings = sources.settings()
        told = sources.told()
        # Nobody is to believe what stands in the place of one that is not there yet.
        placeholders = {one.name for one in told if one.facts is None}
        known = page.Known(
            cluster=settings.cluster,
            look=sources.look(),
            inventory=settings.inventory,
            at_s=time.time(),
            now_s=began_s,
            certificates=tuple(row for row in sources.served() if row["name"] not in placeholders),
            obtained=tuple(status.obtained(one) for one in told),
        )
        stat: str | None = None
        try:
            stat = await self._ask("show stat")
            info = replies.parse_info(await self._ask("show info"))
            known = replace(known, haproxy=_process(info))
        except (Failed, Unreadable) as error:
            known = replace(known, haproxy_error=str(error))
        # Not in the loop's own thread: of thousands of servers this takes long.
        made = await asyncio.to_thread(self._made, known, stat)
        # To wait for an HAProxy that does not answer takes time from nobody, and that it does again is news.
        self._took_s = 0.0 if known.haproxy_error else time.monotonic() - began_s
        return made

    def _made(self, known: page.Known, stat: str | None) -> page.Base:
        known = replace(known, ledger=self._ledger.read(known.at_s))
        if stat is not None:
            try:
                found = figures.parse(stat)
                window_s, rates = self._rates.taken(known.now_s, found)
                known = replace(known, figures=found, rates=rates, window_s=window_s)
            except Unreadable as error:
                known = replace(known, haproxy_error=str(error))
        return page.base(known)

    async def _ask(self, command: str) -> str:
        return await edges.ask_haproxy(command, self._sources.sockets.admin, _TIMEOUT_S)


def written(document: Mapping[str, object]) -> str:
    """Return a document as JSON, row by row: in one call of the encoder's, of a large one, no other thread works."""
    return "{" + ",".join(f"{_one(name)}:{_rows(value)}" for name, value in document.items()) + "}"


def _rows(value: object) -> str:
    return "[" + ",".join(_one(row) for row in value) + "]" if isinstance(value, (list, tuple)) else _one(value)


def _one(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _process(info: Mapping[str, str]) -> dict[str, object]:
    # Not its version: what answers here tells none.
    return {key: status.whole(info.get(name)) for key, name in _PROCESS.items()}


def table(sources: Sources) -> web.Table:
    """Return what answers the page's paths. Its files are read now: nothing later leads to the file system."""
    files = {name: web.Answer(kind, (FILES / name).read_bytes()) for name, kind in _TYPES.items()}
    live = Live(sources, hashlib.sha256(b"".join(file.body for file in files.values())).hexdigest()[:12])
    return {
        "/": _always(files.pop("page.html")),
        **{f"/fiefdom/{name}": _always(file) for name, file in files.items()},
        "/fiefdom/state.json": web.Asked(live.answer),
    }


def _always(answer: web.Answer) -> Callable[[], web.Answer]:
    return lambda: answer
