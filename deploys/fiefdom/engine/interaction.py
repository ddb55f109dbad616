"""A program of a host at this process's own input, outputs and terminal."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from select import PIPE_BUF
from typing import Any

import gevent
from gevent.select import select
from paramiko import SSHException
from pyinfra.api.host import Host

from fiefdom.engine.shells import MARK, MARKED, ended

_PIECE_BYTES = 1 << 15
IN, OUT, ERR = 0, 1, 2


def interact(host: Host, text: str | None, words: Sequence[str], *, terminal: bool) -> int:
    """As `run.Hosts.interact`, but for what paramiko raises: that is left as it is."""
    channel = host.connector.client.get_transport().open_session()  # type: ignore[attr-defined]
    try:
        if terminal:
            channel.get_pty(os.environ.get("TERM", "xterm"), *_size())
        if text is not None:
            channel.exec_command(shlex.join(["sh", "-c", MARKED, f"shift\n{text}", *words]))
        elif words:
            channel.exec_command(shlex.join(words))
        else:
            channel.invoke_shell()
        with _own_terminal(channel) if terminal else nullcontext():
            return _attend(channel, _marks(text, terminal))
    finally:
        channel.close()


def _marks(text: str | None, terminal: bool) -> tuple[int, int]:
    """How often the line comes after which a script's own words begin, on each output; a terminal is both."""
    if text is None:
        return 0, 0
    return (2, 0) if terminal else (1, 1)


def _attend(channel: Any, marks: tuple[int, int]) -> int:
    out, err = _Words(channel.recv, OUT, marks[0]), _Words(channel.recv_stderr, ERR, marks[1])
    readers = [gevent.spawn(words.pass_on) for words in (out, err)]
    keys = gevent.spawn(_send, channel)
    try:
        gevent.joinall(readers, raise_error=True)
    finally:
        gevent.killall([keys, *readers])
    code = ended(channel, readers, "the host ends what it was at")
    if out.marks:
        last = out.before.decode(errors="replace").strip().rpartition("\n")[2]
        raise ConnectionError(f"its login never ran what it was asked{f', and said: {last}' if last else ''}")
    return code


class _Words:
    """What comes of one output, after so many marks."""

    def __init__(self, receive: Callable[[int], bytes], to: int, marks: int) -> None:
        self._receive, self._to, self.marks = receive, to, marks
        self.before = b"\n"

    def pass_on(self) -> Exception | None:
        """Hand on what comes, until the end; why that cannot be."""
        try:
            while piece := self._receive(_PIECE_BYTES):
                write(self._to, self._after_marks(piece))
        except Exception as error:
            return error
        return None

    def _after_marks(self, piece: bytes) -> bytes:
        if not self.marks:
            return piece
        self.before += piece
        while self.marks:
            # A terminal has a carriage return at the end of each line.
            _, found, rest = self.before.partition(f"\n{MARK}".encode())
            line, end, rest = rest.partition(b"\n")
            if not found or not end or line.strip():
                return b""
            self.marks -= 1
            self.before = b"\n" + rest
        return self.before[1:]


def write(to: int, piece: bytes) -> None:
    """Write all of it, while all else of this process goes on: a pager may wait for a person."""
    while piece:
        select([], [to], [])
        # No more than is taken at once by who is ready.
        piece = piece[os.write(to, piece[:PIPE_BUF]) :]


def _send(channel: Any) -> None:
    with suppress(OSError, EOFError, SSHException):  # whoever reads hears the same
        while True:
            select([IN], [], [])
            piece = os.read(IN, _PIECE_BYTES)
            if not piece:
                channel.shutdown_write()
                return
            channel.sendall(piece)


def _size() -> tuple[int, int]:
    columns, rows = os.get_terminal_size(OUT)
    return columns or 80, rows or 24


@contextmanager
def _own_terminal(channel: Any) -> Iterator[None]:
    """This process's terminal hands on each key as it is pressed, and tells when its size changes."""
    before = termios.tcgetattr(IN)

    def resized() -> None:
        with suppress(OSError, EOFError, SSHException):
            channel.resize_pty(*_size())

    watcher = gevent.signal_handler(signal.SIGWINCH, resized)
    try:
        tty.setraw(IN)
        yield
    finally:
        watcher.cancel()
        termios.tcsetattr(IN, termios.TCSADRAIN, before)
        sys.stdout.flush()
