"""The address of all gateways together: what moves it, where it is to be, and where it changes nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fiefdom.desired import address, concerns, firewall, network
from fiefdom.desired.context import Context
from fiefdom.desired.state import HostState
from fiefdom.model import Cluster, links
from helpers.example import context

MOVING = {"gateway": {"address": "10.1.0.100"}}
GW3 = {"hosts": {"gw3": {"address": "10.1.0.9", "groups": ["gateways"]}}}


def of(host: str, **changes: object) -> Context:
    return context(host, **{**MOVING, **changes})


def text(host: str, path: str = address.KEEPALIVED, **changes: object) -> str:
    return address.desired(of(host, **changes)).file(path).content.decode()


def words(of_text: str, key: str) -> list[str]:
    return re.findall(rf"^\s*{key} (.*)$", of_text, re.MULTILINE)


@pytest.mark.parametrize(("host", "changes"), [("gw1", {"gateway": {}}), ("app1", {})])
def test_nothing_is_there_without_one_and_on_other_hosts(host: str, changes: dict[str, Any]) -> None:
    assert address.desired(of(host, **changes)) == HostState()


def test_a_cluster_without_one_is_what_it_was() -> None:
    state = concerns.state_of(context("gw1"))
    assert not {s.key for s in state.sysctls} & network.MOVING_ADDRESS.keys()
    assert "l4proto 112" not in state.file(firewall.RULES).content.decode()


def test_gateways_talk_to_one_another_alone_and_stand_in_the_inventorys_order() -> None:
    one, two, three = (text(name, **GW3) for name in ("gw1", "gw2", "gw3"))
    assert [words(each, "priority") for each in (one, two, three)] == [["250"], ["249"], ["248"]]
    assert [words(each, "unicast_src_ip") for each in (one, two, three)] == [["10.1.0.11"], ["10.1.0.12"], ["10.1.0.9"]]
    assert re.findall(r"^        (\S+)  # (\S+)$", two, re.MULTILINE) == [("10.1.0.11", "gw1"), ("10.1.0.9", "gw3")]
    assert {*words(one, "virtual_router_id"), *words(two, "virtual_router_id")} == {"100"}
    assert "nopreempt" in one and words(one, "state") == ["BACKUP"]
    assert "vrrp_check_unicast_src" in one and "vrrp_mcast_group4" not in one


def test_a_gateway_alone_keeps_out_of_other_routers_group() -> None:
    alone = text("gw1", hosts={"gw2": None})
    assert words(alone, "vrrp_mcast_group4") == ["239.255.112.112"]
    assert "unicast" not in alone.replace("vrrp_check_unicast_src", "")


@pytest.mark.parametrize(("last", "router_id"), [("1", "1"), ("254", "254"), ("255", "255"), ("0", "255")])
def test_the_router_id_is_one_that_vrrp_has(last: str, router_id: str) -> None:
    wide = {"network": {"cidr": "10.1.0.0/16"}, "gateway": {"address": f"10.1.7.{last}"}}
    assert words(text("gw1", **wide), "virtual_router_id") == [router_id]


def test_no_script_runs_as_root_and_it_stands_on_every_gateways_loopback() -> None:
    found = text("gw2")
    assert words(found, "script_user") == ["nobody nogroup"]
    assert "enable_script_security" in found
    assert "10.1.0.100/32 dev lo scope host" in found and "10.1.0.100/32 dev $INTERFACE" in found


def test_the_script_is_told_the_others_in_the_order_in_which_vrrp_chooses() -> None:
    told = text("gw2", address.CONF, **GW3)
    assert told.splitlines()[1:] == [
        "address 10.1.0.100",
        "own 10.1.0.12",
        "port 8404",
        "other 10.1.0.11",
        "other 10.1.0.9",
    ]


def test_keepalived_outlives_the_gateway_at_shutdown_and_is_only_ever_reloaded() -> None:
    state = address.desired(of("gw1"))
    assert "\nBefore=fiefdom-gateway.service\n" in state.file(address.DROP_IN).content.decode()
    (unit,) = state.units
    assert (unit.name, unit.config, unit.on_change) == ("keepalived.service", (address.KEEPALIVED,), ("reload",))
    verbs = re.findall(r"^(\w+)=\+(\S+) (\w+)$", state.file(address.GATEWAY_DROP_IN).content.decode(), re.MULTILINE)
    assert [(when, verb) for when, _, verb in verbs] == [
        ("ExecStartPost", "return"),
        ("ExecStop", "yield"),
        ("ExecStopPost", "left"),
    ]


def test_the_gateways_own_container_stays_the_same() -> None:
    with_it, without = concerns.state_of(of("gw1")), concerns.state_of(context("gw1"))
    assert with_it.containers == without.containers


def test_only_who_holds_it_says_so_to_neighbours() -> None:
    found = {s.key: s.value for s in concerns.state_of(of("gw1")).sysctls}
    assert found.items() >= network.MOVING_ADDRESS.items()
    assert not network.MOVING_ADDRESS.keys() & {s.key for s in concerns.state_of(of("app1")).sysctls}


def test_the_firewall_lets_pass_what_other_gateways_say_and_ask() -> None:
    rules = firewall.desired(of("gw2", **GW3)).file(firewall.RULES).content.decode()
    assert "ip saddr { 10.1.0.9, 10.1.0.11 } meta l4proto 112 accept" in rules
    assert "ip saddr { 10.1.0.9, 10.1.0.11 } tcp dport 8404 accept" in rules
    assert "l4proto 112" not in firewall.desired(of("app1", **GW3)).file(firewall.RULES).content.decode()


def test_links_lead_to_it() -> None:
    services = {"predictor": {"route": {"port": 8081}}, "web": {"links": ["predictor"]}}
    cluster: Cluster = of("app1", services=services).cluster
    assert links.way(cluster, "predictor") == links.Way("10.1.0.100", 8081)
