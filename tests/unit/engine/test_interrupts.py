"""Ctrl-C comes to who waits, and not to whoever happens to run."""

from __future__ import annotations

import pytest

from helpers import forked

PROGRAM = """
import os, signal, sys
import gevent
from fiefdom.engine import interrupts

signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[1] == "ignored" else signal.default_int_handler)
interrupts.heed()

def interrupt():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # as the readers of connections do
        print("a reader was interrupted")
    print("a reader went on")

try:
    if sys.argv[1] == "reader":
        gevent.spawn(interrupt)
        gevent.sleep(60)
    else:
        os.kill(os.getpid(), signal.SIGINT)
    print("waited in vain")
except KeyboardInterrupt:
    print("interrupted")
    gevent.sleep(0)
"""


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("reader", ["a reader went on", "interrupted"]),
        ("main", ["interrupted"]),
        ("ignored", ["waited in vain"]),
    ],
)
def test_an_interrupt_ends_what_the_operator_waits_for_whatever_runs_at_that_moment(who: str, said: list[str]) -> None:
    done = forked.run(PROGRAM, who, timeout_s=90)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == said
