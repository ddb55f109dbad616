"""The inventory, where a person leaves it out because FIEFDOM_INVENTORY names it."""

from __future__ import annotations

import os
from collections.abc import Iterable

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
    return with_first(args, [first] if isinstance(first, str) else [])


def with_first(args: list[str], words: Iterable[str]) -> list[str]:
    """As `with_inventory`, where it is known which ``words`` of ``args`` are no options."""
    found = os.environ.get(VARIABLE)
    first = next(iter(words), None)
    is_given = first is not None and (first == found or first.endswith(_ENDINGS))
    return args if is_given or not found else [found, *args]
