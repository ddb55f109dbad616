"""Root's shell on a host: scripts with arguments, streams of bytes, turns that are listened to."""

from __future__ import annotations

import base64
import itertools
import logging
import shlex
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import gevent
from paramiko import SSHException
from pyinfra.api import QuoteString, StringCommand
from pyinfra.api.host import Host

from fiefdom.converge.steps_script import TURN, Step, steps_text
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.waiting import now_s

ROUND_TRIPS = logging.getLogger("fiefdom.hosts")
LOST_S = 30
"""Seconds without a sign of a host, while something is to be heard from it, after which its connection is lost."""
BEAT_S = 5
"""Seconds between signs that somebody listens; one_off.sh gives up after six of them that do not come."""
QUIET_S = 10
"""Seconds that a host may take for a script of which nothing says more."""
STALLED_S = 120
"""Seconds in which a host must take something of what is sent: a slow disk takes some, a hung one would take all."""
UNPACKED_S = 1800
"""Seconds that a host may be silent when it has all: it unpacks layers then, gigabytes at times."""

# Becomes root where it can, so that the scripts know one way only; where it cannot, the snapshot says so. sudo drops
# SSH_CONNECTION, from which a script learns where the operator comes from, so it travels as an argument.
AS_ROOT = (
    'set -- sh -c "$0" fiefdom "${SSH_CONNECTION:-}" "$@"; '
    'if [ "$(id -u)" = 0 ] || ! sudo -n true 2>/dev/null; then exec "$@"; else exec sudo -n "$@"; fi'
)

MARK = "fiefdom-answers"
"""The line after which a host's own words begin: what a login prints before that (a `.bashrc`, a wrapper) is none."""

# With a line break before it, for what was printed may have none at its end.
MARKED = f"printf '\\n{MARK}\\n'; printf '\\n{MARK}\\n' >&2; {AS_ROOT}"

# Ended there and not only left: sshd opens no more than ten sessions beside those that hang.
BOUNDED = """
limit_s=$1
shift
timeout -k 1 "$limit_s" "$@"
code=$?
case $code in 124 | 137) echo "no answer for $limit_s s" >&2 ;; esac
exit "$code"
"""


def as_root(text: str, *arguments: str) -> StringCommand:
    """Run a script as root; what it says stands in the output after `MARK`: see `said`."""
    return StringCommand("sh", "-c", QuoteString(MARKED), QuoteString(text), *map(QuoteString, arguments))


def said(output: str) -> str:
    """What the host itself said in the output of `as_root`. Raises ConnectionError where it came to no word."""
    before, mark, words = f"\n{output}\n".partition(f"\n{MARK}\n")
    if not mark:
        last = before.strip().rpartition("\n")[2]
        raise ConnectionError(f"its login never ran what it was asked{f', and said: {last}' if last else ''}")
    return words.removesuffix("\n")


def after_mark(lines: Iterable[str]) -> Iterator[str]:
    """As `said`, of lines as they come; none where there is no mark."""
    return itertools.islice(itertools.dropwhile(lambda line: line != MARK, lines), 1, None)


def shown(errors: str) -> str:
    """As `said`, of what nothing is decided by; all of it where there is no mark."""
    _, mark, words = f"\n{errors}\n".partition(f"\n{MARK}\n")
    return words.removesuffix("\n") if mark else errors


def stream(host: Host, script: str, pieces: Iterable[bytes]) -> str:
    """Feed a root shell on the host and return what it printed; FiefdomError says why it failed.

    What is `BROKEN` where the connection broke off; TimeoutError where it takes nothing for `STALLED_S`, or is not at
    its end `UNPACKED_S` after it got the last. pyinfra itself can only send text that it holds in memory.
    """
    transport = host.connector.client.get_transport()  # type: ignore[attr-defined] # the SSH connector's own
    channel = transport.open_session(timeout=STALLED_S)
    try:
        channel.settimeout(STALLED_S)
        channel.exec_command(shlex.join(["sh", "-c", MARKED, script]))
        # Nothing is read while sending: the script may say no more than the channel's window holds.
        for piece in pieces:
            try:
                channel.sendall(memoryview(piece))
            except TimeoutError:
                raise TimeoutError(f"`{script}` took nothing for {STALLED_S} s; is the host well?") from None
            except OSError:  # the far end died; its exit code and words follow
                break
        channel.shutdown_write()
        channel.settimeout(UNPACKED_S)
        try:
            output: bytes = channel.makefile("rb").read()
            error: bytes = channel.makefile_stderr("rb").read()
        except TimeoutError:
            raise TimeoutError(f"`{script}` did not end within {UNPACKED_S} s; is the host well?") from None
        status = channel.recv_exit_status()
    finally:
        channel.close()
    if status == -1:  # the host never told how it ended
        raise ConnectionError(_in_a_line(error))
    if status:
        words = _in_a_line(error)
        raise FiefdomError(f"`{script}` failed: {words or f'exit {status}'}")
    return said(output.decode(errors="replace"))


def _in_a_line(error: bytes) -> str:
    return " ".join(shown(error.decode(errors="replace")).split())


BROKEN = (OSError, EOFError, SSHException)


