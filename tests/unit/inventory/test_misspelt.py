"""A misspelt key is one mistake, wherever it stands: it is told with the one that was meant, before any rule."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fiefdom import inventory
from fiefdom.inventory import reference
from fiefdom.inventory.complaint import known_keys
from fiefdom.inventory.written import Mistakes
from fiefdom.model import Cluster
from fiefdom.wording import KeyPath
from helpers.inventories import as_yaml, changed

FULL = changed(
    {
        "ssh": {"tcp_forwarding": "none"},
        "docker": {"log_max_size": "10m", "daemon": {"mtu": 1400}},
        "serf": {"key": {"env": "GOSSIP"}},
        "gateway": {
            "source_limits": {"requests_per_s": 10},
            "tls": {
                "certificates": {"own": {"chain": "own.pem", "key": {"env": "OWN"}}},
                "acme": {
                    "directory": "https://acme.example.org/directory",
                    "account_key": {"secret": "acme"},
                    "names": ["a.example.org"],
                },
                "hsts": {"max_age_s": 10},
            },
        },
        "rollout": {"soak_s": 5.0},
        "registry": {"server": "one.example.org", "user": "ann", "password": {"env": "PW"}},
        "registries": {
            "two": {"server": "two.example.org", "user": "ann", "password": {"command": ["pass", "two"]}},
        },
        "secrets": {
            "file": "secrets.age",
            "recipients": ["age1g3wca0mag5tcesluvzsvhqwgqukltsy83tdsnfdszxv2s4y22g2q4azqtw"],
        },
        "packages": {"proxy": "http://10.0.0.5:3142"},
        "monitoring": {"from_cidrs": ["10.0.0.0/24"]},
        "hooks": {"before": "hook", "acts": ["rollout"]},
        "notify": {"webhook": {"env": "HOOK"}, "events": ["failed"]},
        "development": {
            "overrides": {"web": {"environment": {"A": {"env": "B"}}, "links": ["redis"]}},
            "services": {
                "redis": {
                    "image": "redis:7",
                    "port": 6379,
                    "environment": {"A": "b"},
                    "volumes": {"data": "/data"},
                }
            },
        },
        "hosts/app1/ssh": {"user": "root", "address": "10.0.0.21"},
        "hosts/app1/static": {"interface": "eth0", "prefix_length": 24, "gateway": "10.0.0.1"},
        "hosts/app1/services": {
            "web": {"instances": 1, "environment": {"A": {"secret": "a"}}, "limits": {"memory_mib": 100}}
        },
        "services/web/user": "999",
        "services/web/environment": {"TOKEN": {"env": "TOKEN"}},
        "services/web/volumes": [
            {"name": "data", "path": "/data", "owner": "999"},
            {"host": "/srv/models", "path": "/models", "writable": True},
        ],
        "services/web/tmpfs": [{"path": "/run/x", "exec": True}],
        "services/web/files": {
            "/etc/app/a": {"text": "x", "mode": "0444"},
            "/etc/app/b": {"secret": "b", "owner": "999"},
            "/etc/app/c": {"env": "C"},
            "/etc/app/d": {"file": "d"},
            "/etc/app/e": {"template": "e"},
            "/etc/app/f": {"command": ["pass", "f"]},
        },
        "services/web/health": {"path": "/healthz", "status": "200"},
        "services/web/limits": {"memory_mib": 100, "cpus": 0.5},
        "services/web/drain": {"timeout_s": 10},
        "services/web/jobs": {"nightly": {"command": ["x"], "schedule": "daily", "timeout_s": 60}},
        "services/web/route": {
            "host": "a.example.org",
            "headers": {"request": {"X-A": "b"}, "response": {"X-B": "c"}},
            "maintenance": {"retry_after_s": 60},
        },
    }
)
"""An inventory with every mapping that there is, and each of the places that a secret or a content comes from."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(raw: Any) -> list[str]:
    Path("full.yaml").write_text(as_yaml(raw))
    try:
        inventory.load("full.yaml")
    except Mistakes as error:
        return [str(mistake).partition(": ")[2] for mistake in error.all]
    return []


def keys(node: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key below ``node`` that is the model's own, and no name of the person's."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in inside:
        if name in known_keys(at):
            yield (*at, name)
        yield from keys(value, (*at, name))


@pytest.mark.long
def test_a_misspelt_key_is_told_with_the_one_that_was_meant() -> None:
    assert told(FULL) == []
    slips = 0
    for *above, key in keys(FULL):
        slip = str(key).replace("e", "", 1) if "e" in str(key) else f"{key}x"
        raw = at = copy.deepcopy(FULL)
        for part in above:
            at = at[part]
        at[slip] = at.pop(key)
        (line,) = told(raw)
        assert line.endswith(f"{slip}: unknown key; did you mean {key}?"), above
        slips += 1
    assert slips > 100


def test_every_mapping_is_there() -> None:
    wanted = {
        key.strip("`") for key, kind, *_ in reference.rows(Cluster, "") if "mapping" in kind and " to " not in kind
    }
    names = set(reference.NAMES.values())

    def has(node: Any, path: list[str]) -> bool:
        if not path:
            return True
        if isinstance(node, list):
            return any(has(one, path) for one in node)
        if not isinstance(node, dict):
            return False
        inside = node.values() if path[0] in names else [node[path[0]]] if path[0] in node else []
        return any(has(one, path[1:]) for one in inside)

    assert [key for key in wanted if not has(FULL, key.split("."))] == []


def test_a_content_and_a_source_are_not_missing_where_their_key_is_misspelt() -> None:
    raw = copy.deepcopy(FULL)
    raw["services"]["web"]["files"]["/etc/app/a"] = {"txt": "x"}
    raw["services"]["web"]["environment"]["TOKEN"] = {"secrt": "x"}
    assert told(raw) == [
        "services.web.environment.TOKEN.secrt: unknown key; did you mean secret?",
        "services.web.files./etc/app/a.txt: unknown key; did you mean text?",
    ]


def test_what_is_no_slip_is_told_with_the_keys_that_there_are() -> None:
    raw = copy.deepcopy(FULL)
    raw["services"]["web"]["files"]["/etc/app/a"] = {"zzz": "x"}
    raw["services"]["web"]["environment"]["TOKEN"] = {"zzz": "x"}
    assert told(raw) == [
        "services.web.environment.TOKEN.zzz: unknown key; known here are env, command, secret",
        "services.web.files./etc/app/a.zzz: unknown key; known here are file, template, text, env, command, secret, "
        "mode, owner",
    ]


def test_a_key_of_dockers_daemon_too() -> None:
    raw = copy.deepcopy(FULL)
    raw["docker"]["daemon"] = {"registry-mirror": ["https://m.example.org"]}
    assert told(raw) == ["docker.daemon: 'registry-mirror' is no key that may be given; did you mean registry-mirrors?"]
