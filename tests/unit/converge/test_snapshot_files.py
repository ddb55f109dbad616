"""What the snapshot script tells of files, in a folder of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from fiefdom.converge import snapshot
from fiefdom.converge.snapshot import FoundFile, Snapshot
from fiefdom.desired.state import File, HostState, Unit, digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host without Docker, whose state lies there, for whoever runs the tests."""
    for name, text in {"id": "echo 0", "docker": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for folder in ("etc", "state"):
        (tmp_path / folder).mkdir()
    return tmp_path


def look(root: Path, state: HostState) -> Snapshot:
    script = snapshot.SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={root}:")
    script = script.replace("/var/lib/fiefdom", f"{root}/state")
    words = ["sh", "-c", script, "fiefdom", "10.0.0.9 50000 10.0.0.1 22"]
    env = {"PATH": f"{root}:{os.environ['PATH']}"}
    query = snapshot.query([state])
    done = subprocess.run(words, input=query, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return snapshot.parse("app1", done.stdout.splitlines())


def kinds(found: Snapshot) -> dict[str, tuple[str, str | None]]:
    """Of each path its kind and its digest, by its name."""
    return {Path(path).name: (file.kind, file.digest) for path, file in found.files.items()}


def test_each_kind_of_file_is_told_and_no_device_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc = root / "etc"
    for name in ("plain", "an 'other' $(name) *", r"systemd\x2dname"):
        (etc / name).write_text("x\n")
    (etc / "empty").touch()
    (etc / "folder").mkdir()
    os.mkfifo(etc / "pipe")
    for name, target in {"link": "plain", "dangling": "none", "to-folder": "folder", "zero": "/dev/zero"}.items():
        (etc / name).symlink_to(target)
    monkeypatch.chdir(etc)  # a socket's path is short
    socket.socket(socket.AF_UNIX).bind("socket")
    names = [path.name for path in etc.iterdir()]
    found = look(root, HostState(files=tuple(File(str(etc / name), b"") for name in [*names, "missing"])))
    text = digest("x\n")
    assert kinds(found) == {
        "plain": ("regular file", text),
        "an 'other' $(name) *": ("regular file", text),
        r"systemd\x2dname": ("regular file", text),
        "empty": ("regular empty file", digest("")),
        "folder": ("directory", None),
        "pipe": ("fifo", None),
        "socket": ("socket", None),
        "link": ("symbolic link", text),
        "dangling": ("symbolic link", None),
        "to-folder": ("symbolic link", None),
        "zero": ("symbolic link", None),
    }
    device = look(root, HostState(files=(File("/dev/zero", b""),)))
    assert kinds(device) == {"zero": ("character special file", None)}


def test_mode_and_owner_are_told_as_numbers(root: Path) -> None:
    file = root / "etc/x"
    file.write_text("x\n")
    for mode in (0o000, 0o640, 0o4755):
        file.chmod(mode)
        found = look(root, HostState(files=(File(str(file), b""),))).files[str(file)]
        assert (found.mode, found.uid, found.gid) == (mode, os.getuid(), file.stat().st_gid)
    assert found == FoundFile("regular file", 0o4755, os.getuid(), file.stat().st_gid, digest("x\n"))


def test_of_what_was_there_before_is_told_whether_somebody_changed_what_is_there_now(root: Path) -> None:
    etc = root / "etc"
    now = {"placed": "ours", "by-hand": "theirs", "same": "before", "folder": None, "gone": None, "asked": "theirs"}
    for name, text in now.items():
        kept = Path(f"{root}/state/originals{etc}/{name}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("before")
        if text is not None:
            (etc / name).write_text(text)
    (etc / "folder").mkdir()
    Path(f"{root}/state/originals{etc}/link").symlink_to("nowhere")
    (root / "state/originals.placed").write_text(f"{digest('ours')}\t{etc}/placed\n")
    found = look(root, HostState(files=(File(f"{etc}/asked", b""),)))
    assert {Path(path).name: changed for path, changed in found.originals.items()} == {
        "placed": False,
        "by-hand": True,
        "same": False,
        "folder": True,
        "gone": False,
        "asked": True,
        "link": False,
    }
    assert kinds(found) == {"asked": ("regular file", digest("theirs"))}, "of nothing that is not asked for"


def test_what_a_login_shows_and_what_units_say_are_told_by_their_digest(root: Path) -> None:
    login = root / "etc/login"
    login.write_text('{"auth": "c2VjcmV0"}\n')
    state = HostState(
        files=(File(str(login), b"", login=True),),
        units=(Unit("x.service", live=("printf", "rules")), Unit("y.service")),
    )
    found = look(root, state)
    assert found.files[str(login)].digest == digest('{"auth": ""}\n')
    assert found.live == {"x.service": digest("rules")}
