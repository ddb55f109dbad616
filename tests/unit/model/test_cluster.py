"""What the model accepts, refuses and derives, by value."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fiefdom.model import Cluster, Health
from fiefdom.wording import dotted
from helpers.inventories import VALID, changed


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Cluster.model_validate(changed(changes))
    return "\n".join(
        f"{dotted(key)}: {says}"
        for error in caught.value.errors()
        for key, says in error.get("ctx", {}).get("all", [(error["loc"], error["msg"])])
    )


def test_defaults_fill_in_what_is_not_written() -> None:
    cluster = Cluster.model_validate(VALID)
    assert cluster.services["web"].health == Health()
    assert cluster.network.clients == ("10.0.0.0/24",)
    assert cluster.gateways == ("gw1",)
    assert cluster.app_hosts == ("app1", "app2")
    assert cluster.services["web"].tmpfs == ("/tmp",)


def test_instances_follow_groups_and_overrides() -> None:
    cluster = Cluster.model_validate(changed({"hosts/app2/services": {"web": {"instances": 3}}}))
    assert [i.container for i in cluster.instances("app1")] == ["web-8000", "web-8001"]
    assert [i.unit for i in cluster.instances("app2")] == [
        "fiefdom-web@8000.service",
        "fiefdom-web@8001.service",
        "fiefdom-web@8002.service",
        "fiefdom-api@9000.service",
    ]
    assert cluster.instances("gw1") == ()


@pytest.mark.parametrize("name", ["postgresql", "tor", "getty", "docker", "serf-agent", "offer-web", "firewall"])
def test_a_service_may_have_the_name_of_any_unit(name: str) -> None:
    services = {name: {"image": "a", "version": "1", "base_port": 9500, "route": {"host": "other.example.org"}}}
    cluster = Cluster.model_validate(changed({f"services/{name}": services[name]}))
    units = [i.unit for i in cluster.instances("app1") if i.service == name]
    assert units == [f"fiefdom-{name}@9500.service"]


def test_a_host_limits_only_what_it_names_differently() -> None:
    cluster = Cluster.model_validate(
        changed(
            {
                "services/web/limits": {"memory_mib": 512, "pids": 99},
                "services/web/environment": {"A": "1", "B": "2"},
                "hosts/app1/services": {"web": {"limits": {"memory_mib": 1024}, "environment": {"B": "3"}}},
            }
        )
    )
    own = cluster.service_on("app1", "web")
    assert (own.limits.memory_mib, own.limits.pids) == (1024, 99)
    assert own.environment == {"A": "1", "B": "3"}
    assert cluster.service_on("app2", "web") == cluster.services["web"]


def test_with_another_version_only_that_and_the_build_change() -> None:
    cluster = Cluster.model_validate(changed({"services/web/build": "images/web"}))
    other = cluster.with_version("web", "0.9")
    assert (other.services["web"].version, other.services["web"].build) == ("0.9", None)
    assert other.services["api"] == cluster.services["api"]
    assert other.with_version("web", "1.0").services["web"].model_dump(exclude={"build"}) == cluster.services[
        "web"
    ].model_dump(exclude={"build"})
    for version in ("", "a b", "a;b", "a/b", "v" * 129):
        with pytest.raises(ValidationError):
            cluster.with_version("web", version)


@pytest.mark.parametrize("user", ["root", "john.doe", "x@corp", "Jane_Doe-2", "machine$"])
def test_login_names_are_what_directories_hand_out(user: str) -> None:
    assert Cluster.model_validate(changed({"ssh": {"user": user}})).ssh.user == user


@pytest.mark.parametrize("proxy", ["http://10.0.0.5:3142", "http://apt.example.org:3142/", "https://proxy"])
def test_a_proxy_for_packages_is_a_url(proxy: str) -> None:
    assert Cluster.model_validate(changed({"packages": {"proxy": proxy}})).packages.proxy == proxy


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        (
            "http://ann:hunter2@10.0.0.5:3142",
            "packages.proxy: Value error, holds a login, which anybody on a host could read there; "
            "write the address without it",
        ),
        ("http://hunter2@10.0.0.5", "holds a login"),
        ("10.0.0.5:3142", "it must be an http:// or https:// address of a proxy, such as http://10.20.0.5:3142"),
        ("socks5h://10.0.0.5", "it must be an http:// or https:// address"),
        ("http://10.0.0.5:3142/debian", "it must be an http:// or https:// address"),
        ('http://a";', "it must be an http:// or https:// address"),
        ("http://10.0.0.5:0", "names port 0, and ports are 1 to 65535"),
        ("http://10.0.0.5:70000", "names port 70000"),
        ("http://10.0.0.500:3142", "'10.0.0.500:3142' ends in a number and is no IPv4 address"),
    ],
)
def test_what_is_no_proxy_is_refused_and_no_password_told(proxy: str, says: str) -> None:
    told = refusal({"packages": {"proxy": proxy}})
    assert says in told and "hunter2" not in told.partition("[type=")[0]


def test_whole_numbers_in_an_environment_are_text() -> None:
    cluster = Cluster.model_validate(
        changed({"services/web/environment": {"PORT": 80}, "hosts/gw1/sysctls": {"net.core.somaxconn": 4096}})
    )
    assert cluster.services["web"].environment == {"PORT": "80"}
    assert cluster.hosts["gw1"].sysctls == {"net.core.somaxconn": "4096"}


def test_keys_of_the_persons_own_are_ignored_where_keys_are_fixed() -> None:
    cluster = Cluster.model_validate(
        changed({"x-note": 1, "services/web/x-note": [], "services/web/health": {"x-a": 1}})
    )
    assert cluster == Cluster.model_validate(VALID)


def test_ssh_settings_of_a_host_come_first() -> None:
    cluster = Cluster.model_validate(
        changed({"ssh": {"user": "operator", "key": "keys/all"}, "hosts/gw1/ssh": {"port": 2222}, "base_dir": "/inv"})
    )
    assert cluster.ssh_of("gw1") == ("operator", 2222, "/inv/keys/all")
    assert cluster.ssh_of("app1") == ("operator", 22, "/inv/keys/all")


STRICT = [
    {"services/web/instances": "2"},
    {"services/web/instances": True},
    {"services/web/instances": 2.0},
    {"services/web/instances": -1},
    {"services/web/version": 1.0},
    {"services/web/version": 1},
    {"services/web/base_port": "80"},
    {"services/web/base_port": 0},
    {"services/web/environment": {"A": True}},
    {"services/web/environment": {"A": 1.1}},
    {"services/web/environment": {"A": [1]}},
    {"services/web/environment": {"A": "two\nlines"}},
    {"services/web/environment": {"A-B": "1"}},
    {"services/web/environment": {"FIEFDOM_PORT": "1"}},
    {"services/web/image": "team/web:1.0"},
    {"services/web/image": "Team/web"},
    {"services/web/command": "run it"},
    {"services/web/command": ["a\nb"]},
    {"services/web/groups": []},
    {"services/web/limits": {"memory": 1}},
    {"services/web/limits": {"cpus": 0}},
    {"services/web/limits": {"cpus": float("nan")}},
    {"services/web/user": 1000},
    {"services/web/health": {"status": []}},
    {"services/web/health": {"status": "2xx"}},
    {"services/web/health": {"status": 100}},
    {"services/web/health": {"status": 600}},
    {"services/web/health": {"status": "399-200"}},
    {"services/web/health": {"status": "200,204"}},
    {"services/web/health": {"status": 200.5}},
    {"services/web/health": {"host": "two words"}},
    {"services/web/health": {"host": "a\nb"}},
    {"services/web/health": {"path": "health"}},
    {"services/web/health": {"path": "/h?x[0]=1"}},
    {"services/web/health": {"path": "/a#b"}},
    {"services/web/health": {"path": "/a b"}},
    {"services/web/health": {"path": '/"'}},
    {"services/web/health": {"path": "/a\\b"}},
    {"services/web/health": {"path": "/%zz"}},
    {"services/web/health": {"path": "/é"}},
    {"services/web/health": {"path": "/{a}"}},
    {"services/web/route": {"port": 79}},
    {"services/web/route": {"host": "*"}},
    {"services/web/route": {"host": "a.*.example.org"}},
    {"services/web/route": {"host": ["www.example.org", ""]}},
    {"services/web/route": {"host": [80]}},
    {"services/we_b": {"image": "a", "version": "1"}},
    {"gateway": {"server_timeout_s": float("inf")}},
    {"gateway": {"balance": "round"}},
    {"rollout": {"soak_s": -1}},
    {"rollout": {"soak_s": float("inf")}},
    {"rollout": {"most_errors": 1.1}},
    {"rollout": {"most_errors": "1%"}},
    {"docker": {"live_restore": False}},
    {"docker": {"daemon": {"bip": "10.0.0.1/24"}}},
    {"docker": {"daemon": {"hosts": ["tcp://0.0.0.0:2375"]}}},
    {"docker": {"daemon": {"mtu": "1400"}}},
    {"docker": {"daemon": {"data-root": "../docker"}}},
    {"docker": {"daemon": {"registry-mirrors": "https://mirror.example.org"}}},
    {"docker": {"bridge_address": "172.31.255.0/24"}},
    {"docker": {"bridge_address": "172.31.255.1"}},
    {"network/cidr": "10.0.0.0"},
    {"network/cidr": "fd00::/64"},
    {"network/firewall": "yes"},
    {"network/admin_cidrs": []},
    {"hosts/gw1/address": "10.0.0.999"},
    {"hosts/gw1/address": "gw1.example.org"},
    {"hosts/gw1/groups": []},
    {"hosts/gw1/groups": ["all"]},
    {"hosts/gw1/sysctls": {"net.core.somaxconn": "1\nkernel.panic=1"}},
    {"hosts/gw1/ssh": {"user": "root; reboot"}},
    {"ssh": {"user": "-x"}},
    {"ssh": {"user": ".."}},
    {"ssh": {"user": "a/b"}},
    {"hosts": {}},
    {"services": {}},
    {"ssh": {"key": "~nosuchuserhere/key"}},
    {"ssh": {"key": "a\0b"}},
    {"ssh": {"authorized_keys": ["ssh-ed25519 AAAA x\n"]}},
    {"ssh": {"authorized_keys": ["AAAA"]}},
    {"services/web/environment": {"A": "half \ud83d"}},
    {"services/web/command": ["run", "\ud83d"]},
    {"services/web/build": "\ud83d"},
    {"ssh": {"key": "\ud83d"}},
    {"serf": {"key": {"command": ["pass", "\ud83d"]}}},
    {"serf": {"key_file": "\ud83d"}},
    {"docker": {"daemon": {"data-root": "/\ud83d"}}},
    {"registry": {"server": "\ud83d"}},
    {"time_servers": ["\ud83d"]},
    {"network/input_rules": ['tcp dport 1 accept comment "\ud83d"']},
    {
        "ssh": {
            "authorized_keys": [
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBu7Zl8xXQ8E3yQ0dVb1m6n4n7Qe5h0Hk3Wc6t8y1pR9 \ud83d"
            ]
        }
    },
]


@pytest.mark.parametrize("changes", STRICT, ids=str)
def test_what_is_not_meant_is_refused_and_never_guessed(changes: dict[str, Any]) -> None:
    refusal(changes)


RULES = {
    "iif wg0 tcp dport 9100 accept": "iif",
    "meta iif eth0 accept": "iif",
    'oif "wg0" accept': "oif",
    'iifname "wg0" tcp dport 9100 accept': None,
    "fib saddr . iif oif missing drop": None,
    "fib daddr type local iif lo accept": "iif",
    "iif!=lo tcp dport 9100 accept": "iif",
    'tcp dport 9100 accept comment "no iif here"': None,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_interfaces_that_need_not_be_there_yet(rule: str) -> None:
    changes = {"network/input_rules": [rule]}
    word = RULES[rule]
    if word is None:
        assert Cluster.model_validate(changed(changes)).network.input_rules == (rule,)
    else:
        assert f"write {word}name in place of {word}" in refusal(changes)


INCONSISTENT = [
    ({"hosts/gw1/address": "10.0.0.21"}, "hosts.app1.address: 10.0.0.21 is also the address of gw1"),
    ({"hosts/gw1/address": "10.0.1.11"}, "hosts.gw1.address: 10.0.1.11 is outside network.cidr 10.0.0.0/24"),
    ({"hosts/gw1/address": "10.0.0.255"}, "hosts.gw1.address: 10.0.0.255 is an address that 10.0.0.0/24 keeps"),
    ({"hosts/gw1/groups": ["large"]}, "hosts: no host is in the group gateways"),
    ({"hosts/app1": None, "hosts/app2/groups": ["large"]}, "hosts: no host is in the group app_hosts"),
    ({"hosts/gw1/groups": ["gateways", "app_hosts"]}, "hosts.gw1.groups: a host is either a gateway or an app host"),
    ({"hosts/gw1/groups": ["gateways", "gateways"]}, "hosts.gw1.groups: gateways stands there twice"),
    ({"services/web/groups": ["large"]}, "hosts.app1: an app host without service"),
    ({"hosts/app1/services": {"web": {"instances": 0}}}, "hosts.app1: an app host without service"),
    ({"services/web/groups": ["small"]}, "services.web.groups[0]: no host is in the group small"),
    ({"hosts/app1/services": {"wbe": {}}}, "hosts.app1.services.wbe: no such service; known are api, web"),
    ({"hosts/app1/services": {"api": {"instances": 1}}}, "hosts.app1.services.api: api does not run on app1"),
    ({"services/api/base_port": 8001}, "services.api.base_port: port 8001 on app2 is also taken by services.web"),
    (
        {"hosts/app2/services": {"web": {"instances": 1000}}, "services/api/base_port": 8999},
        "services.api.base_port: port 8999 on app2 is also taken by hosts.app2.services.web.instances (ports",
    ),
    (
        {"hosts/app2/services": {"api": {"instances": 30}}, "services/api/base_port": 7990},
        "hosts.app2.services.api.instances: ports 7990-8019 on app2 are also taken by services.web.base_port",
    ),
    (
        {"services/web/base_port": 65535},
        "services.web.base_port: ports 65535-65536 on app1 would go past 65535; lower base_port",
    ),
    (
        {"services/web/base_port": 65000, "hosts/app1/services": {"web": {"instances": 537}}},
        "hosts.app1.services.web.instances: ports 65000-65536 on app1 would go past 65535",
    ),
    ({"services/web/base_port": 7945}, "services.web.base_port: ports 7945-7946 on app1 are also taken by serf.port"),
    ({"services/web/base_port": 22}, "services.web.base_port: ports 22-23 on app1 are also taken by ssh.port"),
    ({"hosts/app1/ssh": {"port": 8001}}, "ports 8000-8001 on app1 are also taken by hosts.app1.ssh.port (port 8001)"),
    (
        {"services/web/health": {"base_port": 9500}},
        "services.web.health: checks on a port of their own need base_port and container_port; add container_port",
    ),
    (
        {"services/web/health": {"container_port": 9500}},
        "services.web.health: checks on a port of their own need base_port and container_port; add base_port",
    ),
    (
        {"services/web/health": {"base_port": 9500, "container_port": 8000}},
        "services.web.health.container_port: 8000 is the service's own port, which checks ask anyway",
    ),
    (
        {"services/web/health": {"base_port": 8001, "container_port": 9500}},
        "services.web.health.base_port: ports 8001-8002 on app1 are also taken by services.web.base_port (ports 8000-8",
    ),
    (
        {"services/web/health": {"base_port": 7945, "container_port": 9500}},
        "services.web.health.base_port: ports 7945-7946 on app1 are also taken by serf.port",
    ),
    (
        {"services/web/health": {"base_port": 65535, "container_port": 9500}},
        "services.web.health.base_port: ports 65535-65536 on app1 would go past 65535; lower base_port",
    ),
    ({"serf": {"rpc_port": 7946}}, "serf.rpc_port: port 7946 on gw1 is also taken by serf.port"),
    (
        {"services/web/route": {"port": 8404}},
        "services.web.route.port: port 8404 on gw1 is also taken by gateway.stats",
    ),
    ({"hosts/gw1/ssh": {"port": 80}}, "services.web.route.port: port 80 on gw1 is also taken by hosts.gw1.ssh.port"),
    ({"services/api/route": {"path_prefix": "/"}}, "services.api.route: api is reached the same way as web"),
    (
        {
            "services/web/route": {"host": ["a.example.org", "*.example.org"]},
            "services/api/route": {"host": ["b.example.org", "*.EXAMPLE.org"]},
        },
        "services.api.route: api is reached the same way as web; give it its own port, host or path_prefix",
    ),
    (
        {"services/web/route": {"host": ["a.example.org", "A.example.org"]}},
        "services.web.route.host: a host name stands there twice; once is enough",
    ),
    ({"network/cidr": "172.31.0.0/16"}, "is outside network.cidr"),
    ({"docker": {"bridge_address": "10.0.0.1/16"}}, "docker.bridge_address: 10.0.0.0/16 overlaps network.cidr"),
    (
        {"docker": {"address_pool": "172.31.0.0/16"}},
        "docker.bridge_address: 172.31.255.0/24 overlaps docker.address_pool",
    ),
    (
        {"network/admin_cidrs": ["172.16.0.0/12"]},
        "docker.bridge_address: 172.31.255.0/24 overlaps 172.16.0.0/12 of network.admin_cidrs",
    ),
    (
        {"network/client_cidrs": ["10.0.0.0/24", "172.31.4.0/24"]},
        "docker.address_pool: 172.31.0.0/17 overlaps 172.31.4.0/24 of network.client_cidrs",
    ),
    ({"docker": {"address_pool": "172.31.1.0/26"}}, "docker.address_pool_size: no /24 fits"),
    (
        {"hosts/gw1/static": {"interface": "eth0", "gateway": "10.9.0.1"}},
        "hosts.gw1.static.gateway: 10.9.0.1 cannot be reached from 10.0.0.0/24",
    ),
]


@pytest.mark.parametrize(("changes", "says"), INCONSISTENT, ids=[says for _, says in INCONSISTENT])
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], says: str) -> None:
    assert says in refusal(changes)


@pytest.mark.parametrize("path", ["/", "/it's", "/h?x=1&y=a/b?c", "/%5B", "/a;b=(1),$2!*+:@~"])
def test_a_health_path_may_be_all_that_a_path_and_a_query_may_be(path: str) -> None:
    assert Cluster.model_validate(changed({"services/web/health": {"path": path}})).services["web"].health.path == path


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (204, ("204",)),
        ("200-399", ("200-399",)),
        ([200, "204"], ("200", "204")),
        (("200-299", 404), ("200-299", "404")),
    ],
)
def test_a_status_is_a_code_a_range_or_a_list_of_these(written: object, kept: tuple[str, ...]) -> None:
    health = Cluster.model_validate(changed({"services/web/health": {"status": written}})).services["web"].health
    assert health.status == kept
    assert health.own_status == ("" if kept == ("200-399",) else ",".join(kept))
    assert Health.model_validate(health.model_dump()) == health


def test_a_clash_of_two_services_is_told_once_however_many_hosts_have_it() -> None:
    hosts = {f"more{i}": {"address": f"10.0.0.{100 + i}", "groups": ["app_hosts", "large"]} for i in range(5)}
    with pytest.raises(ValidationError) as caught:
        Cluster.model_validate(changed({"services/api/base_port": 8000, "hosts": {**VALID["hosts"], **hosts}}))
    (error,) = caught.value.errors()
    assert len(error["ctx"]["all"]) == 1


def test_the_same_ports_on_different_hosts_are_fine() -> None:
    Cluster.model_validate(
        changed(
            {
                "hosts/app1/groups": ["app_hosts", "small"],
                "services/web/groups": ["small"],
                "services/api/base_port": 8000,
            }
        )
    )


# --- Secrets

RECIPIENT = "age1g3wca0mag5tcesluvzsvhqwgqukltsy83tdsnfdszxv2s4y22g2q4azqtw"
ENCRYPTED = {"secrets": {"file": "secrets.age", "recipients": [RECIPIENT]}}


def test_secrets_are_named_with_the_key_that_names_them() -> None:
    cluster = Cluster.model_validate(
        changed(
            {
                **ENCRYPTED,
                "services/web/environment": {"A": {"env": "A"}, "B": {"secret": "b"}, "C": "plain"},
                "services/api/environment": {"D": {"command": ["pass", "show", "d"]}},
                "hosts/app1/services": {"web": {"environment": {"A": {"env": "OTHER"}}}},
                "registry": {"server": "r.example.org", "user": "ann", "password": {"env": "PW"}},
                "serf": {"key": {"env": "KEY"}},
            }
        )
    )
    found = {dotted(key): str(source) for key, source in cluster.secret_sources()}
    assert found == {
        "serf.key": "the environment variable KEY",
        "registry.password": "the environment variable PW",
        "hosts.app1.services.web.environment.A": "the environment variable OTHER",
        "services.web.environment.A": "the environment variable A",  # on app2
        "services.web.environment.B": "the secret b",
        "services.api.environment.D": "the command `pass show d`",
    }
    assert Cluster.model_validate(cluster.model_dump(mode="json")) == cluster
    assert cluster.with_version("web", "2").services["web"].environment == cluster.services["web"].environment


ONE_SOURCE = "write one of {env: NAME}, {command: [PROGRAM, ARGUMENT]}, {secret: NAME}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"services/web/environment": {"A": {}}}, f"environment.A: Value error, has no source; {ONE_SOURCE}"),
        ({"services/web/environment": {"A": {"env": None}}}, "has no source"),
        ({"services/web/environment": {"A": {"env": "X", "secret": "y"}}}, "has env and secret"),
        ({"services/web/environment": {"A": {"enf": "X"}}}, "environment.A.enf: Extra inputs are not permitted"),
        (
            {"services/web/environment": {"A": {"hunter2": None}}},
            f"environment.A: Value error, has no source; {ONE_SOURCE}",
        ),
        (
            {"services/web/environment": {"A": {"env": "1X"}}},
            "A.env: Value error, what stands there is not possible here; it must be the name of an",
        ),
        ({"services/web/environment": {"A": {"env": 1}}}, "A.env: Input should be a valid string"),
        ({"services/web/environment": {"A": {"command": []}}}, "A.command: Tuple should have at least 1 item"),
        ({"services/web/environment": {"A": {"command": "pass x"}}}, "A.command: Input should be a valid tuple"),
        ({"services/web/environment": {"A": {"secret": "a b"}}}, "A.secret: Value error, 'a b' is not possible here"),
        ({"services/web/environment": {"A": {"secret": "a"}}}, "no encrypted file to hold a; add `secrets`"),
        ({"serf": {"key": {"secret": "a"}}}, "serf.key: there is no encrypted file"),
        ({"serf": {"key": {"env": "A"}, "key_file": "x"}}, "serf.key: the key comes from serf.key_file already"),
        ({"registry": {"server": "r", "user": "ann"}}, "registry: user and password go together"),
        ({"registry": {"server": "r", "password": {"env": "A"}}}, "registry: user and password go together"),
        ({"registry": {"server": "r", "user": "a:b", "password": {"env": "A"}}}, "a login name without blanks and"),
        ({"secrets": {"file": "x", "recipients": []}}, "secrets.recipients: Tuple should have at least 1 item"),
        ({"secrets": {"file": "x", "recipients": ["ecdsa-sha2-nistp256 AAAA"]}}, "an age key (age1...) or"),
    ],
)
def test_a_source_that_cannot_be_is_refused_with_its_key(changes: dict[str, Any], says: str) -> None:
    assert says in refusal(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"serf": {"key": "hunter2"}},
        {"registry": {"server": "r", "user": "ann", "password": "hunter2"}},
        {"registry": {"server": "r", "user": "ann", "password": 2}},
        {"services/web/environment": {"A": "hunter2\nhunter2"}},
        {"hosts/app1/services": {"web": {"environment": {"A": "-----BEGIN KEY\nhunter2"}}}},
    ],
)
def test_what_may_be_a_secret_is_refused_without_being_told(changes: dict[str, Any]) -> None:
    assert "hunter2" not in refusal(changes)


FORWARDS = {"hosts/gw1/ssh": {"tcp_forwarding": "local"}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"ssh": {"jump": "gw1"}},
            "ssh.jump: gw1 would forward nothing; write `local` to hosts.gw1.ssh.tcp_forwarding",
        ),
        ({"ssh": {"jump": "a:70000"}}, "ssh.jump: a:70000 has no port from 1 to 65535"),
        ({"ssh": {"jump": "-oProxyCommand=x"}}, "'-oProxyCommand=x' is not possible here"),
        ({"hosts/app1/ssh": {"jump": "app1"}}, "hosts.app1.ssh.jump: app1 is the host itself; take it out"),
        (
            {"hosts/gw1/ssh": {"tcp_forwarding": "local", "jump": "b"}, "hosts/app1/ssh": {"jump": "gw1"}},
            "hosts.app1.ssh.jump: gw1 is reached through b; write the whole way, the nearest first",
        ),
        (
            {"hosts/app1/ssh": {"address": "203.0.113.9"}, "hosts/app2/ssh": {"address": "203.0.113.9"}},
            "hosts.app2.ssh.address: 203.0.113.9 is also where SSH finds app1",
        ),
        ({"hosts/app1/ssh": {"address": "two words"}}, "'two words' is not possible here"),
        ({"ssh": {"tcp_forwarding": "yes"}}, "ssh.tcp_forwarding: "),
    ],
)
def test_a_way_that_is_none_is_refused(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(changes)


def test_the_way_to_a_host_and_to_those_that_lie_on_it() -> None:
    cluster = Cluster.model_validate(
        changed(
            {"ssh": {"jump": "ann@bastion:2222,gw1"}, "hosts/app2/ssh": {"jump": "none", "address": "app2.example.org"}}
            | FORWARDS
        )
    )
    assert {name: cluster.jumps_of(name) for name in cluster.hosts} == {
        "gw1": ("ann@bastion:2222",),
        "app1": ("ann@bastion:2222", "gw1"),
        "app2": (),
    }
    assert [cluster.ssh_address(name) for name in ("app1", "app2")] == ["10.0.0.21", "app2.example.org"]
