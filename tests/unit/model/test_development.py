"""What a person may write under `development`, and what it may not contradict: one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom import inventory
from fiefdom.inventory.written import Mistakes
from fiefdom.model import Cluster
from fiefdom.wording import dotted
from helpers.inventories import VALID, changed

REDIS = {"image": "redis:7.4", "port": 6379}


def mistakes(folder: Path, development: dict[str, Any], **changes: object) -> list[str]:
    """Everything that is wrong with an inventory, each without its file and line."""
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump(changed({"development": development, **changes})))
    with pytest.raises(Mistakes) as caught:
        inventory.load(path)
    return [str(mistake).partition(": ")[2] for mistake in caught.value.all]


WRONG = {
    "a link to nothing": (
        {"overrides": {"web": {"links": ["redis", "postgres"]}}, "services": {"redis": REDIS}},
        "development.overrides.web.links[1]: postgres is not in development.services; known are redis",
    ),
    "a link where there is nothing": (
        {"overrides": {"web": {"links": ["redis"]}}},
        "development.overrides.web.links[0]: redis is not in development.services; known are none",
    ),
    "a link to a service of the inventory": (
        {"overrides": {"web": {"links": ["api"]}}},
        "development.overrides.web.links[0]: api is a service; link to it in services.web.links, for hosts as well",
    ),
    "a link twice": (
        {"overrides": {"web": {"links": ["redis", "redis"]}}, "services": {"redis": REDIS}},
        "development.overrides.web.links: redis stands there twice; once is enough",
    ),
    "an override of nothing": (
        {"overrides": {"wbe": {"instances": 2}}},
        "development.overrides.wbe: no such service; known are api, web",
    ),
    "one name for two": (
        {"services": {"web": REDIS}},
        "development.services.web: a service of the inventory has this name; override that, or choose another name",
    ),
    "middleware of no image": (
        {"services": {"redis": {"port": 6379}}},
        "development.services.redis: has no image; add `image` with a tag, or `build` with the folder of a Dockerfile",
    ),
    "an image without a tag": (
        {"services": {"redis": {"image": "redis", "port": 6379}}},
        "development.services.redis.image: 'redis' is not possible here; it must be an image with its tag or digest, "
        "such as redis:7.4 or team/db@sha256:...",
    ),
    "no port": (
        {"services": {"redis": {"image": "redis:7.4"}}, "overrides": {"web": {"links": ["redis"]}}},
        "development.services.redis.port: missing; add `port` (Port that the process in the container listens on)",
    ),
    "a slip in a key": (
        {"services": {"redis": {**REDIS, "enviroment": {}}}},
        "development.services.redis.enviroment: unknown key; did you mean environment?",
    ),
    "a secret without a file": (
        {"services": {"redis": {**REDIS, "environment": {"PASSWORD": {"secret": "redis"}}}}},
        "development.services.redis.environment.PASSWORD: there is no encrypted file to hold redis; add `secrets` with "
        "file and recipients",
    ),
    "a placeholder in an override": (
        {"overrides": {"web": {"environment": {"TOKEN": "${TOKEN}"}}}},
        "development.overrides.web.environment.TOKEN: ${TOKEN} would be taken as it stands, for nothing is filled in "
        "here; write the value or {env: TOKEN}, or services.web.verbatim: true if it is for the program",
    ),
    "a placeholder in a command": (
        {"services": {"redis": {**REDIS, "command": ["redis-server", "${OPTIONS}"]}}},
        "development.services.redis.command[1]: ${OPTIONS} would be taken as it stands, for nothing is filled in here; "
        "write the value, or development.services.redis.verbatim: true if it is for the program",
    ),
    "a path that is no folder": (
        {"services": {"redis": {**REDIS, "volumes": {"data": "data"}}}},
        "development.services.redis.volumes.data: 'data' is not possible here; it must be an absolute folder such as "
        "/var/lib/redis",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str) -> None:
    development, says = WRONG[name]
    assert mistakes(tmp_path, development) == [says]


def test_a_mistake_elsewhere_makes_none_here(tmp_path: Path) -> None:
    good = {"overrides": {"web": {"links": ["redis"]}}, "services": {"redis": REDIS}}
    for key in ("services/web/image", "services/web/version", "services/web/instances"):
        assert len(mistakes(tmp_path, good, **{key: []})) == 1, key


def test_what_is_for_the_program_may_stand_there() -> None:
    shell = {**REDIS, "command": ["sh", "-c", "exec redis-server ${OPTIONS}"]}
    said = {**REDIS, "port": 6380, "environment": {"FORMAT": "{{ name }}"}, "verbatim": True}
    Cluster.model_validate(changed({"development": {"services": {"one": shell, "two": said}}}))


@pytest.mark.parametrize(
    "image", ["redis:7.4", "elasticsearch:8.15.0", "ghcr.io/team/db:1", "localhost:5000/db:1", f"db@sha256:{'a' * 64}"]
)
def test_an_image_has_its_tag_or_its_digest(image: str) -> None:
    Cluster.model_validate(changed({"development": {"services": {"db": {"image": image, "port": 1}}}}))


def test_an_inventory_without_it_is_one_with_nothing_in_it() -> None:
    assert Cluster.model_validate(VALID) == Cluster.model_validate(changed({"development": {}}))


def test_its_secrets_are_no_hosts_and_are_known_by_their_keys() -> None:
    development = {
        "overrides": {"web": {"environment": {"A": {"env": "A"}, "B": "plain"}}},
        "services": {"redis": {**REDIS, "environment": {"C": {"command": ["pass", "c"]}}}},
    }
    cluster = Cluster.model_validate(changed({"development": development}))
    assert [*cluster.secret_sources()] == []
    assert [dotted(key) for key, _ in cluster.laptop_secrets()] == [
        "development.overrides.web.environment.A",
        "development.services.redis.environment.C",
    ]


def test_a_source_of_the_inventory_replaces_that_of_group_data(tmp_path: Path) -> None:
    (tmp_path / "group_data").mkdir()
    data = {"overrides": {"web": {"environment": {"TOKEN": {"env": "TOKEN"}}}}}
    (tmp_path / "group_data/all.py").write_text(f"development = {data!r}\n")
    own = {"overrides": {"web": {"environment": {"TOKEN": {"command": ["pass", "token"]}}}}}
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(changed({"development": own})))
    ((_, source),) = inventory.load(tmp_path / "good.yaml").laptop_secrets()
    assert source.command == ("pass", "token") and source.env is None
