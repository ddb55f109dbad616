"""What hosts and gateways are given of a service of kind tcp."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from fiefdom.desired import firewall, gateway, network, offers, services
from fiefdom.desired.compose import compose
from fiefdom.desired.containers import conf_path
from fiefdom.desired.context import Context
from fiefdom.desired.state import HostState
from fiefdom.model import Cluster
from helpers.example import INVENTORY, context, merged

REDIS: dict[str, Any] = {
    "kind": "tcp",
    "image": "redis",
    "version": "7",
    "base_port": 6379,
    "container_port": 6379,
    "groups": ["web_hosts"],
    "volumes": [{"name": "data", "path": "/data", "owner": "999"}],
}


def on(host: str, **service: Any) -> Context:
    return context(host, services={"redis": REDIS | service})


def conf(**service: Any) -> list[str]:
    state = services.desired(on("app2", **service))
    return state.file(conf_path("redis-6379")).content.decode().splitlines()


def haproxy(**changes: Any) -> str:
    made = on("gw1", route={"port": 6379}) if not changes else context("gw1", **changes)
    return gateway.desired(made).file(gateway.HAPROXY_CONFIG).content.decode()


def test_an_instance_is_asked_by_a_connection() -> None:
    assert [line for line in conf() if line.startswith("probe")] == [
        "probe connect://10.1.0.22:6379",
        "probe_timeout_s 2",
    ]


def test_or_by_a_command_in_the_container() -> None:
    found = conf(health={"command": ["redis-cli", "-h", "two words", ""], "timeout_s": 0.5})
    assert [line for line in found if line.startswith("probe")] == [
        "probe command",
        "probe_word redis-cli",
        "probe_word -h",
        "probe_word two words",
        "probe_word ",
        "probe_timeout_s 0.5",
    ]


def test_how_it_is_asked_makes_no_other_container() -> None:
    def spec(**service: Any) -> str:
        return next(line for line in conf(**service) if line.startswith("spec "))

    assert spec() == spec(health={"command": ["true"]}) == spec(route={"port": 6379})


def test_a_port_of_checks_of_its_own_is_asked() -> None:
    assert "probe connect://10.1.0.22:7000" in conf(health={"base_port": 7000, "container_port": 7000})


def test_one_with_one_instance_says_that_it_pauses() -> None:
    def pauses(**service: Any) -> set[bool]:
        found = services.desired(on("app2", **service)).containers
        return {c.pauses for c in found if c.service == "redis"}

    assert pauses() == {True}
    assert pauses(instances=2) == {False}
    assert {c.pauses for c in services.desired(context("app2")).containers} == {False}


def test_what_gateways_have_is_offered_to_them_and_what_they_have_not_is_not() -> None:
    def offered(**service: Any) -> set[str]:
        return {offer.service for offer in offers.desired(on("app2", **service)).offers}

    assert offered() == {"predictor", "web"}
    assert offered(route={"port": 6379}) == {"predictor", "web", "redis"}
    assert offers.desired(on("app2")) == offers.desired(context("app2"))


def test_gateways_know_nothing_of_what_they_do_not_have() -> None:
    state, plain = gateway.desired(on("gw1")), gateway.desired(context("gw1"))
    for path in (gateway.HAPROXY_CONFIG, gateway.RECONCILER_CONFIG):
        assert state.file(path).content == plain.file(path).content
    assert firewall.desired(on("gw1")) == firewall.desired(context("gw1"))
    assert network.desired(on("gw1")) == network.desired(context("gw1"))


def test_a_gateway_port_is_a_frontend_for_connections_alone() -> None:
    added = haproxy().removeprefix(haproxy(services={}))
    assert (
        added
        == """
# Connections of which HAProxy knows nothing more: one that fails is tried elsewhere, one that stands is left alone.
defaults
    mode tcp
    balance leastconn
    timeout connect 2000ms
    timeout queue 60000ms
    timeout client 60000ms
    timeout client-fin 10s
    timeout server 60000ms
    timeout server-fin 10s
    # Once it stands, in place of both: a client keeps it open for when it needs it.
    timeout tunnel 1h
    option tcpka
    retries 10
    option redispatch 1

