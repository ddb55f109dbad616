"""The address of all gateways together: which ones are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fiefdom.model import Cluster
from helpers.example import INVENTORY, merged

FREE = "10.1.0.100"


def refusal(address: str, **changes: Any) -> str:
    with pytest.raises(ValidationError) as error:
        Cluster.model_validate(merged(merged(INVENTORY, changes), {"gateway": {"address": address}}))
    return str(error.value)


@pytest.mark.parametrize("hosts", [{}, {"gw2": None}])
def test_a_free_one_of_the_network_is_taken_also_by_one_gateway_to_which_others_will_come(
    hosts: dict[str, Any],
) -> None:
    data = merged(merged(INVENTORY, {"hosts": hosts}), {"gateway": {"address": FREE}})
    assert Cluster.model_validate(data).gateway.address == FREE


@pytest.mark.parametrize(
    ("address", "changes", "says"),
    [
        ("10.1.0.11", {}, "gateway.address: 10.1.0.11 is the address of gw1, which it cannot leave; choose one that"),
        ("10.1.0.22", {}, "gateway.address: 10.1.0.22 is the address of app2"),
        ("10.2.0.1", {}, "gateway.address: 10.2.0.1 is outside network.cidr 10.1.0.0/24; choose a free address in it"),
        ("10.1.0.0", {}, "gateway.address: 10.1.0.0 is an address that 10.1.0.0/24 keeps for itself"),
        ("10.1.0.255", {}, "gateway.address: 10.1.0.255 is an address that 10.1.0.0/24 keeps for itself"),
        ("10.1.0.1", {}, "gateway.address: 10.1.0.1 is a router or DNS server to app1 (hosts.app1.static)"),
        ("10.1.0.3", {}, "gateway.address: 10.1.0.3 is a router or DNS server to app1"),
        (FREE, {"hosts": {"gw1": {"ssh": {"address": FREE}}}}, f"gateway.address: {FREE} is where SSH finds gw1"),
        (FREE, {"hosts": {"gw1": {"ssh": {"listen": [FREE]}}}}, f"gateway.address: {FREE} is where SSH finds gw1"),
        ("10.1.0.100/24", {}, "'10.1.0.100/24' is not an IPv4 address; write one like 10.0.0.11"),
    ],
)
def test_what_is_refused(address: str, changes: dict[str, Any], says: str) -> None:
    assert says in refusal(address, **changes)
