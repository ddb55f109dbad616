"""What hosts are given for links: variables, an order, and a way that is open to who links and to nobody else."""

from __future__ import annotations

import re
from typing import Any

import yaml

from fiefdom.desired import firewall, links, services
from fiefdom.desired.compose import compose
from fiefdom.desired.containers import env_path
from fiefdom.desired.programs import text_of
from fiefdom.desired.state import HostState, Unit
from fiefdom.model import Cluster
from helpers.example import INVENTORY, context, merged

REDIS: dict[str, Any] = {
    "kind": "tcp",
    "image": "redis",
    "version": "7",
    "base_port": 6379,
    "container_port": 6379,
    "groups": ["web_hosts"],
    "user": "999:999",
}
LINKED = {"redis": REDIS, "predictor": {"links": ["redis"]}}
"""`predictor` of app1 and app2 links to a redis on app2."""


def on(host: str, wanted: dict[str, Any] | None = None, **changes: Any) -> HostState:
    return services.desired(context(host, services=LINKED if wanted is None else wanted, **changes))


def rules(host: str, wanted: dict[str, Any] | None = None, **changes: Any) -> dict[str, list[str]]:
    """By chain, the rules that are there for links."""
    made = context(host, services=LINKED if wanted is None else wanted, **changes)
    text = firewall.desired(made).file(firewall.RULES).content.decode()
    plain = {name: value for name, value in (LINKED if wanted is None else wanted).items() if name == "redis"}
    before = (
        firewall.desired(context(host, services=plain, **changes)).file(firewall.RULES).content.decode().splitlines()
    )
    found: dict[str, list[str]] = {}
    chain = ""
    for line in text.splitlines():
        if match := re.match(r"\tchain (\w+) {", line):
            chain = match[1]
        elif line not in before and not line.strip().startswith("#"):
            found.setdefault(chain, []).append(line.strip())
    return found


def variables(host: str, container: str, wanted: dict[str, Any] | None = None) -> dict[str, str]:
    lines = on(host, wanted).file(env_path(container)).content.decode().splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines) if name.startswith("REDIS")}


def unit(host: str, service: str) -> str:
    return on(host).file(f"/etc/systemd/system/fiefdom-{service}@.service").content.decode()


def test_every_instance_of_who_links_is_told_the_same_on_each_host() -> None:
    told = {"REDIS_HOST": "10.1.0.22", "REDIS_PORT": "6379"}
    assert variables("app1", "predictor-8003") == variables("app2", "predictor-8000") == told
    assert variables("app2", "redis-6379") == variables("app2", "web-9000") == {}


def test_what_is_told_makes_the_container_another_one() -> None:
    """So that another address is a release that waits, as any other change of the environment."""

    def config(**redis: Any) -> str:
        wanted = LINKED | {"redis": REDIS | redis}
        return on("app1", wanted).file("/etc/fiefdom/containers/predictor-8000.conf").content.decode().splitlines()[1]

    assert config() == config(image="valkey")
    assert config() != config(base_port=6380)


def test_what_is_on_the_same_host_starts_first_and_its_failure_is_its_own() -> None:
    assert "\nAfter=fiefdom-redis@6379.service fiefdom-links.service\n" in unit("app2", "predictor")
    assert "redis" not in unit("app1", "predictor")
    for service in ("predictor", "web", "redis"):
        assert not re.search(r"^(Wants|Requires|BindsTo|PartOf)=.*redis", unit("app2", service), re.MULTILINE)
    assert "After=fiefdom" not in unit("app2", "redis")


def test_a_host_where_both_are_opens_the_way_between_its_containers() -> None:
    state = on("app2")
    assert state.file(links.CONF).content.decode().splitlines()[1:] == [
        "from 172.31.255.0/24",
        "address 10.1.0.22",
        "port 6379",
    ]
    script = "/usr/local/lib/fiefdom/links"
    assert Unit(links.UNIT, config=(links.CONF, script), on_change=("reload",), live=(script, "show")) in state.units
    assert state.file(script).content.decode() == text_of("links")
    for host, wanted in (("app1", None), ("app2", {"redis": REDIS})):
        assert not any("links" in file.path for file in on(host, wanted).files)


def test_the_way_is_open_from_hosts_of_who_links_and_refuses_what_is_down() -> None:
    way = (
        'oifname { "docker0", "br-*" } ct status dnat meta l4proto tcp ct original proto-dst { 6379 } '
        "ip saddr { 10.1.0.21 } accept"
    )
    assert rules("app2") == {
        "input": [
            'iifname "docker0" ip saddr 172.31.255.0/24 tcp dport { 6379 } reject with tcp reset',
            "ip saddr { 10.1.0.21 } tcp dport { 6379 } reject with tcp reset",
        ],
        "forward": [way],
        "postrouting": [way],
    }
    assert rules("app1") == rules("gw1") == {}


