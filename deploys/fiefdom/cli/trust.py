"""`fiefdom trust`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from fiefdom.cli import frame
from fiefdom.cli.frame import Command, Document, at_option, inventory_argument, json_option, yes_option
from fiefdom.cli.group import CLEAN, FAILED, SILENT
from fiefdom.inventory.groups import answers_at, limit_hosts

if TYPE_CHECKING:
    from fiefdom.engine.trusting import Shown

_STYLE = {"known": "green", "trusted": "green", "declined": "yellow", "refused": "red", "silent": "red"}


@click.command(cls=Command)
@inventory_argument
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@at_option
@yes_option
@json_option
def trust(inventory: str, hosts: tuple[str, ...], at: tuple[str, ...], yes: bool, **_: bool) -> Document:
    """Show the host keys of hosts that are not known yet, and add to known_hosts those that you have compared.

    Without HOST, of all hosts, and of the jump hosts on the way. Compare a fingerprint with what the host itself says
    on its console: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`. A key that is another than the known one is
    refused.
    """
    cluster = frame.loaded(inventory)
    names = limit_hosts(cluster, hosts)
    now_at = answers_at(cluster, at)
    frame.require_terminal(yes)
    # Deferred until there is somebody to connect to: pyinfra takes most of a second, and patches the standard library.
    from fiefdom.engine import trusting

    def accept(shown: Shown) -> bool:
        frame.tell(f"{shown.name} at {shown.where} shows {shown.kind} {shown.fingerprint}")
        return yes or click.confirm(f"Is that {shown.name}'s? It goes into {shown.file}", err=True)

    found = list(trusting.trust(cluster, names, accept, now_at))
    states = {shown.state for shown in found}
    code = FAILED if states & {"refused", "declined"} else SILENT if "silent" in states else CLEAN
    return Document({"hosts": [asdict(shown) for shown in found]}, [table(found)], code=code)


def table(found: Iterable[Shown]) -> Table:
    """A row per host."""
    made = Table("host", "", "at", "key", "", box=None, pad_edge=False)
    for shown in found:
        state = Text(shown.state, style=_STYLE[shown.state])
        row = (shown.where, f"{shown.kind} {shown.fingerprint}".strip(), shown.reason)
        made.add_row(Text(shown.name, style="bold"), state, *map(Text, row))
    return made
