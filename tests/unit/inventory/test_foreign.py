"""The namespace in another repository's inventory: layers, membership, and one host alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fiefdom.errors import FiefdomError
from fiefdom.inventory import foreign
from fiefdom.inventory.foreign import Foreign, Own

CLUSTER: dict[str, Any] = {
    "cluster": "theirs",
    "network": {"cidr": "10.9.0.0/24", "admin_cidrs": ["10.9.0.3/32"]},
    "services": {"web": {"image": "team/web", "version": "1.0", "limits": {"cpus": 2}}},
    "ssh": {"user": "deploy"},
}
THEIRS = Foreign(
    hosts={
        "gw1": Own(("edge",), {"address": "10.9.0.11"}, {"user": "ann", "address": "gw1"}),
        "app1": Own(("fast", "fleet"), {"address": "10.9.0.21"}, {"port": 2222, "address": "app1.example.org"}),
        "db.example.org": Own(("fleet_of_others",), None, {"user": "ann", "address": "db.example.org"}),
    },
    groups={"edge": {"groups": ["gateways"]}, "fleet": {"groups": ["app_hosts"]}, "fast": {"sysctls": {"vm.a": "1"}}},
    everywhere=CLUSTER,
)


def with_own(name: str, data: Any) -> Foreign:
    return replace(THEIRS, hosts={**THEIRS.hosts, name: replace(THEIRS.hosts[name], data=data)})


def test_members_are_those_whose_data_has_groups() -> None:
    assert [name for name in THEIRS.hosts if foreign.is_member(THEIRS, name)] == ["gw1", "app1"]
    assert not foreign.is_member(THEIRS, "nobody")


def test_a_cluster_is_the_same_from_whichever_member() -> None:
    found = foreign.cluster_of(THEIRS, "app1")
    assert found == foreign.cluster_of(THEIRS, "gw1")
    assert (list(found.hosts), found.gateways, found.app_hosts) == (["gw1", "app1"], ("gw1",), ("app1",))
    assert found.hosts["app1"].sysctls == {"vm.a": "1"}


def test_how_pyinfra_logs_in_is_below_what_the_namespace_says() -> None:
    found = foreign.cluster_of(THEIRS, "app1")
    assert found.ssh_of("gw1")[:2] == ("deploy", 22) and found.ssh_of("app1")[:2] == ("deploy", 2222)
    assert found.ssh_address("app1") == "app1.example.org"
    lone = foreign.alone(replace(THEIRS, everywhere=None), "db.example.org", "sshd")
    assert lone.ssh_of("db.example.org")[:2] == ("ann", 22) and lone.ssh_address("db.example.org") == "db.example.org"


@pytest.mark.parametrize(
    ("layers", "cpus", "port"),
    [
        ({}, 2.0, 22),
        ({"defaults": {"ssh": {"port": 2200}}}, 2.0, 2200),
        ({"defaults": {"ssh": {"port": 2200}}, "everywhere": {**CLUSTER, "ssh": {"port": 2201}}}, 2.0, 2201),
        ({"groups": {**THEIRS.groups, "edge": {"groups": ["gateways"], "ssh": {"port": 2202}}}}, 2.0, 2202),
        ({"override": {"ssh": {"port": 2203}}}, 2.0, 2203),
        ({"override": {"services": {"web": {"limits": {"cpus": 3}}}}}, 3.0, 22),
    ],
)
def test_layers_merge_at_every_depth(layers: dict[str, Any], cpus: float, port: int) -> None:
    found = foreign.cluster_of(replace(THEIRS, **layers), "gw1")
    assert (found.services["web"].limits.cpus, found.services["web"].version) == (cpus, "1.0")
    assert found.ssh_of("gw1")[1] == port


def test_what_is_given_by_hand_is_above_a_hosts_own() -> None:
    own = with_own("gw1", {"address": "10.9.0.11", "ssh": {"port": 2210}})
    assert foreign.cluster_of(own, "gw1").ssh_of("gw1")[1] == 2210
    by_hand = replace(own, override={"ssh": {"port": 2211}})
    assert foreign.cluster_of(by_hand, "gw1").ssh_of("gw1")[1] == 2211


def test_a_group_may_speak_for_the_whole_cluster() -> None:
    """Then `ssh` and `services` there are the cluster's."""
    groups = {"edge": {**CLUSTER, "groups": ["gateways"]}, "fleet": {**CLUSTER, "groups": ["app_hosts"]}}
    found = foreign.cluster_of(replace(THEIRS, groups=groups, everywhere=None), "gw1")
    assert found.services["web"].version == "1.0" and list(found.hosts) == ["gw1", "app1"]


