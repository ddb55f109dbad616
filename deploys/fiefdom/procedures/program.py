"""A program of the operator's on his own machine: run for so long at most, its words told a line each."""

from __future__ import annotations

import codecs
import os
import select
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fiefdom.waiting import now_s, pause
from fiefdom.wording import Tell, printable

_LOOK_S = 0.1
_STOP_S = 5
"""Seconds that one which is told to stop may take, before it is killed."""
_LINE_MAX = 400


def run(path: Path, folder: Path, environ: Mapping[str, str], limit_s: float, hear: Tell) -> str:
    """Run a program in ``folder`` without a shell and without input; ``hear`` gets each line that it prints.

    It is waited for, and not for what it leaves in the background. One that takes longer than ``limit_s``, or whose
    operator interrupts it, is stopped with all that it has started.

    Returns why it failed, in words that follow its name; nothing where it ended well.
    """
    # A pipe of our own: the engine's way with Popen's would read on for as long as anybody holds its other end.
    inlet, outlet = os.pipe()
    try:
        try:
            # A session of its own: an interrupt at the terminal comes to us alone, and a signal to all of it.
            process = subprocess.Popen(
                [path],
                cwd=folder,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=outlet,
                stderr=outlet,
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot be run ({error.strerror}); try it by hand"
        finally:
            os.close(outlet)
        try:
            return _followed(process, inlet, limit_s, _Lines(hear))
        finally:
            _stop(process)
    finally:
        os.close(inlet)


def _followed(process: subprocess.Popen[bytes], inlet: int, limit_s: float, lines: _Lines) -> str:
    began_s, is_open = now_s(), True
    while True:
        code = process.poll()
        said = is_open and select.select([inlet], [], [], 0 if code is not None else _LOOK_S)[0]
        if said:
            piece = os.read(inlet, 1 << 16)
            is_open = bool(piece)
            lines.add(piece)
        elif code is None and not is_open:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
        is_late = now_s() - began_s > limit_s
        if code is not None and (is_late or not said):
            lines.end()
            break
        if code is None and is_late:
            lines.end()
            return f"was not at its end after {limit_s:g} s, and was stopped"
    if code < 0:
        return f"was ended by signal {-code}"
    return f"ended with exit code {code}" if code else ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a program that is at work still, and all that it has started."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        until_s = now_s() + _STOP_S
        while now_s() < until_s:
            process.poll()
            os.killpg(process.pid, 0)  # until nobody is left of the group, whoever of it ends first
            pause(_LOOK_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Lines:
    """Cuts what comes in pieces into lines that any terminal can print."""

    def __init__(self, hear: Tell) -> None:
        self._hear, self._rest = hear, ""
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def add(self, piece: bytes) -> None:
        *whole, self._rest = (self._rest + self._decode(piece)).split("\n")
        for line in whole:
            self._tell(line)
        if len(self._rest) > _LINE_MAX:  # who never ends a line is told of all the same
            self.end()

    def end(self) -> None:
        rest, self._rest = self._rest, ""
        self._tell(rest)

    def _tell(self, line: str) -> None:
        if text := printable(line)[:_LINE_MAX]:
            self._hear(text)
