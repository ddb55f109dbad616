"""The one loop that changes HAProxy: look at the members, compare with what HAProxy says, apply the difference."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fiefdom_gateway import certificates, closed, edges, haproxy, refusal, shares, upgraded, workers
from fiefdom_gateway.belief import believe
from fiefdom_gateway.edges import Failed, Sockets
from fiefdom_gateway.log import Once, printable, say
from fiefdom_gateway.members import Unreadable, parse_members
from fiefdom_gateway.rounds import Rounds
from fiefdom_gateway.settings import BadSettings, Settings, parse_settings
from fiefdom_gateway.status import Look
from fiefdom_gateway.wanted import Known, dump_memory, load_memory, none_alive, remember, still_believed, wanted_servers

# Events come in bursts: a host that joins changes several members' views at once.
DEBOUNCE_S = 0.02
# How soon to look again while a server waits to be removed, while one is to have no upgraded connections, and while
# Serf does not answer.
SETTLE_S = 0.1
UPGRADE_S = 0.5
SERF_RETRY_S = 1.0
SERF_TIMEOUT_S = 2.0
RELOAD_TIMEOUT_S = 60.0


class Reconciler:
    """Owns the state between rounds. Rounds run one after the other in one task, so no two changes ever meet."""

    def __init__(self, settings: Settings, settings_file: Path, sockets: Sockets) -> None:
        self.settings = settings
        self.caught_up = asyncio.Event()
        # Held during a look at the members; and when HAProxy was last told anything, of time.monotonic().
        self.looking = asyncio.Lock()
        self.acted_at_s = time.monotonic()
        self._sockets = sockets
        self._turn = asyncio.Lock()
        self.look = Look(node=settings.node, services=settings.services)
        self._settings_file = settings_file
        self._static = ""
        self._memory: dict[str, Known] = {}
        self._written: dict[Path, str] = {}
        self._again = asyncio.Event()
        # By worker: servers whose upgraded connections were closed last, and when.
        self._closed: dict[str, tuple[frozenset[tuple[str, str]], float]] = {}
        self._say_once = Once()
        self._told: set[str] = set()
        # What the static part names, and nobody gave, is to be there before HAProxy looks.
        self.before_static: Callable[[], Awaitable[None]] | None = None
        self._doubted: set[str] = set()
        self.rounds = Rounds()

    @property
    def config_file(self) -> Path:
        """The last good configuration, which HAProxy runs."""
        return self.settings.state_dir / "haproxy.cfg"

    @property
    def _static_file(self) -> Path:
        return self.settings.state_dir / "static.cfg"

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

    async def stand_still(self) -> None:
        """End the round that runs, and begin none: another container writes the files now."""
        await self._turn.acquire()

    def go_on(self) -> None:
        """Go on after `stand_still`."""
        self._written.clear()
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
                self._runs(await self._install(edges.read_text(self._static_file)))
            except (Unreadable, Failed) as error:
                raise Failed(f"no usable configuration: {refused}; nor a last good one: {error}") from None
            self._refuse(_read_or_none(given), refused)

    async def run(self) -> None:
        """Look and apply until cancelled."""
        looked_at_s = -self.settings.interval_s
        while True:
            async with self._turn:
                began_s = time.monotonic()
                if self._again.is_set() or time.monotonic() - looked_at_s >= self._patience_s():
                    await asyncio.sleep(DEBOUNCE_S)
                    self._again.clear()
                    began_s = looked_at_s = time.monotonic()
                    self._take_up_settings()
                    if self.before_static is not None:
                        await self.before_static()
                    await self._take_up_static()
                    self._leave_word()
                    await self._follow_closed()
                    async with self.looking:
                        await self._look_at_members()
                done = await self._apply()
                await self._keep_last_good()
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
        # A request that is open at a server may be upgraded yet.
        return UPGRADE_S if self._closed else self._patience_s()

    def _patience_s(self) -> float:
        wait_s = self.settings.interval_s
        return wait_s if self.look.serf_error is None else min(wait_s, SERF_RETRY_S)

    # --- What was asked for

    def _take_up_settings(self) -> None:
        """Follow reconciler.json: services, hosts and times change while HAProxy serves, names and paths at a start."""
        try:
            new = parse_settings(edges.read_text(self._settings_file))
        except (Unreadable, BadSettings) as error:
            self._say_once("settings", f"{self._settings_file} was not taken up: {error}")
            return
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
            self._choose_servers()

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
            # `_keep_last_good` puts back what was put in place.
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
            found = await closed.follow(self._ask, path)
            if found != self.look.closed:
                say(f"closed for maintenance: {', '.join(sorted(found)) or 'none'}")
                for worker in await workers.replaced(self._sockets):
                    with suppress(Failed, Unreadable):  # it ended just now, or knows no such list
                        await closed.follow(worker.ask, path)
        except (Failed, Unreadable) as error:
            found = frozenset()
            self._say_once("closed", f"maintenance is not switched: {error}" if path.exists() else None)
        else:
            self._say_once("closed", None, mended="maintenance is switched again")
        self.look = replace(self.look, closed=found)

    def _leave_word(self) -> None:
        """Tell the host what HAProxy does not run: nobody may be asking for the status."""
        found = self.look.refusal
        if found is None or found.digest is None:
            self._written.pop(self._refused_file, None)
            with suppress(OSError):
                self._refused_file.unlink(missing_ok=True)
        else:
            self._try_write(self._refused_file, f"{found.digest} {printable(found.reason)}\n")

    async def _install(self, static: str) -> str:
        """Make a static part, with today's servers, the configuration that HAProxy reads next. Raises Failed."""
        await self._write_config(haproxy.render(static, self.look.wanted, self.settings.services))
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
            await certificates.renew(self._ask, listed)
        except Failed as error:
            say(f"HAProxy is reloaded for its certificates: {error}")
            return False
        say("HAProxy has renewed its certificates")
        return True

    async def renew_certificate(self, path: Path) -> None:
        """Have HAProxy take what is in one certificate's file from now on. Raises Failed."""
        async with self._turn:
            await certificates.renew_one(self._ask, path)

    async def _reload(self) -> None:
        try:
            answer = await edges.ask_haproxy("reload", self._sockets.master, RELOAD_TIMEOUT_S)
        finally:
            self.acted_at_s = time.monotonic()
        reason = haproxy.reload_error(answer)
        if reason is not None:
            raise Failed(f"HAProxy did not reload: {reason}")

    # --- What there is

    async def _look_at_members(self) -> None:
        environ = edges.serf_environ(self.settings.rpc_addr, self.settings.serf_config)
        try:
            text = await edges.run(["serf", "members", "-format", "json"], environ, SERF_TIMEOUT_S)
            services, before = self.settings.services, [known.member for known in self._memory.values()]
            listed = parse_members(text, services)
            roll = believe(listed, self.settings.inventory, services, before)
        except (Failed, Unreadable) as error:
            self.look = replace(self.look, serf_error=str(error))
            # Right after a start the agent is not up yet, which is no news.
            if self.look.looked:
                self._say_once("serf", f"Serf does not answer, the servers stay as they are: {error}")
            return
        self._say_once("serf", None, mended="Serf answers again")
        self._memory = remember(self._memory, roll, time.monotonic(), self.settings.absent_grace_s)
        self.look = replace(
            self.look,
            serf_error=None,
            read={member.name: member for member in listed.members},
            members=roll.members,
            refused=roll.rejected,
            looked=True,
        )
        self._tell_members()
        self._choose_servers()
        self._try_write(self._memory_file, dump_memory(self._memory))

    def _tell_members(self) -> None:
        for member in self.look.members:
            self._say_once(f"member {member.name}", f"{member.name} at {member.address} is {member.status}")
        listed = {member.name for member in self.look.members}
        absent = self._memory.keys() - listed
        for name in absent:
            self._say_once(f"member {name}", f"{name} is absent without having left")
        for name in self._told - listed - absent:
            self._say_once(f"member {name}", None)
        self._told = listed | absent
        alone = "no app host is alive: the servers stay, HAProxy's health checks judge them"
        self._say_once("alone", alone if none_alive(self._memory) else None, mended="app hosts are alive again")

    def _choose_servers(self) -> None:
        wanted, contested = wanted_servers(self._memory, self.settings.services)
        rejected = (*self.look.refused, *contested)
        asked_for = self._shares()
        self.look = replace(self.look, wanted=shares.weighted(wanted, asked_for), shares=asked_for, rejected=rejected)
        members = {rejection.member for rejection in rejected}
        for member in sorted(members):
            reasons = sorted(rejection.reason for rejection in rejected if rejection.member == member)
            self._say_once(f"rejected {member}", f"{member} {'; '.join(reasons)}: not believed")
        for member in sorted(self._doubted - members):
            self._say_once(f"rejected {member}", None, mended=f"{member} claims nothing any more that is not believed")
        self._doubted = members

    def _shares(self) -> tuple[shares.Share, ...]:
        """What an operator says of versions; as it was where that cannot be read."""
        try:
            found = shares.asked_for(shares.file_of(self.settings.state_dir))
        except Unreadable as error:
            self._say_once("shares", f"the shares of versions stay as they are: {error}")
            return self.look.shares
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
        self._choose_servers()

    # --- Making the one like the other

    async def _apply(self) -> bool:
        """Do what can be done now; return whether HAProxy has exactly the wanted servers."""
        services = self.settings.services
        # First, so that a host whose servers are drained here gets nothing new from there either.
        await self._drain_stragglers()
        try:
            actual = await self._actual()
            commands = haproxy.next_commands(self.look.wanted, actual, services)
            if commands:
                try:
                    await self._command(commands)
                finally:
                    self.acted_at_s = time.monotonic()
                actual = await self._actual()
            await self._close_upgraded("", self._ask, actual)
            done = haproxy.settled(self.look.wanted, actual, services)
        except (Failed, Unreadable) as error:
            self._say_once("haproxy", f"HAProxy cannot be compared: {error}")
            self.rounds.failed += 1
            return False
        self._say_once("haproxy", None, mended="HAProxy answers again")
        known = self.look.looked or bool(self._memory)
        fresh = self.look.serf_error is None
        at_s = time.monotonic() if fresh else self.look.reconciled_at_s
        self.look = replace(self.look, reconciled_at_s=at_s, ready=self.look.ready or known, actual=actual)
        return done

    async def _drain_stragglers(self) -> None:
        """Keep replaced workers, which know no reconciler of their own any more, from servers that are to go."""
        replaced = await workers.replaced(self._sockets)
        self._closed = {name: last for name, last in self._closed.items() if name in ("", *map(str, replaced))}
        for worker in replaced:
            try:
                actual = await worker.servers()
                for command in haproxy.stragglers(self.look.wanted, actual, self.settings.services):
                    await worker.ask(haproxy.command_line(command))
                    self.acted_at_s = time.monotonic()
                await self._close_upgraded(str(worker), worker.ask, actual)
            except (Failed, Unreadable):
                continue  # it ended just now

    async def _close_upgraded(
        self, worker: str, ask: Callable[[str], Awaitable[str]], actual: Iterable[haproxy.Actual]
    ) -> None:
        """Close upgraded connections to servers that drain, where their service says so."""
        servers = haproxy.to_close(self.look.wanted, actual, self.settings.services)
        before, at_s = self._closed.pop(worker, (frozenset(), 0.0))
        if not servers:
            return
        now_s = time.monotonic()
        if servers <= before and now_s - at_s < UPGRADE_S:
            self._closed[worker] = before, at_s
            return
        self._closed[worker] = servers, now_s
        tcp = {service.backend for service in self.settings.services.values() if service.is_tcp}
        closed = await upgraded.close(ask, servers, tcp)
        if closed:
            say(f"{closed} upgraded connections closed to {', '.join('/'.join(server) for server in sorted(servers))}")

    async def _actual(self) -> tuple[haproxy.Actual, ...]:
        states = await self._ask("show servers state")
        return haproxy.parse_servers(states, await self._ask("show servers conn"))

    async def _ask(self, command: str) -> str:
        return await edges.ask_haproxy(command, self._sockets.admin)

    async def _command(self, commands: Iterable[haproxy.Command]) -> None:
        refused: set[tuple[str, str]] = set()
        for command in commands:
            key = (command.backend, command.name)
            if key in refused:
                continue
            line = haproxy.command_line(command)
            refusal = haproxy.command_error(command, await self._ask(line))
            if refusal is None:
                self._tell_command(command)
            else:
                refused.add(key)
                if haproxy.must_wait(command, refusal):
                    continue
            self._say_once(f"command {'/'.join(key)}", refusal and f"HAProxy refused '{line}': {refusal}")

    def _tell_command(self, command: haproxy.Command) -> None:
        match command:
            case haproxy.Add():
                say(f"{command.backend}/{command.name} added at {command.address} port {command.port}")
            case haproxy.SetState(state=haproxy.State.DRAIN):
                say(f"{command.backend}/{command.name} drains")
            case haproxy.Delete():
                say(f"{command.backend}/{command.name} removed")

    # --- Files

    async def _keep_last_good(self) -> None:
        """Write the running servers into the configuration that a restarted HAProxy begins with."""
        try:
            await self._install(self._static)
            self._write(self._static_file, self._static)
        except Failed as error:
            self._say_once("last good", f"the last good configuration is not of today: {error}")
            return
        self._say_once("last good", None, mended="the last good configuration is of today again")

    async def _write_config(self, text: str) -> None:
        if self._written.get(self.config_file) == text:
            return
        candidate = self.config_file.with_name("candidate.cfg")
        edges.write_atomically(candidate, text)
        await edges.validate(candidate)
        self._write(self.config_file, text)

    def _write(self, path: Path, text: str) -> None:
        if self._written.get(path) != text:
            edges.write_atomically(path, text)
            self._written[path] = text

    def _try_write(self, path: Path, text: str) -> None:
        try:
            self._write(path, text)
        except Failed as error:
            self._say_once(f"write {path}", str(error))
            return
        self._say_once(f"write {path}", None, mended=f"{path} is written again")


def _read_or_none(path: Path) -> str | None:
    try:
        return edges.read_text(path)
    except Unreadable:
        return None
