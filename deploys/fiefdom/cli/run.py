"""`fiefdom run`."""

from __future__ import annotations

import sys
from functools import partial

import click

from fiefdom.cli import frame, outlet
from fiefdom.cli.before_command import BeforeCommand, ended
from fiefdom.cli.frame import Document, inventory_argument, warn
from fiefdom.cli.outlet import CLOSED
from fiefdom.converge.one_off import ERR, Interrupted
from fiefdom.errors import FiefdomError
from fiefdom.procedures.one_off import Ended, hosts_of, require_text, run_once


@click.command(cls=BeforeCommand)
@inventory_argument
@click.argument("service")
@click.option("--host", metavar="HOST", help="Run it there; on the first host of the service that answers if absent.")
@click.argument("command", nargs=-1, required=True, metavar="[--] COMMAND...")
def run(inventory: str, service: str, host: str | None, command: tuple[str, ...]) -> Document:
    """Run COMMAND once in a new container of SERVICE, as its instances on that host are, and without a port.

    It has their image, environment, files, volumes, limits and network, and takes the place of the image's own entry
    point. What it says is printed as it comes; it reads nothing. An interrupt stops it, and its container goes with it.
    COMMAND's words arrive as they are; `sh -c` makes a script of one.
    """
    require_text(command)
    try:
        whom = partial(hosts_of, service=service, host=host)
        with frame.connected(inventory, whom, looks=True, certified=False) as found:
            names = hosts_of(found.known.cluster, service, host)
            run_once(found.known, found.session, service, names, command, _print, warn)
    except Ended as end:
        ended(command, end.code)
        return Document(code=end.code)
    except _Closed:
        return Document(code=CLOSED)
    except KeyboardInterrupt as error:
        words = error.words if isinstance(error, Interrupted) else "nothing began"
        raise FiefdomError(f"interrupted; {words}") from None
    return Document()


class _Closed(FiefdomError):
    """Whoever read what the command says does so no more."""


def _print(which: int, piece: bytes) -> None:
    stream = sys.stderr if which == ERR else sys.stdout
    try:
        outlet.write(stream, piece)
    except BrokenPipeError:
        outlet.let_go(stream)
        raise _Closed("nobody reads what the command says; it was stopped") from None
