"""`fiefdom completion` and `man`: what a shell and `man` are told of the commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from fiefdom.cli.help_texts import Helped

_VARIABLE = "_FIEFDOM_COMPLETE"
"""By which click knows that a shell asks; made from the name of the program."""


@click.command(cls=Helped)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what SHELL completes commands, options and files by: bash, zsh or fish.

    Let your shell read it when it starts: the examples have a line for each. For zsh, ~/.zfunc has to be in fpath.
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 -- click has all three
    click.echo(found(ctx.find_root().command, {}, "fiefdom", _VARIABLE).source())


@click.command(cls=Helped)
@click.pass_context
def man(ctx: click.Context) -> None:
    """Print a page for `man`, with all commands on it."""
    # Deferred: only this reads all commands.
    from fiefdom.cli.man_page import man_page

    group = ctx.find_root().command
    assert isinstance(group, click.Group)  # noqa: S101 -- this is one of its commands
    click.echo(man_page(group), nl=False)
