"""Where the gossip key comes from, and that nobody else can read it."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import pytest

from fiefdom import secret
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from test_model import changed

KEY = base64.b64encode(bytes(range(32))).decode()


def cluster(folder: Path, key_file: str | None = "gossip.key") -> Cluster:
    return Cluster.model_validate(changed({"base_dir": str(folder), "serf": {"key_file": key_file}}))


def refusal(folder: Path, environ: dict[str, str] | None = None, key_file: str | None = "gossip.key") -> str:
    with pytest.raises(FiefdomError) as caught:
        secret.load(cluster(folder, key_file), environ or {})
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_generate_makes_load_reads(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gossip.key"
    secret.generate(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["gossip.key"]
    key = secret.load(cluster(tmp_path / "new"), {}).gossip_key
    assert len(base64.b64decode(key)) == 32
    secret.generate(tmp_path / "other")
    assert (tmp_path / "other").read_text().strip() != key


def test_a_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    import os

    before = os.umask(0)
    try:
        secret.generate(tmp_path / "gossip.key")
    finally:
        os.umask(before)
    assert (tmp_path / "gossip.key").stat().st_mode & 0o777 == 0o600


def test_generate_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "gossip.key"
    path.write_text("precious")
    with pytest.raises(FiefdomError, match="exists already"):
        secret.generate(path)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["gossip.key"]


def test_of_many_at_once_one_makes_the_key(tmp_path: Path) -> None:
    path, refused = tmp_path / "gossip.key", []

    def make() -> None:
        try:
            secret.generate(path)
        except FiefdomError as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["gossip.key"]


def test_a_key_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FiefdomError, match="cannot be written"):
        secret.generate(tmp_path / "file" / "gossip.key")


def test_the_environment_comes_first(tmp_path: Path) -> None:
    secret.generate(tmp_path / "gossip.key")
    assert secret.load(cluster(tmp_path), {secret.VARIABLE: f"{KEY}\n"}).gossip_key == KEY
    assert secret.load(cluster(tmp_path, None), {secret.VARIABLE: KEY}).gossip_key == KEY


def test_the_key_does_not_show_in_the_value(tmp_path: Path) -> None:
    assert KEY not in repr(secret.load(cluster(tmp_path), {secret.VARIABLE: KEY}))


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    assert "fiefdom keygen INVENTORY" in refusal(tmp_path)
    assert str(tmp_path / "gossip.key") in refusal(tmp_path)
    assert "fiefdom keygen INVENTORY" in refusal(tmp_path, key_file=None)
    assert "serf.key_file" in refusal(tmp_path, key_file=None)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "gossip.key"
    path.write_text(KEY)
    path.chmod(mode)
    assert f"chmod 600 {path}" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has 0 bytes and needs 32"),
        ("not base64!", "is not base64"),
        (KEY[:-4], "needs 32"),
        (base64.b64encode(bytes(16)).decode(), "has 16 bytes and needs 32"),
        (f"{KEY[:20]}\n{KEY[20:]}", "is not base64"),
        ("\udcff", "is not base64"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, {secret.VARIABLE: text})
    path = tmp_path / "gossip.key"
    path.write_text(text, errors="surrogateescape")
    path.chmod(0o600)
    assert says in refusal(tmp_path)


def test_a_folder_in_place_of_the_key_is_one_line(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path, key_file=".")
