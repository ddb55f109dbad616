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


@pytest.mark.long
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


ATTACH = """
import shlex, signal, sys
import gevent
from gevent.queue import Queue
from fiefdom.engine import shells

out, err, ended = Queue(), Queue(), []

class Channel:
    signs = b""
    def exec_command(self, command): self.words = shlex.split(command)
    def sendall(self, piece): self.signs += piece
    def recv(self, size): return out.get()
    def recv_stderr(self, size): return err.get()
    def shutdown_write(self):
        print("told")
        end()
    def recv_exit_status(self): return int(sys.argv[1])
    def close(self): print("closed")

class Host:
    class connector:
        class client:
            @staticmethod
            def get_transport(): return Host
    @staticmethod
    def open_session(): return channel

def end():
    for pipe, last in ((out, b"last\\\\n"), (err, b"")):
        pipe.put(last)
        pipe.put(b"")

def hear(which, piece):
    if sys.argv[2] == "unheard" and which == 1: raise ValueError
    print(which, piece)

channel = Channel()
for piece in (b"motd\\\\nfiefdom-", b"answers\\\\n\\\\xff", b"two"):
    out.put(piece)
err.put(b"\\\\nfiefdom-answers\\\\nbad")
if sys.argv[2] == "signs":
    shells.BEAT_S = 0.02
    gevent.spawn_later(0.3, end)
elif sys.argv[2] == "unheard":
    gevent.spawn_later(0.3, err.put, b"more")
elif sys.argv[2] == "interrupt":
    gevent.spawn_later(0.05, signal.raise_signal, signal.SIGINT)
else:
    end()
try:
    print(shells.attach(Host, "echo", ["a", "b c"], hear))
except (KeyboardInterrupt, ConnectionError, ValueError) as error:
    print(type(error).__name__)
print(channel.words[-3:])
print(channel.signs)
""".replace("\\\\", "\\")


def attached(code: int, what: str = "") -> list[str]:
    done = forked.run(ATTACH, str(code), what)
    assert done.stderr == ""
    return done.stdout.splitlines()


WORDS = sorted(["1 b'\\xff'", "1 b'two'", "2 b'bad'", "1 b'last\\n'"])


def test_what_is_attended_comes_piece_by_piece_without_what_a_login_prints() -> None:
    lines = attached(7)
    assert sorted(lines[:4]) == WORDS, "of either output in its order"
    assert lines[4:7] == ["closed", "7", "['shift\\necho', 'a', 'b c']"]


def test_a_sign_is_given_each_few_seconds_to_what_would_take_silence_for_an_end() -> None:
    assert len(attached(0, "signs")[-1]) > len("b'....'")


def test_an_interrupt_ends_its_input_and_waits_for_its_last_words() -> None:
    lines = attached(3, "interrupt")
    assert lines[3] == "told" and sorted([*lines[:3], lines[4]]) == WORDS
    assert lines[5:7] == ["closed", "KeyboardInterrupt"]


def test_what_nobody_hears_any_more_is_told_so_and_waited_for() -> None:
    lines = attached(3, "unheard")
    assert [line for line in lines if not line.startswith("2 ")][:3] == ["told", "closed", "ValueError"]


def test_a_connection_that_breaks_off_is_no_end() -> None:
    assert attached(-1)[4:6] == ["closed", "ConnectionError"]
