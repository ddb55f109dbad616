"""Ctrl-C: it ends what the operator waits for, whatever the process is at in that moment."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import gevent
from gevent import subprocess


def heed() -> None:
    """Let an interrupt come to the main greenlet, unless somebody has another way with it already.

    Python raises it in whatever runs: where that is a connection's reader, it ends that one alone, and nobody hears.
    While a program is started, what Python and gevent do at the fork would print it with a traceback, and what opens
    pipes would swallow it.
    """
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _interrupted)
        subprocess.fork, subprocess.Popen.__init__ = _fork, _start


class _Starting:
    """How many programs are being started, and whether an interrupt has come since the last fork began."""

    count = 0
    interrupted = False


_plain_fork, _plain_start = subprocess.fork, subprocess.Popen.__init__


def _start(process: Any, *arguments: Any, **options: Any) -> None:
    """Start a program; who is interrupted meanwhile hears of it where he waits, and leaves nothing that was started."""
    _Starting.count += 1
    try:
        _plain_start(process, *arguments, **options)
    except KeyboardInterrupt:
        if getattr(process, "pid", None):
            process.kill()
        raise
    finally:
        _Starting.count -= 1


def _fork() -> int:
    """Fork; until a child is the program that it becomes, which begins so as well, an interrupt ends it silently."""
    _Starting.interrupted = False
    pid: int = _plain_fork()
    if not pid and signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if _Starting.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
    return pid


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    _Starting.interrupted = True
    hub = gevent.get_hub()
    if gevent.getcurrent() is hub.parent and not _Starting.count:
        raise KeyboardInterrupt
    # The hub would print a traceback of what is raised in it.
    hub.loop.run_callback(hub.handle_system_error, KeyboardInterrupt, KeyboardInterrupt())