@contextmanager
def reaching(name: str, what: str = "a request") -> Iterator[None]:
    """What paramiko raises where a host cannot be heard becomes Unreachable; ``what`` is told as by `timed`."""
    try:
        with timed(name, what):
            yield
    except BROKEN as error:
        raise Unreachable(name, f"the connection broke off{f': {error}' if str(error) else ''}") from error


@contextmanager
def timed(name: str, what: str) -> Iterator[None]:
    """Tell `--verbose` how long a round trip took. No word that was sent is told, for it may be a secret."""
    began_s, end = now_s(), "broke off after"
    try:
        yield
        end = "took"
    finally:
        ROUND_TRIPS.debug("%-8s %s %s %.3f s", name, what, end, now_s() - began_s)


def tune(client: Any) -> None:
    """Have a connection answer quickly, and end where the far end dies."""
    transport = client.get_transport()
    # Without it every command waits for a delayed acknowledgement: 48 ms instead of 6.
    with suppress(OSError, AttributeError):  # a ProxyJump's channel is no socket
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_S * 1000)
    # A host that dies while it is listened to would be waited for without an end.
    transport.set_keepalive(LOST_S // 3)


def run_script(
    connector: Any, text: str, arguments: Sequence[str], stdin: str = "", timeout_s: int = QUIET_S
) -> tuple[bool, str, str]:
    try:
        # pyinfra's own limit begins when the channel is open, which a frozen link keeps from happening for an hour.
        with gevent.Timeout(timeout_s + 1, TimeoutError):
            command = as_root(f"shift\n{text}", *arguments)
            ok, output = connector.run_shell_command(command, _stdin=stdin, _timeout=timeout_s)
    except TimeoutError:
        raise TimeoutError(f"no answer for {timeout_s} s") from None
    return ok, said(output.stdout), shown(output.stderr)


def follow(host: Host, steps: Iterable[Step], hear: Callable[[str], None]) -> None:
    """As `run.Hosts.follow`, but for what paramiko raises: that is left as it is."""
    argv = ["sh", "-c", MARKED, TURN]
    channel = host.connector.client.get_transport().open_session()  # type: ignore[attr-defined]
    try:
        channel.exec_command(shlex.join(argv))
        channel.sendall(steps_text(steps).encode())
        channel.shutdown_write()
        # In bytes: a service may log anything, and its last words are among what the host says.
        lines = (line.decode(errors="replace").rstrip("\n") for line in channel.makefile("rb"))
        for line in after_mark(lines):
            hear(line)
        if channel.recv_exit_status() == -1:
            raise Unreachable(host.name, "the connection broke off; the host ends its turn by itself")
    finally:
        channel.close()


def attach(host: Host, text: str, arguments: Sequence[str], hear: Callable[[int, bytes], None]) -> int:
    """As `run.Hosts.attach`, but for what paramiko raises: that is left as it is."""
    channel = host.connector.client.get_transport().open_session()  # type: ignore[attr-defined]
    signs = gevent.Greenlet(beat, channel)

    def leave() -> None:
        signs.kill()
        channel.shutdown_write()

    try:
        channel.exec_command(shlex.join(["sh", "-c", MARKED, f"shift\n{text}", *arguments]))
        signs.start()
        readers = [gevent.spawn(_read, receive, partial(hear, which), leave) for which, receive in _outputs(channel)]
        try:
            gevent.joinall(readers, raise_error=True)
        except KeyboardInterrupt:
            leave()
            gevent.joinall(readers, raise_error=True)
            raise
        return ended(channel, readers, "the host stops what it was at")
    finally:
        signs.kill()
        channel.close()


def ended(channel: Any, readers: Iterable[gevent.Greenlet], broken_off: str) -> int:
    """The exit code of what a host ran, once what it says is read.

    Raises what kept a reader from its end, and ConnectionError in the words ``broken_off`` where no exit code came.
    """
    for reader in readers:
        if reader.value is not None:  # raised in the reader, gevent would print it
            raise reader.value
    code: int = channel.recv_exit_status()
    if code == -1:
        raise ConnectionError(broken_off)
    return code


def beat(channel: Any) -> None:
    """Show again and again that somebody listens, until the connection ends."""
    # A link that is silently gone looks to the host like an operator who waits: sshd hears of it after 15 minutes.
    with suppress(OSError, SSHException):  # whoever reads hears the same
        while True:
            channel.sendall(b".")
            gevent.sleep(BEAT_S)


def _outputs(channel: Any) -> tuple[tuple[int, Callable[[int], bytes]], ...]:
    return (1, channel.recv), (2, channel.recv_stderr)


def _read(
    receive: Callable[[int], bytes], hear: Callable[[bytes], None], leave: Callable[[], None]
) -> Exception | None:
    """Hand on what comes after the host's mark, until the end; where it cannot be, ``leave``, and return why then."""
    mark, before, marked = f"\n{MARK}\n".encode(), b"\n", False
    failure: Exception | None = None
    while piece := receive(1 << 15):
        if not marked:
            before += piece
            _, found, piece = before.partition(mark)
            marked = bool(found)
        if marked and piece and failure is None:
            try:
                hear(piece)
            except Exception as error:
                failure = error
                leave()
    return failure


def text_of(host: Host, path: str) -> str:
    # In base64, for pyinfra hands out lines and forgets how the last one ended.
    ok, output = host.run_shell_command(as_root(shlex.join(["base64", path])))
    return base64.b64decode(said(output.stdout)).decode(errors="replace") if ok else ""
