"""Sessions with hosts: a command that hangs there is one that failed, and keeps nobody waiting."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: engine patches the standard library for everything that is imported after it.
HANGS = """
import subprocess, sys, time
from types import SimpleNamespace
from fiefdom import engine

engine.QUIET_S = 3

class Connector:
    client = SimpleNamespace(get_transport=lambda: object())

    def run_shell_command(self, command, _stdin, _timeout):
        if sys.argv[1] == "link":
            time.sleep(60)
        done = subprocess.run(command.get_raw_value(), shell=True, capture_output=True, text=True)
        return done.returncode == 0, SimpleNamespace(stdout=done.stdout.strip(), stderr=done.stderr.strip())

session = engine.Session(None, ("gw1",))
session._state = SimpleNamespace(inventory=SimpleNamespace(get_host=lambda _: SimpleNamespace(connector=Connector())))
began = time.monotonic()
print(session.shell("gw1", sys.argv[2:]))
assert time.monotonic() - began < 10
"""


def shell(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HANGS, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_command_that_hangs_on_a_host_has_failed_and_says_so() -> None:
    assert shell("host", "sleep", "60") == "(False, '', 'no answer for 1 s')"


def test_a_link_that_hangs_is_a_command_that_failed() -> None:
    assert shell("link", "true") == "(False, '', 'no answer for 3 s')"


def test_a_commands_words_are_its_own() -> None:
    assert shell("host", "printf", "%s|", "two words", "$HOME;") == "(True, 'two words|$HOME;|', '')"
    assert shell("host", "sh", "-c", "echo why >&2; exit 3") == "(False, '', 'why')"
