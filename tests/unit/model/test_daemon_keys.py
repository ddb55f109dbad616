"""What an inventory may give Docker's daemon.json: what would keep a dockerd from starting is refused at home.

dockerd of Debian 12 has no `--validate`: what is let through here, the first restart finds.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from pydantic import ValidationError

from fiefdom.model import Cluster
from helpers.example import INVENTORY, merged


def daemon(**keys: Any) -> dict[str, Any]:
    given = {key.replace("_", "-"): value for key, value in keys.items()}
    return Cluster.model_validate(merged(INVENTORY, {"docker": {"daemon": given}})).docker.daemon


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_root", "/srv/docker"),
        ("data_root", "/var/lib/docker"),
        ("data_root", "/home/docker"),
        ("dns", ["9.9.9.9", "2620:fe::fe"]),
        ("registry_mirrors", ["https://mirror.example.org:5000/hub/"]),
        ("insecure_registries", ["r.example.org:5000", "10.0.0.0/8"]),
        ("mtu", 1400),
        ("labels", ["rack=b2"]),
        ("default_shm_size", "128m"),
        ("proxies", {"http-proxy": "http://proxy:3128", "no-proxy": "10.0.0.0/8"}),
        ("runtimes", {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--debug"]}}),
        ("features", {"buildkit": True}),
    ],
)
def test_what_dockerd_takes_is_taken(key: str, value: object) -> None:
    found = daemon(**{key: value})
    assert list(json.loads(json.dumps(found, allow_nan=False)).values()) == [value]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data_root", "/", "must be the absolute path of a folder that is Docker's alone and stays"),
        *(
            ("data_root", path, "Docker's alone")
            for path in ("/etc", "/tmp/x", "/proc", "/a/./b", "/var/lib/fiefdom/d")
        ),
        ("dns", ["x"], "dns is a list; it must be a list of addresses such as 9.9.9.9"),
        ("dns", [""], "it must be a list of addresses"),
        ("dns", ["9" * 70_000], "it must be a list of addresses"),
        ("registry_mirrors", ["mirror.example.org"], "https://mirror.example.org"),
        ("registry_mirrors", ["ftp://mirror.example.org"], "https://mirror.example.org"),
        ("registry_mirrors", ["https://mirror.example.org:port"], "https://mirror.example.org"),
        ("insecure_registries", ["http://r.example.org"], "registries such as r.example.org:5000"),
        ("mtu", 10, "mtu is 10; it must be a whole number from 68 to 65535"),
        ("mtu", 10**20, "from 68 to 65535"),
        ("mtu", True, "mtu is true; it must be"),
        ("shutdown_timeout", 10**30, "at most 2147483647"),
        ("labels", ["rack"], "rack=b2"),
        ("default_shm_size", "1x", "64m"),
        ("proxies", {"http-proxy": 5}, "http-proxy, https-proxy and no-proxy to texts"),
        ("proxies", {"ftp-proxy": "x"}, "http-proxy, https-proxy and no-proxy to texts"),
    ],
)
def test_what_dockerd_would_not_start_with_is_refused(key: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        daemon(**{key: value})
    assert words in raised.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2026, 11, 29),  # as YAML reads 2026-11-29
        b"bytes",  # !!binary
        {"x"},  # !!set
        float("nan"),
        float("inf"),
        10**30,
        "\ud83d",
        "two\nlines",
        ["\x00"],
        {"\ud83d": 1},
        {1: "x"},
    ],
)
def test_what_json_has_no_word_for_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="features holds what JSON or dockerd has no word for"):
        daemon(features={"x": value})