@pytest.mark.parametrize("concern", ["sshd", "docker"])
def test_one_concern_alone_needs_nothing_and_is_blind_to_the_rest(concern: str) -> None:
    broken = {"services": {"web": 3}, "serf": "?", "cluster": 7}
    found = foreign.alone(replace(THEIRS, everywhere=broken), "db.example.org", concern)
    assert list(found.hosts) == ["db.example.org"] and not found.services and not found.network.firewall
    assert found.network.admin_cidrs == () and not found.gateways


def test_one_concern_alone_takes_its_own_settings() -> None:
    data = {"docker": {"log_max_file": 7}, "ssh": {"port": 2222}, "network": {"admin_cidrs": ["10.9.0.3/32"]}}
    own = with_own("db.example.org", data)
    assert foreign.alone(replace(own, everywhere={"docker": {"nofile": 2048}}), "db.example.org", "sshd").ssh_of(
        "db.example.org"
    ) == ("ann", 2222, None)
    firewall = foreign.alone(replace(own, everywhere=None), "db.example.org", "firewall")
    assert firewall.network.firewall and firewall.network.admin_cidrs == ("10.9.0.3/32",)


DB = "db.example.org"


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: foreign.cluster_of(THEIRS, DB), f"{DB}: is in no cluster of Fiefdom's; .*is_member"),
        (lambda: foreign.alone(THEIRS, DB, "serf"), f"{DB}: is in no cluster of Fiefdom's; "),
        (lambda: foreign.alone(THEIRS, DB, "network"), f"{DB}: the name of a member, .* call it db in the inventory"),
        (
            lambda: foreign.cluster_of(with_own(DB, {"groups": ["app_hosts"]}), "gw1"),
            f"{DB}: the name of a member, .* call it db in the inventory, with ssh_hostname",
        ),
        (lambda: foreign.is_member(with_own("gw1", 7), "gw1"), "the data of gw1: fiefdom: must be a mapping, not 7"),
        (
            lambda: foreign.is_member(with_own("gw1", {"adress": "10.9.0.11"}), "gw1"),
            "fiefdom in the data of gw1: adress: unknown key; did you mean address",
        ),
        (
            lambda: foreign.is_member(with_own("gw1", {"interface": "eth0"}), "gw1"),
            "fiefdom in the data of gw1: interface: unknown key; did you mean static.interface",
        ),
        (
            lambda: foreign.is_member(replace(THEIRS, everywhere={"hosts": {}}), "gw1"),
            "fiefdom in the data of all: hosts: a host's keys stand in its own data",
        ),
        (
            lambda: foreign.cluster_of(with_own("gw1", {"network": {"cidr": "10.8.0.0/24"}}), "app1"),
            "fiefdom in the data of gw1: network: app1 and gw1 are in one cluster and differ",
        ),
        (
            lambda: foreign.alone(with_own(DB, {"docker": {"log_max_file": 0}}), DB, "docker"),
            f"fiefdom in the data of {DB}: docker.log_max_file: ",
        ),
        (
            lambda: foreign.alone(with_own(DB, {"docker": {"address_pool": "172.31.255.0/24"}}), DB, "docker"),
            "docker.bridge_address: 172.31.255.0/24 overlaps docker.address_pool",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(ask: Callable[[], object], says: str) -> None:
    with pytest.raises(FiefdomError) as error:
        ask()
    assert re.search(says, str(error.value)) and "\n" not in str(error.value), str(error.value)
