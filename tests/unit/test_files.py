"""Files that are written all or none, and what is left of a run that was killed among them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from fiefdom import files
from fiefdom.errors import FiefdomError
from fiefdom.files import DRAFTS, NewFile, write_new

WANTED = (
    NewFile("secrets/key", b"s3cret\n", 0o600),
    NewFile("a/b/one.yaml", b"one\n"),
    NewFile(".ignore", b"two\n"),
    NewFile("a/last.yaml", b"three\n"),
)


def found(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def all_of(wanted: tuple[NewFile, ...]) -> dict[str, bytes]:
    return {new.path: new.content for new in wanted}


def test_all_are_there_with_their_modes_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new/deep"
    write_new(folder, WANTED)
    assert found(folder) == all_of(WANTED)
    assert not (folder / DRAFTS).exists()
    assert {(folder / new.path).stat().st_mode & 0o777 for new in WANTED[1:]} == {0o644}
    assert (folder / "secrets/key").stat().st_mode & 0o777 == 0o600
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("there", [new.path for new in WANTED])
def test_one_that_is_there_keeps_all_others_away(tmp_path: Path, there: str) -> None:
    path = tmp_path / there
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(FiefdomError, match=f"{there}: is there already and stays as it is; nothing was written"):
        write_new(tmp_path, WANTED)
    assert found(tmp_path) == {there: b"mine"}


def test_a_link_to_nowhere_is_something_that_is_there(tmp_path: Path) -> None:
    (tmp_path / ".ignore").symlink_to("nowhere")
    with pytest.raises(FiefdomError, match="is there already"):
        write_new(tmp_path, WANTED)


@pytest.mark.parametrize("at", range(len(WANTED)))
def test_an_error_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    tries = iter(range(len(WANTED)))
    link = Path.hardlink_to

    def hardlink_to(path: Path, target: Path) -> None:
        if next(tries) == at:
            raise OSError(28, "No space left on device", str(path))
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    with pytest.raises(FiefdomError, match="No space left on device"):
        write_new(tmp_path / "new", WANTED)
    assert list(tmp_path.iterdir()) == []


def killed_at(folder: Path, at: int) -> None:
    """A process that is gone once ``at`` files are at their place."""
    pid = os.fork()
    if pid == 0:
        link, done = Path.hardlink_to, iter(range(at + 1))

        def hardlink_to(path: Path, target: Path) -> None:
            if next(done) == at:
                os._exit(9)
            link(path, target)

        Path.hardlink_to = hardlink_to  # type: ignore[method-assign,assignment]
        files.shutil.rmtree = lambda *_, **__: os._exit(9)  # type: ignore[assignment]
        write_new(folder, WANTED)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.parametrize("at", range(len(WANTED)))
def test_a_run_that_was_killed_half_way_is_begun_anew_by_the_next_one(tmp_path: Path, at: int) -> None:
    killed_at(tmp_path, at)
    assert len([new for new in WANTED if (tmp_path / new.path).exists()]) == at
    others = (*WANTED[:2], NewFile("other/last.yaml", b"four\n"))
    write_new(tmp_path, others)
    assert found(tmp_path) == all_of(others)


def test_what_was_through_before_it_was_killed_stays(tmp_path: Path) -> None:
    killed_at(tmp_path, len(WANTED))
    with pytest.raises(FiefdomError, match="is there already"):
        write_new(tmp_path, WANTED)
    assert found(tmp_path) == all_of(WANTED)


def test_what_somebody_else_put_there_meanwhile_is_not_taken_back(tmp_path: Path) -> None:
    killed_at(tmp_path, 2)
    (tmp_path / ".ignore").write_bytes(b"mine")
    with pytest.raises(FiefdomError, match=r"\.ignore: is there already"):
        write_new(tmp_path, WANTED)
    assert found(tmp_path) == {".ignore": b"mine"}


def test_two_at_once_do_not_take_each_other_back(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(FiefdomError, match="another run is writing there"):
        write_new(tmp_path, WANTED)
    os.close(handle)
    write_new(tmp_path, WANTED)


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o755), (0o077, 0o700)])
def test_no_umask_lets_others_write_the_folder(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_new(tmp_path / "new/deep", WANTED)
    finally:
        os.umask(before)
    assert {(tmp_path / made).stat().st_mode & 0o777 for made in ("new", "new/deep", "new/deep/a")} == {mode}
    assert (tmp_path / "new/deep/secrets").stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_place_of_drafts_is_refused_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious").write_bytes(b"mine")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / DRAFTS).symlink_to(tmp_path / "other")
    with pytest.raises(FiefdomError, match=f"{DRAFTS}: is a link, .*: remove it"):
        write_new(tmp_path / "new", WANTED)
    assert found(tmp_path) == {"other/precious": b"mine"}


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"mine")
    for folder in ("taken", "taken/deep"):
        with pytest.raises(FiefdomError, match=r"taken.*: cannot be written .*, and nothing was"):
            write_new(tmp_path / folder, WANTED)
    assert found(tmp_path) == {"taken": b"mine"}
