"""Monitoring in an inventory: what is refused, in one clear line."""

from __future__ import annotations

from typing import Any

import pytest

from fiefdom.inventory.complaint import mistakes_of
from fiefdom.inventory.source import written
from fiefdom.model import Cluster
from helpers.inventories import changed


def says(monitoring: dict[str, Any], **others: object) -> list[str]:
    raw = changed({"monitoring": monitoring, **others})
    try:
        Cluster.model_validate(raw)
    except ValueError as error:
        return [str(m).removeprefix("x.py: ") for m in mistakes_of(error, written(raw, "x.py"))]  # type: ignore[arg-type]
    return []


@pytest.mark.parametrize(
    ("monitoring", "complaint"),
    [
        ({"node_exporter": True}, "monitoring.from_cidrs: the firewall lets nobody ask the node exporters; name"),
        ({"from_cidrs": ["somewhere"]}, "monitoring.from_cidrs[0]: "),
        ({"from_cidrs": ["172.31.0.9/32"]}, "monitoring.from_cidrs[0]: 172.31.0.9/32 overlaps docker.address_pool"),
        ({"node_exporter": True, "from_cidrs": ["10.7.0.9/32"], "port": 22}, "monitoring.port: "),
        ({"node_exporter": True, "from_cidrs": ["10.7.0.9/32"], "port": 8404}, "also taken by monitoring.port"),
        ({"node_exporter": True, "from_cidrs": ["10.7.0.9/32"], "port": 8000}, "also taken by monitoring.port"),
        ({"exporter": True}, "monitoring.exporter: "),
    ],
)
def test_what_is_refused(monitoring: dict[str, Any], complaint: str) -> None:
    found = says(monitoring)
    assert len(found) == 1 and complaint in found[0], found


@pytest.mark.parametrize(
    "monitoring",
    [
        {},
        {"from_cidrs": ["10.7.0.9/32"]},
        {"node_exporter": True, "from_cidrs": ["0.0.0.0/0"]},
        # A port of nobody's is no clash.
        {"node_exporter": False, "port": 8404},
    ],
)
def test_what_is_taken(monitoring: dict[str, Any]) -> None:
    assert says(monitoring) == []


def test_without_a_firewall_of_fiefdoms_who_may_ask_is_not_its_to_say() -> None:
    assert says({"node_exporter": True}, **{"network/firewall": False}) == []
