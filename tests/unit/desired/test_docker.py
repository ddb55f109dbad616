"""The docker concern by value."""

import base64
import json
from dataclasses import replace

import pytest

from fiefdom.desired import docker
from fiefdom.desired.state import Codename, Directory, HostState, Package
from helpers.example import context


def daemon_json(**changes: object) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(docker.desired(context(docker=changes)).file(docker.CONFIG).content)
    return parsed


def packages(codename: Codename) -> set[Package]:
    return set(docker.desired(context(codename=codename)).packages)


def test_the_client_is_a_package_of_its_own_on_debian_13() -> None:
    assert packages("trixie") - packages("bookworm") == {Package("docker-cli")}
    assert Package("iptables") in packages("bookworm")


def test_containers_outlive_the_daemon_and_a_change_of_it() -> None:
    assert daemon_json()["live-restore"] is True
    (unit,) = docker.desired(context()).units
    assert unit.on_change == ("reload", "restart")
    assert unit.config == (docker.CONFIG,)


def test_the_inventorys_values_arrive() -> None:
    config = daemon_json(nofile=20000, log_max_size="1m", log_max_file=2, address_pool="172.30.0.0/16")
    assert config["default-ulimits"] == {"nofile": {"Name": "nofile", "Hard": 20000, "Soft": 20000}}
    assert config["log-opts"] == {"max-size": "1m", "max-file": "2"}
    assert config["default-address-pools"] == [{"base": "172.30.0.0/16", "size": 24}]


def test_only_keys_that_docker_20_10_knows() -> None:
    # Debian 12's dockerd cannot validate a file and does not start on a key it does not know.
    assert set(daemon_json()) == {
        "bip", "default-address-pools", "default-ulimits", "icc", "live-restore", "log-driver", "log-level", "log-opts",
        "no-new-privileges", "userland-proxy",
    }  # fmt: skip


@pytest.mark.parametrize(("login", "mode"), [("", 0o644), ("ann:pass@", 0o600)])
def test_a_proxys_password_is_for_root_and_in_no_diff(login: str, mode: int) -> None:
    """`proxies` is of Docker 23 on; mirrors have had URLs since ever."""
    daemon = {"registry-mirrors": [f"https://{login}mirror.example.org"]}
    file = docker.desired(context(codename="trixie", docker={"daemon": daemon})).file(docker.CONFIG)
    assert (file.mode, file.secret) == (mode, bool(login))


def test_it_is_validated_where_the_daemon_can() -> None:
    assert docker.desired(context(codename="bookworm")).file(docker.CONFIG).check == ()
    assert docker.desired(context(codename="trixie")).file(docker.CONFIG).check[:2] == ("dockerd", "--validate")


def with_login(server: str) -> HostState:
    it = context(registry={"server": server, "user": "ann", "password": {"env": "PASSWORD"}})
    ((_, source),) = it.cluster.secret_sources()
    return docker.desired(replace(it, secrets=replace(it.secrets, values={source: "pass:word ä"})))


@pytest.mark.parametrize(
    ("server", "name"),
    [
        ("registry.example.org:5000/team", "registry.example.org:5000"),
        ("registry.example.org", "registry.example.org"),
        ("localhost/team", "localhost"),
        ("docker.io/team", "https://index.docker.io/v1/"),
        ("team", "https://index.docker.io/v1/"),
    ],
)
def test_the_registrys_password_is_where_only_root_finds_it(server: str, name: str) -> None:
    state = with_login(server)
    file = state.file("/etc/fiefdom/docker/config.json")
    assert (file.mode, file.uid, file.secret) == (0o600, 0, True)
    assert Directory("/etc/fiefdom/docker", mode=0o700) in state.directories
    auths = json.loads(file.content)["auths"]
    assert base64.b64decode(auths[name]["auth"]).decode() == "ann:pass:word ä"
    assert list(auths) == [name]


def test_an_open_registry_needs_no_login() -> None:
    state = docker.desired(context(registry={"server": "registry.example.org"}))
    assert state == docker.desired(context())


REGISTRIES = {
    "gh": {"server": "ghcr.io/team", "user": "bob", "password": {"command": ["print-token"]}},
    "open": {"server": "open.example.org"},
}


@pytest.mark.parametrize(
    ("host", "registry", "names"),
    [
        ("app1", False, []),
        ("app2", False, ["ghcr.io"]),  # the one that runs `web`
        ("gw1", False, []),
        ("app1", True, ["r.org"]),
        ("app2", True, ["r.org", "ghcr.io"]),
        ("gw1", True, ["r.org"]),
        # Neither a gateway nor an app host: of Fiefdom's own images it has none.
        ("web1", True, ["ghcr.io"]),
    ],
)
def test_a_host_gets_the_logins_of_the_registries_that_it_pulls_from(
    host: str, registry: bool, names: list[str]
) -> None:
    it = context(
        host,
        registries=REGISTRIES,
        services={"web": {"image": "ghcr.io/team/web"}, "predictor": {"registry": "open"}},
        hosts={"web1": {"address": "10.1.0.31", "groups": ["web_hosts"]}},
        registry={"server": "r.org", "user": "ann", "password": {"env": "PASSWORD"}} if registry else None,
    )
    values = {source: str(source) for _, source in it.cluster.secret_sources()}
    state = docker.desired(replace(it, secrets=replace(it.secrets, values=values)))
    found = [json.loads(f.content)["auths"] for f in state.files if f.path == docker.CLIENT_CONFIG]
    assert list(found[0] if found else {}) == names
    logins = {name: base64.b64decode(login["auth"]).decode() for name, login in (found[0] if found else {}).items()}
    assert logins.get("ghcr.io", "bob:the command `print-token`") == "bob:the command `print-token`"


def test_another_password_is_not_another_file() -> None:
    it = context(registry={"server": "r.org", "user": "ann", "password": {"env": "PASSWORD"}})
    ((_, source),) = it.cluster.secret_sources()
    one, two = (
        docker.desired(replace(it, secrets=replace(it.secrets, values={source: text}))).file(docker.CLIENT_CONFIG)
        for text in ("one", "another")
    )
    assert one.content != two.content and one.digest == two.digest
