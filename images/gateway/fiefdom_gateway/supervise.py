"""Process 1 of the container: HAProxy, the Serf agent, the event stream, signals, and an orderly end."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fiefdom_gateway import edges, handover, paths, status_socket, view
from fiefdom_gateway.answers import Answers
from fiefdom_gateway.client import STATUS_SOCKET, shared_socket
from fiefdom_gateway.log import say
from fiefdom_gateway.obtainer import Obtainer
from fiefdom_gateway.reconcile import Reconciler
from fiefdom_gateway.served import Served
from fiefdom_gateway.settings import Settings
from fiefdom_gateway.web import Web

AGENT_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
STREAM_BACKOFF_S = (0.1, 0.2, 0.5, 1.0)
# A child that lived this long was healthy: the next failure starts the backoff anew.
HEALTHY_AFTER_S = 10.0
LEAVE_GRACE_S = 6.0
# For an agent that ends without a farewell, and for requests that a successor took before it failed.
QUIET_END_S = 2.0
FAILED_GRACE_S = 5.0
AGENT_CONFIG_LOOK_S = 2.0
REAP_EVERY_S = 5.0

# Lets SIGINT end the agent without a farewell, its snapshot written: the agent that comes next is the same member.
QUIET_CONFIG = Path("/usr/local/lib/fiefdom-gateway/agent.json")

Process = asyncio.subprocess.Process


async def supervise(settings: Settings, settings_file: Path) -> int:
    """Run the gateway until it is told to stop; return the exit code. Raises edges.Failed when it cannot start."""
    place = handover.take_place(settings.state_dir)
    try:
        return await _supervise(settings, settings_file, place)
    finally:
        handover.leave_place(place)


async def _supervise(settings: Settings, settings_file: Path, place: handover.Place) -> int:
    reconciler = Reconciler(settings, settings_file, place.own)
    agent = Agent(settings)
    answers = Answers(reconciler, lambda backend: view.take(place.own, backend))
    stop = _listen_to_signals(reconciler.look_again)
    obtainer = Obtainer(settings, reconciler.renew_certificate)
    loan = await handover.borrow(place)
    reconciler.before_static = obtainer.prepare
    await obtainer.prepare()
    await reconciler.prepare()
    # Until this process ends: HAProxy asks the container that it is of, also while it finishes.
    served = Served(place.own)
    table = paths.table(
        *(lambda: reconciler.look, place.own, obtainer.told, reconciler.rounds, lambda: served.rows),
        settings=lambda: reconciler.settings,
    )
    await Web(table).open(place.own.web)
    haproxy = await _start_haproxy(reconciler.config_file, place.own, loan)
    works = *_works(reconciler, agent, answers, obtainer), served.run()
    tasks = [asyncio.create_task(work) for work in works]
    died = asyncio.create_task(haproxy.wait())
    ends: set[asyncio.Task[Any]] = {asyncio.create_task(stop.wait()), died, *tasks}
    if loan is not None:
        try:
            await _take_over(loan, reconciler.caught_up, ends)
        except edges.Failed:
            await _cancel(tasks)
            await agent.stand_still()
            loan.end()
            await _soft_stop(haproxy, FAILED_GRACE_S)
            raise
    lender = handover.Lender(place, obtainer, answers, reconciler, agent)
    await lender.open()
    answers.go_on()
    obtainer.go_on()
    shared = Path(shared_socket(str(settings.state_dir)))
    servers = await status_socket.serve(Path(STATUS_SOCKET), shared, lambda: reconciler.look, place.own, obtainer.told)
    retired = asyncio.create_task(lender.retired.wait())
    await asyncio.wait([retired, *ends], return_when=asyncio.FIRST_COMPLETED)
    broken = [task for task in tasks if task.done()]
    await obtainer.stand_still()
    await answers.stand_still()
    lender.close()
    for server in servers:
        server.close()
    await _cancel(tasks)
    if died.done():
        # Nobody is served now, so there is no time for farewells: whoever runs the container starts it again.
        say(f"HAProxy ended with {died.result()}: the container ends too")
        return 1
    if retired.done():
        say("the successor has taken over")
    else:
        await agent.leave()
    await _soft_stop(haproxy, reconciler.settings.stop_grace_s)
    for task in broken:
        task.result()
    return 0


def _works(
    reconciler: Reconciler, agent: "Agent", answers: Answers, obtainer: Obtainer
) -> tuple[Coroutine[Any, Any, None], ...]:
    return reconciler.run(), agent.run(), _follow(answers), obtainer.run(), _reap_orphans()


async def _take_over(loan: handover.Loan, caught_up: asyncio.Event, ends: set[asyncio.Task[Any]]) -> None:
    """Await that this container serves as well as the old one, and take its turn. Raises edges.Failed."""
    ready = asyncio.create_task(caught_up.wait())
    limit_s = handover.SUCCESSOR_LIMIT_S
    done, _ = await asyncio.wait({ready, *ends}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if done != {ready}:
        raise edges.Failed("it ended before it was ready" if done else f"it was not ready within {limit_s:g} s")
    await loan.retire_lender()
    say("this container has taken over")


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _listen_to_signals(look_again: Callable[[], None]) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, look_again)
    return stop


async def _start_haproxy(config: Path, sockets: edges.Sockets, loan: handover.Loan | None) -> Process:
    """Start HAProxy, with the listening sockets of the old container if there is one.

    `noreuseport` in its configuration sees to it that it never listens beside the old one on sockets of its own: what
    waits in the queue of such a socket is lost when it is closed.
    """
    take = [] if loan is None else ["-x", str(loan.sockets.admin)]
    haproxy = await asyncio.create_subprocess_exec(
        *("haproxy", "-W", "-db", "-S", f"{sockets.master},mode,600", *take, "-f", str(config)),
        env={**os.environ, **sockets.environ},
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
        self._starting = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._wanted.set()

    async def run(self) -> None:
        await _keep_running("the Serf agent", self._once, AGENT_BACKOFF_S)

    async def leave(self) -> None:
        """Leave the cluster, so that the others need not find out."""
        if not await self._end(signal.SIGTERM, LEAVE_GRACE_S):
            say(f"the Serf agent did not leave within {LEAVE_GRACE_S:g} s")

    async def stand_still(self) -> None:
        """End without leaving the cluster, and do not start again: another agent goes on as the same member."""
        self._wanted.clear()
        async with self._starting:
            await self._end(signal.SIGINT, QUIET_END_S)

    def go_on(self) -> None:
        """Go on after `stand_still`."""
        self._wanted.set()

    async def _end(self, number: signal.Signals, limit_s: float) -> bool:
        if self._process is None:
            return True
        _send(self._process, number)
        if await _ends_within(self._process, limit_s):
            return True
        _send(self._process, signal.SIGKILL)
        await self._process.wait()
        return False

    async def _once(self) -> None:
        await self._wanted.wait()
        started_with = _digest(self._config)
        async with self._starting:
            if not self._wanted.is_set():
                return
            configs = (f"-config-file={path}" for path in (self._config, QUIET_CONFIG))
            self._process = await asyncio.create_subprocess_exec("serf", "agent", *configs)
        while not await _ends_within(self._process, AGENT_CONFIG_LOOK_S):
            if _digest(self._config) not in (started_with, None):
                say(f"{self._config} has changed: the Serf agent starts again")
                # A farewell that a successor cuts short stays the last word on this member for all others, as long as
                # no second gateway asks this one to join.
                await self._end(signal.SIGINT, QUIET_END_S)


async def _follow(answers: Answers) -> None:
    await _keep_running("the Serf event stream", answers.follow, STREAM_BACKOFF_S, quiet=True)


async def _keep_running(
    what: str, once: Callable[[], Awaitable[None]], backoff_s: tuple[float, ...], *, quiet: bool = False
) -> None:
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        began_s = loop.time()
        try:
            await once()
        except OSError as error:  # as at the container's limit of processes
            say(f"{what} cannot be run: {error}")
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
