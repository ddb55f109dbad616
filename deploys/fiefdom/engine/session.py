"""The one room that knows pyinfra's internals: sessions with hosts, the fact and the operations.

pyinfra 4 replaces gevent and paramiko; what has to change then stands here.
"""

from __future__ import annotations

import base64
import logging
import shlex
import socket
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_args

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from paramiko import PKey, SSHException
from pyinfra import context
from pyinfra.api import Config, FactBase, FunctionCommand, Inventory, QuoteString, State, StringCommand, operation
from pyinfra.api.exceptions import ConnectError, DeployError, NestedOperationError
from pyinfra.api.host import Host
from pyinfra.context import ctx_host, ctx_state

from fiefdom.cluster import keys, ledger
from fiefdom.converge import carry_out, diffs, guard, plan, snapshot, steps, trial
from fiefdom.converge import steps as steps_module
from fiefdom.converge.run import Known
from fiefdom.converge.steps import PHASES, SCRIPT, TURN, Phase, steps_text
from fiefdom.converge.trial import negotiates
from fiefdom.errors import FiefdomError
from fiefdom.images import build
from fiefdom.inventory import read, secret
from fiefdom.model import Cluster

CONNECT_TIMEOUT_S = 10
LOST_S = 30
"""Seconds without a sign of a host, while something is to be heard from it, after which its connection is lost."""
QUIET_S = 10
"""Seconds that a host may take for a script of which nothing says more."""
ASK_S = 4
"""Seconds that a host may take for a question of `guard`; what takes longer is a line that is cut."""
NEW_HOSTS_PORT = 22
_REASON = "fiefdom_reason"

# Becomes root where it can, so that the scripts know one way only; where it cannot, the snapshot says so. sudo drops
# SSH_CONNECTION, from which a script learns where the operator comes from, so it travels as an argument.
_AS_ROOT = (
    'set -- sh -c "$0" fiefdom "${SSH_CONNECTION:-}" "$@"; '
    'if [ "$(id -u)" = 0 ] || ! sudo -n true 2>/dev/null; then exec "$@"; else exec sudo -n "$@"; fi'
)

# Ended there and not only left: sshd opens no more than ten sessions beside those that hang.
_BOUNDED = """
limit_s=$1
shift
timeout -k 1 "$limit_s" "$@"
code=$?
case $code in 124 | 137) echo "no answer for $limit_s s" >&2 ;; esac
exit "$code"
"""

T = TypeVar("T")


def _script(text: str, *arguments: str) -> StringCommand:
    return StringCommand("sh", "-c", QuoteString(_AS_ROOT), QuoteString(text), *map(QuoteString, arguments))


class HostSnapshot(FactBase[list[str]]):
    """Lines of `snapshot.sh`; the query goes in as `_stdin`, so that it never stands in a process list."""

    name = "fiefdom.HostSnapshot"

    def command(self) -> StringCommand:
        """The script, as root."""
        return _script(snapshot.SCRIPT)

    def process(self, output: list[str]) -> list[str]:
        """The lines as they came."""
        return output


@operation()
def take(
    steps: str, detached: bool = False, unlocked: Cluster | None = None
) -> Generator[StringCommand | FunctionCommand]:
    """Let apply.sh take ``steps``, lines as `apply.steps_text` makes them; ``detached`` as in `apply.TURN`.

    Refused while somebody holds the lock of the cluster that shall be ``unlocked``.
    """
    if unlocked is not None:
        yield FunctionCommand(_require_free, [unlocked], {})
    if steps:
        script = TURN if detached else SCRIPT
        yield StringCommand("sh", "-c", QuoteString(_AS_ROOT), QuoteString(script), _stdin=steps)


@operation()
def ship(cluster: Cluster, refs: tuple[str, ...]) -> Generator[FunctionCommand]:
    """Send images to the host in one stream, built before where their folders changed."""
    if refs:
        yield FunctionCommand(_ship, [context.host, cluster, refs], {})


@operation()
def commit(cluster: Cluster, steps: tuple[steps.Step, ...], kept: guard.Backup | None) -> Generator[FunctionCommand]:
    """Let the host take steps that could lock the operator out, and confirm them over a new connection: `guard`."""
    if steps and kept is not None:
        yield FunctionCommand(_commit, [cluster, steps, kept], {})


