"""Connections to some hosts of a cluster for one run, and the operations that change them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from pyinfra.api import Config, FunctionCommand, QuoteString, State, StringCommand, operation
from pyinfra.api.exceptions import ConnectError, NestedOperationError, NoHostError
from pyinfra.api.host import Host
from pyinfra.context import ctx_host, ctx_state

from fiefdom.cluster import locking
from fiefdom.converge import failure, guard, snapshot, steps_script
from fiefdom.converge.run import Stream
from fiefdom.converge.steps import Phase
from fiefdom.converge.steps_script import SCRIPT, TURN, Step
from fiefdom.engine import interaction, shells, streams
from fiefdom.engine.connector import CONNECT_TIMEOUT_S, Connector, Ways, inventory_of, nobody_there
from fiefdom.engine.line import guarded
from fiefdom.engine.places import NEW_HOSTS_PORT, second_try
from fiefdom.engine.shells import (
    BOUNDED,
    MARKED,
    QUIET_S,
    after_mark,
    as_root,
    reaching,
    run_script,
    said,
    shown,
    stream,
    timed,
    tune,
)
from fiefdom.errors import FiefdomError, HostError, HostErrors, Sick, Unreachable
from fiefdom.images import build, send
from fiefdom.images.fanout import Fanout
from fiefdom.model import Cluster

SNAPSHOT_S = 120
"""Seconds that a host may take to say what it holds: a slow disk takes some, a hung one would take all."""
_REASON = "fiefdom_reason"

T = TypeVar("T")


@operation()
def take(
    steps: str, detached: bool = False, unlocked: Cluster | None = None
) -> Generator[StringCommand | FunctionCommand]:
    """Let steps.sh take ``steps``, lines as `steps_script.steps_text` makes them; ``detached`` as in its `TURN`.

    Refused while somebody holds the lock of the cluster that shall be ``unlocked``.
    """
    if unlocked is not None:
        yield FunctionCommand(_require_free, [unlocked], {})
    if steps:
        script = TURN if detached else SCRIPT
        yield StringCommand("sh", "-c", QuoteString(MARKED), QuoteString(script), _stdin=steps)


@operation()
def ship(cluster: Cluster, refs: tuple[str, ...]) -> Generator[FunctionCommand]:
    """Send images to the host in one stream, built before where their folders changed."""
    if refs:
        yield FunctionCommand(_ship, [cluster, refs], {})


_building = BoundedSemaphore(1)
# Each lives no longer than pyinfra's own object of the run.
_fanouts: WeakKeyDictionary[State, Fanout] = WeakKeyDictionary()


def _ship(state: State, host: Host, cluster: Cluster, refs: tuple[str, ...]) -> None:
    shell = partial(stream, host)
    fanout = _fanouts.setdefault(state, Fanout())
    error = None
    try:
        with _building:  # the first host builds, the others find it built
            build.ensure(cluster, refs, host.log)
        there = send.held(shell)
        with _building:  # the first host has the archive read, the others find it read
            packed = send.parcel(refs, there)
        send.send(refs, packed, shell, fanout)
    except (FiefdomError, TimeoutError) as reason:
        error = str(reason)
    fail(host, error)


def _require_free(state: State, host: Host, cluster: Cluster) -> None:
    try:
        locking.require_free(session_of(state, cluster), cluster.gateways)
    except FiefdomError as error:
        fail(host, str(error))


def fail(host: Host, error: str | None) -> None:
    """Fail an operation of our own in the one way that makes pyinfra print no traceback."""
    if error is None:
        return
    host.connector_data[_REASON] = error
    host.log_styled(error, fg="red", log_func=logging.getLogger("pyinfra").error)
    raise NestedOperationError(error)


@dataclass
class Session:
    """Connections to some hosts of a cluster, for one run.

    Entering tries every host and raises one FiefdomError that names all that did not answer, or keeps in ``silent`` why
    they did not where ``looks``; whoever asks such a host later on hears the same as Unreachable. Leaving closes all.
    ``others`` are connected as well where they answer. ``at`` says where a host answers now, as address and port, if
    that is not yet what the inventory says; None for what is. A host that should answer at another port than 22, and
    does not, is tried at 22: it may be new.
    """

    cluster: Cluster
    names: tuple[str, ...]
    others: tuple[str, ...] = ()
    at: Mapping[str, tuple[str | None, int | None]] = field(default_factory=dict)
    looks: bool = False
    silent: dict[str, str] = field(init=False, default_factory=dict)
    _state: State = field(init=False, repr=False)
    _ways: Ways = field(init=False, repr=False)
    _unconfirmed: dict[str, guard.Backup] = field(init=False, repr=False, default_factory=dict)
    _entered_by: gevent.Greenlet | None = field(init=False, repr=False, default=None)

    def __enter__(self) -> Session:
        self._entered_by = gevent.getcurrent()
        # Without a handler, Python prints pyinfra's warnings raw.
        logging.getLogger("pyinfra").addHandler(logging.NullHandler())
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
        everybody = dict.fromkeys((*self.names, *self.others))
        self._ways = Ways(self.cluster)
        data = [(name, self._ways.places.data(name, *self.at.get(name, (None, None)))) for name in everybody]
        self._state = State(
            inventory_of(data),
            Config(CONNECT_TIMEOUT=CONNECT_TIMEOUT_S, PARALLEL=len(data)),
            check_for_changes=False,
        )
        self._state.is_executing = True  # operations run when they are called
        for host in self._state.inventory:
            host.connector_cls = partial(Connector, self._ways)  # type: ignore[assignment] # it makes connectors alone
            host.connector = Connector(self._ways, self._state, host)
        # Set once: `ctx_state.use` in one greenlet would take it away from all others when it ends.
        ctx_state.set(self._state)
        try:
            self.on_all(self._connect, everybody)
            # In the inventory's order, whichever gave up first.
            self.silent = {name: self.silent[name] for name in everybody if name in self.silent}
            failures = {name: reason for name, reason in self.silent.items() if name in self.names}
            if failures and not self.looks:
                raise FiefdomError("; ".join(f"{name}: {reason}" for name, reason in failures.items()))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is KeyboardInterrupt and self._unconfirmed:
            back = (
                f"{n} takes back the change of {k.about} within {k.confirm_s} s" for n, k in self._unconfirmed.items()
            )
            raise FiefdomError(f"interrupted; {', '.join(back)}; what was done before stays") from error

    def close(self) -> None:
        """End every connection."""
        ctx_state.reset()
        for host in self._state.inventory:
            if host.connected:
                host.connector.client.close()  # type: ignore[attr-defined] # pyinfra's disconnect leaves it open
        self._ways.close()
        # Who still listens to a host that said nothing hears that it is over; at the end of all it would protest.
        gevent.idle()

    def on_all(self, function: Callable[[str], T], names: Iterable[str] | None = None) -> dict[str, T]:
        """As `run.Hosts.on_all`."""
        errors: dict[str, FiefdomError] = {}

        def attempt(name: str) -> T | None:
            try:
                return function(name)
            except FiefdomError as error:
                errors[name] = error
            return None

        jobs = {name: gevent.spawn(attempt, name) for name in (self.names if names is None else names)}
        try:
            gevent.joinall(jobs.values(), raise_error=True)
        finally:
            # Not where this is called by one of such jobs, or beside them: others may be about to want the images.
            if gevent.getcurrent() is self._entered_by and (fanout := _fanouts.pop(self._state, None)):
                fanout.close()
        if errors:
            raise HostErrors(errors[name] for name in jobs if name in errors)
        return {name: job.value for name, job in jobs.items()}

    def snapshot_lines(self, queries: Mapping[str, str]) -> dict[str, list[str]]:
        """As `run.Hosts.snapshot_lines`."""

        def ask(name: str) -> list[str]:
            silence = TimeoutError(f"no answer for {SNAPSHOT_S} s")
            with reaching(name, "the snapshot"), gevent.Timeout(SNAPSHOT_S, silence):
                ok, output = self._connected(name).run_shell_command(as_root(snapshot.SCRIPT), _stdin=queries[name])
                words = said(output.stdout)
            if not ok:
                raise HostError(name, f"the snapshot failed: {' '.join(shown(output.stderr).split()) or 'no output'}")
            return words.split("\n")

        return self.on_all(ask, queries)

    def run(self, name: str, phase: Phase) -> None:
        """As `run.Hosts.run`."""
        with reaching(name, f"the phase {phase.name}"):
            self._run(name, phase)

    def _run(self, name: str, phase: Phase) -> None:
        host = self._host(name)
        label = f"{name} | {phase.name}"
        if phase.images:
            self._operate(host, ship, label, cluster=self.cluster, refs=phase.images)
        if phase.guarded is not None:
            self._unconfirmed[name] = phase.guarded
            guarded(host, self.cluster, phase.steps, phase.guarded)
            del self._unconfirmed[name]
        elif phase.steps:
            self._operate(host, take, label, steps=steps_script.steps_text(phase.steps), detached=phase.interrupts)

    def text_of(self, name: str, path: str) -> str:
        """As `run.Hosts.text_of`."""
        with reaching(name, "reading a file"):
            return shells.text_of(self._connected(name), path)

    def shell(self, name: str, argv: Iterable[str]) -> tuple[bool, str, str]:
        """As `run.Hosts.shell`."""
        argv = list(argv)
        with reaching(name, f"the command {argv[0]}"):
            try:
                return self._script(name, BOUNDED, [str(QUIET_S - 2), *argv], timeout_s=QUIET_S)
            except TimeoutError as error:
                return False, "", str(error)

    def script(
        self, name: str, text: str, arguments: Sequence[str] = (), stdin: str = "", timeout_s: int = QUIET_S
    ) -> tuple[bool, str, str]:
        """As `run.Hosts.script`."""
        with reaching(name, "a script"):
            return self._script(name, text, arguments, stdin, timeout_s)

    def _script(
        self, name: str, text: str, arguments: Sequence[str], stdin: str = "", timeout_s: int = QUIET_S
    ) -> tuple[bool, str, str]:
        return run_script(self._connected(name).connector, text, arguments, stdin, timeout_s)

    def follow(self, name: str, steps: Iterable[Step], hear: Callable[[str], None]) -> None:
        """As `run.Hosts.follow`."""
        with reaching(name, "its turn"):
            shells.follow(self._connected(name), steps, hear)

    def attach(self, name: str, text: str, arguments: Sequence[str], hear: Callable[[int, bytes], None]) -> int:
        """As `run.Hosts.attach`."""
        with reaching(name, "a command of its own"):
            return shells.attach(self._connected(name), text, arguments, hear)

    @contextmanager
    def listen(self, text: str, arguments: Mapping[str, Sequence[str]]) -> Iterator[Mapping[str, Stream]]:
        """As `run.Hosts.listen`."""
        with ExitStack() as stack:

            def begin(name: str) -> Stream:
                try:
                    with reaching(name):
                        return stack.enter_context(streams.opened(self._connected(name), text, tuple(arguments[name])))
                except HostError as error:
                    return streams.Dead(error)

            yield self.on_all(begin, arguments)

    def interact(self, name: str, text: str | None, words: Sequence[str], *, terminal: bool) -> int:
        """As `run.Hosts.interact`."""
        with reaching(name):
            return interaction.interact(self._connected(name), text, words, terminal=terminal)

    @contextmanager
    def every(self, seconds: float, function: Callable[[], object]) -> Iterator[None]:
        """As `run.Hosts.every`."""
        over = Event()

        def again() -> None:
            while not over.wait(seconds):
                function()

        job = gevent.spawn(again)
        try:
            yield
        finally:
            over.set()
            job.join()

    def connect_anew(self, name: str) -> str | None:
        """As `run.Hosts.connect_anew`."""
        host = self._host(name)
        with suppress(Exception):
            host.connector.client.close()  # type: ignore[attr-defined]
        host.connected = False
        return self._connect(name)

    def _operate(self, host: Host, op: Any, label: str, **arguments: Any) -> None:
        with ctx_host.use(host):
            try:
                op(name=label, _sudo=False, **arguments)
            except NestedOperationError as error:
                raise self._error(host, error) from None

    def _error(self, host: Host, error: NestedOperationError) -> HostError:
        if reason := host.connector_data.pop(_REASON, None):
            return HostError(host.name, str(reason))
        meta = self._state.get_op_data_for_host(host, error.args[0]).operation_meta
        lines = list(after_mark(meta.stdout_lines))
        words, log = failure.of_lines(lines)
        if not words and (units := failure.sick(lines)):
            return Sick(host.name, units)
        words = words or " ".join(shown(meta.stderr).split())
        return HostError(host.name, words or "the connection broke off", log)

    def _host(self, name: str) -> Host:
        try:
            found: Host = self._state.inventory.get_host(name)
        except NoHostError:
            raise Unreachable(name, "is left out of this run") from None
        return found

    def _connected(self, name: str) -> Host:
        if name in self.silent:
            raise Unreachable(name, self.silent[name])
        host = self._host(name)
        if host.connector.client is None or host.connector.client.get_transport() is None:  # type: ignore[attr-defined]
            raise OSError("not connected")
        return host

    def _connect(self, name: str) -> str | None:
        """Open a host's connection; why that failed, or None."""
        with timed(name, "its connection"):
            reason = self._try(name)
        if reason is None:
            self.silent.pop(name, None)
        else:
            self.silent[name] = reason
        return reason

    def _try(self, name: str) -> str | None:
        host = self._host(name)
        data = host.connector.data
        try:
            try:
                host.connect(show_errors=False, raise_exceptions=True)
            except ConnectError as error:
                again = second_try(data["ssh_port"], given=name in self.at)
                if again is None or not nobody_there(error):
                    raise
                wanted, data["ssh_port"] = data["ssh_port"], again
                try:
                    host.connect(show_errors=False, raise_exceptions=True)
                except ConnectError as other:
                    data["ssh_port"] = wanted
                    raise ConnectError(f"{error}; {_nor_as_new(other)}") from None
        except ConnectError as error:
            return " ".join(str(error).split())
        except Exception as error:  # a key file that paramiko cannot read, for one
            return f"{type(error).__name__}: {error}"
        self._state.activate_host(host)
        tune(host.connector.client)  # type: ignore[attr-defined]
        return None


def _nor_as_new(reason: ConnectError) -> str:
    where = f"at port {NEW_HOSTS_PORT}, where a new host is"
    return f"nor does it answer {where}" if nobody_there(reason) else f"{where}: {reason}"


def session_of(state: State, cluster: Cluster) -> Session:
    """The connections that pyinfra has to hosts of the cluster; of others in its inventory nothing is asked."""
    session = Session(cluster, tuple(host.name for host in state.activated_hosts if host.name in cluster.hosts))
    session._state = state
    return session
