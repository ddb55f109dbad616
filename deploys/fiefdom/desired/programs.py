"""Programs that hosts keep: the shell scripts beside this module, byte for byte."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fiefdom.desired.state import File

DIR = "/usr/local/lib/fiefdom"
# What offer.sh keeps of the offers that are made; in memory, for none outlives a boot.
MADE_DIR = "/run/fiefdom/offers"


@cache
def text_of(name: str) -> str:
    """Text of a program."""
    return (Path(__file__).parent / f"{name}.sh").read_text()


@cache
def program(name: str, mode: int = 0o755, *, serves: bool = False) -> File:
    """A program where a host has it; one that no shell can read is not put into place. ``serves`` is as in `File`."""
    return File(f"{DIR}/{name}", text_of(name).encode(), mode=mode, check=("sh", "-n", "{}"), serves=serves)
