"""`fiefdom run`."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import IO

import click

from fiefdom.cli import frame
from fiefdom.cli.frame import Command, Document, inventory_argument, warn
from fiefdom.cli.left_out import with_first
from fiefdom.converge.one_off import ERR, Interrupted
from fiefdom.errors import FiefdomError
from fiefdom.procedures.one_off import Ended, hosts_of, require_text, run_once

_VALUED = ("--host",)
_OWN = 2
"""Words before the command: the inventory and the service."""
_CLOSED = 141
"""The exit code of what a shell's pipe to `head` ends: 128 and SIGPIPE."""


class _BeforeCommand(Command):
    """Takes options of its own up to the command, whose options are the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = (args[at] for at in _words(args))
        return super().parse_args(ctx, _with_dashes(with_first(args, words)))


def _with_dashes(args: Sequence[str]) -> list[str]:
    """Words of a command line with `--` before the command, where somebody left it out."""
    for number, at in enumerate(_words(args)):
        if number == _OWN:
            return [*args[:at], "--", *args[at:]]
    return list(args)


def _words(args: Sequence[str]) -> Iterator[int]:
    """Where words stand that are neither options nor their values, up to a `--`."""
    at = 0
    while at < len(args) and args[at] != "--":
        if args[at] in _VALUED:
            at += 1
        elif not args[at].startswith("-"):
            yield at
        at += 1


@click.command(cls=_BeforeCommand)
@inventory_argument
@click.argument("service")
@click.option("--host", metavar="HOST", help="Run it there; on the first host of the service that answers if absent.")
@click.argument("command", nargs=-1, required=True, metavar="[--] COMMAND...")
def run(inventory: str, service: str, host: str | None, command: tuple[str, ...]) -> Document:
    """Run COMMAND once in a new container of SERVICE, as its instances on that host are, and without a port.

    It has their image, environment, files, volumes, limits and network, and takes the place of the image's own entry
    point. What it says is printed as it comes; it reads nothing. An interrupt stops it, and its container goes with it.
    """
    require_text(command)
    try:
        whom = partial(hosts_of, service=service, host=host)
        with frame.connected(inventory, whom, looks=True, certified=False) as found:
            names = hosts_of(found.known.cluster, service, host)
            run_once(found.known, found.session, service, names, command, _print, warn)
    except Ended as end:
        return Document(code=end.code)
    except _Closed:
        return Document(code=_CLOSED)
    except KeyboardInterrupt as error:
        words = error.words if isinstance(error, Interrupted) else "nothing began"
        raise FiefdomError(f"interrupted; {words}") from None
    return Document()


class _Closed(FiefdomError):
    """Whoever read what the command says does so no more."""


def _print(which: int, piece: bytes) -> None:
    stream = sys.stderr if which == ERR else sys.stdout
    try:
        for at in range(0, len(piece), select.PIPE_BUF):
            # A pager that waits for a person would else keep the host from every sign that somebody is here.
            with suppress(io.UnsupportedOperation):
                while not select.select([], [stream], [], 0.2)[1]:
                    pass
            stream.buffer.write(piece[at : at + select.PIPE_BUF])
            stream.flush()
    except BrokenPipeError:
        _close(stream)
        raise _Closed("nobody reads what the command says; it was stopped") from None


def _close(stream: IO[str]) -> None:
    """Let go of what is yet to be written: at its end, Python would complain that it cannot."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
