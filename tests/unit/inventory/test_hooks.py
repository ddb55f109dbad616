"""Programs of the operator's own: there and executable, or one line; and what they are not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fiefdom.errors import FiefdomError
from fiefdom.inventory import hooks, offline
from fiefdom.inventory.written import Written
from fiefdom.model import Cluster
from helpers.inventories import changed


def cluster(folder: Path, **changes: Any) -> Cluster:
    return Cluster.model_validate(changed({"base_dir": str(folder), **changes}))


def test_a_program_must_be_there_and_executable(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("#!/bin/sh\n")
    (tmp_path / "good").write_text("#!/bin/sh\n")
    (tmp_path / "good").chmod(0o755)
    found = cluster(tmp_path, hooks={"before": "nowhere", "after": "folder", "failed": "text"})
    says = [
        f"hooks.before: there is no file {tmp_path}/nowhere; correct the path, which begins in the inventory's folder",
        f"hooks.after: {tmp_path}/folder is no file; name a program",
        f"hooks.failed: {tmp_path}/text cannot be run; type: chmod +x {tmp_path}/text",
    ]
    told = [str(mistake).removeprefix("inventory: ") for mistake in offline.mistakes(found, Written({}, {}), {})]
    assert told == says
    with pytest.raises(FiefdomError) as caught:
        hooks.require(found, "rollout")
    assert str(caught.value) == says[0]
    hooks.require(found, "apply")  # around which none of them runs
    hooks.require(found, "plan")
    good = cluster(tmp_path, hooks={"before": "good", "after": str(tmp_path / "good")})
    assert [*hooks.problems(good)] == []


def test_variables_that_hold_secrets_are_kept_back(tmp_path: Path) -> None:
    found = cluster(
        tmp_path,
        **{
            "services/web/environment": {"TOKEN": {"env": "WEB_TOKEN"}, "OTHER": {"command": ["pass"]}},
            "registries": {"unused": {"server": "r.example.org", "user": "ann", "password": {"env": "UNUSED"}}},
            "services/api/files": {"/etc/key": {"env": "API_KEY", "owner": "9:9"}},
            "hosts/app1/services": {"web": {"environment": {"TOKEN": {"env": "APP1_TOKEN"}}}},
            "development": {"overrides": {"web": {"environment": {"X": {"env": "LAPTOP"}}}}},
            "notify": {"webhook": {"env": "CHAT"}},
        },
    )
    held = ("WEB_TOKEN", "API_KEY", "APP1_TOKEN", "UNUSED", "LAPTOP", "CHAT", "FIEFDOM_GOSSIP_KEY")
    assert hooks.environment(
        found, {**dict.fromkeys((*held, "FIEFDOM_NEXT_GOSSIP_KEY"), "x"), "PATH": "/bin", "TOKEN": "y"}
    ) == {
        "PATH": "/bin",
        "TOKEN": "y",
    }


def test_where_messages_go(tmp_path: Path) -> None:
    url = "https://chat.example.org/swordfish"
    assert hooks.webhook(cluster(tmp_path)) == ""
    assert hooks.webhook(cluster(tmp_path, notify={"webhook": url})) == url
    secret = cluster(tmp_path, notify={"webhook": {"env": "CHAT"}})
    assert hooks.webhook(secret, {"CHAT": url}) == url
    with pytest.raises(FiefdomError, match=r"^notify\.webhook: the environment variable CHAT is not set; set it where"):
        hooks.webhook(secret, {})
    with pytest.raises(FiefdomError) as caught:
        hooks.webhook(secret, {"CHAT": "http://chat.example.org/swordfish"})
    assert str(caught.value).startswith("notify.webhook: the environment variable CHAT is sent in the clear; write")
    assert "swordfish" not in str(caught.value) and caught.value.__cause__ is None
