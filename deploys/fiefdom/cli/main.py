"""The `fiefdom` command: its parts by name, each loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from fiefdom import __version__
from fiefdom.cli.frame import Group

COMMANDS = {
    "apply": "apply",
    "audit": "cluster",
    "build": "inventory",
    "demo": "demo",
    "docs": "inventory",
    "keygen": "inventory",
    "lab": "lab",
    "lock": "cluster",
    "plan": "apply",
    "reboot": "hosts",
    "retire": "hosts",
    "rollback": "rollout",
    "rollout": "rollout",
    "rotate-key": "hosts",
    "schema": "inventory",
    "secret": "inventory",
    "status": "cluster",
    "unlock": "cluster",
}
"""The module of this package that each command stands in, under its name there (with an underscore for a dash)."""


class _Parts(Group):
    """What a command does not need would cost each start some tenths of a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(import_module(f"fiefdom.cli.{COMMANDS[cmd_name]}"), cmd_name.replace("-", "_"))
        return found


@click.group(cls=_Parts, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Containerised HTTP services on your own Debian hosts, behind a gateway.

    Start with `fiefdom plan INVENTORY`: it shows what `fiefdom apply INVENTORY` would do, and changes nothing.
    """
