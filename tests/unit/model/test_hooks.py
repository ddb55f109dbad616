"""What a person may write under `hooks` and `notify`: one line each, and no word of a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom import inventory
from fiefdom.inventory.effective import as_data, effective
from fiefdom.inventory.read import load_written
from fiefdom.inventory.written import Mistakes
from fiefdom.model import Cluster
from fiefdom.model.hooks import is_loopback, require_webhook
from fiefdom.wording import dotted
from helpers.inventories import changed

URL = "https://chat.example.org/hooks/T0/swordfish"


def mistakes(folder: Path, **changes: object) -> list[str]:
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump(changed(changes)))
    with pytest.raises(Mistakes) as caught:
        inventory.load(path)
    return [str(mistake).partition(": ")[2] for mistake in caught.value.all]


NO_URL = "is no URL of a webhook; write one like https://chat.example.org/hooks/..., without a login"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an act that is none": (
        {"hooks": {"acts": ["deploy"]}},
        "hooks.acts[0]: must be 'rollout', 'rollback', 'apply', 'reboot', 'retire', 'rotate-key' or 'upgrade', not",
    ),
    "no act": ({"hooks": {"acts": []}}, "hooks.acts: is empty; it needs at least one entry"),
    "no time": ({"hooks": {"timeout_s": 0}}, "hooks.timeout_s: must be at least 1, not 0"),
    "no webhook": ({"notify": {"format": "text"}}, "notify.webhook: missing; add `webhook` (Where a JSON document is"),
    "a number": ({"notify": {"webhook": 7}}, "notify.webhook: must be a URL, or a source as for secrets such as {env:"),
    "words": ({"notify": {"webhook": "chat swordfish"}}, f"notify.webhook: {NO_URL}"),
    "a login": ({"notify": {"webhook": "https://ann:swordfish@chat.example.org/"}}, f"notify.webhook: {NO_URL}"),
    "no port": ({"notify": {"webhook": "https://chat.example.org:70000/swordfish"}}, f"notify.webhook: {NO_URL}"),
    "no IPv6 address": (
        {"notify": {"webhook": "https://[:::::]/swordfish"}},
        "notify.webhook: has brackets around what is no IPv6 address; write one such as [2001:db8::1]",
    ),
    "the URL in place of a variable": (
        {"notify": {"webhook": {"env": "https://chat.example.org/swordfish"}}},
        "notify.webhook.env: what stands there is not possible here; it must be the name of an environment variable",
    ),
    "in the clear": (
        {"notify": {"webhook": "http://chat.example.org/swordfish"}},
        "notify.webhook: is sent in the clear; write https://, or http:// to this machine alone",
    ),
    "no encrypted file": (
        {"notify": {"webhook": {"secret": "chat"}}},
        "notify.webhook: there is no encrypted file to hold chat; add `secrets` with file and recipients",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    changes, says = WRONG[case]
    (line,) = mistakes(tmp_path, **changes)
    assert line.startswith(says) and "swordfish" not in line


@pytest.mark.parametrize(
    ("url", "here"),
    [
        (URL, False),
        ("https://chat.example.org", False),
        ("https://chat.example.org:8443/x?y=%20z", False),
        ("https://[2001:db8::9]/x", False),
        ("https://localhost.example.org/", False),
        ("http://127.0.0.1:8000/x", True),
        ("http://localhost/x", True),
        ("http://[::1]:8000", True),
    ],
)
def test_where_a_message_may_go(url: str, here: bool) -> None:
    assert require_webhook(url) == url
    assert is_loopback(url) is here


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/", "https:///x", "https://x/#y", "https://x/ y", "https://x/\n", "http://127.0.0.1.example.org/"],
)
def test_where_it_may_not(url: str) -> None:
    with pytest.raises(ValueError, match=r"^is (no URL of a webhook|sent in the clear); write"):
        require_webhook(url)


def test_nobody_is_asked_for_a_webhook_before_it_is_told_anything() -> None:
    """So that a plan wants no secret that no host has."""
    cluster = Cluster.model_validate(changed({"notify": {"webhook": {"env": "CHAT"}}}))
    assert [*cluster.secret_sources()] == [*cluster.laptop_secrets()] == []
    assert [(dotted(key), str(source)) for key, source in cluster.operators_secrets()] == [
        ("notify.webhook", "the environment variable CHAT")
    ]
    assert [*Cluster.model_validate(changed({})).operators_secrets()] == []


@pytest.mark.parametrize("source", [URL, {"env": "CHAT"}])
def test_nothing_shows_a_webhook(tmp_path: Path, source: object) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(changed({"notify": {"webhook": source}})))
    cluster, written = load_written(path)
    shown = as_data(effective(cluster, written))["notify"]
    assert shown["webhook"]["value"] == "***"  # type: ignore[index]
    assert "swordfish" not in repr(cluster) + str(shown)
