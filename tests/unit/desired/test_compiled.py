"""What is compiled of a template is kept, and never stands in for another."""

from __future__ import annotations

import io
import marshal
import os
import pickle
import stat
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader
from jinja2.bccache import bc_magic

from fiefdom.desired.compiled import Compiled


def environment(folder: Path, **options: bool) -> Environment:
    return Environment(  # noqa: S701 -- no HTML
        loader=FileSystemLoader(folder), bytecode_cache=Compiled(folder, options), **options
    )


def text(folder: Path, **options: bool) -> str:
    return environment(folder, **options).get_template("a.j2").render(x=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    (tmp_path / "a.j2").write_text("{% if x %}\nyes {{ x }}\n{% endif %}\n")
    return tmp_path


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("__pycache__/*"))


def test_it_is_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = text(folder)
    assert len(kept(folder)) == 1
    monkeypatch.setattr(Environment, "_compile", None)
    assert text(folder) == first


def test_another_text_or_other_options_are_compiled_anew(folder: Path) -> None:
    found = [text(folder), text(folder, trim_blocks=True)]
    (folder / "a.j2").write_text("no\n")
    assert [*found, text(folder)] == ["\nyes 1\n", "yes 1\n", "no"]


@pytest.mark.parametrize("content", [b"", b"j2", b"nonsense" * 100])
def test_what_is_broken_is_made_anew(folder: Path, content: bytes) -> None:
    first = text(folder)
    (path,) = kept(folder)
    whole = path.read_bytes()
    for broken in (content, *(whole[:end] for end in range(len(whole))), whole[:30] + content + whole[30:]):
        path.write_bytes(broken)
        assert text(folder) == first
        assert code(path.read_bytes()) == code(whole)


def code(kept_bytes: bytes) -> tuple[object, object]:
    """What the file is of, and its code: marshal may write equal codes differently, by who else has parts of them."""
    read = io.BytesIO(kept_bytes)
    assert read.read(len(bc_magic)) == bc_magic
    return pickle.load(read), marshal.load(read)  # noqa: S301, S302 -- just written


def test_no_umask_lets_others_write_what_is_run_later(folder: Path) -> None:
    before = os.umask(0)
    try:
        text(folder)
    finally:
        os.umask(before)
    (path,) = kept(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_it_is_kept_where_python_keeps_its_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.pycache_prefix", str(folder / "elsewhere"))
    first = text(folder)
    assert not kept(folder) and len([*folder.glob("elsewhere/**/*.pyc")]) == 1
    monkeypatch.setattr(Environment, "_compile", None)
    assert text(folder) == first


def test_nothing_is_kept_where_python_is_to_keep_nothing_or_cannot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "__pycache__").write_text("in the way")
    assert text(folder) == "\nyes 1\n"
    (folder / "__pycache__").unlink()
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    text(folder)
    assert not kept(folder)
