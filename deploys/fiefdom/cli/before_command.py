"""Commands that run another one: their own options stand before it, and all behind is its own."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from fiefdom.cli.frame import Command
from fiefdom.cli.left_out import VARIABLE, valued, with_word, words

_OWN = 2
"""Words before the command: the inventory, and where it is to run."""


class BeforeCommand(Command):
    """Takes options of its own up to the command, whose options are the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options, found = valued(self), os.environ.get(VARIABLE)
        if found:
            first = next((args[at] for at in words(args, options)), None)
            args = with_word(args, 0, found, options, given=first)
        return super().parse_args(ctx, with_dashes(args, options))


def with_dashes(args: Sequence[str], options: Sequence[str]) -> list[str]:
    """Words of a command line with `--` before the command, where somebody left it out."""
    for number, at in enumerate(words(args, options)):
        if number == _OWN:
            return [*args[:at], "--", *args[at:]]
    return list(args)
