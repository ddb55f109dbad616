"""The firewall's rules by value. That they hold, `tests/lab` proves with packets."""

import ipaddress
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from fiefdom.desired import firewall
from fiefdom.desired.state import HostState
from helpers.example import context


def chain(name: str, host: str, **changes: object) -> list[str]:
    """The rules of a chain, without comments."""
    text = firewall.desired(context(host, **changes)).file(firewall.RULES).content.decode()
    body = re.search(rf"chain {name} {{\n(.*?)\n\t}}", text, re.DOTALL)
    assert body
    return [line.strip() for line in body[1].splitlines() if line.strip() and not line.strip().startswith("#")]


@pytest.mark.parametrize("host", ["gw1", "app1"])
def test_what_is_not_allowed_is_dropped(host: str) -> None:
    rules = chain("input", host)
    assert rules[0].endswith("policy drop;")
    assert rules[-1] == "counter drop"


def test_ssh_is_for_admins_on_the_hosts_own_port() -> None:
    admins = "ip saddr { 10.9.0.0/16, 192.0.2.7/32 } tcp dport"
    assert f"{admins} 2222 accept" in chain("input", "app1")
    assert f"{admins} 22 accept" in chain("input", "app2")


def test_gossip_is_for_members() -> None:
    for protocol in ("tcp", "udp"):
        assert f"ip saddr {{ 10.1.0.0/24 }} {protocol} dport 7946 accept" in chain("input", "app1")


def test_gossip_is_for_known_hosts_where_nobody_else_is_believed() -> None:
    """Addresses that lie side by side become networks; a host of no role has no agent."""
    hosts = {"box": {"address": "10.1.0.99", "groups": ["boxes"]}}
    known = chain("input", "app1", gateway={"known_hosts_only": True}, hosts=hosts)
    cluster = context("app1").cluster
    addresses = {cluster.hosts[name].address for name in (*cluster.gateways, *cluster.app_hosts)}
    for protocol in ("tcp", "udp"):
        (rule,) = [r for r in known if r.endswith(f" {protocol} dport 7946 accept")]
        networks = [ipaddress.ip_network(n) for n in re.findall(r"[0-9][0-9./]*", rule.split("}")[0])]
        assert {str(address) for network in networks for address in network} == addresses


def test_only_a_gateway_serves_clients_and_statistics() -> None:
    serving = [rule for rule in chain("input", "gw1") if rule not in chain("input", "app2")]
    assert serving == [
        "ip saddr { 10.9.0.0/16, 192.0.2.7/32 } tcp dport 8404 accept",
        "ip saddr { 10.0.0.0/8 } tcp dport { 80, 8080 } accept",
    ]


FROM_GATEWAYS = (
    'oifname { "docker0", "br-*" } ct status dnat meta l4proto tcp ct original proto-dst { 8000-8001, 9000 } '
    "ip saddr { 10.1.0.11, 10.1.0.12 } accept"
)


def test_instances_are_for_the_gateways_addresses_alone() -> None:
    """All else that is published, and containers' own addresses, are for nobody; from a bridge comes what they send."""
    assert chain("forward", "app2") == [
        "type filter hook forward priority filter - 10; policy accept;",
        "ct state established,related accept",
        FROM_GATEWAYS,
        'meta iifkind != "bridge" counter drop',
    ]


@pytest.mark.parametrize("name", ["input", "forward", "postrouting"])
def test_ports_of_checks_are_for_the_gateways_alone_too(name: str) -> None:
    own = {"web": {"health": {"container_port": 3001, "base_port": 9100}}}
    before, now = chain(name, "app2"), chain(name, "app2", services=own)
    assert now == [rule.replace("8000-8001, 9000", "8000-8001, 9000, 9100") for rule in before] != before


@pytest.mark.parametrize("name", ["forward", "postrouting"])
def test_a_host_without_instances_lets_nothing_into_a_container(name: str) -> None:
    assert not [rule for rule in chain(name, "gw1") if "dnat" in rule or "oifname" in rule]


def test_what_comes_from_a_bridge_is_forwarded_for_containers_only() -> None:
    """A bridge that bears the host's own address may be called br-lan, so that only Docker's translation tells them."""
    assert chain("postrouting", "app2") == [
        "type filter hook postrouting priority srcnat + 10; policy accept;",
        "ct state established,related accept",
        "ct status snat accept",
        FROM_GATEWAYS,
        'meta iifkind "bridge" counter drop',
    ]


