"""One command in a container of its own, made as an instance of a service is: what its host is told for it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fiefdom.converge import steps
from fiefdom.converge.run import Hosts
from fiefdom.converge.steps_script import Step
from fiefdom.desired import programs
from fiefdom.desired.state import Container, Directory, File, HostState
from fiefdom.errors import FiefdomError, HostError
from fiefdom.wording import printable

SCRIPT = (Path(__file__).parent / "one_off.sh").read_text().replace("# @ONCE@\n", programs.text_of("once"))
FOLDER = "/var/lib/fiefdom/one-off"
"""Not below /run, whose files are none that could be run."""
BEGUN = b"fiefdom-begun\n"
LATE = 124
"""The exit code of a command that was stopped because its time was over; it may be the command's own as well."""
OUT, ERR = 1, 2


class Interrupted(KeyboardInterrupt):
    """An interrupt, and what came of the command."""

    def __init__(self, words: str) -> None:
        self.words = words
        super().__init__(words)


Hear = Callable[[int, bytes], None]
"""Hears what is said, piece by piece: by which of its outputs, `OUT` or `ERR`, and what."""


@dataclass(frozen=True)
class OneOff:
    """A command and the container for it.

    ``conf`` is as one_off.sh has it. ``steps`` place what the container is made from, in ``folder``.
    """

    name: str
    conf: str
    command: tuple[str, ...]
    limit_s: int = 0
    folder: str = ""
    steps: tuple[Step, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """What one_off.sh is given."""
        return (self.name, self.conf, self.folder, str(self.limit_s), *self.command)


def name_for(service: str) -> str:
    """A container's name that no instance has: theirs end with a port."""
    return f"fiefdom-run-{service}-{secrets.token_hex(4)}"


def as_running(service: str, command: Sequence[str]) -> OneOff:
    """A command in what a host runs of ``service``: its instances' own configuration, files and image."""
    return OneOff(name_for(service), f"-{service}", tuple(command))


def as_wanted(container: Container, state: HostState, command: Sequence[str], limit_s: int) -> OneOff:
    """A command in what ``state`` wants of an instance, whose environment and files the host may not have yet."""
    name = name_for(container.service)
    folder = f"{FOLDER}/{name}"
    own = {path: f"{folder}/{number}" for number, path in enumerate(container.config)}
    files = [replace(state.file(path), path=here, check=()) for path, here in own.items()]
    # It is read by lines, as the supervisor reads the instance's: for that, the instance's name is its own.
    conf = f"{folder}/{container.name}.conf"
    lines = [
        f"image {container.image}",
        f"stop_signal {container.stop_signal}",
        f"stop_grace_s {container.stop_grace_s}",
    ]
    lines += [f"arg {_moved(argument, own)}" for argument in container.args]
    lines.append(f"release {container.service}")
    files.append(File(conf, "".join(f"{line}\n" for line in lines).encode(), mode=0o600, secret=True))
    return OneOff(name, conf, tuple(command), limit_s, folder, tuple(_placed(folder, files)))


def _moved(argument: str, own: dict[str, str]) -> str:
    """An argument of `docker create` with the files of one container in the place of another's."""
    option, _, value = argument.partition("=")
    if option == "--env-file":
        return f"{option}={own.get(value, value)}"
    if option == "--mount":
        parts = (part.partition("=") for part in value.split(","))
        moved = (f"{key}{equals}{own.get(of, of) if key == 'source' else of}" for key, equals, of in parts)
        return f"{option}={','.join(moved)}"
    return argument


def _placed(folder: str, files: Sequence[File]) -> Iterator[Step]:
    for path in (FOLDER, folder):
        yield steps.directory(Directory(path, mode=0o700))
    yield from steps.staged(files)
    yield from (("place", file.path) for file in files)


def attend(hosts: Hosts, host: str, wanted: OneOff, hear: Hear) -> int:
    """Run a command on ``host`` to its end, and return its exit code; ``hear`` gets what it says, as it says it.

    An interrupt stops it, and so does a connection that breaks off.

    Raises:
        HostError: nothing began, and why; or the connection broke off.
        Interrupted: an interrupt stopped it.
    """
    heard = _Heard(hear)
    try:
        if wanted.steps:
            hosts.run(host, steps.Phase("one-off", wanted.steps))
        code = hosts.attach(host, SCRIPT, wanted.arguments, heard)
    except BaseException as error:
        if wanted.folder and not heard.begun:
            with suppress(FiefdomError):
                hosts.shell(host, ["rm", "-rf", "--", wanted.folder])
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(_came_of(error, heard)) from error
        raise
    if not heard.begun:
        raise HostError(host, printable(heard.errors.decode(errors="replace")) or "it does not say why nothing began")
    return code


def _came_of(error: KeyboardInterrupt, heard: _Heard) -> str:
    if isinstance(error.__context__, KeyboardInterrupt):  # another one, while its end was waited for
        return "the host stops the command by itself"
    return "the command was stopped, and its container is gone" if heard.begun else "nothing began"


class _Heard:
    """Tells a command's words from those that say why it did not begin."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._before = b""
        self.begun = False
        self.errors = b""

    def __call__(self, which: int, piece: bytes) -> None:
        if which == ERR and not self.begun:
            self.errors += piece
            return
        if which == OUT and not self.begun:
            self._before += piece
            _, mark, piece = self._before.partition(BEGUN)
            if not mark:
                return
            self.begun = True
            if self.errors:  # which came by another way, and sooner
                self._hear(ERR, self.errors)
        if piece:
            self._hear(which, piece)
