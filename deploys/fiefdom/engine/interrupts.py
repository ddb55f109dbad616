"""Ctrl-C: it ends what the operator waits for, whatever the process is at in that moment."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import gevent


def heed() -> None:
    """Let an interrupt come to the main greenlet, unless somebody has another way with it already.

    Python raises it in whatever runs: where that is a connection's reader, it ends that one alone, and nobody hears.
    """
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    hub = gevent.get_hub()
    if gevent.getcurrent() is hub.parent:
        raise KeyboardInterrupt
    # The hub would print a traceback of what is raised in it.
    hub.loop.run_callback(hub.handle_system_error, KeyboardInterrupt, KeyboardInterrupt())
