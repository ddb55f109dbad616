"""What `--verbose` tells of round trips: who, what and how long, and no word that was sent."""

from __future__ import annotations

import re

import pytest

from helpers import forked

# In a process of its own: engine patches the standard library for everything that is imported after it.
LOOKS = """
import contextlib
import sys
import click
from fiefdom.cli import frame
from fiefdom.engine import shells
from fiefdom.errors import Unreachable

@click.command(cls=frame.Command)
@frame.inventory_argument
def look(inventory):
    with shells.reaching(inventory, "the snapshot"):
        pass
    with contextlib.suppress(Unreachable), shells.reaching(inventory, "its turn"):
        raise EOFError
    return frame.Document(words=["seen"])

for words in sys.argv[1:]:
    look(words.split(), standalone_mode=False)
"""
TWO = ["app1     the snapshot took ", "app1     its turn broke off after "]


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        (["app1"], []),
        (["-v app1"], TWO),
        (["app1 --verbose"], TWO),
        (["-v app1", "-v app1"], TWO * 2),
        (["-v app1", "app1"], TWO),
    ],
)
def test_each_is_a_line_on_standard_error(runs: list[str], told: list[str]) -> None:
    done = forked.run(LOOKS, *runs)
    assert (done.returncode, done.stdout) == (0, "seen\n" * len(runs)), done.stderr
    lines = [re.fullmatch(r" *[0-9.]+ s  (.*?)[0-9.]+ s", line) for line in done.stderr.splitlines()]
    assert [line and line[1] for line in lines] == told
