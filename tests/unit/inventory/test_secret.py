"""Where secrets come from, and that nobody else can read them."""

from __future__ import annotations

import base64
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiefdom.desired.containers import env_file
from fiefdom.errors import FiefdomError
from fiefdom.inventory import secret
from fiefdom.model import Cluster, SecretSource
from helpers import forked
from helpers.inventories import changed

KEY = base64.b64encode(bytes(range(32))).decode()


def cluster(folder: Path, key_file: str | None = "gossip.key") -> Cluster:
    return Cluster.model_validate(changed({"base_dir": str(folder), "serf": {"key_file": key_file}}))


def refusal(folder: Path, environ: dict[str, str] | None = None, key_file: str | None = "gossip.key") -> str:
    with pytest.raises(FiefdomError) as caught:
        secret.load(cluster(folder, key_file), environ or {})
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_of_some_secrets_no_other_one_is_asked_for(tmp_path: Path) -> None:
    """No gossip key either: a laptop has none."""
    counted = ("sh", "-c", "echo x >> asked; echo value")
    one, other = SecretSource(env="ONE"), SecretSource(command=counted)
    sources = {"A": (("a",), one), "B": (("b",), other), "C": (("c",), other)}
    found = secret.values_of(cluster(tmp_path), sources, {"ONE": "1 $x"})
    assert found == {"A": "1 $x", "B": "value", "C": "value"}
    assert (tmp_path / "asked").read_text() == "x\n"
    with pytest.raises(FiefdomError, match=r"^a: the environment variable ONE is not set; set it where Fiefdom runs$"):
        secret.values_of(cluster(tmp_path), {"A": (("a",), one)}, {})


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


# --- Secrets by where they come from


def using(folder: Path, sources: dict[str, object], **more: object) -> Cluster:
    """A cluster whose service `web` has these variables."""
    changes = {"base_dir": str(folder), "serf": {"key_file": "gossip.key"}, "services/web/environment": sources, **more}
    return Cluster.model_validate(changed(changes))


def values(folder: Path, sources: dict[str, object], environ: dict[str, str] | None = None) -> dict[str, str]:
    it = using(folder, sources)
    found = secret.load(it, {secret.VARIABLE: KEY, **(environ or {})})
    return {name: found.text(value) for name, value in it.services["web"].environment.items()}


def source_refusal(folder: Path, source: dict[str, object], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(FiefdomError) as caught:
        values(folder, {"TOKEN": source}, environ)
    said = str(caught.value)
    assert said.startswith("services.web.environment.TOKEN: ") and "\n" not in said
    assert "hunter2" not in said
    return said


def script(folder: Path, text: str, name: str = "fetch") -> list[str]:
    """A command that runs this shell script."""
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return [f"./{name}"]


def test_every_source_gives_its_text(tmp_path: Path) -> None:
    sources = {
        "PLAIN": "as it stands",
        "FROM_ENV": {"env": "TOKEN"},
        "FROM_COMMAND": {"command": ["printf", "%s\\n", "$HOME two words"]},
        "IN_THE_FOLDER": {"command": script(tmp_path, "pwd")},
    }
    assert values(tmp_path, sources, {"TOKEN": " spaces and = signs "}) == {
        "PLAIN": "as it stands",
        "FROM_ENV": " spaces and = signs ",
        "FROM_COMMAND": "$HOME two words",
        "IN_THE_FOLDER": str(tmp_path),
    }


def test_the_encrypted_file_is_opened_once_and_gives_the_gossip_key_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Cluster] = []

    def entries(it: Cluster, _: object) -> dict[str, str]:
        read.append(it)
        return {"key": KEY, "token": "hunter2"}

    monkeypatch.setattr("fiefdom.inventory.vault.read", entries)
    file = {"file": "secrets.age", "recipients": ["age1g3wca0mag5tcesluvzsvhqwgqukltsy83tdsnfdszxv2s4y22g2q4azqtw"]}
    sources = {"A": {"secret": "token"}, "B": {"secret": "token"}}
    it = using(tmp_path, sources, secrets=file, serf={"key": {"secret": "key"}})
    found = secret.load(it, {})
    assert found.gossip_key == KEY
    assert {found.text(v) for v in it.services["web"].environment.values()} == {"hunter2"}
    assert len(read) == 1
    missing = using(tmp_path, {"A": {"secret": "gone"}}, secrets=file)
    with pytest.raises(FiefdomError, match=r"A: the secret gone is not in secrets\.file; `fiefdom secret set INVENTOR"):
        secret.load(missing, {secret.VARIABLE: KEY})


def test_a_command_runs_once_however_many_hosts_want_it(tmp_path: Path) -> None:
    command = script(tmp_path, "echo x >>asked; echo hunter2")
    sources = {"A": {"command": command}, "B": {"command": command}}
    it = using(tmp_path, sources, **{"hosts/app1/services": {"web": {"environment": {"C": {"command": command}}}}})
    found = secret.load(it, {secret.VARIABLE: KEY})
    assert (tmp_path / "asked").read_text() == "x\n"
    assert list(found.values.values()) == ["hunter2"]


