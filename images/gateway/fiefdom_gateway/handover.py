"""From one container to its successor: the old one lends its listening sockets, stands still, and retires.

Both containers have the state folder; whose turn it is answers on its `control.sock`. A successor asks for the sockets:

    hand over               the old one stops its reconciler, and its Serf agent without leaving the cluster
    granted FOLDER          HAProxy's sockets are in FOLDER; it accepts connections until the other does too, and longer
    retire                  the successor serves: finish the open requests and end
    retiring                the one moment at which the turn passes

The connection is the loan: whatever ends it before "retire" (a successor that cannot start, is killed, or takes too
long) lets the old one go on as if nothing had been.
"""

import asyncio
import os
import secrets
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fiefdom_gateway.edges import Failed, Sockets, all_sockets
from fiefdom_gateway.log import say

# The successor gives up first: then its agent has gone when the old one's comes back to the same port.
SUCCESSOR_LIMIT_S = 20.0
LOAN_LIMIT_S = 30.0
ANSWER_LIMIT_S = 10.0
# Of the order of what the host needs for it: see `lend` in steps.sh.
SHARED_LIMIT_S = 5.0

_ASK, _RETIRE = b"hand over\n", b"retire\n"
_GRANTED, _REFUSED, _RETIRING = b"granted ", b"refused ", b"retiring\n"


def control_socket(state_dir: Path) -> Path:
    return state_dir / "run" / "control.sock"


@dataclass(frozen=True)
class Place:
    """Where the containers of one gateway meet. `own` is this one's folder in it, of a name nobody else has."""

    folder: Path
    control: Path
    own: Sockets


def take_place(state_dir: Path) -> Place:
    """Make this container's folder. Remove those of containers that are no more, where none is there that serves.

    A master does not answer in the moment of a reload, which is no reason to take the sockets from who serves by them.
    One that finishes its last requests reloads no more.
    """
    control = control_socket(state_dir)
    folder = control.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    if not would_lend(control):
        for sockets in all_sockets(folder):
            if not _answers(sockets.master):
                shutil.rmtree(sockets.folder, ignore_errors=True)
    own = Sockets(folder / secrets.token_hex(4))
    own.folder.mkdir(mode=0o700)
    return Place(folder, control, own)


def leave_place(place: Place) -> None:
    shutil.rmtree(place.own.folder, ignore_errors=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def would_lend(control: Path) -> bool:
    """Whether a container is there that would lend its sockets."""
    return _answers(control)


# --- The successor's side


class Loan:
    """What the old container lent: `sockets` of its HAProxy, until `retire` or `end`."""

    def __init__(self, sockets: Sockets, control: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.sockets = sockets
        self._control = control
        self._reader = reader
        self._writer = writer

    async def retire_lender(self) -> None:
        """Take the turn. Raises Failed when the old container took it back; one that died needs no word."""
        answer = b""
        with suppress(OSError, asyncio.TimeoutError):
            self._writer.write(_RETIRE)
            answer = await asyncio.wait_for(self._reader.readline(), ANSWER_LIMIT_S)
        self.end()
        if answer != _RETIRING and would_lend(self._control):
            raise Failed("the old gateway has taken its sockets back")

    def end(self) -> None:
        self._writer.close()


async def borrow(place: Place) -> Loan | None:
    """Return the loan of the container whose turn it is; None when there is none. Raises Failed when it refuses."""
    try:
        reader, writer = await asyncio.open_unix_connection(place.control)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise Failed(f"the old gateway cannot be asked: {error}") from None
    answer = b""
    with suppress(OSError, asyncio.TimeoutError):
        writer.write(_ASK)
        answer = await asyncio.wait_for(reader.readline(), ANSWER_LIMIT_S)
    if answer.startswith(_GRANTED):
        folder = place.folder / answer.removeprefix(_GRANTED).decode().strip()
        await _let_in(place.folder.parent)
        return Loan(Sockets(folder), place.control, reader, writer)
    writer.close()
    if not answer and not would_lend(place.control):
        return None
    raise Failed(f"the old gateway did not hand over: {answer.removeprefix(_REFUSED).decode().strip() or 'no answer'}")


async def _let_in(state_dir: Path) -> None:
    """Wait until all in the state folder may be read and written: what is another user's, the host shares with us.

    Where that takes too long, what cannot be opened tells why.
    """
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_until_open(state_dir), SHARED_LIMIT_S)


async def _until_open(state_dir: Path) -> None:
    while not all(os.access(path, os.R_OK | os.W_OK) for path in state_dir.rglob("*")):
        await asyncio.sleep(0.05)


# --- The old one's side


class Worker(Protocol):
    """What must not work in two containers at once."""

    async def stand_still(self) -> None: ...

    def go_on(self) -> None: ...


class Lender:
    """Answers successors. `workers` stand still during a loan, and go on after one that was not taken up."""

    def __init__(self, place: Place, *workers: Worker) -> None:
        self.retired = asyncio.Event()
        self._place = place
        self._workers = workers
        self._lent = False
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Take the turn: from now on, successors ask here."""
        beside = self._place.own.folder / "control.sock"
        self._server = await asyncio.start_unix_server(self._answer, beside)
        beside.replace(self._place.control)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.TimeoutError):
                if await asyncio.wait_for(reader.readline(), ANSWER_LIMIT_S) == _ASK:
                    await self._lend(reader, writer)
        finally:
            writer.close()

    async def _lend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._lent:
            writer.write(_REFUSED + b"another successor has asked before\n")
            return
        self._lent = True
        say("a successor asks for the sockets: the reconciler and the Serf agent stand still")
        try:
            for worker in self._workers:
                await worker.stand_still()
            writer.write(_GRANTED + self._place.own.folder.name.encode() + b"\n")
            word = await asyncio.wait_for(reader.readline(), LOAN_LIMIT_S)
        except (OSError, asyncio.TimeoutError):
            word = b""
        if word == _RETIRE:
            # Set before it is said: who hears it may rely on it.
            self.retired.set()
            writer.write(_RETIRING)
            return
        say("the successor did not take over: this gateway goes on")
        for worker in self._workers:
            worker.go_on()
        self._lent = False

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
