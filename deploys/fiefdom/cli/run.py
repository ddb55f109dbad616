"""`fiefdom run`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from fiefdom.cli import frame
from fiefdom.cli.frame import Command, Document, inventory_argument, warn
from fiefdom.converge.one_off import ERR
from fiefdom.errors import FiefdomError
from fiefdom.inventory import load
from fiefdom.procedures.one_off import Ended, hosts_of, run_once

_VALUED = ("--host",)
_OWN = 2
"""Words before the command: the inventory and the service."""


class _BeforeCommand(Command):
    """Takes options of its own up to the command, whose options are the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_dashes(args))


def _with_dashes(args: Sequence[str]) -> list[str]:
    """Words of a command line with `--` before the command, where somebody left it out."""
    words = at = 0
    while at < len(args) and args[at] != "--":
        if args[at] in _VALUED:
            at += 1
        elif not args[at].startswith("-"):
            if words == _OWN:
                return [*args[:at], "--", *args[at:]]
            words += 1
        at += 1
    return list(args)


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
    names = hosts_of(load(inventory), service, host)
    with frame.connected(inventory, names, looks=True, certified=False) as found:
        try:
            run_once(found.known, found.session, service, names, command, _print, warn)
        except Ended as end:
            return Document(code=end.code)
        except KeyboardInterrupt:
            raise FiefdomError("interrupted; the command was stopped, and its container is gone") from None
    return Document()


def _print(which: int, piece: bytes) -> None:
    stream = sys.stderr if which == ERR else sys.stdout
    stream.buffer.write(piece)
    stream.flush()