_building = BoundedSemaphore(1)


def _ship(host: Host, cluster: Cluster, refs: tuple[str, ...]) -> None:
    shell = partial(_stream, host)
    error = None
    try:
        with _building:  # the first host builds, the others find it built
            build.ensure(cluster, refs, host.log)
        there = build.held(shell)
        with _building:  # the first host has the archive read, the others find it read
            packed = build.parcel(refs, there)
        build.send(refs, packed, shell)
    except FiefdomError as reason:
        error = str(reason)
    _tell(host, error)


def _require_free(state: State, host: Host, cluster: Cluster) -> None:
    try:
        ledger.require_free(_session(state, cluster), cluster.gateways)
    except FiefdomError as error:
        _tell(host, str(error))


def _commit(state: State, host: Host, cluster: Cluster, steps: tuple[steps.Step, ...], kept: guard.Backup) -> None:
    # pyinfra goes on with the next host of a serial operation, whatever became of the first.
    if stopped := getattr(state, "fiefdom_locked_out", None):
        _tell(host, f"left alone, for {stopped} took such a change back")
    try:
        _guarded(host, cluster, steps, kept)
    except FiefdomError as error:
        state.fiefdom_locked_out = host.name  # type: ignore[attr-defined] # lives exactly as long as the run
        _tell(host, str(error).removeprefix(f"{host.name}: "))


def _tell(host: Host, error: str | None) -> None:
    """Fail an operation of our own in the one way that makes pyinfra print no traceback."""
    if error is None:
        return
    host.connector_data[_REASON] = error
    host.log_styled(error, fg="red", log_func=logging.getLogger("pyinfra").error)
    raise NestedOperationError(error)


def _stream(host: Host, script: str, pieces: Iterable[bytes]) -> str:
    """Feed a root shell on the host and return what it printed; FiefdomError says why it failed.

    pyinfra itself can only send text that it holds in memory.
    """
    transport = host.connector.client.get_transport()  # type: ignore[attr-defined] # the SSH connector's own
    channel = transport.open_session()
    try:
        channel.exec_command(" ".join(["sh", "-c", shlex.quote(_AS_ROOT), shlex.quote(script)]))
        # Nothing is read while sending: the script may say no more than the channel's window holds.
        for piece in pieces:
            try:
                channel.sendall(piece)
            except OSError:  # the far end died; its exit code and words follow
                break
        channel.shutdown_write()
        output: bytes = channel.makefile("rb").read()
        error: bytes = channel.makefile_stderr("rb").read()
        status = channel.recv_exit_status()
    finally:
        channel.close()
    if status:
        words = " ".join(error.decode(errors="replace").split())
        raise FiefdomError(f"`{script}` failed: {words or f'exit {status}'}")
    return output.decode(errors="replace")


