"""What can cut the operator's line is declared beside what makes it: nothing of these concerns is left to guesses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fiefdom import inventory
from fiefdom.desired import firewall, network, sshd
from fiefdom.desired.concerns import CONCERNS, CUTTING
from fiefdom.desired.context import Context
from fiefdom.desired.state import CODENAMES, HostState
from fiefdom.model import Cluster, Secrets
from helpers.example import GOSSIP_KEY, INVENTORY, context, merged

INVENTORIES = Path(__file__).parents[3] / "inventories"
MODULES = {"network": network, "firewall": firewall, "sshd": sshd}
FIREWALL_OFF = {"network": {"firewall": False}}
EVERYTHING = {
    "hosts": {
        name: {
            "ssh": {"listen": [host["address"]]},
            "static": {"interface": "eth0", "gateway": "10.1.0.1", "dns": ["10.1.0.2"]},
            "sysctls": {"vm.swappiness": 1},
        }
        for name, host in INVENTORY["hosts"].items()
    },
    "network": {"input_rules": ["tcp dport 9999 accept"]},
    "packages": {"proxy": "http://10.1.0.5:3142"},
    "ssh": {"crypto": "pq", "user": "operator", "allow_users": ["operator", "root"]},
    "gateway": {"known_hosts_only": True, "address": "10.1.0.100"},
    "monitoring": {"node_exporter": True, "from_cidrs": ["10.7.0.9/32"]},
}
"""What `INVENTORY` leaves out of what is optional."""


def clusters() -> Iterator[Cluster]:
    for path in sorted(INVENTORIES.glob("*.yaml")) + sorted(INVENTORIES.glob("python*.py")):
        yield inventory.load(path)
    for changes in ({}, EVERYTHING, FIREWALL_OFF):
        yield context(**changes).cluster
    for permit, crypto in itertools.product((True, False), ("compat", "pq")):
        ssh = {"permit_root": permit, "crypto": crypto, "user": "operator", "authorized_keys": None}
        yield Cluster.model_validate(merged(merged(INVENTORY, EVERYTHING), {"ssh": ssh, "time_servers": None}))


def states(desired: Callable[[Context], HostState]) -> Iterator[HostState]:
    for cluster, codename in itertools.product(clusters(), CODENAMES):
        for name in cluster.hosts:
            yield desired(Context(name, cluster, codename, Secrets(GOSSIP_KEY)))


def paths_of(desired: Callable[[Context], HostState]) -> set[str]:
    return {item.path for state in states(desired) for item in (*state.files, *state.blocks, *state.directories)}


def units_of(desired: Callable[[Context], HostState]) -> set[str]:
    return {unit.name for state in states(desired) for unit in state.units}


def named_by(concern: str) -> set[str]:
    """Paths and units that a concern's module has names for, whether or not one of these clusters has it make them."""
    values = [value for value in vars(MODULES[concern]).values() if isinstance(value, str)]
    return {value.rstrip("/") for value in values if value.startswith("/etc/") or value.endswith(".service")}


def cuts(concern: str, name: str) -> bool:
    cutting = CUTTING[concern]
    return cutting.has_path(name) if name.startswith("/") else name in cutting.units


@pytest.mark.long
@pytest.mark.parametrize("concern", CUTTING)
def test_of_every_file_and_unit_it_is_said_whether_it_can_cut_the_line(concern: str) -> None:
    """One that is new is put into `paths` or `units`, or among what is harmless, with the reason."""
    made = paths_of(CONCERNS[concern]) | units_of(CONCERNS[concern])
    decided = {name: (cuts(concern, name), name in CUTTING[concern].harmless) for name in made | named_by(concern)}
    assert {name: both for name, both in decided.items() if sum(both) != 1} == {}


@pytest.mark.long
@pytest.mark.parametrize("concern", CUTTING)
def test_nothing_is_declared_that_the_concern_does_not_make(concern: str) -> None:
    cutting, paths, units = CUTTING[concern], paths_of(CONCERNS[concern]), units_of(CONCERNS[concern])
    assert set(cutting.units) <= units
    assert set(cutting.harmless) <= paths | units
    assert [begin for begin in cutting.paths if not any(path.startswith(begin) for path in paths)] == []


@pytest.mark.parametrize("concern", CONCERNS)
def test_kernel_settings_are_made_by_a_concern_that_says_that_they_cut(concern: str) -> None:
    has_sysctls = any(state.sysctls for state in states(CONCERNS[concern]))
    assert has_sysctls == (concern in CUTTING and CUTTING[concern].sysctls)


@pytest.mark.long
@pytest.mark.parametrize("concern", [name for name in CONCERNS if name not in CUTTING])
def test_no_other_concern_makes_anything_that_is_judged_to_cut(concern: str) -> None:
    names = paths_of(CONCERNS[concern]) | units_of(CONCERNS[concern])
    assert names
    assert [name for name in names for other in CUTTING if cuts(other, name)] == []


@pytest.mark.long
def test_a_path_or_unit_is_one_concerns_alone() -> None:
    names = [
        (concern, name) for concern in CUTTING for name in paths_of(CONCERNS[concern]) | set(CUTTING[concern].units)
    ]
    assert [(mine, name) for mine, name in names for other in CUTTING if other != mine and cuts(other, name)] == []


def test_units_come_back_in_the_order_in_which_concerns_come_up() -> None:
    """The network and the firewall before sshd, which lets the operator in."""
    assert list(CUTTING) == [concern for concern in CONCERNS if concern in CUTTING]


def test_a_folder_is_what_ever_was_in_it_and_itself() -> None:
    assert all(
        map(CUTTING["sshd"].has_path, ("/etc/ssh", "/etc/ssh/", "/etc/ssh/sshd_config.d/99-of-an-older-one.conf"))
    )
    assert not CUTTING["sshd"].has_path("/etc/sshguard")
