"""What a host says, told from what its login prints before it."""

from __future__ import annotations

import subprocess

import pytest

from helpers import forked

# In a process of its own: engine patches the standard library for everything that is imported after it.
SAID = """
import sys
from fiefdom.engine import shells

print(shells.MARKED if sys.argv[1] == "script" else getattr(shells, sys.argv[1])(sys.argv[2]))
"""


def asked(*arguments: str) -> str:
    done = forked.run(SAID, *arguments)
    return done.stdout.removesuffix("\n") or done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("noise", "printed"), [("", "{}"), ("Welcome\n", "{}"), ("no line break", "{}"), ("reverted\n", "a\n\nb\n")]
)
def test_a_login_that_talks_changes_no_answer(noise: str, printed: str) -> None:
    """The script says what it says, on both streams, as the shell of somebody's `.bashrc` passes it on."""
    script = f"printf '%s' '{noise}'; printf '%s' '{noise}' >&2; {asked('script', '')}"
    done = subprocess.run(
        ["sh", "-c", script, f"printf '%s' '{printed}'; printf '%s' '{printed}' >&2"],
        capture_output=True,
        text=True,
        check=True,
    )
    # pyinfra hands out lines, without the last break.
    for stream in (done.stdout, done.stdout.strip(), done.stderr):
        assert asked("said", stream).strip() == printed.strip()
        assert asked("shown", stream).strip() == printed.strip()


def test_without_the_hosts_own_word_there_is_no_answer() -> None:
    assert asked("said", "") == "ConnectionError: its login never ran what it was asked"
    assert asked("said", "Hello\nThis account is not available.\n").endswith(
        ", and said: This account is not available."
    )
    assert asked("shown", "Hello") == "Hello"