class _Line:
    """One host's line, as `guard.Line` wants it. Leaving closes what did not take the old connection's place."""

    def __init__(self, host: Host, wanted: Mapping[str, Any], known_hosts: Path, crypto: str) -> None:
        self.name = host.name
        self.where = f"{wanted['ssh_hostname']}:{wanted['ssh_port']}"
        self._host = host
        self._wanted = dict(wanted)
        self._known_hosts = known_hosts
        self._crypto = crypto
        self._fresh: Any = None
        self._moved: tuple[str, PKey] | None = None
        self._trusted: str | None = None

    def __enter__(self) -> _Line:
        old: Any = self._host.connector
        if any(old.data[key] != self._wanted[key] for key in ("ssh_hostname", "ssh_port")):
            # The host goes on being the one that it is: its key is known, only not yet under the new name.
            address, port = self._wanted["ssh_hostname"], int(self._wanted["ssh_port"])
            self._moved = (f"[{address}]:{port}" if port != 22 else address, _server_key(old))
            _require_writable(self._known_hosts, *self._moved, self.name)
            self._trusted = _trust(self._known_hosts, *self._moved)
            self._wanted["ssh_known_hosts_file"] = self._trusted
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        if self._trusted is not None:
            Path(self._trusted).unlink(missing_ok=True)

    def trial(self, config: str) -> str | None:
        """As in `guard.Line`."""
        channel = self._host.connector.client.get_transport().open_session()  # type: ignore[attr-defined]
        channel.exec_command(shlex.join(["sh", "-c", _AS_ROOT, f"shift\n{trial.SCRIPT}", config]))
        return negotiates(channel, self._crypto)

    def take(self, steps: Sequence[steps.Step], last: str) -> list[str]:
        """As in `guard.Line`."""
        lines: list[str] = []
        heard = Event()

        def hear(line: str) -> None:
            lines.append(line)
            heard.set()

        def listen() -> None:
            with suppress(FiefdomError, OSError, EOFError, SSHException):  # what the host did is asked anew
                _follow(self._host, steps, hear)
            heard.set()

        job = gevent.spawn(listen)
        while not job.ready():
            heard.clear()
            # Before the change, the host may wait for another run; after it, silence means that the line is cut, or
            # that a step failed and the host takes its time to put back what came before.
            failed = any(line.startswith("fiefdom-failed\t") for line in lines)
            if not heard.wait(guard.BACK_S if failed else QUIET_S / 2 if last in lines else None):
                break
        job.kill()
        return lines

    def login(self) -> str | None:
        """As in `guard.Line`."""
        self._drop()
        return self._open(self._wanted)

    def confirm(self, attempt: str) -> tuple[guard.Answer, str]:
        """As in `guard.Line`."""
        try:
            answer, words = _answer(self._fresh, "confirm", attempt)
        except _BROKEN:
            return "applying", ""  # asked again over another connection
        if answer == "confirmed":
            self._adopt()
            self._remember()
        return answer, words

    def ask(self, attempt: str) -> tuple[guard.Answer, str]:
        """As in `guard.Line`."""
        for _ in range(2):
            try:
                answer, words = _answer(self._host.connector, "ask", attempt)
            except _BROKEN:
                if self.back() is not None:
                    break
            else:
                if answer == "confirmed":
                    self._remember()
                return answer, words
        return "unknown", ""

    def revert(self) -> bool:
        """As in `guard.Line`."""
        try:
            return _run_script(self._host.connector, guard.SCRIPT, ("revert-now",))[0]
        except _BROKEN:
            return False

    def back(self) -> str | None:
        """As in `guard.Line`."""
        self._drop()
        old: Any = self._host.connector
        reason = self._open(old.data)
        if reason is None:
            self._adopt()
        return reason

    def _remember(self) -> None:
        if self._moved is not None:
            _remember(self._known_hosts, *self._moved)

    def _open(self, data: Mapping[str, Any]) -> str | None:
        fresh: Any = self._host.connector_cls(self._host.state, self._host)
        fresh.data = {**fresh.data, **data}
        try:
            fresh.connect()
        except ConnectError as error:
            return " ".join(str(error).split())
        except (OSError, EOFError, SSHException) as error:
            return f"{type(error).__name__}: {error}"
        self._fresh = fresh
        _tune(fresh)
        try:
            ok, output = fresh.run_shell_command(StringCommand("[ $(id -u) = 0 ] || sudo -n true"), _timeout=QUIET_S)
        except (OSError, EOFError, SSHException) as error:
            return f"the connection broke off: {error}"
        return None if ok else f"root is out of reach: {' '.join(output.stderr.split())}"

    def _adopt(self) -> None:
        old: Any = self._host.connector
        self._fresh.data["ssh_known_hosts_file"] = old.data["ssh_known_hosts_file"]
        self._host.connector, self._fresh = self._fresh, None
        with suppress(Exception):
            old.client.close()

    def _drop(self) -> None:
        if self._fresh is not None:
            with suppress(Exception):
                self._fresh.client.close()
        self._fresh = None


_BROKEN = (OSError, EOFError, SSHException)
_ANSWERS: dict[str, guard.Answer] = {name: name for name in get_args(guard.Answer)}


def _answer(connector: Any, verb: str, attempt: str) -> tuple[guard.Answer, str]:
    """What guard.sh answers, and why."""
    _, output, _ = _run_script(connector, guard.SCRIPT, (verb, attempt), timeout_s=ASK_S)
    answer, _, words = output.strip().partition("\t")
    return _ANSWERS.get(answer, "unknown"), words


