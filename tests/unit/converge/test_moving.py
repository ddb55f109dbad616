"""Who has the address of all gateways together, and what of a host's own stands in its way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fiefdom.converge import moving, snapshot
from fiefdom.converge.snapshot import FoundFile, FoundUnit, Snapshot
from fiefdom.desired import address
from helpers.example import context

ADDRESS = "10.1.0.100"
GW1 = context("gw1", gateway={"address": ADDRESS})
CLUSTER = GW1.cluster
MADE = ("file", address.KEEPALIVED)
PLAIN = Snapshot(0, "debian", "trixie", made=frozenset({MADE}), units={address.UNIT: FoundUnit("loaded", "active")})
HAS = replace(PLAIN, holds=ADDRESS)
BARE = Snapshot(0, "debian", "trixie")


@pytest.mark.parametrize(
    ("found", "holders", "says"),
    [
        ({"gw1": PLAIN, "gw2": HAS}, ("gw2",), ""),
        ({"gw1": HAS, "gw2": HAS}, ("gw1", "gw2"), "10.1.0.100 is at gw1 and gw2 at once"),
        ({"gw1": PLAIN, "gw2": PLAIN}, (), "10.1.0.100 is at no gateway"),
        ({"gw1": PLAIN, "gw2": replace(PLAIN, holds="10.1.0.99")}, (), "10.1.0.100 is at no gateway"),
        ({"gw1": PLAIN}, (), ""),  # gw2 may have it
        ({"app1": PLAIN}, (), ""),
        ({}, (), ""),
    ],
)
def test_one_gateway_has_it_where_all_is_well(found: dict[str, Snapshot], holders: tuple[str, ...], says: str) -> None:
    assert moving.holders(CLUSTER, found) == holders
    complaints = moving.complaints(CLUSTER, found)
    assert (len(complaints), says in "".join(complaints)) == (bool(says), True)
    assert [f.seen for f in moving.of_all(CLUSTER, found).values()] == complaints


def test_before_the_first_converge_nobody_is_to_have_it() -> None:
    assert moving.of_all(CLUSTER, {"gw1": BARE, "gw2": PLAIN}) == {}


def test_a_cluster_without_one_has_nothing_to_tell() -> None:
    plain = context("gw1")
    assert moving.complaints(plain.cluster, {"gw1": BARE, "gw2": BARE}) == []
    assert list(moving.of_address(plain, replace(BARE, routers=frozenset({ADDRESS})))) == []


@pytest.mark.parametrize(
    ("host", "found", "expected"),
    [
        ("gw1", PLAIN, []),
        ("gw1", BARE, []),
        ("gw1", replace(BARE, routers=frozenset({ADDRESS})), [("refused", "10.1.0.100 is a router of this host")]),
        ("app1", replace(BARE, routers=frozenset({ADDRESS})), []),
        ("gw1", replace(BARE, client=ADDRESS), [("refused", "your connection comes from 10.1.0.100")]),
        (
            "gw1",
            replace(BARE, files={address.KEEPALIVED: FoundFile("regular file", 0o644, 0, 0, "x")}),
            [("refused", "it has a keepalived of its own (/etc/keepalived/keepalived.conf)")],
        ),
        (
            "gw1",
            replace(
                PLAIN,
                files={address.KEEPALIVED: FoundFile("regular file", 0o644, 0, 0, "x")},
                made=frozenset({MADE}),
            ),
            [],
        ),
        (
            "gw1",
            replace(PLAIN, units={address.UNIT: FoundUnit("loaded", "failed")}),
            [("warning", "keepalived.service does not run")],
        ),
    ],
)
def test_what_of_a_host_is_in_its_way(host: str, found: Snapshot, expected: list[Any]) -> None:
    of_host = context(host, gateway={"address": ADDRESS})
    assert [(f.level, f.seen) for f in moving.of_address(of_host, found)] == expected


def test_a_host_tells_what_it_has_and_who_routes_for_it() -> None:
    lines = ["uid\t0", "os\tdebian\ttrixie", "holds\t10.1.0.100", "router\t10.1.0.1", "router\t10.1.0.2", "end"]
    found = snapshot.parse("gw1", lines)
    assert (found.holds, found.routers) == (ADDRESS, frozenset({"10.1.0.1", "10.1.0.2"}))