@pytest.mark.parametrize("host", ["gw1", "app1"])
@pytest.mark.parametrize(("name", "last"), [("forward", "!= "), ("postrouting", "")])
def test_a_host_forwards_for_its_containers_only(host: str, name: str, last: str) -> None:
    assert chain(name, host)[-1] == f'meta iifkind {last}"bridge" counter drop'


def test_neighbours_cannot_reach_what_is_published_on_loopback() -> None:
    assert 'iifname != "lo" ip daddr 127.0.0.0/8 counter drop' in chain("prerouting", "app1")


def test_the_table_is_replaced_whole_and_nothing_else_is_touched() -> None:
    text = firewall.desired(context()).file(firewall.RULES).content.decode()
    commands = [line for line in text.splitlines() if line and line[0] not in "#\t}"]
    assert commands == ["add table inet fiefdom", "delete table inet fiefdom", "table inet fiefdom {"]


def test_debians_own_unit_is_for_boot_alone() -> None:
    state = firewall.desired(context())
    assert [unit.name for unit in state.units] == [firewall.UNIT]  # what a host has of its own stays enabled
    drop_in = state.file(firewall.NFTABLES_DROP_IN).content.decode().splitlines()
    assert f"ConditionPathExists=!{firewall.STANDS}" in drop_in
    assert {"ExecReload=", "ExecStop="} <= set(drop_in)
    service = state.file(firewall.SERVICE).content.decode().splitlines()
    assert {f"RuntimeDirectory={firewall.STANDS.removeprefix('/run/')}", "RuntimeDirectoryPreserve=yes"} <= set(service)


def test_the_rules_in_the_kernel_are_watched() -> None:
    (unit,) = (u for u in firewall.desired(context()).units if u.name == "fiefdom-firewall.service")
    assert unit.live == ("nft", "-s", "list", "table", "inet", "fiefdom")
    assert unit.on_change == ("reload",)


def test_the_unit_is_up_before_anything_that_listens_and_a_restart_leaves_no_moment_without_rules() -> None:
    unit = firewall.desired(context()).file(firewall.SERVICE).content.decode()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert {"network-pre.target", "sysinit.target", "docker.service"} <= set(settings["Before"].split())
    assert settings["DefaultDependencies"] == "no"
    assert settings["StartLimitIntervalSec"] == "0"
    assert "list-jobs --no-legend %n | grep -qw restart || nft delete table inet fiefdom" in settings["ExecStop"]


RULE = "ip saddr 192.0.2.9 tcp dport 9100 accept"


def test_a_host_has_the_rules_without_the_inventorys_own_as_well() -> None:
    state = firewall.desired(context(network={"input_rules": [RULE]}))
    rules, base = (state.file(path).content.decode().splitlines() for path in (firewall.RULES, firewall.BASE_RULES))
    assert [line.strip() for line in rules if line not in base] == [RULE]
    assert [line for line in rules if RULE not in line] == base


def test_rules_are_checked_where_there_is_no_network_as_at_boot() -> None:
    state = firewall.desired(context())
    for path in (firewall.RULES, firewall.BASE_RULES):
        assert state.file(path).check == ("unshare", "--net", "nft", "-c", "-f", "{}")


NFT = """#!/bin/sh
echo "$*" >> {folder}/log
case $* in {refused}) exit 1 ;; esac
"""


@pytest.mark.parametrize(
    ("refused", "code", "asked"),
    [
        ("nothing", 0, ["-f rules"]),
        ("*firewall.nft", 1, ["-f rules", "list table inet fiefdom"]),
        ("*firewall.nft | list*", 1, ["-f rules", "list table inet fiefdom", "-f base"]),
    ],
    ids=["all is well", "there is a table already", "at boot"],
)
def test_where_the_rules_cannot_be_loaded_the_base_is_and_the_unit_fails(
    tmp_path: Path, refused: str, code: int, asked: list[str]
) -> None:
    unit = firewall.desired(context()).file(firewall.SERVICE).content.decode().replace("\\\n", "")
    (start,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    (tmp_path / "nft").write_text(NFT.format(folder=tmp_path, refused=refused))
    (tmp_path / "nft").chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert subprocess.run(shlex.split(start), env=path, check=False).returncode == code
    words = (tmp_path / "log").read_text().replace(firewall.BASE_RULES, "base").replace(firewall.RULES, "rules")
    assert words.splitlines() == asked


def test_a_reload_that_fails_leaves_what_stands() -> None:
    unit = firewall.desired(context()).file(firewall.SERVICE).content.decode()
    assert f"\nExecReload=/usr/sbin/nft -f {firewall.RULES}\n" in unit


def test_it_can_be_kept_out() -> None:
    assert firewall.desired(context(network={"firewall": False})) == HostState()
