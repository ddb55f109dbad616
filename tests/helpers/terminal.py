"""A terminal that a program draws on: its two ends, and a screen that understands what the command says to one."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

COLUMNS, ROWS = 100, 30

OWN = """
import fcntl, os, signal, termios
from fiefdom.engine import interrupts
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.heed()
"""
"""Begins a program for which the terminal at its standard input is its own, so that Ctrl-C is a signal to it: a shell's
background jobs, such as tests may be, ignore that signal, and so would all that they start.
"""

_SAYS = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]")


@dataclass
class Screen:
    """What a person sees. What it does not know is an error: it would show something else than a terminal."""

    lines: list[str] = field(default_factory=lambda: [""] * ROWS)
    row: int = 0
    column: int = 0
    scrolled: int = 0
    """How many lines went off at the top."""
    cursor: bool = True
    alternate: bool = False
    _rest: str = ""
    _behind: list[str] = field(default_factory=list)

    def take(self, text: str) -> None:
        """Draw what was written; half a sequence waits for its other half."""
        text, at = self._rest + text, 0
        while found := _SAYS.match(text, at):
            at = found.end()
            if found[3]:
                self._control(found[1], found[2], found[3])
            else:
                self._character(found[0])
        self._rest = text[at:]
        assert len(self._rest) < 20, self._rest

    def _character(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down()
        else:
            if self.column == COLUMNS:
                self.column = 0
                self._down()
            line = self.lines[self.row].ljust(COLUMNS)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        if self.row == ROWS - 1:
            self.lines = [*self.lines[1:], ""]
            self.scrolled += 1
        else:
            self.row += 1

    def _control(self, private: str, numbers: str, word: str) -> None:
        match private + numbers + word:
            case "H":
                self.row = self.column = 0
            case "?25h" | "?25l":
                self.cursor = word == "h"
            case "?1049h":
                self._behind, self.lines, self.alternate = self.lines, [""] * ROWS, True
            case "?1049l":
                self.lines, self.alternate = self._behind, False
            case other:
                assert word == "m", other

    @property
    def text(self) -> str:
        """All lines, without what is blank at their ends."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip()


@dataclass
class Terminal:
    """The person's end. ``path`` is the program's."""

    path: str
    screen: Screen
    _fd: int
    _decoder: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._fd, keys.encode())

    def await_true(self, seen: Callable[[], bool], what: str, within_s: float = 60) -> None:
        """Draw what comes until it is so."""
        deadline_s = time.monotonic() + within_s
        while not seen():
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"{what}: not within {within_s} s\n{self.screen.text}"
            if select.select([self._fd], [], [], min(left_s, 0.2))[0]:
                self.screen.take(self._decoder.decode(os.read(self._fd, 65536)))


@contextmanager
def terminal() -> Iterator[Terminal]:
    """One for a program that is started meanwhile; whoever still has it at the end is hung up."""
    here, there = pty.openpty()
    try:
        fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        # This end of it stays open, so that it is no error to read from a terminal that nobody has yet.
        yield Terminal(os.ttyname(there), Screen(), here)
    finally:
        os.close(there)
        os.close(here)
