"""What scripts on many hosts print, read at the pace of whoever wants it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import gevent
from paramiko import SSHException
from pyinfra.api.host import Host

from fiefdom.converge.run import AHEAD_BYTES
from fiefdom.engine.shells import MARK, MARKED, beat, reaching, shown
from fiefdom.errors import HostError, Unreachable

_READ_BYTES = 1 << 16
_PACKET_BYTES = 1 << 15
_MARK = f"\n{MARK}\n".encode()


@dataclass(frozen=True)
class Dead:
    """A host that cannot be heard."""

    error: HostError

    def ready(self) -> bool:
        """As `run.Stream.ready`."""
        return True

    def read(self) -> bytes:
        """As `run.Stream.read`."""
        raise self.error


@dataclass
class Channel:
    """What a script says that runs."""

    name: str
    channel: Any
    _before: bytes = b"\n"
    _marked: bool = False

    def ready(self) -> bool:
        """As `run.Stream.ready`."""
        return bool(self.channel.recv_ready() or self.channel.eof_received or self.channel.closed)

    def read(self) -> bytes:
        """As `run.Stream.read`."""
        with reaching(self.name):
            while piece := self.channel.recv(_READ_BYTES):
                if not self._marked:
                    self._before += piece
                    _, mark, piece = self._before.partition(_MARK)
                    self._marked = bool(mark)
                if self._marked and piece:
                    return bytes(piece)
            self._require_well()
            return b""

    def _require_well(self) -> None:
        code = self.channel.recv_exit_status()
        if code == -1:
            raise Unreachable(self.name, "the connection broke off")
        errors = self.channel.recv_stderr(_READ_BYTES).decode(errors="replace")
        if code or not self._marked:
            raise HostError(self.name, " ".join(shown(errors).split()) or f"ended with exit code {code}")


@contextmanager
def opened(host: Host, text: str, arguments: tuple[str, ...]) -> Iterator[Channel]:
    """A script that runs as root until the end of the block."""
    transport = host.connector.client.get_transport()  # type: ignore[attr-defined] # the SSH connector's own
    channel = transport.open_session(window_size=AHEAD_BYTES, max_packet_size=_PACKET_BYTES)
    signs = gevent.Greenlet(beat, channel)
    try:
        channel.exec_command(shlex.join(["sh", "-c", MARKED, f"shift\n{text}", *arguments]))
        signs.start()
        yield Channel(host.name, channel)
    finally:
        signs.kill()
        with suppress(OSError, EOFError, SSHException):
            channel.close()
