"""`fiefdom exec` and `fiefdom ssh`: a program of a host at one's own terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click

from fiefdom.cli import frame, outlet
from fiefdom.cli.before_command import BeforeCommand, ended
from fiefdom.cli.frame import Document, at_option, inventory_argument, warn
from fiefdom.cli.outlet import CLOSED, is_terminal
from fiefdom.converge import inside
from fiefdom.errors import FiefdomError
from fiefdom.procedures.inside import exec_in, hosts_for
from fiefdom.procedures.one_off import Ended, require_text


def _has_terminal() -> bool:
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


@contextmanager
def _attending(left: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        outlet.let_go(sys.stdout)
        raise SystemExit(CLOSED) from None
    except KeyboardInterrupt:
        raise FiefdomError(f"interrupted; {left}") from None


@click.command(cls=BeforeCommand)
@inventory_argument
@click.argument("instance", metavar="SERVICE[@HOST[:PORT]]")
@click.argument("command", nargs=-1, required=True, metavar="[--] COMMAND...")
def exec(inventory: str, instance: str, command: tuple[str, ...]) -> Document:
    """Run COMMAND in an instance that runs, with a terminal where you have one.

    Without a host it is the first of the service's that answers, without a port the first instance there that runs.
    Input and outputs are yours, and so is the exit code. The audit tells of it. COMMAND's words arrive as they are;
    `sh -c` makes a script of one.
    """
    require_text(command)
    wanted = inside.target(instance)
    with (
        _attending("what the command began is ended"),
        frame.connected(inventory, partial(hosts_for, wanted=wanted), looks=True, certified=False) as run,
    ):
        names = hosts_for(run.known.cluster, wanted)
        try:
            exec_in(run.known, run.session, wanted, names, command, warn, terminal=_has_terminal())
        except Ended as end:
            ended(command, end.code)
            return Document(code=end.code)
    return Document()


@click.command(cls=BeforeCommand)
@inventory_argument
@click.argument("host")
@at_option
@click.argument("command", nargs=-1, metavar="[[--] COMMAND...]")
def ssh(inventory: str, host: str, at: tuple[str, ...], command: tuple[str, ...]) -> Document:
    """Log in to HOST the way Fiefdom does, or run COMMAND there: the inventory's user, key, jumps and known hosts.

    With a terminal where you have one. COMMAND's words arrive as they are; `sh -c` makes a script of one.
    """
    require_text(command)
    with _attending(f"what was begun on {host} may be at work still"), frame.reached(inventory, [host], at) as reached:
        if reason := reached.silent.get(host):
            raise FiefdomError(f"{host}: {reason}")
        code = reached.session.interact(host, None, command, terminal=_has_terminal())
    ended(command, code)
    return Document(code=code)
