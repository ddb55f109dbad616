"""Files on this machine that are written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fiefdom.errors import FiefdomError


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put ``content`` in place of what is at ``path``, with the mode of that, or ``mode`` where nothing is.

    Raises:
        FiefdomError: it cannot be written; what was there is as it was.
    """
    if path.exists() and not path.is_file():
        raise FiefdomError(f"{path}: is no file that could be replaced; name another")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with suppress(FileNotFoundError):
            mode = path.stat().st_mode & 0o777
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise FiefdomError(f"{path}: cannot be written ({error.strerror}); check the folder") from error


DRAFTS = ".fiefdom-new"
"""Where files of `write_new` lie until all of them are there."""


@dataclass(frozen=True)
class NewFile:
    """A file that is yet to be; ``path`` starts from the folder that it is made in."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    mend: str = ""
    """What a person may do where it is there already."""


def write_new(folder: Path, wanted: Sequence[NewFile]) -> None:
    """Write files into ``folder``, which is made where it is missing: all of them, or none.

    What is there is never replaced. What a run left that was killed meanwhile is taken back first. The folder of a
    file that its owner alone may read is the owner's alone as well, where it is made here.

    Raises:
        FiefdomError: one of them is there, or cannot be written; what was there is as it was.
    """
    made: list[Path] = []
    try:
        _make(folder, 0o755, made)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _take_back(folder)
            _write_all(folder, wanted, made)
        finally:
            os.close(handle)
    except BlockingIOError as error:
        raise FiefdomError(f"{folder}: another run is writing there; wait for its end") from error
    except OSError as error:
        path = error.filename2 or error.filename or folder
        raise FiefdomError(
            f"{path}: cannot be written ({error.strerror}), and nothing was; check the folder"
        ) from error


def _write_all(folder: Path, wanted: Sequence[NewFile], made: list[Path]) -> None:
    for new in wanted:
        if os.path.lexists(folder / new.path):
            mend = f": {new.mend}" if new.mend else ""
            raise FiefdomError(f"{folder / new.path}: is there already and stays as it is; nothing was written{mend}")
    drafts = folder / DRAFTS
    try:
        _make(drafts, 0o700, made)
        for new in wanted:
            _make((drafts / new.path).parent, 0o700, [])
            _put(drafts / new.path, new)
        for new in wanted:
            _make((folder / new.path).parent, 0o700 if new.mode == 0o600 else 0o755, made)
            # Unlike a rename, a link never replaces what somebody has put there meanwhile.
            (folder / new.path).hardlink_to(drafts / new.path)
    except BaseException:
        for new in wanted:
            if _is_same(folder / new.path, drafts / new.path):
                (folder / new.path).unlink()
        shutil.rmtree(drafts, ignore_errors=True)
        for path in reversed(made):
            with suppress(OSError):  # somebody else's by now
                path.rmdir()
        raise
    shutil.rmtree(drafts)


def _take_back(folder: Path) -> None:
    """Remove what a killed run has left, but not where it was through with all files."""
    drafts = folder / DRAFTS
    if drafts.is_symlink():
        raise FiefdomError(f"{drafts}: is a link, which no run before has left; nothing was written: remove it")
    staged = [path for path in drafts.rglob("*") if path.is_file()]
    left = [folder / path.relative_to(drafts) for path in staged if _is_same(folder / path.relative_to(drafts), path)]
    if len(left) < len(staged):
        for path in left:
            path.unlink()
    if drafts.is_dir():
        shutil.rmtree(drafts)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _make(folder: Path, mode: int, made: list[Path]) -> None:
    if not folder.is_dir():
        _make(folder.parent, 0o755, made)
        folder.mkdir(mode)
        made.append(folder)


def _put(path: Path, new: NewFile) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(new.content)
        os.fchmod(file.fileno(), new.mode)
        file.flush()
        os.fsync(file.fileno())
