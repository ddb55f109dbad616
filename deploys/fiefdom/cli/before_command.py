"""Commands that run another one: their own options stand before it, and all behind is its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from fiefdom.cli.frame import Command
from fiefdom.cli.left_out import with_first

_OWN = 2
"""Words before the command: the inventory, and where it is to run."""


class BeforeCommand(Command):
    """Takes options of its own up to the command, whose options are the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        valued = tuple(
            name
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag
            for name in param.opts
        )
        words = (args[at] for at in _words(args, valued))
        return super().parse_args(ctx, with_dashes(with_first(args, words), valued))


def with_dashes(args: Sequence[str], valued: Sequence[str]) -> list[str]:
    """Words of a command line with `--` before the command, where somebody left it out."""
    for number, at in enumerate(_words(args, valued)):
        if number == _OWN:
            return [*args[:at], "--", *args[at:]]
    return list(args)


def _words(args: Sequence[str], valued: Sequence[str]) -> Iterator[int]:
    """Where words stand that are neither options nor their values, up to a `--`."""
    at = 0
    while at < len(args) and args[at] != "--":
        if args[at] in valued:
            at += 1
        elif not args[at].startswith("-"):
            yield at
        at += 1
