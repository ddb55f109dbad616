"""guard.sh in a folder that stands for the host's root; systemd only writes down what it is asked."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fiefdom.converge.guard import SCRIPT

STUBS = {
    "systemctl": 'echo "systemctl $*" >>"$ROOT/log"; case $1 in is-enabled | is-active) exit 1 ;; esac',
    "systemd-run": 'echo "systemd-run $*" >>"$ROOT/log"; [ ! -e "$ROOT/no-timer" ] || exit 1\n'
    'for word; do last=$word; done; printf %s "$last" >"$ROOT/timer"',
    "mv": 'case $*:$(ls "$ROOT") in -T*no-mv*) exit 1 ;; esac; exec /bin/mv "$@"',
    "sync": "",
    "logger": "",
}


@dataclass(frozen=True)
class Root:
    path: Path

    def __post_init__(self) -> None:
        for folder in ("bin", "etc/systemd/system", "var/lib/fiefdom", "run"):
            (self.path / folder).mkdir(parents=True)
        for name, body in STUBS.items():
            stub = self.path / "bin" / name
            stub.write_text(f"#!/bin/sh\nROOT={self.path}\n{body}\n")
            stub.chmod(0o755)
        script = SCRIPT.replace("PATH=", f"PATH={self.path}/bin:")
        for folder in ("/var/lib/fiefdom", "/run/fiefdom", "/etc/systemd"):
            script = script.replace(folder, f"{self.path}{folder}")
        (self.path / "guard.sh").write_text(script)

    def guard(self, *words: str, check: bool = True) -> str:
        argv = ["sh", str(self.path / "guard.sh"), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=20).stdout

    def arm(self, *kept: tuple[str, str], check: bool = True) -> str:
        self.guard("begin")
        for kind, name in kept:
            self.guard("keep", kind, name)
        return self.guard("arm", "try-1", "60", check=check)

    def time_is_over(self) -> int:
        """Exit status of what the timer starts."""
        return subprocess.run(["sh", "-c", (self.path / "timer").read_text()], check=False, timeout=20).returncode

    def left(self) -> list[str]:
        """What would act, or wait, still."""
        waits = (
            "var/lib/fiefdom/guard",
            "run/fiefdom/guard-armed",
            f"etc/systemd/system/{'fiefdom-revert-boot'}.service",
        )
        return [path for path in waits if (self.path / path).exists()]

    def log(self) -> list[str]:
        return (self.path / "log").read_text().splitlines()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    yield Root(tmp_path)


STOPPED = "systemctl stop fiefdom-revert.timer"


def test_what_was_kept_comes_back_when_the_time_is_over(root: Root) -> None:
    changed, new = root.path / "etc/changed", root.path / "etc/new"
    changed.write_text("old")
    root.arm(("file", str(changed)), ("file", str(new)))
    assert len(root.left()) == 3
    changed.write_text("new")
    new.write_text("new")
    assert root.time_is_over() == 0
    assert changed.read_text() == "old" and not new.exists()
    assert root.guard("ask", "try-1") == "reverted\tnobody confirmed it within 60 s\n"
    assert root.left() == []


def test_folders_that_were_not_there_go_again_unless_somebody_uses_them(root: Root) -> None:
    there, outer, used = (root.path / "etc" / name for name in ("there", "outer", "used"))
    there.mkdir()
    folders = [str(folder) for folder in (there, used, outer / "inner", outer)]
    root.arm(*(("directory", folder) for folder in folders), ("file", str(outer / "inner" / "x")))
    (outer / "inner").mkdir(parents=True)
    (outer / "inner" / "x").touch()
    used.mkdir()
    (used / "theirs").touch()
    assert root.time_is_over() == 0
    assert there.exists() and (used / "theirs").exists()
    assert not outer.exists()


def test_a_folder_gets_its_mode_back(root: Root) -> None:
    """sshd ignores the keys in a folder that others may write to."""
    folder = root.path / "etc/keys"
    folder.mkdir(mode=0o755)
    root.arm(("directory", str(folder)))
    folder.chmod(0o777)
    assert root.time_is_over() == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("broken", ["no-mv", "no-timer"])
def test_what_cannot_be_armed_leaves_no_timer(root: Root, broken: str) -> None:
    (root.path / broken).touch()
    assert root.arm(check=False).startswith("fiefdom-failed\t")
    log = root.log()
    started = next(i for i, line in enumerate(log) if line.startswith("systemd-run"))
    assert STOPPED in log[started:]
    assert root.left() == []


def test_a_timer_of_a_run_that_died_while_it_armed_ends(root: Root) -> None:
    """Its script was not in place yet; systemd would start it again and again."""
    root.arm()
    for path in (root.path / "var/lib/fiefdom/guard").iterdir():
        path.unlink()
    assert root.time_is_over() == 0


def test_a_way_back_that_finds_nothing_to_take_back_stops_the_timer(root: Root) -> None:
    """As a step that fails in the middle of arming takes it."""
    root.arm()
    (root.path / "var/lib/fiefdom/guard/pending").unlink()
    (root.path / "log").unlink()
    root.guard("revert", "a step failed")
    assert STOPPED in root.log()
    assert root.left() == []


def test_a_confirmed_change_stays(root: Root) -> None:
    changed = root.path / "etc/changed"
    changed.write_text("old")
    root.arm(("file", str(changed)))
    changed.write_text("new")
    assert root.guard("confirm", "try-1") == "applying\n"
    root.guard("applied")
    assert root.guard("confirm", "try-1") == "confirmed\n"
    assert root.left() == [] and STOPPED in root.log()
    assert root.time_is_over() == 0
    assert changed.read_text() == "new"
