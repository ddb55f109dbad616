"""The encrypted file: what goes in comes out, for its recipients alone, and nothing of it lies about meanwhile."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from pathlib import Path

import pyrage
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fiefdom.errors import FiefdomError
from fiefdom.inventory import vault
from fiefdom.model import Cluster
from helpers.inventories import changed

ME, OTHER = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
VALUE = "correct horse battery staple"


def cluster(folder: Path, *recipients: str) -> Cluster:
    settings_ = {"file": "secrets.age", "recipients": recipients or [str(ME.to_public())]}
    return Cluster.model_validate(changed({"base_dir": str(folder), "secrets": settings_}))


def key_file(folder: Path, identity: pyrage.x25519.Identity = ME, mode: int = 0o600) -> dict[str, str]:
    """The environment of an operator with this key."""
    path = folder / f"{identity.to_public()}.txt"
    path.write_text(f"# made by age-keygen\n{identity}\n")
    path.chmod(mode)
    return {vault.IDENTITY: str(path)}


def ssh_key(folder: Path, kind: str, passphrase: str = "") -> tuple[Path, str]:
    path = folder / f"id_{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "ann", "-f", str(path)], check=True)
    return path, path.with_suffix(".pub").read_text().strip()


def filled(folder: Path, *recipients: str) -> Cluster:
    """A cluster whose file holds VALUE as `token`."""
    it = cluster(folder, *recipients)
    vault.change(it, vault.adding("token", VALUE), key_file(folder))
    return it


def refusal(call: object, *arguments: object) -> str:
    with pytest.raises(FiefdomError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert VALUE not in str(caught.value) and str(ME) not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_put_in_comes_out_and_the_file_shows_nothing(tmp_path: Path) -> None:
    it = filled(tmp_path)
    path = tmp_path / "secrets.age"
    assert vault.read(it, key_file(tmp_path)) == {"token": VALUE}
    text = path.read_text()
    assert text.startswith("-----BEGIN AGE ENCRYPTED FILE-----")
    assert VALUE not in text and "token" not in text
    assert path.stat().st_mode & 0o777 == 0o644
    vault.change(it, vault.adding("token", "new"), key_file(tmp_path))
    vault.change(it, vault.adding("other", "2"), key_file(tmp_path))
    assert vault.read(it, key_file(tmp_path)) == {"token": "new", "other": "2"}
    vault.change(it, vault.removing("token"), key_file(tmp_path))
    assert vault.read(it, key_file(tmp_path)) == {"other": "2"}


@pytest.mark.long
@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True), st.text(max_size=40), max_size=5))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_out_as_it_went_in(entries: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        it, environ = cluster(Path(name)), key_file(Path(name))
        vault.change(it, lambda _: entries, environ)
        assert vault.read(it, environ) == entries


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_an_ssh_key_will_do(tmp_path: Path, kind: str) -> None:
    path, public = ssh_key(tmp_path, kind)
    it = filled(tmp_path, public, str(ME.to_public()))
    assert vault.read(it, {vault.IDENTITY: str(path)}) == {"token": VALUE}


def test_keys_are_found_at_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    _, public = ssh_key(tmp_path / ".ssh", "ed25519")
    it = filled(tmp_path, public, str(ME.to_public()))
    assert vault.read(it, {}) == {"token": VALUE}
    # One that cannot be used is no reason to give up on the next.
    ages = tmp_path / ".config/age/keys.txt"
    ages.parent.mkdir(parents=True)
    ages.write_text("no key at all")
    ages.chmod(0o600)
    assert vault.read(it, {}) == {"token": VALUE}


@pytest.mark.long
def test_a_key_with_a_passphrase_is_opened_where_somebody_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, public = ssh_key(tmp_path, "ed25519", "open sesame")
    it = filled(tmp_path, public, str(ME.to_public()))
    environ = {vault.IDENTITY: str(path)}
    assert "has a passphrase, and there is no terminal to ask on" in refusal(vault.read, it, environ)
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "open sesame"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", answer)
    assert vault.read(it, environ) == {"token": VALUE}
    vault.change(it, vault.adding("token", "new"), environ)
    assert asked == [f"Passphrase of {path}: "] * 2, "once for each command"
    monkeypatch.setattr("getpass.getpass", lambda _: "wrong")
    assert "not its passphrase" in refusal(vault.read, it, environ)


@pytest.mark.parametrize(
    ("kind", "given", "says"), [("ed25519", "", "not its passphrase"), ("ecdsa", "open sesame", "cannot be used")]
)
def test_a_locked_key_that_does_not_open_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, given: str, says: str
) -> None:
    path, _ = ssh_key(tmp_path, kind, "open sesame")
    it = filled(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: given)
    line = refusal(vault.read, it, {vault.IDENTITY: str(path)})
    assert line.startswith(f"{path}: ") and says in line


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    it = filled(tmp_path)
    line = refusal(vault.read, it, key_file(tmp_path, OTHER))
    assert str(tmp_path / "secrets.age") in line and "fiefdom secret rekey" in line


def test_rekey_lets_others_in_and_shuts_them_out(tmp_path: Path) -> None:
    filled(tmp_path)
    both = cluster(tmp_path, str(ME.to_public()), str(OTHER.to_public()))
    vault.change(both, vault.as_it_is, key_file(tmp_path))
    assert vault.read(both, key_file(tmp_path, OTHER)) == {"token": VALUE}
    vault.change(cluster(tmp_path), vault.as_it_is, key_file(tmp_path))
    refusal(vault.read, both, key_file(tmp_path, OTHER))
    empty = cluster(tmp_path / "empty")
    assert "holds no secret yet" in refusal(vault.change, empty, vault.as_it_is, key_file(tmp_path))
    assert not (tmp_path / "empty/secrets.age").exists()


def test_who_writes_can_read_it_afterwards(tmp_path: Path) -> None:
    filled(tmp_path)
    before = (tmp_path / "secrets.age").read_bytes()
    without_me = cluster(tmp_path, str(OTHER.to_public()))
    line = refusal(vault.change, without_me, vault.as_it_is, key_file(tmp_path))
    assert "secrets.recipients" in line and vault.IDENTITY in line
    assert (tmp_path / "secrets.age").read_bytes() == before


def test_what_is_there_can_be_kept_from_being_replaced(tmp_path: Path) -> None:
    it = filled(tmp_path)
    line = refusal(vault.change, it, vault.adding("token", "x", replace=False), key_file(tmp_path))
    assert "token: is in the encrypted file already" in line
    assert "gone: is not in the encrypted file" in refusal(vault.change, it, vault.removing("gone"), key_file(tmp_path))
    assert vault.read(it, key_file(tmp_path)) == {"token": VALUE}


def test_no_file_holds_the_text_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every descriptor that is opened for writing is looked at when it is closed."""
    seen: list[tuple[int, bytes]] = []
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append((os.fstat(descriptor).st_mode & 0o777, Path(f"/proc/self/fd/{descriptor}").read_bytes()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    filled(tmp_path)
    (mode, content), *more = seen
    assert not more and mode == 0o644 and VALUE.encode() not in content
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"{ME.to_public()}.txt", "secrets.age"])


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = filled(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in refusal(vault.change, it, vault.adding("token", "new"), key_file(tmp_path))
    monkeypatch.undo()
    assert vault.read(it, key_file(tmp_path)) == {"token": VALUE}
    assert not list(tmp_path.glob(".secrets.age*"))


def test_its_mode_stays_as_it_was(tmp_path: Path) -> None:
    it = filled(tmp_path)
    (tmp_path / "secrets.age").chmod(0o600)
    vault.change(it, vault.adding("other", "2"), key_file(tmp_path))
    assert (tmp_path / "secrets.age").stat().st_mode & 0o777 == 0o600


def test_of_many_at_once_none_is_lost(tmp_path: Path) -> None:
    it, environ = filled(tmp_path), key_file(tmp_path)
    threads = [
        threading.Thread(target=vault.change, args=(it, vault.adding(f"n{i}", str(i)), environ)) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert vault.read(it, environ) == {"token": VALUE} | {f"n{i}": str(i) for i in range(8)}


def sealed(folder: Path, text: bytes) -> None:
    (folder / "secrets.age").write_bytes(pyrage.encrypt(text, [ME.to_public()], True))


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"a: '{VALUE}".encode(), "is no YAML"),
        (VALUE.encode(), "no mapping of names to text"),
        (b"", "no mapping of names to text"),
        (b"pin: [1234]", "pin: what it holds is not text"),
        (b"[1]: x", "is no YAML"),
        (b"[" * 5000, "is no YAML"),
        (b"\xff\xfe\xfa", "is no YAML"),
    ],
)
def test_what_somebody_put_in_by_hand_is_looked_at(tmp_path: Path, text: bytes, says: str) -> None:
    sealed(tmp_path, text)
    assert says in refusal(vault.read, cluster(tmp_path), key_file(tmp_path))