def _guarded(host: Host, cluster: Cluster, steps: Sequence[steps.Step], kept: guard.Backup) -> None:
    """As `guard.perform`."""
    try:
        wanted = read.connection(cluster, host.name)
        with _Line(host, wanted, _known_hosts(cluster), cluster.ssh.crypto) as line:
            guard.perform(line, steps, kept)
    except _BROKEN as error:
        raise FiefdomError(
            f"{host.name}: the connection broke off before the change of {kept.about}: {error}; run it again"
        ) from error


def _server_key(connector: Any) -> PKey:
    key: PKey = connector.client.get_transport().get_remote_server_key()
    return key


def _known_hosts(cluster: Cluster) -> Path:
    named = cluster.ssh.known_hosts
    return cluster.path(named) if named is not None else Path("~/.ssh/known_hosts").expanduser()


def _trust(known_hosts: Path, name: str, key: PKey) -> str:
    """A file that knows what ``known_hosts`` does, and ``key`` under ``name``."""
    text = _text(known_hosts)
    with tempfile.NamedTemporaryFile("w", prefix="fiefdom-known-hosts-", delete=False) as file:
        file.write(f"{text.rstrip()}\n{_known_hosts_line(name, key)}")
    return file.name


def _require_writable(known_hosts: Path, name: str, key: PKey, host: str) -> None:
    """Raise FiefdomError where `_remember` would, while nothing of ``host`` has changed yet."""
    try:
        _add(known_hosts, name, key, dry=True)
    except OSError as error:
        raise FiefdomError(
            f"{host}: was not moved, for {known_hosts} cannot be added to, where its key has to be known as that of "
            f"{name}: {error.strerror}; make it writable"
        ) from error


def _remember(known_hosts: Path, name: str, key: PKey) -> None:
    try:
        _add(known_hosts, name, key)
    except OSError as error:
        raise FiefdomError(
            f"{known_hosts}: cannot be added to: {error.strerror}; the host is {name} by now: add its key there"
        ) from error


def _add(known_hosts: Path, name: str, key: PKey, dry: bool = False) -> None:
    line = _known_hosts_line(name, key)
    text = _text(known_hosts)
    if line.strip() in text.splitlines():
        return
    known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with known_hosts.open("a") as file:
        file.write("" if dry else line if not text or text.endswith("\n") else f"\n{line}")


def _text(known_hosts: Path) -> str:
    try:
        return known_hosts.read_text() if known_hosts.exists() else ""
    except OSError as error:
        raise FiefdomError(f"{known_hosts}: cannot be read: {error.strerror}") from error


def _known_hosts_line(name: str, key: PKey) -> str:
    return f"{name} {key.get_name()} {key.get_base64()}\n"