def test_what_no_host_uses_is_not_asked_for(tmp_path: Path) -> None:
    never = {"env": "NOBODY_SETS_THIS"}
    everywhere = {"web": {"environment": {"TOKEN": "plain"}}}
    it = using(
        tmp_path,
        {"TOKEN": never},
        **{
            "hosts/app1/services": everywhere,
            "hosts/app2/services": everywhere,
            "services/api/instances": 0,
            "services/api/environment": {"TOKEN": never},
        },
    )
    assert secret.load(it, {secret.VARIABLE: KEY}).values == {}
    # The environment's gossip key makes the inventory's source idle.
    assert secret.load(using(tmp_path, {}, serf={"key": never}), {secret.VARIABLE: KEY}).values == {}


def test_the_gossip_key_comes_from_a_source(tmp_path: Path) -> None:
    it = using(tmp_path, {}, serf={"key": {"env": "MY_KEY"}})
    assert secret.load(it, {"MY_KEY": KEY}).gossip_key == KEY
    with pytest.raises(FiefdomError, match=r"^serf\.key: the environment variable MY_KEY: .*key is not base64"):
        secret.load(it, {"MY_KEY": "hunter2!"})
    with pytest.raises(FiefdomError, match=r"^serf\.key: the environment variable MY_KEY is not set"):
        secret.load(it, {})


def test_a_registrys_password_is_resolved(tmp_path: Path) -> None:
    registry = {"server": "registry.example.org", "user": "ann", "password": {"env": "PASSWORD"}}
    found = secret.load(using(tmp_path, {}, registry=registry), {secret.VARIABLE: KEY, "PASSWORD": "hunter2"})
    assert list(found.values.values()) == ["hunter2"]
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("echo hunter2; echo 'gpg: decryption failed' >&2; exit 3", "exit code 3 (gpg: decryption failed)"),
        ("echo hunter2; exit 1", "exit code 1 (it says nothing)"),
        ("kill -9 $$", "exit code -9"),
        ("true", "is empty"),
        ("echo", "is empty"),
        ("printf 'hunter2\\nuser: ann\\n'", "holds a line break"),
        ("printf 'hunter2\\0'", "NUL byte"),
        ("printf '\\377'", "is not UTF-8 text"),
        ("head -c 70000 /dev/zero | tr '\\0' x", "has 70000 bytes"),
    ],
)
def test_a_command_that_gives_no_secret_is_told_without_its_output(tmp_path: Path, text: str, says: str) -> None:
    line = source_refusal(tmp_path, {"command": script(tmp_path, text)})
    assert "the command `./fetch`" in line and says in line


def test_a_command_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    assert "no-such-program is not here" in source_refusal(tmp_path, {"command": ["no-such-program", "x"]})
    (tmp_path / "closed").write_text("")
    assert "Permission denied" in source_refusal(tmp_path, {"command": ["./closed"]})


def test_a_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret, "COMMAND_TIMEOUT_S", 0.2)
    command = script(tmp_path, "echo hunter2; sleep 20 & sleep 20")
    began_s = time.monotonic()
    assert "has not ended after 0.2 s" in source_refusal(tmp_path, {"command": command})
    # As in `fiefdom` itself, where gevent has taken subprocess over.
    gevent = (
        "from fiefdom import engine; from fiefdom.inventory import secret; secret.COMMAND_TIMEOUT_S = 0.2\n"
        f"secret._printed({tuple(command)}, 'it', {str(tmp_path)!r})"
    )
    done = forked.run(gevent)
    assert done.stderr.endswith("FiefdomError: it has not ended after 0.2 s; try it by hand\n")
    assert time.monotonic() - began_s < 15


def test_a_command_does_not_eat_the_operators_input(tmp_path: Path) -> None:
    (tmp_path / "typed").write_text("yes")
    before = os.dup(0)
    with (tmp_path / "typed").open() as typed:
        os.dup2(typed.fileno(), 0)
    try:
        assert values(tmp_path, {"A": {"command": script(tmp_path, "cat; echo end")}}) == {"A": "end"}
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("hunter2\n", "line break"),
        ("a\rb", "line break"),
        ("\udcff", "is not UTF-8"),
        (None, "not set"),
    ],
)
def test_a_variable_that_holds_no_secret_is_told(tmp_path: Path, text: str | None, says: str) -> None:
    environ = {} if text is None else {"FROM": text}
    line = source_refusal(tmp_path, {"env": "FROM"}, environ)
    assert "the environment variable FROM" in line and says in line


@given(st.text(min_size=1, max_size=60))
def test_what_is_taken_is_one_line_of_an_env_file(text: str) -> None:
    try:
        taken = secret.require_one_line(text, "x")
    except FiefdomError as error:
        assert str(error).startswith("x ") and ("\n" in text or "\r" in text or "\0" in text)
        return
    assert taken == text
    assert env_file("web-8000", {"A": taken}).content.split(b"\n") == [f"A={text}".encode(), b""]
