"""A program of the operator's: its words as they come, its end or the end of its time, and nothing of it left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fiefdom.procedures import program


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "hook"


def run(script: Path, text: str, limit_s: float = 30, **environ: str) -> tuple[str, list[str]]:
    script.write_text(text)
    script.chmod(0o755)
    said: list[str] = []
    folder = script.parent / "folder"
    folder.mkdir(exist_ok=True)
    why = program.run(script, folder, {"PATH": os.defpath, **environ}, limit_s, said.append)
    return why, said


@pytest.mark.parametrize(
    ("text", "why", "said"),
    [
        ("exit 0", "", []),
        ("echo one; echo two >&2; printf three", "", ["one", "two", "three"]),
        ("pwd -P | sed 's,.*/,,'; echo $GIVEN; cat", "", ["folder", "a b"]),
        ("printf 'a\\033[31mb\\tc\\n\\n'; echo \"$HOME\"", "", ["a\\x1b[31mb c"]),
        ("printf '\\377\\n'", "", ["\ufffd"]),
        ("echo no >&2; exit 3", "ended with exit code 3", ["no"]),
        ("kill -9 $$", "was ended by signal 9", []),
        ("exec >&- 2>&-; sleep 0.2; exit 4", "ended with exit code 4", []),
    ],
)
def test_what_is_heard_of_it(script: Path, text: str, why: str, said: list[str]) -> None:
    assert run(script, f"#!/bin/sh\n{text}\n", GIVEN="a b") == (why, said)


def test_what_is_no_program(script: Path) -> None:
    assert run(script, "no program\n") == ("cannot be run (Exec format error); try it by hand", [])
    assert run(script, "#!/no/such/shell\n") == ("cannot be run (No such file or directory); try it by hand", [])


def test_one_that_is_late_is_stopped_with_all_that_it_started(script: Path) -> None:
    began = time.monotonic()
    why, said = run(script, "#!/bin/sh\n(sleep 60; :) & echo $!; wait\n", limit_s=0.3)
    assert why == "was not at its end after 0.3 s, and was stopped"
    assert time.monotonic() - began < 20
    for _ in range(50):
        if not Path(f"/proc/{said[0]}").exists() or " Z " in Path(f"/proc/{said[0]}/stat").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("what it had started is there still")


def test_what_it_leaves_in_the_background_is_not_waited_for(script: Path) -> None:
    began = time.monotonic()
    assert run(script, "#!/bin/sh\nsleep 15 &\necho up\n") == ("", ["up"])
    assert time.monotonic() - began < 10


def test_an_interrupt_ends_it(script: Path) -> None:
    script.write_text("#!/bin/sh\necho $$\nsleep 60\n")
    script.chmod(0o755)
    heard: list[str] = []

    def hear(line: str) -> None:
        heard.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        program.run(script, script.parent, {"PATH": os.defpath}, 60, hear)
    with pytest.raises(ProcessLookupError):
        os.kill(int(heard[0]), 0)


def test_a_line_without_an_end_is_told_in_part(script: Path) -> None:
    why, said = run(script, "#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' x\n")
    assert why == "" and set(map(len, said)) <= set(range(1, 401)) and len(said) > 1


def test_one_that_does_not_heed_its_end_is_killed_though_the_program_itself_ended(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_STOP_S", 0.3)
    _, said = run(script, "#!/bin/sh\n(trap '' TERM; exec sleep 60) & echo $!; wait\n", limit_s=0.3)
    for _ in range(50):
        if not Path(f"/proc/{said[0]}").exists() or " Z " in Path(f"/proc/{said[0]}/stat").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("what it started is at work still")
