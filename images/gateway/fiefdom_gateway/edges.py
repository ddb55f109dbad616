"""The thin edges: sockets, programs and files. No decisions."""

import asyncio
import json
import os
import socket as sockets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fiefdom_gateway.log import printable
from fiefdom_gateway.members import Unreadable
from fiefdom_gateway.replies import config_reasons

# Of the order of a reload: seconds for thousands of servers.
VALIDATION_TIMEOUT_S = 30.0


class Failed(Exception):
    """A program or a socket did not do its part; the message says which and why, `output` is what the program said."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class Refused(Failed):
    """HAProxy read a configuration and will not have it: another try of the same text ends the same."""


@dataclass(frozen=True)
class Sockets:
    """Where one HAProxy listens for commands: its worker at `admin`, its master at `master`. `web` is what it asks."""

    folder: Path

    @property
    def admin(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def master(self) -> Path:
        return self.folder / "master.sock"

    @property
    def web(self) -> Path:
        return self.folder / "web.sock"

    @property
    def environ(self) -> dict[str, str]:
        """What haproxy.cfg takes the folder from."""
        return {"FIEFDOM_RUN": str(self.folder)}


def all_sockets(folder: Path) -> list[Sockets]:
    """Return the sockets of each HAProxy that has, or had, its folder in `folder`."""
    return [Sockets(path) for path in sorted(folder.iterdir()) if path.is_dir()]


async def ask_haproxy(command: str, socket: Path, timeout_s: float = 5.0) -> str:
    """Return the reply to one line on HAProxy's admin or master socket. Raises Failed."""
    try:
        return await asyncio.wait_for(_exchange(command, socket), timeout_s)
    except (OSError, asyncio.TimeoutError) as error:
        reason = str(error) or f"no answer within {timeout_s:g} s"
        raise Failed(f"HAProxy's {socket.name} failed at {printable(command, 60)!r}: {reason}") from None


async def _exchange(command: str, socket: Path) -> str:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(command.encode() + b"\n")
        # Unlike the worker's socket, the master's keeps the connection until our end says that it is done.
        writer.write_eof()
        return (await reader.read(-1)).decode(errors="replace")
    finally:
        writer.close()


async def run(argv: list[str], environ: dict[str, str], timeout_s: float) -> str:
    """Return what a program prints. Raises Failed when it cannot be started, exits other than 0 or takes too long."""
    program = " ".join(argv[:2])
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            env={**os.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:  # as at the container's limit of processes
        raise Failed(f"{program} cannot be started: {error}") from None
    try:
        output, errors = await asyncio.wait_for(child.communicate(), timeout_s)
    except BaseException as error:
        if child.returncode is None:
            child.kill()
            await child.wait()
        if isinstance(error, asyncio.TimeoutError):
            raise Failed(f"{program} took more than {timeout_s:g} s") from None
        raise
    if child.returncode != 0:
        said = (errors.strip() or output.strip()).decode(errors="replace")
        raise Failed(f"{program} exited {child.returncode}: {printable(said, 300)}", said)
    return output.decode(errors="replace")


async def validate(config: Path) -> None:
    """Have HAProxy check a configuration file, warnings counting as errors.

    Raises Refused with its reasons, and Failed when it did not come to any.
    """
    try:
        await run(["haproxy", "-dW", "-c", "-f", str(config)], {}, VALIDATION_TIMEOUT_S)
    except Failed as error:
        reasons = config_reasons(error.output)
        raise (Refused(reasons) if reasons else error) from None


def require_free(endpoints: Iterable[tuple[str, int]]) -> None:
    """Raise Failed where somebody else listens on one of them."""
    for address, port in sorted(endpoints):
        with sockets.socket() as probe:
            probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen()
            except (OSError, OverflowError) as error:
                raise Failed(f"port {port} cannot be listened on: {error}") from None


def serf_environ(rpc_addr: str, agent_config: Path) -> dict[str, str]:
    """Return the environment with which the serf command reaches the agent; an argument would be anybody's to read."""
    key = rpc_key(agent_config)
    return {"SERF_RPC_ADDR": rpc_addr, **({} if key is None else {"SERF_RPC_AUTH": key})}


def rpc_key(agent_config: Path) -> str | None:
    """Return what opens the agent's RPC port; None where its configuration has nothing for that."""
    try:
        agent = json.loads(agent_config.read_text())
    except (OSError, ValueError):
        return None
    key = agent.get("rpc_auth") if isinstance(agent, dict) else None
    return key if isinstance(key, str) else None


def read_text(path: Path) -> str:
    """Return a file's text. Raises Unreadable."""
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from None


def read_or_none(path: Path) -> str | None:
    """Return a file's text, where it can be read."""
    try:
        return read_text(path)
    except Unreadable:
        return None


def _closed(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves the old one or the new one. Raises Failed."""
    beside = path.with_name(path.name + ".new")
    try:
        # Closed from birth: while another user's container is taken over from, what is there is soon that one's.
        beside.unlink(missing_ok=True)
        with open(beside, "x", opener=_closed) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error}") from None
