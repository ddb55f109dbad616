"""Commands that run another one: their own options stand before it, and all behind is its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fiefdom.cli.frame import Command, warn
from fiefdom.cli.left_out import valued, words

_OWN = 2
"""Words before the command: the inventory, and where it is to run."""
_NO_PROGRAM = (126, 127)
"""How a shell and `docker exec` exit for what cannot be run, and what is not there."""


class BeforeCommand(Command):
    """Takes options of its own up to the command, whose options are the command's."""

    def completed(self, args: list[str]) -> list[str]:
        return with_dashes(super().completed(args), valued(self))


def with_dashes(args: Sequence[str], options: Sequence[str]) -> list[str]:
    """Words of a command line with `--` before the command, where somebody left it out."""
    for number, at in enumerate(words(args, options)):
        if number == _OWN:
            return [*args[:at], "--", *args[at:]]
    return list(args)


def ended(command: Sequence[str], code: int) -> None:
    """Tell who wrote a script as one word, which names no program, how that is run: after ``command`` exited so."""
    if code in _NO_PROGRAM and len(command) == 1 and re.search(r"[\s;|&<>]", command[0]):
        warn("one word is one program; for a script write: sh -c '...'")
