"""What `fiefdom docs` says of keys, however a person writes them."""

from __future__ import annotations

import pytest

from fiefdom.errors import FiefdomError
from fiefdom.inventory import reference
from fiefdom.inventory.key_docs import describe
from fiefdom.model import Cluster

PATH = [
    "services.SERVICE.health.path",
    "  type: text",
    "  default: /health",
    "  Path that is answered with `status` when the instance can serve.",
]


@pytest.mark.parametrize(
    "key", ["services.SERVICE.health.path", "services.predictor.health.path", "health.path", "predictor.health.path"]
)
def test_a_key_is_found_as_in_the_table_with_own_names_or_by_its_end(key: str) -> None:
    assert describe(key) == PATH


def test_a_mapping_is_told_with_all_that_is_beneath() -> None:
    lines = describe("rollout")
    assert lines[:4] == ["rollout", "  type: mapping", "  How releases go.", ""]
    assert lines[4:6] == [
        "rollout.soak_s  (number, 0 to 86400; default: 5.0)",
        "    Seconds that each batch is watched under traffic before the next begins.",
    ]
    assert any(line.startswith("rollout.most_errors") for line in lines)


@pytest.mark.parametrize(("key", "found"), [("services", "services.SERVICE"), ("hosts.app1.services", None)])
def test_a_mapping_by_name_needs_no_name(key: str, found: str | None) -> None:
    assert describe(key)[0] == (found or "hosts.HOST.services.SERVICE")


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("hosts.app1.sysctls.net.core.somaxconn", "hosts.HOST.sysctls"),
        ("services.web.environment.LOG_LEVEL", "services.SERVICE.environment"),
        ("hosts.app1.groups[0]", "hosts.HOST.groups"),
        ("services.web.volumes[0].path", "services.SERVICE.volumes.path"),
        ("services.web.files./etc/app.conf", "services.SERVICE.files.PATH"),
        ("services.web.files./etc/app.conf.mode", "services.SERVICE.files.PATH.mode"),
        ("services.SERVICE.files", "services.SERVICE.files.PATH"),
    ],
)
def test_what_stands_in_a_key_is_told_as_that_key(key: str, found: str) -> None:
    assert describe(key)[0] == found


@pytest.mark.parametrize(
    ("key", "found", "name", "meant"),
    [
        ("services.jobs", "services.SERVICE", "SERVICE", "services.SERVICE.jobs.NAME"),
        ("hosts.ssh", "hosts.HOST", "HOST", "hosts.HOST.ssh"),
        ("hosts.app1.services.environment", "hosts.HOST.services.SERVICE", "SERVICE", None),
        ("services.web.jobs.schedule", "services.SERVICE.jobs.NAME", "NAME", None),
        ("services.web.files.text", "services.SERVICE.files.PATH", "PATH", None),
        ("registries.server", "registries.NAME", "NAME", None),
        ("gateway.tls.certificates.chain", "gateway.tls.certificates.NAME", "NAME", None),
        ("development.services.image", "development.services.SERVICE", "SERVICE", None),
    ],
)
def test_a_name_that_is_a_keys_word_is_told_with_that_key(key: str, found: str, name: str, meant: str | None) -> None:
    lines, word = describe(key), key.rpartition(".")[2]
    assert lines[1:3] == ["", found]  # before all that is beneath it
    assert lines[0] == f"{word} is taken for a name of yours here ({name}); did you mean {meant or f'{found}.{word}'}?"


def test_every_mapping_by_name_tells_so() -> None:
    keys = [row[0].strip("`").split(".") for row in reference.rows(Cluster, "")]
    names = set(reference.NAMES.values())
    beneath = [key for key in keys if len(key) > 2 and key[-2] in names and key[-1] not in names]
    assert len(beneath) > 50
    for key in beneath:
        lines = describe(".".join([*key[:-2], key[-1]]))
        assert lines[0].endswith(f"did you mean {'.'.join(key)}?")


@pytest.mark.parametrize(
    "key", ["services.web", "services.SERVICE", "services.NAME.jobs", "services.jobs.health", "jobs"]
)
def test_what_is_no_keys_word_is_a_name_without_a_question(key: str) -> None:
    assert not any("did you mean" in line for line in describe(key))


def test_a_word_that_only_one_of_several_has_tells_which() -> None:
    assert describe("overrides.environment")[0] == "development.overrides.SERVICE.environment"
    assert describe("registries.password")[2] == "registries.NAME"


def test_without_a_key_the_first_ones_are_told() -> None:
    keys = [line.partition("  (")[0] for line in describe() if "  (" in line]
    assert keys[:4] == ["cluster", "hosts.HOST", "services.SERVICE", "network"]
    assert "ssh.port" not in keys and "registry" in keys and "time_servers" in keys


def test_a_required_key_says_so_and_a_secret_says_where_it_may_come_from() -> None:
    assert "  required" in describe("cluster")
    said = describe("registry.password")
    assert [line for line in said if line.startswith("{")] == [
        "{env: NAME}",
        "{command: [PROGRAM, ARGUMENT]}",
        "{secret: NAME}",
    ]
    assert not any(line.startswith("{") for line in describe("health.path"))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("services.predictor.heath.path", "did you mean services.SERVICE.health.path?"),
        ("helth.path", "did you mean services.SERVICE.health.path?"),
        ("service", "did you mean services.SERVICE?"),
        ("gateway.max_conn", "did you mean gateway.maxconn?"),
        ("services.SERVICE.memory", "did you mean services.SERVICE.limits.memory_mib?"),
        ("services.web.cpu", "did you mean services.SERVICE.limits.cpus?"),
        ("gateway.memory", "did you mean gateway.memory_mib?"),
        ("memory", "services.SERVICE.limits.memory_mib or serf.memory_mib or gateway.memory_mib?"),
        ("services.jobs.schedule", "did you mean services.SERVICE.jobs.NAME.schedule?"),
        ("services.jobs.nightly", "did you mean services.SERVICE.jobs.NAME?"),
        ("hosts.services.instances", "did you mean hosts.HOST.services.SERVICE.instances?"),
        ("services.environment.TOKEN", "did you mean services.SERVICE.environment?"),
        ("hosts.sysctls.net.core.somaxconn", "did you mean hosts.HOST.sysctls?"),
        ("zebra", "zebra is no key of an inventory; `fiefdom docs` lists those at the top"),
        ("", "`fiefdom docs` lists those at the top"),
        ("a\nb", r"a b is no key"),
    ],
)
def test_an_unknown_key_is_one_line_with_the_nearest(key: str, says: str) -> None:
    with pytest.raises(FiefdomError) as refusal:
        describe(key)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_end_that_several_keys_have_names_them() -> None:
    with pytest.raises(FiefdomError) as refusal:
        describe("instances")
    assert str(refusal.value) == (
        "instances may be hosts.HOST.services.SERVICE.instances or services.SERVICE.instances or "
        "development.overrides.SERVICE.instances; say which"
    )


@pytest.mark.long
def test_every_key_of_the_table_is_found_by_its_own_name() -> None:
    keys = [row.split("`")[1] for row in reference.table().splitlines()[2:]]
    assert len(keys) > 100
    for key in keys:
        assert describe(key)[0] == key
