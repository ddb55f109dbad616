"""The inventory, where a person leaves it out because FIEFDOM_INVENTORY names it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import click

VARIABLE = "FIEFDOM_INVENTORY"
"""Names the inventory of commands that are given none."""

_ENDINGS = (".yaml", ".yml", ".py")


def with_inventory(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """Words of a command line with the inventory that the variable names, where ``command`` wants one and has none.

    One is given where the first word beside options has the ending of an inventory's name; every other word, such as a
    service's or a host's name, has none.
    """
    found = os.environ.get(VARIABLE)
    if not found or not any(param.name == "inventory" for param in command.params):
        return args
    try:
        first = command.make_parser(ctx).parse_args(list(args))[0].get("inventory")
    except click.UsageError:  # told in its place, with the words as they were given
        return args
    return with_word(args, _place(command), found, valued(command), given=first if isinstance(first, str) else None)


def with_word(args: list[str], place: int, found: str, options: Sequence[str], *, given: str | None) -> list[str]:
    """``args`` with the inventory ``found`` behind so many words as ``place`` says, unless that ``given`` is one."""
    if given is not None and (given == found or given.endswith(_ENDINGS)):
        return args
    before = list(words(args, options))[:place]
    if len(before) < place:  # which is told in its place
        return args
    at = before[-1] + 1 if before else 0
    return [*args[:at], found, *args[at:]]


def _place(command: click.Command) -> int:
    """How many words stand before the inventory."""
    return [param.name for param in command.params if isinstance(param, click.Argument)].index("inventory")


def valued(command: click.Command) -> tuple[str, ...]:
    """Names of the command's options that take a value."""
    options = (param for param in command.params if isinstance(param, click.Option) and not param.is_flag)
    return tuple(name for option in options for name in option.opts)


def words(args: Sequence[str], options: Sequence[str]) -> Iterator[int]:
    """Where words stand that are neither options nor the values of ``options``, up to a `--`."""
    at = 0
    while at < len(args) and args[at] != "--":
        if args[at] in options:
            at += 1
        elif not args[at].startswith("-"):
            yield at
        at += 1
