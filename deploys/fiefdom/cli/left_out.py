"""The inventory, where a person leaves it out because FIEFDOM_INVENTORY names it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import click

VARIABLE = "FIEFDOM_INVENTORY"
"""Names the inventory of commands that are given none."""

_ENDINGS = (".yaml", ".yml", ".py")


def with_inventory(command: click.Command, args: list[str]) -> list[str]:
    """Words of a command line with the inventory that the variable names, where ``command`` wants one and has none.

    One is given where the word in its place has the ending of an inventory's name; every other word, such as a
    service's or a host's name, has none. What is wrong with the words otherwise is told in its place.
    """
    found = os.environ.get(VARIABLE)
    arguments = [param.name for param in command.params if isinstance(param, click.Argument)]
    if not found or "inventory" not in arguments:
        return args
    place, at = arguments.index("inventory"), list(words(args, valued(command)))
    behind = args[args.index("--") + 1 :] if "--" in args else []
    given = ([args[number] for number in at] + behind)[place : place + 1]
    if len(at) < place or given == [found] or (given and given[0].endswith(_ENDINGS)):
        return args
    first = at[place - 1] + 1 if place else 0
    return [*args[:first], found, *args[first:]]


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
