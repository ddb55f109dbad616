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


AT_A_FORK = """
import os, signal, subprocess, sys
import gevent
from fiefdom.engine import interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.heed()
asked = [True]

def interrupt():
    if asked:
        asked.clear()
        os.kill(os.getpid(), signal.SIGINT)

os.register_at_fork(**{sys.argv[1]: interrupt})

def start():
    print("ended with", subprocess.run(["sleep", "0.5"]).returncode)

try:
    gevent.spawn(start).join() if sys.argv[2] == "host" else start()
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("who", ["main", "host"])
@pytest.mark.parametrize("when", ["before", "after_in_parent", "after_in_child"])
def test_an_interrupt_while_a_program_is_started_is_told_once_that_is_over(when: str, who: str) -> None:
    done = forked.run(AT_A_FORK, when, who, timeout_s=90)
    assert (done.returncode, done.stderr) == (0, "")
    ended = ["ended with -2", "went on"]  # a child that is interrupted ends, and nothing else
    assert done.stdout.splitlines() == (ended if when == "after_in_child" else ["interrupted"])


HAIL = """
import os, random, signal, subprocess, time
from gevent import monkey
from fiefdom.engine import interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.heed()
os.setsid()  # who interrupts at a terminal interrupts what was started as well
signal.alarm(80)  # it would go on for ever with an interrupt that gets lost
wanted, want = os.pipe()
if not monkey.get_original("os", "fork")():
    os.setsid()
    os.close(want)
    while os.read(wanted, 1):
        monkey.get_original("time", "sleep")(random.random() / 100)
        os.killpg(os.getppid(), signal.SIGINT)
    os._exit(0)
for _ in range(100):
    try:
        os.write(want, b".")
        while True:
            subprocess.run(["true"])
    except KeyboardInterrupt:
        pass
print("done")
"""


def test_programs_that_are_started_under_interrupts_print_no_traceback() -> None:
    done = forked.run(HAIL, timeout_s=90)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