def test_gateways_have_no_way_to_what_they_do_not_have() -> None:
    text = firewall.desired(context("app2", services={"redis": REDIS})).file(firewall.RULES).content.decode()
    assert "6379" not in text


def test_a_gateway_port_is_open_to_who_links_whoever_clients_are() -> None:
    wanted = LINKED | {"redis": REDIS | {"groups": ["app_hosts"], "route": {"port": 6380}}}
    hosts = {"gw2": None}
    found = rules("gw1", wanted, hosts=hosts, network={"client_cidrs": ["192.0.2.0/24"]})
    assert found == {"input": ["ip saddr { 10.1.0.21, 10.1.0.22 } tcp dport { 6380 } accept"]}
    told = services.desired(context("app1", services=wanted, hosts=hosts)).file(env_path("predictor-8000"))
    assert b"REDIS_HOST=10.1.0.11\nREDIS_PORT=6380\n" in told.content


def test_a_gateway_lets_containers_of_its_own_through_at_their_own_addresses() -> None:
    wanted = LINKED | {"redis": REDIS | {"groups": ["app_hosts"], "route": {"port": 6380}}}
    wanted |= {"predictor": {"links": ["redis"], "groups": ["app_hosts", "gateways"]}}
    found = rules("gw1", wanted, hosts={"gw2": None}, network={"client_cidrs": ["192.0.2.0/24"]})
    sources = "10.1.0.11, 10.1.0.21, 10.1.0.22, 172.31.255.0/24"
    assert f"ip saddr {{ {sources} }} tcp dport {{ 6380 }} accept" in found["input"]


def test_what_has_an_instance_more_by_now_is_reached_as_before_until_its_linkers_had_a_rollout() -> None:
    wanted = LINKED | {"redis": REDIS | {"instances": 2, "route": {"port": 6380}}}
    found = rules("app2", wanted, hosts={"gw2": None})
    assert "ip saddr { 10.1.0.21 } tcp dport { 6379-6380 } reject with tcp reset" in found["input"]


def test_a_cluster_without_a_firewall_of_fiefdoms_has_the_way_on_one_host_all_the_same() -> None:
    assert Unit in {type(u) for u in on("app2", network={"firewall": False}).units if u.name == links.UNIT}


def laptop(development: dict[str, Any] | None = None, only: tuple[str, ...] = ()) -> dict[str, Any]:
    cluster = Cluster.model_validate(merged(INVENTORY, {"services": LINKED, "development": development or {}}))
    document: dict[str, Any] = yaml.safe_load(compose(cluster, only).text)
    return document["services"]  # type: ignore[no-any-return]


def test_a_laptop_tells_the_same_variables_and_starts_what_is_linked_first() -> None:
    found = laptop(only=("predictor",))
    assert set(found) == {"predictor-8000", "redis-6379"}
    environment = found["predictor-8000"]["environment"]
    assert (environment["REDIS_HOST"], environment["REDIS_PORT"]) == ("redis-6379", "6379")
    assert found["predictor-8000"]["depends_on"] == ["redis-6379"]


def test_a_laptop_adds_links_to_what_it_alone_has() -> None:
    found = laptop(
        {
            "overrides": {"predictor": {"links": ["search"]}, "redis": {"base_port": 16379}},
            "services": {"search": {"image": "search:1", "port": 9200, "host_port": 19200}},
        },
        only=("predictor",),
    )
    environment = found["predictor-8000"]["environment"]
    assert {name: environment[name] for name in environment if name.startswith(("REDIS", "SEARCH"))} == {
        "REDIS_HOST": "redis-16379",
        "REDIS_PORT": "6379",
        "SEARCH_HOST": "search",
        "SEARCH_PORT": "9200",
    }
    assert found["predictor-8000"]["depends_on"] == ["redis-16379", "search"]


def test_a_link_to_what_a_laptop_leaves_out_is_what_its_environment_says() -> None:
    found = laptop(
        {
            "overrides": {
                "redis": {"instances": 0},
                "predictor": {"environment": {"REDIS_HOST": "db.example.org", "REDIS_PORT": "6379"}},
            }
        }
    )
    assert "redis-6379" not in found and "depends_on" not in found["predictor-8000"]
    assert found["predictor-8000"]["environment"]["REDIS_HOST"] == "db.example.org"


def test_links_of_links_come_to_a_laptop_as_well() -> None:
    wanted = merged(INVENTORY, {"services": LINKED | {"web": {"links": ["predictor"]}}, "hosts": {"gw2": None}})
    found = compose(Cluster.model_validate(wanted), ["web"]).containers
    assert {container.of for container in found} == {"web", "predictor", "redis"}
