"""steps.sh and snapshot.sh with volumes and mounted files, on real folders."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest

from fiefdom.converge import snapshot
from fiefdom.converge.steps_script import SCRIPT, Step, steps_text

OWN = (str(os.getuid()), str(os.getgid()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {"docker": "#!/bin/sh\nexit 1\n", "systemctl": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for name in ("data", "own@8000"):
        (tmp_path / "state/volumes/web" / name).mkdir(parents=True)
        (tmp_path / "state/volumes/web" / name / "row").write_text("kept")
    return tmp_path


def run(root: Path, *steps: Step) -> subprocess.CompletedProcess[str]:
    """steps.sh with a folder of its own as the host's state."""
    script = SCRIPT.replace("state=/var/lib/fiefdom\n", f"state={root}/state\n")
    script = script.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={root}:")
    words = ["sh", "-c", script, "fiefdom"]
    return subprocess.run(words, input=steps_text(steps), capture_output=True, text=True, check=False, timeout=60)


def take(root: Path, *steps: Step) -> None:
    done = run(root, *steps)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def stage(path: Path, content: bytes, mode: str = "0444") -> Step:
    return ("stage", str(path), mode, *OWN, base64.b64encode(content).decode())


def test_a_file_is_mended_as_it_is_and_placed_as_another(root: Path) -> None:
    path = root / "app.conf"
    path.write_text("edited, and longer\n")
    path.chmod(0o644)
    with path.open() as mounted:
        take(root, stage(path, b"right\n"), ("mend", str(path)))
        assert mounted.read() == "right\n", "what a container has mounted"
        assert path.stat().st_mode & 0o777 == 0o444
        take(root, stage(path, b"next\n"), ("place", str(path)))
        mounted.seek(0)
        assert mounted.read() == "right\n", "what runs keeps what it has"
    assert path.read_text() == "next\n"


def test_a_link_in_its_place_is_replaced_and_not_followed(root: Path) -> None:
    path, other = root / "app.conf", root / "other"
    other.write_text("somebody's\n")
    path.symlink_to(other)
    take(root, stage(path, b"right\n"), ("mend", str(path)))
    assert (path.is_symlink(), path.read_text(), other.read_text()) == (False, "right\n", "somebody's\n")


def test_what_several_have_travels_once(root: Path) -> None:
    one, two = root / "one", root / "two"
    like = ("stage-like", str(two), "0400", *OWN, str(one))
    take(root, stage(one, b"\0large\n"), like, ("place", str(one)), ("place", str(two)))
    assert one.read_bytes() == two.read_bytes() == b"\0large\n"
    assert (one.stat().st_mode & 0o777, two.stat().st_mode & 0o777) == (0o444, 0o400)


def test_a_folders_mode_is_what_is_said_also_where_somebody_added_to_it(root: Path) -> None:
    folder = root / "state/volumes/web/data"
    folder.chmod(0o2777)
    take(root, ("directory", str(folder), "0700", *OWN))
    assert folder.stat().st_mode & 0o7777 == 0o700
    take(root, ("directory", str(folder), "2770", *OWN))
    assert folder.stat().st_mode & 0o7777 == 0o2770
    assert (folder / "row").read_text() == "kept"


def test_a_turn_that_fails_gives_a_folder_its_mode_back(root: Path) -> None:
    folder, path = root / "state/volumes/web/data", root / "app.conf"
    folder.chmod(0o750)
    path.write_text("before\n")
    done = run(
        root,
        stage(path, b"after\n"),
        ("keep", "begin", "turn"),
        ("keep", "file", str(path)),
        ("keep", "directory", str(folder)),
        ("keep", "directory", str(root / "yet-to-come")),
        ("keep", "done"),
        ("directory", str(folder), "0700", *OWN),
        ("place", str(path)),
        ("nonsense",),
    )
    assert done.returncode == 1 and "fiefdom-restored" in done.stdout, done.stdout
    assert folder.stat().st_mode & 0o777 == 0o750
    assert path.read_text() == "before\n"


def test_a_host_that_fiefdom_leaves_keeps_its_volumes(root: Path) -> None:
    (root / "state/stamps").mkdir()
    take(root, ("erase",))
    assert sorted(p.name for p in (root / "state").iterdir()) == ["volumes"]
    assert (root / "state/volumes/web/data/row").read_text() == "kept"


def test_one_without_volumes_keeps_nothing(root: Path) -> None:
    for name in ("data", "own@8000"):
        take(root, ("remove-volume", f"{root}/state/volumes/web/{name}"))
    assert not (root / "state/volumes").exists()
    take(root, ("erase",))
    assert not (root / "state").exists()


def test_one_volume_goes_and_the_others_stay(root: Path) -> None:
    take(root, ("remove-volume", f"{root}/state/volumes/web/data"))
    assert [p.name for p in (root / "state/volumes/web").iterdir()] == ["own@8000"]


@pytest.mark.parametrize(
    "path", ["", "/web", "/web/", "/web/data/row", "/web/..", "/../volumes", "//web", "/web/../web"]
)
def test_nothing_but_a_volume_is_removed_as_one(root: Path, path: str) -> None:
    done = run(root, ("remove-volume", f"{root}/state/volumes{path}"))
    assert done.returncode == 1 and "is no volume" in done.stdout
    assert (root / "state/volumes/web/data/row").read_text() == "kept"
    assert run(root, ("remove-volume", "/etc")).returncode == 1


def test_the_snapshot_tells_of_volumes_whoever_wants_them(root: Path) -> None:
    line = next(line for line in snapshot.SCRIPT.splitlines() if "/var/lib/fiefdom/volumes" in line)
    words = ["sh", "-c", line.replace("/var/lib/fiefdom", f"{root}/state")]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.replace(
        f"{root}/state", "/var/lib/fiefdom"
    )
    lines = ["uid\t0", *told.splitlines(), "volume\t/etc", "volume\t/var/lib/fiefdom/volumes/web/../..", "end"]
    assert snapshot.parse("app1", lines).volumes == {
        "/var/lib/fiefdom/volumes/web/data",
        "/var/lib/fiefdom/volumes/web/own@8000",
    }