@pytest.mark.long
@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda t: f"a: {t}".encode()))
@settings(max_examples=100, deadline=None)
def test_no_content_raises_anything_but_a_sentence(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sealed(folder, text)
        try:
            entries = vault.read(cluster(folder), key_file(folder))
        except FiefdomError:
            return
        assert all(isinstance(value, str) for value in entries.values())


@pytest.mark.parametrize("cut", [0, 20, 60, 150, -50])
def test_a_file_that_was_cut_short_says_so(tmp_path: Path, cut: int) -> None:
    it = filled(tmp_path)
    path = tmp_path / "secrets.age"
    path.write_bytes(path.read_bytes()[:cut])
    assert "is no whole age file" in refusal(vault.read, it, key_file(tmp_path))


def test_what_is_missing_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "fiefdom secret set" in refusal(vault.read, cluster(tmp_path), key_file(tmp_path))
    none = Cluster.model_validate(changed({"base_dir": str(tmp_path)}))
    assert "add `secrets` with file and recipients" in refusal(vault.read, none, {})
    it = filled(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert f"(found none); name one with {vault.IDENTITY}" in refusal(vault.read, it, {})


@pytest.mark.parametrize(("mode", "says"), [(0o644, "chmod 600"), (0o640, "chmod 600")])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int, says: str) -> None:
    it = filled(tmp_path)
    line = refusal(vault.read, it, key_file(tmp_path, mode=mode))
    assert says in line and vault.IDENTITY in line


def test_a_key_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    it = filled(tmp_path)
    assert "No such file" in refusal(vault.read, it, {vault.IDENTITY: str(tmp_path / "nowhere")})
    ecdsa, _ = ssh_key(tmp_path, "ecdsa")
    assert str(ecdsa) in refusal(vault.read, it, {vault.IDENTITY: str(ecdsa)})
    line = refusal(vault.read, it, {vault.IDENTITY: "~nouser-of-this-name/key"})
    assert line == f"{vault.IDENTITY}: ~nouser-of-this-name/key: its home folder is unknown; give a whole path"
    odd = tmp_path / "odd"
    odd.write_bytes(b"AGE-SECRET-KEY-1\xc3\xa4\xff\n")
    odd.chmod(0o600)
    assert str(odd) in refusal(vault.read, it, {vault.IDENTITY: str(odd)})


def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = filled(tmp_path)
    environ = key_file(tmp_path)
    looked = Path.exists

    def closed(path: Path) -> bool:
        if path.name in ("secrets.age", "id_rsa"):
            raise PermissionError(13, "Permission denied")
        return looked(path)

    monkeypatch.setattr(Path, "exists", closed)
    assert vault.read(it, environ) == {"token": VALUE}
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert "id_rsa: No such file" in refusal(vault.read, it, {})
    (tmp_path / "secrets.age").unlink()
    assert "cannot be read" in refusal(vault.change, it, vault.adding("a", "b"), environ)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    it = filled(tmp_path)
    path, target = tmp_path / "secrets.age", tmp_path / "elsewhere" / "kept.age"
    target.parent.mkdir()
    path.rename(target)
    path.symlink_to(target)
    vault.change(it, vault.adding("token", "new"), key_file(tmp_path))
    assert path.is_symlink() and vault.read(it, key_file(tmp_path)) == {"token": "new"}


def test_an_entry_that_is_no_text_is_taken_out_or_set_anew(tmp_path: Path) -> None:
    it, environ = cluster(tmp_path), key_file(tmp_path)
    sealed(tmp_path, b'{"pin\\n\\e[31m": [1234], "token": {a: b}}')
    assert (
        "pin" in (line := refusal(vault.read, it, environ)) and "fiefdom secret remove" in line and line.isprintable()
    )
    vault.change(
        it, lambda found: vault.removing(next(n for n in found if n != "token"))(found) | {"token": "x"}, environ
    )
    assert vault.read(it, environ) == {"token": "x"}
    sealed(tmp_path, b"no mapping")
    assert "remove the file" in refusal(vault.change, it, vault.adding("a", "b"), environ)


def test_a_recipient_that_is_no_whole_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no whole age key; copy it anew"):
        cluster(tmp_path, f"age1{'q' * 58}")


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65, "--help", "a/b", "a\n"])
def test_a_name_that_no_inventory_could_say_is_refused(name: str) -> None:
    assert "is no name for a secret" in refusal(vault.require_name, name)


def test_what_stands_there_by_hand_is_taken_as_text(tmp_path: Path) -> None:
    sealed(tmp_path, b"pin: 0123\nday: 2026-99-99\nyes: no\nempty:\n")
    found = vault.read(cluster(tmp_path), key_file(tmp_path))
    assert found == {"pin": "0123", "day": "2026-99-99", "yes": "no", "empty": ""}


def test_age_itself_would_find_yaml(tmp_path: Path) -> None:
    filled(tmp_path)
    assert yaml.safe_load(pyrage.decrypt((tmp_path / "secrets.age").read_bytes(), [ME])) == {"token": VALUE}
