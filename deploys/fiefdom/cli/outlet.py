"""Standard output and errors as bytes: patient with a pager, and quiet where nobody reads them any more."""

from __future__ import annotations

import io
import os
import select
from contextlib import suppress
from typing import TextIO

CLOSED = 141
"""The exit code of what a shell's pipe to `head` ends: 128 and SIGPIPE."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end; Python has no stream where it was closed before the start."""
    return stream is not None and stream.isatty()


def write(stream: TextIO, piece: bytes) -> None:
    """Write all of ``piece``, while connections go on. Raises BrokenPipeError where nobody reads it: see `let_go`."""
    for at in range(0, len(piece), select.PIPE_BUF):
        # A pager that waits for a person would else keep hosts from every sign that somebody is here.
        with suppress(io.UnsupportedOperation):
            while not select.select([], [stream], [], 0.2)[1]:
                pass
        stream.buffer.write(piece[at : at + select.PIPE_BUF])
        stream.flush()


def let_go(stream: TextIO) -> None:
    """Let go of what is yet to be written: at its end, Python would complain that it cannot."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
