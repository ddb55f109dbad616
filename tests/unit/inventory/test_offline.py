"""Files that an inventory names are looked at where they are; what is not here is no mistake."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyrage
import pytest

from fiefdom.inventory import offline, secret, vault
from fiefdom.inventory.written import Written
from fiefdom.model import Cluster
from helpers.inventories import changed

ME = pyrage.x25519.Identity.generate()


def mistakes(folder: Path, changes: dict[str, Any], environ: Mapping[str, str] | None = None) -> list[str]:
    cluster = Cluster.model_validate(changed({"base_dir": str(folder), **changes}))
    found = offline.mistakes(cluster, Written({}, {}), environ or {"FIEFDOM_IDENTITY": str(folder / "none")})
    return [str(mistake).removeprefix("inventory: ") for mistake in found]


def test_a_folder_to_build_from_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    build = {"services/web/build": "nowhere", "services/api/build": "empty"}
    assert mistakes(tmp_path, build) == [
        f"services.web.build: there is no folder {tmp_path}/nowhere; correct it, or take `build` out",
        f"services.api.build: {tmp_path}/empty has no Dockerfile; correct the folder",
    ]
    assert mistakes(tmp_path, {**build, "registry": {"server": "r.example.org"}}) == []
    one = {"registries": {"one": {"server": "r.example.org"}}, "services/api/registry": "one"}
    assert [line.partition(":")[0] for line in mistakes(tmp_path, {**build, **one})] == ["services.web.build"]


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("2020-05-01 03:00", "came last on 2020-05-01"),
        ("2019..2021-*-* 03:00", "came last on 2021-12-31"),
        ("2199-01-01", None),
        ("*-*-* 03:00", None),
        ("03:00", None),
    ],
)
def test_a_time_that_is_over_is_none(tmp_path: Path, schedule: str, says: str | None) -> None:
    found = mistakes(tmp_path, {"services/web/jobs": {"tidy": {"command": ["tidy"], "schedule": schedule}}})
    mend = f"'{schedule}' {says}; write a time that is to come, or take it out"
    assert found == ([f"services.web.jobs.tidy.schedule: {mend}"] if says else [])


@pytest.mark.parametrize(("today", "over"), [("2027-05-02", False), ("2027-05-03", True)])
def test_somewhere_it_is_still_the_day_before(today: str, over: bool) -> None:
    jobs = {"tidy": {"command": ["tidy"], "schedule": "2027-05-01 23:00"}}
    cluster = Cluster.model_validate(changed({"services/web/jobs": jobs}))
    assert bool([*offline.schedules_over(cluster, date.fromisoformat(today))]) == over


def test_a_folder_of_a_laptop_is_looked_at_where_everything_is(tmp_path: Path) -> None:
    redis = {"development": {"services": {"redis": {"build": "nowhere", "port": 6379}}}}
    says = f"development.services.redis.build: there is no folder {tmp_path}/nowhere; correct it, or take `build` out"
    assert mistakes(tmp_path, redis) == [says]
    cluster = Cluster.model_validate(changed({"base_dir": str(tmp_path), **redis}))
    assert [*offline.missing_folders(cluster)] == []  # which is what hosts are refused for


def test_keys_that_are_here_must_be_keys(tmp_path: Path) -> None:
    named = {"ssh": {"key": "id"}, "hosts/gw1/ssh": {"key": "id.pub"}, "serf": {"key_file": "gossip.key"}}
    assert mistakes(tmp_path, named) == []
    (tmp_path / "id").write_text("nothing\n")
    (tmp_path / "id.pub").write_text("ssh-ed25519 AAAA\n")
    (tmp_path / "gossip.key").write_text("c2hvcnQ=\n")
    (tmp_path / "gossip.key").chmod(0o600)
    no_key, public, gossip = mistakes(tmp_path, named)
    assert no_key == f"ssh.key: {tmp_path}/id is no private key; name a file that `ssh-keygen` has made"
    assert public.startswith(f"hosts.gw1.ssh.key: {tmp_path}/id.pub is a public key; name the private one")
    assert gossip.startswith(f"serf.key_file: {tmp_path}/gossip.key: the gossip key has 5 bytes and needs 32")
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (tmp_path / "id.pub").unlink()
    (tmp_path / "gossip.key").write_text(secret.new_key())
    assert mistakes(tmp_path, named) == []


def test_the_encrypted_file_is_opened_with_a_key_that_lies_open_and_no_other(tmp_path: Path) -> None:
    named = {
        "secrets": {"file": "secrets.age", "recipients": [str(ME.to_public())]},
        "serf": {"key": {"secret": "gossip"}},
        "services/web/environment": {"TOKEN": {"secret": "token"}, "OTHER": {"env": "NOT_SET"}},
        "services/api/environment": {"X": {"command": ["touch", str(tmp_path / "was-run")]}},
    }
    key = tmp_path / "key.txt"
    key.write_text(str(ME))
    key.chmod(0o600)
    mine = {"FIEFDOM_IDENTITY": str(key)}
    (line,) = mistakes(tmp_path, named, mine)
    assert line.startswith(f"secrets.file: there is no file {tmp_path}/secrets.age")

    cluster = Cluster.model_validate(changed({"base_dir": str(tmp_path), **named}))
    vault.change(cluster, vault.adding("gossip", "no key"), mine)
    gossip, token = mistakes(tmp_path, named, mine)
    assert gossip.startswith("serf.key: the secret gossip: the gossip key is not base64")
    assert token.startswith("services.web.environment.TOKEN: token is not in secrets.file; `fiefdom secret set")

    assert mistakes(tmp_path, named) == [], "no key was given"
    other = tmp_path / "other.txt"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    other.chmod(0o600)
    assert mistakes(tmp_path, named, {"FIEFDOM_IDENTITY": str(other)}) == []

    vault.change(cluster, vault.adding("gossip", secret.new_key()), mine)
    vault.change(cluster, vault.adding("token", "x"), mine)
    assert mistakes(tmp_path, named, mine) == []
    assert not (tmp_path / "was-run").exists()

    (tmp_path / "secrets.age").write_text("no age file")
    (line,) = mistakes(tmp_path, named, mine)
    assert line.startswith("secrets.file: ") and "no whole age file" in line


@pytest.mark.parametrize("locked", [True, False])
def test_a_locked_key_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: bool) -> None:
    def never(*_: object) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("getpass.getpass", never)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    named = {
        "secrets": {"file": "secrets.age", "recipients": [str(ME.to_public())]},
        "serf": {"key": {"secret": "gossip"}},
    }
    (tmp_path / "secrets.age").write_bytes(pyrage.encrypt(b"gossip: x\n", [ME.to_public()], True))
    key = tmp_path / "key.txt"
    key.write_bytes(pyrage.passphrase.encrypt(str(ME).encode(), "secret") if locked else str(ME).encode())
    key.chmod(0o600)
    found = mistakes(tmp_path, named, {"FIEFDOM_IDENTITY": str(key)})
    assert len(found) == (0 if locked else 1)
