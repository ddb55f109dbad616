"""Process 1 of the container: HAProxy, the Serf agent, the event stream, signals, and an orderly end."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from fiefdom_gateway import edges, status
from fiefdom_gateway.client import STATUS_SOCKET
from fiefdom_gateway.log import say
from fiefdom_gateway.reconcile import Reconciler
from fiefdom_gateway.settings import Settings

AGENT_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
MONITOR_BACKOFF_S = (0.1, 0.2, 0.5, 1.0)
# A child that lived this long was healthy: the next failure starts the backoff anew.
HEALTHY_AFTER_S = 10.0
LEAVE_GRACE_S = 6.0
AGENT_CONFIG_LOOK_S = 2.0
REAP_EVERY_S = 5.0

# Serf holds events back for a second to merge them, but logs them at once; "leaving" is no event at all, only this
# message. What else it logs (our own questions to it, too) must not make us look.
_MEMBER_WORDS = (b"serf: EventMember", b"serf: messageLeaveType", b"serf: messageJoinType", b"agent: Received event")

Process = asyncio.subprocess.Process


async def supervise(settings: Settings, settings_file: Path) -> int:
    """Run the gateway until it is told to stop; return the exit code. Raises edges.Failed when it cannot start."""
    edges.RUN_DIR.mkdir(mode=0o700, exist_ok=True)
    reconciler = Reconciler(settings, settings_file)
    await reconciler.prepare()
    stop = _listen_to_signals(reconciler.look_again)
    haproxy = await _start_haproxy(reconciler.config_file)
    server = await status.serve(Path(STATUS_SOCKET), lambda: reconciler.look)
    agent = Agent(settings)
    tasks = [
        asyncio.create_task(work)
        for work in (reconciler.run(), agent.run(), _follow_events(settings, reconciler.look_again), _reap_orphans())
    ]
    stopped = asyncio.create_task(stop.wait())
    died = asyncio.create_task(haproxy.wait())
    await asyncio.wait([stopped, died, *tasks], return_when=asyncio.FIRST_COMPLETED)
    broken = [task for task in tasks if task.done()]
    for task in (*tasks, stopped):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    server.close()
    if died.done():
        # Nobody is served now, so there is no time for farewells: whoever runs the container starts it again.
        say(f"HAProxy ended with {died.result()}: the container ends too")
        return 1
    await agent.leave()
    await _soft_stop(haproxy, reconciler.settings.stop_grace_s)
    for task in broken:
        task.result()
    return 0


def _listen_to_signals(look_again: Callable[[], None]) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, look_again)
    return stop


async def _start_haproxy(config: Path) -> Process:
    haproxy = await asyncio.create_subprocess_exec(
        "haproxy", "-W", "-db", "-S", f"{edges.MASTER_SOCKET},mode,600", "-f", str(config)
    )
    say(f"HAProxy started as process {haproxy.pid}")
    return haproxy


async def _soft_stop(haproxy: Process, grace_s: float) -> None:
    """Let open requests finish, for at most `grace_s`."""
    say("HAProxy takes no new connections and finishes the open ones")
    _send(haproxy, signal.SIGUSR1)
    if await _ends_within(haproxy, grace_s):
        say("HAProxy has finished")
        return
    say(f"HAProxy still had open connections after {grace_s:g} s, which end now")
    for number in (signal.SIGTERM, signal.SIGKILL):
        _send(haproxy, number)
        if await _ends_within(haproxy, 2.0):
            return


class Agent:
    """The Serf agent, started again when it ends, and when its configuration changes: no request notices either."""

    def __init__(self, settings: Settings) -> None:
        self._config = settings.serf_config
        self._process: Process | None = None

    async def run(self) -> None:
        await _keep_running("the Serf agent", self._once, AGENT_BACKOFF_S)

    async def leave(self) -> None:
        """Leave the cluster, so that the others need not find out."""
        if self._process is not None and self._process.returncode is None:
            _send(self._process, signal.SIGTERM)
            if not await _ends_within(self._process, LEAVE_GRACE_S):
                say(f"the Serf agent did not leave within {LEAVE_GRACE_S:g} s")
                _send(self._process, signal.SIGKILL)

    async def _once(self) -> None:
        started_with = _digest(self._config)
        self._process = await asyncio.create_subprocess_exec("serf", "agent", "-config-file", str(self._config))
        while not await _ends_within(self._process, AGENT_CONFIG_LOOK_S):
            if _digest(self._config) not in (started_with, None):
                say(f"{self._config} has changed: the Serf agent starts again")
                await self.leave()


async def _follow_events(settings: Settings, look_again: Callable[[], None]) -> None:
    async def once() -> None:
        environ = edges.serf_environ(settings.rpc_addr, settings.serf_config)
        monitor = await asyncio.create_subprocess_exec(
            "serf",
            "monitor",
            "-log-level=debug",
            env={**os.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            assert monitor.stdout is not None  # noqa: S101 - PIPE was asked for
            while line := await monitor.stdout.readline():
                if any(word in line for word in _MEMBER_WORDS):
                    look_again()
        finally:
            _send(monitor, signal.SIGKILL)
            await monitor.wait()

    await _keep_running("the Serf event stream", once, MONITOR_BACKOFF_S, quiet=True)


async def _keep_running(
    what: str, once: Callable[[], Awaitable[None]], backoff_s: tuple[float, ...], *, quiet: bool = False
) -> None:
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        began_s = loop.time()
        await once()
        lived_s = loop.time() - began_s
        failures = 0 if lived_s >= HEALTHY_AFTER_S else min(failures + 1, len(backoff_s) - 1)
        if not quiet:
            say(f"{what} ended after {lived_s:.1f} s, it starts again in {backoff_s[failures]:g} s")
        await asyncio.sleep(backoff_s[failures])


async def _reap_orphans() -> None:
    """Collect what a `docker exec` left behind: it becomes a child of process 1.

    Our own children are collected within moments by those who wait for them; one still there at the next look is not.
    """
    seen: int | None = None
    while True:
        await asyncio.sleep(REAP_EVERY_S)
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None and ended.si_pid == seen:
                os.waitpid(seen, os.WNOHANG)
            seen = None if ended is None else ended.si_pid


def _send(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)


async def _ends_within(process: Process, seconds: float) -> bool:
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