def _tune(connector: Any) -> None:
    transport = connector.client.get_transport()
    # Without it every command waits for a delayed acknowledgement: 48 ms instead of 6.
    with suppress(OSError, AttributeError):  # a ProxyJump's channel is no socket
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_S * 1000)
    # A host that dies while it is listened to would be waited for without an end.
    transport.set_keepalive(LOST_S // 3)


def _run_script(
    connector: Any, text: str, arguments: Sequence[str], stdin: str = "", timeout_s: int = QUIET_S
) -> tuple[bool, str, str]:
    try:
        # pyinfra's own limit begins when the channel is open, which a frozen link keeps from happening for an hour.
        with gevent.Timeout(timeout_s + 1, TimeoutError):
            command = _script(f"shift\n{text}", *arguments)
            ok, output = connector.run_shell_command(command, _stdin=stdin, _timeout=timeout_s)
    except TimeoutError:
        raise TimeoutError(f"no answer for {timeout_s} s") from None
    return ok, output.stdout, output.stderr


def _follow(host: Host, steps: Iterable[steps.Step], hear: Callable[[str], None]) -> None:
    argv = ["sh", "-c", _AS_ROOT, TURN]
    channel = host.connector.client.get_transport().open_session()  # type: ignore[attr-defined]
    try:
        channel.exec_command(shlex.join(argv))
        channel.sendall(steps_text(steps).encode())
        channel.shutdown_write()
        # In bytes: a service may log anything, and its last words are among what the host says.
        for line in channel.makefile("rb"):
            hear(line.decode(errors="replace").rstrip("\n"))
        if channel.recv_exit_status() == -1:
            raise FiefdomError(f"{host.name}: the connection broke off; the host ends its turn by itself")
    finally:
        channel.close()


@dataclass
class Session:
    """Connections to some hosts of a cluster, for one run.

    Entering tries every host and raises one FiefdomError that names all that did not answer; leaving closes all.
    ``others`` are connected as well where they answer. ``at`` says where a host answers now, as address and port, if
    that is not yet what the inventory says; None for what is. A host that should answer at another port than 22, and
    does not, is tried at 22: it may be new.
    """

    cluster: Cluster
    names: tuple[str, ...]
    others: tuple[str, ...] = ()
    at: Mapping[str, tuple[str | None, int | None]] = field(default_factory=dict)
    _state: State = field(init=False, repr=False)
    _unconfirmed: dict[str, guard.Backup] = field(init=False, repr=False, default_factory=dict)

    def __enter__(self) -> Session:
        # Without a handler, Python prints pyinfra's warnings raw.
        logging.getLogger("pyinfra").addHandler(logging.NullHandler())
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
        everybody = dict.fromkeys((*self.names, *self.others))
        data = [(name, self._connection(name)) for name in everybody]
        self._state = State(
            Inventory((data, {})),
            Config(CONNECT_TIMEOUT=CONNECT_TIMEOUT_S, PARALLEL=len(data)),
            check_for_changes=False,
        )
        self._state.is_executing = True  # operations run when they are called
        # Set once: `ctx_state.use` in one greenlet would take it away from all others when it ends.
        ctx_state.set(self._state)
        try:
            failures = {n: e for n, e in self.on_all(self._connect, everybody).items() if e and n in self.names}
            if failures:
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

    def _connection(self, name: str) -> dict[str, Any]:
        address, port = self.at.get(name, (None, None))
        data = read.connection(self.cluster, name)
        if address or port:
            data |= {"ssh_hostname": address or data["ssh_hostname"], "ssh_port": port or data["ssh_port"]}
        return data

    def close(self) -> None:
        """End every connection."""
        ctx_state.reset()
        for host in self._state.inventory:
            if host.connected:
                host.connector.client.close()  # type: ignore[attr-defined] # pyinfra's disconnect leaves it open

    def on_all(self, function: Callable[[str], T], names: Iterable[str] | None = None) -> dict[str, T]:
        """``function(name)`` for every host at once, in the inventory's order.

        All are waited for. What went wrong is raised at the end, as one FiefdomError where there were several.
        """
        errors: dict[str, FiefdomError] = {}

        def attempt(name: str) -> T | None:
            try:
                return function(name)
            except FiefdomError as error:
                errors[name] = error
            except (OSError, EOFError, SSHException) as error:
                errors[name] = FiefdomError(f"{name}: the connection broke off: {error}")
            return None

        jobs = {name: gevent.spawn(attempt, name) for name in (self.names if names is None else names)}
        gevent.joinall(jobs.values(), raise_error=True)
        if errors:
            raise FiefdomError("; ".join(str(errors[name]) for name in jobs if name in errors))
        return {name: job.value for name, job in jobs.items()}

    def snapshot_lines(self, queries: Mapping[str, str]) -> dict[str, list[str]]:
        """The snapshot script's answer from every host, one round trip each."""

        def ask(name: str) -> list[str]:
            ok, output = self._host(name).run_shell_command(_script(snapshot.SCRIPT), _stdin=queries[name])
            if not ok:
                raise FiefdomError(f"{name}: the snapshot failed: {' '.join(output.stderr.split()) or 'no output'}")
            return list(output.stdout_lines)

        return self.on_all(ask, queries)

    def run(self, name: str, phase: steps.Phase, registry: bool) -> None:
        """Take one host through one phase; FiefdomError says what failed there."""
        host = self._host(name)
        label = f"{name} | {phase.name}"
        if phase.images and registry:
            self._operate(host, take, label, steps=steps.steps_text(("pull", ref) for ref in phase.images))
        elif phase.images:
            self._operate(host, ship, label, cluster=self.cluster, refs=phase.images)
        if phase.guarded is not None:
            self._unconfirmed[name] = phase.guarded
            _guarded(host, self.cluster, phase.steps, phase.guarded)
            del self._unconfirmed[name]
        elif phase.steps:
            self._operate(host, take, label, steps=steps.steps_text(phase.steps), detached=phase.interrupts)

    def text_of(self, name: str, path: str) -> str:
        """Text of a file on a host; empty where it cannot be read."""
        return _text_of(self._host(name), path)

    def shell(self, name: str, argv: Iterable[str]) -> tuple[bool, str, str]:
        """Run a command as root; whether it succeeded, its output and its errors.

        One that hangs has failed after 10 s, in its own words of an error: a container's command, while dockerd hangs.
        Raises OSError where the host is not connected.
        """
        try:
            return self.script(name, _BOUNDED, [str(QUIET_S - 2), *argv], timeout_s=QUIET_S)
        except TimeoutError as error:
            return False, "", str(error)

    def script(
        self, name: str, text: str, arguments: Sequence[str] = (), stdin: str = "", timeout_s: int = QUIET_S
    ) -> tuple[bool, str, str]:
        """Run a shell script as root, its arguments from ``$1`` on; whether it succeeded, its output and its errors.

        Raises OSError where the host is not connected, or says nothing for ``timeout_s``.
        """
        host = self._connected(name)
        return _run_script(host.connector, text, arguments, stdin, timeout_s)

    def follow(self, name: str, steps: Iterable[steps.Step], hear: Callable[[str], None]) -> None:
        """Let a host take a turn that it ends even if this connection breaks off; ``hear`` gets each line it prints.

        Raises FiefdomError where the connection broke off, not where the turn failed: its lines say that.
        """
        _follow(self._connected(name), steps, hear)

    @contextmanager
    def every(self, seconds: float, function: Callable[[], object]) -> Iterator[None]:
        """Call ``function`` every so many seconds beside the block; the end waits for a call that is under way."""
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
        """Close a host's connection and open another; why that failed, or None."""
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
                raise FiefdomError(f"{host.name}: {self._why(host, error)}") from None

    def _why(self, host: Host, error: NestedOperationError) -> str:
        if reason := host.connector_data.pop(_REASON, None):
            return str(reason)
        meta = self._state.get_op_data_for_host(host, error.args[0]).operation_meta
        return failure(meta.stdout_lines) or " ".join(meta.stderr.split()) or "the connection broke off"

    def _host(self, name: str) -> Host:
        found: Host = self._state.inventory.get_host(name)
        return found

    def _connected(self, name: str) -> Host:
        host = self._host(name)
        if host.connector.client is None or host.connector.client.get_transport() is None:  # type: ignore[attr-defined]
            raise OSError("not connected")
        return host

    def _connect(self, name: str) -> str | None:
        host = self._host(name)
        data = host.connector.data
        try:
            try:
                host.connect(show_errors=False, raise_exceptions=True)
            except ConnectError:
                if name in self.at or data["ssh_port"] == NEW_HOSTS_PORT:
                    raise
                wanted, data["ssh_port"] = data["ssh_port"], NEW_HOSTS_PORT
                try:
                    host.connect(show_errors=False, raise_exceptions=True)
                except ConnectError:
                    data["ssh_port"] = wanted
                    raise
        except ConnectError as error:
            return " ".join(str(error).split())
        except Exception as error:  # a key file that paramiko cannot read, for one
            return f"{type(error).__name__}: {error}"
        self._state.activate_host(host)
        _tune(host.connector)
        return None


def failure(lines: Iterable[str]) -> str | None:
    """What apply.sh said when a step failed: the thing and the reason."""
    for line in lines:
        kind, _, rest = line.partition("\t")
        if kind == "fiefdom-failed":
            thing, _, why = rest.partition("\t")
            return f"{thing}: {why}"
    return None


def deploy(*concerns: str) -> None:
    """Converge the host that pyinfra is at, wholly or in some concerns: what the files in deploys/ call.

    Every host gets the same operations in the same order, empty where there is nothing to do, so that pyinfra's own
    counts and JSON tell changes from none.
    """
    host, state = context.host, context.state
    # One broken host must not leave the others half way through a fleet-wide change.
    state.config.FAIL_PERCENT = 0
    try:
        if state.failed_hosts:
            raise FiefdomError(
                f"{', '.join(sorted(h.name for h in state.failed_hosts))}: no answer; nothing was changed"
            )
        known = _known(state)
        chosen = concerns or carry_out.ALL
        states = carry_out.states_of(known.cluster, host.name, known.secrets, chosen)
        # Not even at -vvv: digests that cover secrets are in the answer, and a weak secret could be guessed from one.
        state.print_fact_output = False
        lines = host.get_fact(HostSnapshot, _stdin=snapshot.query(states.values()), _sudo=False)
        if lines is None:
            raise FiefdomError(f"{host.name}: the snapshot failed; its words are above")
        wanted = carry_out.plan_of(known, host.name, lines, chosen)
        carry_out.require_settled(wanted)
        _require_same_key(state, known, wanted)
    except FiefdomError as error:
        raise DeployError(str(error)) from error
    if state.config.DIFF:
        _log_diffs(host, wanted)
    for pending in plan.merge([wanted]).pending:
        host.log(f"release pending: {pending}; `fiefdom rollout` makes it")
    phases = {phase.name: phase for phase in steps_module.phases(wanted.due, known.cluster.ssh.confirm_s)}
    nothing = Phase("nothing")
    registry = known.cluster.registry is not None
    interrupts = carry_out.takes_turns(plan.merge([wanted]))
    for name in PHASES:
        phase = phases.get(name, nothing)
        if name == "access":
            # One host after the other: none of them may be risked before the one ahead of it is confirmed.
            commit(
                name="Fiefdom: access",
                cluster=known.cluster,
                steps=phase.steps,
                kept=phase.guarded,
                _sudo=False,
                _serial=True,
            )
            continue
        steps = [("pull", ref) for ref in phase.images if registry] + list(phase.steps)
        if name == "images" and not registry:
            ship(name="Fiefdom: images", cluster=known.cluster, refs=phase.images, _sudo=False)
        else:
            # Hosts take turns where one may serve less for a while.
            take(
                name=f"Fiefdom: {name}",
                steps=steps_text(steps),
                detached=phase.interrupts,
                # Asked before the first change, when it is carried out: a dry run is nobody's business.
                unlocked=known.cluster if interrupts and name == PHASES[0] else None,
                _sudo=False,
                _serial=name == "containers",
            )


def _known(state: State) -> Known:
    # Kept on pyinfra's own object, which lives exactly as long as the run.
    known: Known | None = getattr(state, "fiefdom", None)
    if known is None:
        cluster = cluster_of(state.inventory)
        known = Known(cluster, secret.load(cluster), build.identities(cluster))
        state.fiefdom = known  # type: ignore[attr-defined]
    return known


def cluster_of(found: Inventory) -> Cluster:
    """As `read.cluster_of`, of an inventory that pyinfra has loaded."""
    hosts = {host.name: (list(host.groups), found.get_host_data(host.name)) for host in found}
    return read.cluster_of(hosts, found.group_data, found.data)


def _session(state: State, cluster: Cluster) -> Session:
    """The connections that pyinfra has."""
    session = Session(cluster, tuple(host.name for host in state.activated_hosts))
    session._state = state
    return session


def _require_same_key(state: State, known: Known, wanted: plan.HostPlan) -> None:
    """As `keys.require_same_key`, of the hosts that pyinfra is connected to; once for a run."""
    if keys.touches_keys([wanted.due]) and not hasattr(state, "fiefdom_same_key"):
        keys.require_same_key(known, _session(state, known.cluster))
        state.fiefdom_same_key = True  # type: ignore[attr-defined] # lives exactly as long as the run


def _text_of(host: Host, path: str) -> str:
    # In base64, for pyinfra hands out lines and forgets how the last one ended.
    ok, output = host.run_shell_command(_script(shlex.join(["base64", path])))
    return base64.b64decode(output.stdout).decode(errors="replace") if ok else ""


def _log_diffs(host: Host, wanted: plan.HostPlan) -> None:
    for (_, path), text in diffs.of_plan(plan.merge([wanted]), lambda _, path: _text_of(host, path)).items():
        host.log(f"{path}\n{text}")
