"""The one loop that changes HAProxy: look at the members, compare with what HAProxy says, apply the difference."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fiefdom_gateway import edges, haproxy
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.log import Once, say
from fiefdom_gateway.members import Roll, Unreadable, parse_members
from fiefdom_gateway.settings import BadSettings, Service, Settings, parse_settings
from fiefdom_gateway.status import Look
from fiefdom_gateway.wanted import Known, Server, dump_memory, load_memory, none_alive, remember, wanted_servers

# Events come in bursts: a host that joins changes several members' views at once.
DEBOUNCE_S = 0.02
# How soon to look again while a server waits to be removed, or while Serf does not answer.
SETTLE_S = 0.1
SERF_RETRY_S = 1.0
SERF_TIMEOUT_S = 5.0


class Reconciler:
    """Owns the state between rounds. Rounds run one after the other in one task, so no two changes ever meet."""

    def __init__(self, settings: Settings, settings_file: Path) -> None:
        self.settings = settings
        self.look = Look(node=settings.node, services=settings.services)
        self._settings_file = settings_file
        self._refused_static: str | None = None
        self._static = ""
        self._memory: dict[str, Known] = {}
        self._again = asyncio.Event()
        self._say_once = Once()

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

    def look_again(self) -> None:
        """Say that something may have changed."""
        self._again.set()

    async def prepare(self) -> None:
        """Put a configuration in place for HAProxy to start with: today's static part, else the last good one.

        Raises Failed when neither is valid.
        """
        self._recall()
        try:
            static = edges.read_text(self.settings.haproxy_config)
            await self._install(static)
        except (Unreadable, Failed) as error:
            reason = f"{self.settings.haproxy_config} was refused, the last good one is used: {error}"
            try:
                await self._install(edges.read_text(self._static_file))
            except (Unreadable, Failed) as second:
                raise Failed(f"no usable configuration: {error}; and no last good one: {second}") from None
            self._refused_static = _read_or_none(self.settings.haproxy_config)
            self._report_config(reason)

    async def run(self) -> None:
        """Look and apply until cancelled."""
        looked_at_s = -self.settings.interval_s
        while True:
            if self._again.is_set() or time.monotonic() - looked_at_s >= self._patience_s():
                await asyncio.sleep(DEBOUNCE_S)
                self._again.clear()
                looked_at_s = time.monotonic()
                await self._full_round()
            done = await self._apply()
            pause_s = self._patience_s() - (time.monotonic() - looked_at_s) if done else SETTLE_S
            try:
                await asyncio.wait_for(self._again.wait(), max(pause_s, 0.01))
            except asyncio.TimeoutError:
                pass

    def _patience_s(self) -> float:
        wait_s = self.settings.interval_s
        return wait_s if self.look.serf_error is None else min(wait_s, SERF_RETRY_S)

    # --- The parts of a round

    async def _full_round(self) -> None:
        self._take_up_settings()
        await self._take_up_static()
        await self._look_at_members()

    def _take_up_settings(self) -> None:
        """Follow reconciler.json: services and times change while HAProxy serves, paths and names at the next start."""
        try:
            new = parse_settings(edges.read_text(self._settings_file))
        except (Unreadable, BadSettings) as error:
            self._say_once("settings", f"{self._settings_file} was not taken up: {error}")
            return
        self._say_once("settings", None, mended=f"{self._settings_file} is good again")
        if new == self.settings:
            return
        old = self.settings
        self.settings = replace(
            old,
            interval_s=new.interval_s,
            absent_grace_s=new.absent_grace_s,
            stop_grace_s=new.stop_grace_s,
            services=new.services,
        )
        if self.settings != new:
            self._say_once("fixed", f"{self._settings_file}: changed names or paths count from the next start")
        if self.settings != old:
            say(f"{self._settings_file} taken up: services {', '.join(sorted(new.services)) or 'none'}")
            self.look = replace(self.look, services=new.services)
            self._choose_servers(self.look.members, self.look.rejected)

    async def _take_up_static(self) -> None:
        """Follow the static part: validate, put in place, reload. What HAProxy refuses changes nothing."""
        try:
            static = edges.read_text(self.settings.haproxy_config)
        except Unreadable as error:
            self._report_config(str(error))
            return
        if static == self._static:
            self._refused_static = None
            self._report_config(self._unplaced())
            return
        if static == self._refused_static:
            return
        before = self._static
        try:
            await self._install(static)
            await self._reload()
        except Failed as error:
            self._refused_static = static
            self._report_config(f"{self.settings.haproxy_config} was refused, the last good one stays: {error}")
            if self._static != before:
                await self._put_back(before)
            return
        say(f"HAProxy runs the static part {haproxy.digest(static)[:12]}")
        self._report_config(self._unplaced())

    async def _reload(self) -> None:
        reason = haproxy.reload_error(await edges.ask_haproxy("reload", 60.0, edges.MASTER_SOCKET))
        if reason is not None:
            raise Failed(f"HAProxy did not reload: {reason}")

    async def _put_back(self, static: str) -> None:
        try:
            await self._install(static)
        except Failed as error:
            self._say_once("put back", f"the last good configuration could not be put back: {error}")

    async def _look_at_members(self) -> None:
        environ = edges.serf_environ(self.settings.rpc_addr, self.settings.serf_config)
        try:
            text = await edges.run(["serf", "members", "-format", "json"], environ, SERF_TIMEOUT_S)
            roll = parse_members(text, self.settings.services)
        except (Failed, Unreadable) as error:
            self.look = replace(self.look, serf_error=str(error))
            # Right after a start the agent is not up yet, which is no news.
            if self.look.ready:
                self._say_once("serf", f"Serf does not answer, servers stay as they are: {error}")
            return
        self.look = replace(self.look, serf_error=None)
        self._say_once("serf", None, mended="Serf answers again")
        self._remember(roll)
        self._choose_servers(roll.members, roll.rejected)

    def _remember(self, roll: Roll) -> None:
        before = self._memory
        self._memory = remember(before, roll, time.monotonic(), self.settings.absent_grace_s)
        for name in sorted(before.keys() | self._memory.keys()):
            self._say_once(f"member {name}", _fact(name, self._memory.get(name)))
        alone = none_alive(self._memory)
        lost = "no app host is alive: the servers stay, and HAProxy's health checks judge them" if alone else None
        self._say_once("alone", lost, mended="app hosts are alive again")
        self._persist(self._memory_file, dump_memory(self._memory))

    def _choose_servers(self, members: tuple[object, ...], rejected: tuple[object, ...]) -> None:
        raise NotImplementedError

    # --- HAProxy

    async def _apply(self) -> bool:
        """Do what can be done now; return whether HAProxy has exactly the wanted servers."""
        try:
            return await self._apply_difference()
        except (Failed, Unreadable) as error:
            self._say_once("haproxy", f"HAProxy cannot be compared: {error}")
            return False

    async def _apply_difference(self) -> bool:
        services = self.settings.services
        actual = await self._actual()
        commands = haproxy.next_commands(self.look.wanted, actual, services)
        for command in commands:
            reply = await edges.ask_haproxy(haproxy.command_line(command))
            refusal = haproxy.command_error(command, reply)
            if refusal is None:
                say(_told(command))
            subject = f"command {command.backend}/{command.name}"
            self._say_once(subject, refusal and f"HAProxy refused '{haproxy.command_line(command)}': {refusal}")
        if commands:
            actual = await self._actual()
        done = haproxy.settled(self.look.wanted, actual, services)
        return done


def _read_or_none(path: Path) -> str | None:
    try:
        return edges.read_text(path)
    except Unreadable:
        return None