frontend port-6379
    bind :6379
    default_backend redis

backend redis
    timeout check 2000ms
    # fiefdom:servers redis
"""
    )


def test_limits_of_a_clients_connections_hold_there_as_well() -> None:
    limits = {"connections": 50, "requests_per_s": 10, "exempt_cidrs": ["10.1.0.0/24"]}
    text = haproxy(services={"redis": REDIS | {"route": {"port": 6379}}}, gateway={"source_limits": limits})
    assert text.partition("frontend port-6379\n")[2].partition("\n\n")[0] == (
        "    bind :6379\n"
        "    acl exempt src 10.1.0.0/24\n"
        "    tcp-request connection track-sc0 src table fiefdom-sources unless exempt\n"
        "    tcp-request connection reject if { sc0_conn_cur gt 50 }\n"
        "    default_backend redis"
    )


def test_the_reconciler_is_told_its_kind() -> None:
    config = json.loads(gateway.desired(on("gw1", route={"port": 6379})).file(gateway.RECONCILER_CONFIG).content)
    (redis,) = [one for one in config["services"] if one["name"] == "redis"]
    assert redis == {
        "name": "redis",
        "backend": "redis",
        "base_port": 6379,
        "max_instances": 100,
        "server_options": "check inter 1000ms fall 2 rise 1 observe layer4 error-limit 5 on-error mark-down "
        "on-marked-down shutdown-sessions",
        "upgraded": "close",
        "kind": "tcp",
    }
    assert config["hosts"]["app2"]["last_ports"]["redis"] == 6379


@pytest.mark.parametrize("redis", [{"instances": 2}, {"drain": {"upgraded": "wait"}}])
def test_connections_are_waited_for_where_somebody_takes_over_or_it_is_said(redis: dict[str, Any]) -> None:
    """To wait for those of one that pauses would only make its pause longer."""
    state = gateway.desired(on("gw1", route={"port": 6379}, **redis))
    (found,) = [one for one in json.loads(state.file(gateway.RECONCILER_CONFIG).content)["services"] if "kind" in one]
    assert found["upgraded"] == "wait"


def test_its_gateway_port_is_open_to_clients() -> None:
    def opened(state: HostState) -> str:
        (found,) = re.findall(
            r"ip saddr \{ 10\.0\.0\.0/8 \} tcp dport \{ (.*) \} accept", state.file(firewall.RULES).content.decode()
        )
        return found

    assert opened(firewall.desired(on("gw1", route={"port": 6379}))) == "80, 6379, 8080"


@pytest.mark.parametrize("host", ["gw1", "app2"])
def test_a_cluster_without_any_gateway_port_has_gateways_all_the_same(host: str) -> None:
    given = merged(
        INVENTORY, {"services": {"predictor": None, "web": None, "redis": REDIS | {"groups": ["app_hosts"]}}}
    )
    given["hosts"] = {name: {k: v for k, v in h.items() if k != "services"} for name, h in given["hosts"].items()}
    made = Context(host, Cluster.model_validate(given), "bookworm", context().secrets)
    rules = firewall.desired(made).file(firewall.RULES).content.decode()
    assert "dport {  }" not in rules
    assert network.desired(made).sysctls
    if host == "gw1":
        assert "frontend stats" in gateway.desired(made).file(gateway.HAPROXY_CONFIG).content.decode()


def test_a_laptop_asks_it_as_hosts_do() -> None:
    def check(**service: Any) -> Any:
        cluster = Cluster.model_validate(merged(INVENTORY, {"services": {"redis": REDIS | service}}))
        (found,) = [c for c in compose(cluster, ["redis"]).containers if c.of == "redis"]
        return found.check

    assert (check().path, check().port, check().command) == (None, 6379, ())
    assert check(health={"command": ["redis-cli", "ping"]}).command == ("redis-cli", "ping")
