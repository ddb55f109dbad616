"""The one loop that changes HAProxy: look at the members, compare with what HAProxy says, apply the difference."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fiefdom_gateway import (
    certificates,
    closed,
    edges,
    gone,
    haproxy,
    members,
    refusal,
    replies,
    shares,
    upgraded,
    workers,
)
from fiefdom_gateway.applying import Applying
from fiefdom_gateway.belief import believe
from fiefdom_gateway.edges import Failed, Sockets
from fiefdom_gateway.last_good import LastGood
from fiefdom_gateway.log import Once, printable, say
from fiefdom_gateway.members import Unreadable
from fiefdom_gateway.names import VersionNames
from fiefdom_gateway.news import News
from fiefdom_gateway.rounds import Rounds
from fiefdom_gateway.settings import BadSettings, Settings, parse_settings
from fiefdom_gateway.status import Look
from fiefdom_gateway.wanted import (
    Known,
    Made,
    dump_memory,
    load_memory,
    remember,
    still_believed,
    wanted_servers,
)
from fiefdom_gateway.written import Written

# Events come in bursts: a host that joins changes several members' views at once.
DEBOUNCE_S = 0.02
# How soon to look again while a server waits to be removed, while one is to have no upgraded connections, and while
# Serf does not answer.
SETTLE_S = 0.1
SERF_RETRY_S = 1.0
SERF_TIMEOUT_S = 2.0
# How long HAProxy was not told anything when it is asked to judge what a restarted one would begin with.
CALM_S = 1.0
RELOAD_TIMEOUT_S = 60.0


class Reconciler:
    """Owns the state between rounds. Rounds run one after the other in one task, so no two changes ever meet."""

    def __init__(self, settings: Settings, settings_file: Path, sockets: Sockets) -> None:
        self.settings = settings
        self.caught_up = asyncio.Event()
        # Held during a look at the members.
        self.looking = asyncio.Lock()
        self._sockets = sockets
        self._turn = asyncio.Lock()
        self.look = Look(node=settings.node, services=settings.services)
        self._settings_file = settings_file
        self._settings_text = self._static = ""
        self._memory: dict[str, Known] = {}
        self._again = asyncio.Event()
        self._say_once = Once()
        self._applying = Applying(sockets, self._say_once)
        self._news = News(self._say_once)
        self._written = Written(self._say_once)
        self._last_good = LastGood(settings.state_dir, self._written, self._say_once)
        # What the static part names, and nobody gave, is to be there before HAProxy looks.
        self.before_static: Callable[[], Awaitable[None]] | None = None
        self._names = VersionNames()
        self._reader, self._made = members.Reader(), Made()
        # What the last look at the members began with.
        self._last_list: list[object] | None = None
        self._looked_by: tuple[object, ...] = ()
        self.rounds = Rounds()

    @property
    def acted_at_s(self) -> float:
        """When HAProxy was last told anything, of time.monotonic()."""
        return self._applying.acted_at_s

    @property
    def config_file(self) -> Path:
        """The last good configuration, which HAProxy runs."""
        return self._last_good.config_file

    @property
    def _memory_file(self) -> Path:
        return self.settings.state_dir / "members.json"

    @property
    def _refused_file(self) -> Path:
        """Where the host's plan finds what HAProxy does not run: its digest and why; absent when there is nothing."""
        return self.settings.state_dir / "refused"

    def look_again(self) -> None:
        """Say that something may have changed."""
        self._again.set()

    def hear(self, host: str, service: str | None, version: str) -> None:
        """Take up which version a host says it offers."""
        if self._names.hear(self.look.read.get(host), service, version):
            self.look_again()

    async def stand_still(self) -> None:
        """End the round that runs, and begin none: another container writes the files now."""
        await self._turn.acquire()
        await self._last_good.stand_still()

    def go_on(self) -> None:
        """Go on after `stand_still`."""
        self._written.forget()
        self._last_list = None
        self._applying.forget()
        self._last_good.go_on()
        self.look_again()
        self._turn.release()

    async def prepare(self) -> None:
        """Put a configuration in place for HAProxy to start with: today's static part, else the last good one.

        Raises Failed when neither is valid.
        """
        self._recall()
        given = self.settings.haproxy_config
        try:
            self._runs(await self._install(edges.read_text(given)))
        except (Unreadable, Failed) as refused:
            try:
                self._runs(await self._install(edges.read_text(self._last_good.static_file)))
            except (Unreadable, Failed) as error:
                raise Failed(f"no usable configuration: {refused}; nor a last good one: {error}") from None
            self._refuse(edges.read_or_none(given), refused)

    async def run(self) -> None:
        """Look and apply until cancelled; then nothing is on its way any more."""
        try:
            await self._rounds_without_end()
        finally:
            await self._last_good.stand_still()

    async def _rounds_without_end(self) -> None:
        looked_at_s = -self.settings.interval_s
        while True:
            async with self._turn:
                began_s = time.monotonic()
                if self._again.is_set() or time.monotonic() - looked_at_s >= self._patience_s():
                    await asyncio.sleep(DEBOUNCE_S)
                    self._again.clear()
                    began_s = looked_at_s = time.monotonic()
                    self._take_up_settings()
                    self._forget_gone()
                    if self.before_static is not None:
                        await self.before_static()
                    await self._take_up_static()
                    self._leave_word()
                    await self._follow_closed()
                    async with self.looking:
                        await self._look_at_members()
                done = await self._apply()
                calm = time.monotonic() - self._applying.changed_at_s >= CALM_S
                self._last_good.keep((self._static, self.look.wanted, self.settings.services), calm=calm)
                self.rounds.add(time.monotonic() - began_s)
            if self.look.reconciled_at_s is not None:
                self.caught_up.set()
            pause_s = self._patience_s() - (time.monotonic() - looked_at_s)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._again.wait(), max(min(pause_s, self._calm_s(done)), 0.01))

    def _calm_s(self, done: bool) -> float:
        """How long it may take until the next round where nothing happens."""
        if not done:
            return SETTLE_S
        return upgraded.AGAIN_S if self._applying.closing else self._patience_s()

    def _patience_s(self) -> float:
        wait_s = self.settings.interval_s
        return wait_s if self.look.serf_error is None else min(wait_s, SERF_RETRY_S)

    # --- What was asked for

    def _take_up_settings(self) -> None:
        """Follow reconciler.json: services, hosts and times change while HAProxy serves, names and paths at a start."""
        try:
            text = edges.read_text(self._settings_file)
            if text == self._settings_text:
                self._say_once("settings", None, mended=f"{self._settings_file} is good again")
                return
            new = parse_settings(text)
        except (Unreadable, BadSettings) as error:
            self._say_once("settings", f"{self._settings_file} was not taken up: {error}")
            return
        self._settings_text = text
        self._say_once("settings", None, mended=f"{self._settings_file} is good again")
        old = self.settings
        self.settings = replace(
            old,
            interval_s=new.interval_s,
            absent_grace_s=new.absent_grace_s,
            stop_grace_s=new.stop_grace_s,
            services=new.services,
            inventory=new.inventory,
        )
        late = None if self.settings == new else f"{self._settings_file}: new names and paths count from the next start"
        self._say_once("late settings", late)
        if self.settings != old:
            say(f"{self._settings_file} was taken up, services: {', '.join(sorted(new.services)) or 'none'}")
            self.look = replace(self.look, services=new.services)
            if self.look.refusal is not None:
                # HAProxy judged the static part together with the servers' options, which are others now.
                self.look = replace(self.look, refusal=replace(self.look.refusal, again_at_s=0.0))
            self._memory = still_believed(self._memory, new.inventory, new.services)
            self._choose_servers(self._asked_shares())

    def _forget_gone(self) -> None:
        try:
            went = gone.forget(self.settings.state_dir, self.settings.services)
        except (Failed, Unreadable) as error:
            self._say_once("gone", f"what was said of services that are gone stays: {error}")
            return
        self._say_once("gone", None)
        if went:
            say(f"forgotten, for there is no such service any more: {'; '.join(went)}")

    async def _take_up_static(self) -> None:
        """Follow the static part: validate, put in place, reload. What HAProxy refuses changes nothing."""
        try:
            static = edges.read_text(self.settings.haproxy_config)
        except Unreadable as error:
            self._refuse(None, error)
            return
        if static == self._static:
            self._accept()
            return
        before = self.look.refusal
        if before is not None and not before.allows(haproxy.digest(static), time.monotonic()):
            return
        try:
            # A worker that cannot listen has the old one pause its own listeners before it gives up.
            edges.require_free(haproxy.binds(static) - haproxy.binds(self._static))
            await self._install(static)
            if not await self._renew_certificates(static):
                await self._reload()
        except Failed as error:
            # The next round puts back what was put in place.
            self._refuse(static, error)
            return
        self._runs(static)
        say(f"HAProxy runs the static part {haproxy.digest(static)[:12]}")
        self._accept()

    def _refuse(self, static: str | None, reason: Exception) -> None:
        digest = None if static is None else haproxy.digest(static)
        names_files = static is not None and haproxy.names_files(static)
        found = refusal.refused(digest, reason, self.look.refusal, time.monotonic(), names_files=names_files)
        fate = "was refused" if found.again_at_s is None else "was not taken up and is tried again"
        error = f"{self.settings.haproxy_config} {fate}, the last good one stays: {reason}"
        self.look = replace(self.look, config_error=error, refusal=found)
        self._say_once("config", error)

    def _accept(self) -> None:
        unplaced = haproxy.unplaced(self._static, self.settings.services)
        error = None
        if unplaced:
            error = f"{self.settings.haproxy_config} has no '# fiefdom:servers' line for {', '.join(unplaced)}"
        self.look = replace(self.look, config_error=error, refusal=None)
        self._say_once("config", error, mended=f"{self.settings.haproxy_config} is good again")

    async def _follow_closed(self) -> None:
        """Have HAProxy's workers close the services that an operator closed, and open the others."""
        path = closed.file_of(self.settings.state_dir)
        try:
            found = await closed.follow(self._applying.ask, path)
            if found != (self.look.closed or frozenset()):
                say(f"closed for maintenance: {', '.join(sorted(found)) or 'none'}")
                for worker in await workers.replaced(self._sockets):
                    with suppress(Failed, Unreadable):  # it ended just now, or knows no such list
                        await closed.follow(worker.ask, path)
        except (Failed, Unreadable) as error:
            self._say_once("closed", f"maintenance is not switched: {error}" if path.exists() else None)
            # Of an HAProxy that did not tell, what it told last is all that is known.
            if isinstance(error, closed.NoSwitch):
                self.look = replace(self.look, closed=frozenset())
            return
        self._say_once("closed", None, mended="maintenance is switched again")
        self.look = replace(self.look, closed=found)

    def _leave_word(self) -> None:
        """Tell the host what HAProxy does not run: nobody may be asking for the status."""
        found = self.look.refusal
        if found is None or found.digest is None:
            self._written.forget(self._refused_file)
            with suppress(OSError):
                self._refused_file.unlink(missing_ok=True)
        else:
            self._written.try_write(self._refused_file, f"{found.digest} {printable(found.reason)}\n")

    async def _install(self, static: str) -> str:
        """Make a static part, with today's servers, the configuration that HAProxy reads next. Raises Failed."""
        await self._last_good.install((static, self.look.wanted, self.settings.services))
        return static

    def _runs(self, static: str) -> None:
        self._static = static
        self.look = replace(self.look, config_digest=haproxy.digest(static))

    async def _renew_certificates(self, static: str) -> bool:
        """Take up a static part without a reload, where nothing but certificates is new in it; whether that was it."""
        listed = certificates.renewed(self._static, static)
        if listed is None:
            return False
        try:
            await certificates.renew(self._applying.ask, listed)
        except Failed as error:
            say(f"HAProxy is reloaded for its certificates: {error}")
            return False
        say("HAProxy has renewed its certificates")
        return True

    async def renew_certificate(self, path: Path) -> None:
        """Have HAProxy take what is in one certificate's file from now on. Raises Failed."""
        async with self._turn:
            await certificates.renew_one(self._applying.ask, path)

    async def _reload(self) -> None:
        reason = replies.reload_error(await self._applying.reload(RELOAD_TIMEOUT_S))
        if reason is not None:
            raise Failed(f"HAProxy did not reload: {reason}")

    # --- What there is

    async def _look_at_members(self) -> None:
        environ = edges.serf_environ(self.settings.rpc_addr, self.settings.serf_config)
        asked = self._asked_shares()
        try:
            text = await edges.run(["serf", "members", "-format", "json"], environ, SERF_TIMEOUT_S)
            services, before = self.settings.services, [known.member for known in self._memory.values()]
            entries = members.listed(text)
            if self._is_as_before(entries, asked):
                return
            names = self._names.refresh(before, self.look.read.values())
            listed = self._reader.read(entries, services, names)
            roll = believe(listed, self.settings.inventory, services, before)
        except (Failed, Unreadable) as error:
            self.look = replace(self.look, serf_error=str(error))
            # Right after a start the agent is not up yet, which is no news.
            if self.look.looked:
                self._say_once("serf", f"Serf does not answer, the servers stay as they are: {error}")
            # Their shares are an operator's word, which waits for nobody.
            self._choose_servers(asked)
            return
        self._say_once("serf", None, mended="Serf answers again")
        self._memory = remember(self._memory, roll, time.monotonic(), self.settings.absent_grace_s)
        self.look = replace(
            self.look,
            serf_error=None,
            read={member.name: member for member in listed.members},
            members=roll.members,
            refused=roll.rejected,
            names=names,
            looked=True,
        )
        self._news.of_members(self.look.members, self._memory)
        self._choose_servers(asked)
        kept = self._written.try_write(self._memory_file, dump_memory(self._memory))
        self._last_list = entries if kept else None

    def _is_as_before(self, entries: list[object], asked: tuple[shares.Share, ...]) -> bool:
        """Whether nothing that a look is about has changed since the last one, as at rest: then all stays as it is."""
        absent = any(known.absent_since is not None for known in self._memory.values())
        inputs = (self.settings, asked)
        same = self._looked_by == inputs and self._last_list is not None and members.same(self._last_list, entries)
        self._looked_by = inputs
        return same and not absent and not self._names.news and self.look.serf_error is None

    def _choose_servers(self, asked: tuple[shares.Share, ...]) -> None:
        wanted, contested = wanted_servers(self._memory, self.settings.services, self._made)
        rejected = (*self.look.refused, *contested)
        self.look = replace(self.look, wanted=shares.weighted(wanted, asked), asked_shares=asked, rejected=rejected)
        self._news.of_rejected(rejected)

    def _asked_shares(self) -> tuple[shares.Share, ...]:
        """What an operator says of versions; as it was where that cannot be read."""
        try:
            found = shares.asked_for(shares.file_of(self.settings.state_dir))
        except Unreadable as error:
            self._say_once("shares", f"the shares of versions stay as they are: {error}")
            return self.look.asked_shares
        self._say_once("shares", None, mended="the shares of versions can be read again")
        return found

    def _recall(self) -> None:
        """Start from the members of the last run: gossip is not back yet, and HAProxy's health checks judge them."""
        try:
            memory = load_memory(edges.read_text(self._memory_file), self.settings.services)
            self._memory = still_believed(memory, self.settings.inventory, self.settings.services)
        except Unreadable as error:
            if self._memory_file.exists():
                say(f"the members of the last run are forgotten: {error}")
        self._choose_servers(self._asked_shares())

    # --- Making the one like the other

    async def _apply(self) -> bool:
        """Do what can be done now; return whether HAProxy has exactly the wanted servers."""
        services = self.settings.services
        # First, so that a host whose servers are drained here gets nothing new from there either.
        await self._applying.drain_stragglers(self.look.wanted, services)
        try:
            actual, done = await self._applying.apply(self.look.wanted, services, self.settings.interval_s)
        except (Failed, Unreadable) as error:
            self._say_once("haproxy", f"HAProxy cannot be compared: {error}")
            self.rounds.failed += 1
            return False
        self._say_once("haproxy", None, mended="HAProxy answers again")
        if self.look.shares != self.look.asked_shares and haproxy.weighed(self.look.wanted, actual, services):
            self.look = replace(self.look, shares=self.look.asked_shares)
        known = self.look.looked or bool(self._memory)
        fresh = self.look.serf_error is None
        at_s = time.monotonic() if fresh else self.look.reconciled_at_s
        self.look = replace(self.look, reconciled_at_s=at_s, ready=self.look.ready or known, actual=actual)
        return done
