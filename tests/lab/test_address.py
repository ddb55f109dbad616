"""One address for two gateways: it moves where its holder dies, and breaks nothing where that stops on purpose."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from fiefdom import lab
from helpers.faults import console, settle
from helpers.load import Load
from helpers.operator_view import TRAFFIC, Site, await_true, tell
from helpers.two_gateways import GW2, mend, ok, two, with_gateway

pytestmark = pytest.mark.proof

AT_LEAST = 10_000
ADDRESS = "10.99.0.100"
URL = f"http://{ADDRESS}/predict"
KEEPALIVED = "/etc/keepalived/keepalived.conf"
MOVED_WITHIN_S = 15


def with_address(data: dict[str, Any]) -> None:
    with_gateway(data)
    data["gateway"] = {"address": ADDRESS}


def with_another_container(data: dict[str, Any]) -> None:
    with_address(data)
    data["gateway"]["memory_mib"] = 500


@pytest.fixture(scope="module")
def _inventory(_site: Site) -> Iterator[str]:
    with two(_site, "address", with_address) as path:
        yield path
    assert not console("gw1", f"ip -o -4 address show to {ADDRESS}/32; ls {KEEPALIVED} 2>/dev/null || :")


@pytest.fixture
def one_address(_site: Site, _inventory: str) -> Iterator[str]:
    """An inventory with two gateways and one address, converged."""
    yield _inventory
    mend(_site, _inventory)


def container_of(gateway: str) -> str:
    """Name of a gateway among the lab's hosts."""
    return GW2.name if gateway == "gw2" else gateway


def holders(site: Site, inventory: str) -> list[str]:
    found: list[str] = site.status(inventory)["address"]["holders"]
    return found


def holder(site: Site, inventory: str) -> str:
    """The one gateway that has the address, once there is one."""
    await_true(lambda: len(holders(site, inventory)) == 1, MOVED_WITHIN_S, what="one holder")
    return holders(site, inventory)[0]


def other(gateway: str) -> str:
    return "gw1" if gateway == "gw2" else "gw2"


def answers() -> bool:
    try:
        with urllib.request.urlopen(URL, timeout=0.2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_one_of_two_has_it_and_a_second_run_changes_nothing(_site: Site, one_address: str) -> None:
    assert holder(_site, one_address) in ("gw1", "gw2")
    await_true(answers, what="an answer at the one address")
    assert _site.plan(one_address)[0] == 0
    # Whoever has it, each is itself at its own address.
    for name in ("gw1", GW2.name):
        assert f"{ADDRESS}/32 " in console(name, "ip -o -4 address show dev lo")


@pytest.mark.parametrize("path", [KEEPALIVED, "/etc/fiefdom/address.conf"])
def test_what_somebody_edits_is_seen_and_mended_and_nothing_moves(_site: Site, one_address: str, path: str) -> None:
    has = holder(_site, one_address)
    with Load(URL, at_least=2_000) as load:
        console(container_of(has), f"echo '# edited' >>{path}")
        assert f"~ file {path}" in _site.plan(one_address)[1][has]
        settle(_site, one_address)
    assert load.failed == 0, load.report()
    assert holders(_site, one_address) == [has]


@pytest.mark.parametrize("again", [1, 2])
def test_the_planned_reboot_of_who_has_it_fails_no_request(_site: Site, one_address: str, again: int) -> None:
    has = holder(_site, one_address)
    with Load(URL, at_least=AT_LEAST) as load:
        ok(_site, "reboot", one_address, "--limit", has)
    tell(f"planned reboot of the gateway that has the address ({has})", load)
    assert load.failed == 0, load.report()
    assert holders(_site, one_address) == [other(has)], "it does not move back"
    assert _site.plan(one_address)[0] == 0


def test_a_gateway_that_is_restarted_by_hand_fails_no_request(_site: Site, one_address: str) -> None:
    has = holder(_site, one_address)
    with Load(URL, at_least=AT_LEAST) as load:
        console(container_of(has), "systemctl restart fiefdom-gateway.service")
        _site.await_serving(one_address)
    tell("restart of the gateway that has the address", load)
    assert load.failed == 0, load.report()
    assert holders(_site, one_address) == [other(has)]


def test_a_new_container_takes_over_where_the_address_is(_site: Site, one_address: str) -> None:
    has = holder(_site, one_address)
    with Load(URL, at_least=AT_LEAST) as load:
        settle(_site, _site.inventory("address-container", with_another_container))
        settle(_site, one_address)
    tell("two new containers on each of two gateways with one address", load)
    assert load.failed == 0, load.report()
    assert holders(_site, one_address) == [has]


def test_the_power_cut_of_who_has_it(_site: Site, one_address: str) -> None:
    has = holder(_site, one_address)
    with Load(URL, at_least=AT_LEAST, timeout_s=5) as load:
        began = time.monotonic()
        lab.power_cut(container_of(has))
        await_true(answers, MOVED_WITHIN_S, what="an answer of the other gateway")
        took_s = time.monotonic() - began
    tell(f"power cut of the gateway that has the address ({has})", load)
    TRAFFIC.append(f"power cut of the gateway that has the address: answers again after {took_s:.1f} s")
    lab.power_on(container_of(has))
    lab.await_booted([container_of(has)])
    with Load(URL, at_least=2_000) as load:
        _site.await_serving(one_address)
    assert load.failed == 0, load.report()
    assert holders(_site, one_address) == [other(has)], "it does not move back"
    assert _site.plan(one_address)[0] == 0


def test_a_killed_keepalived_leaves_no_second_holder(_site: Site, one_address: str) -> None:
    has = holder(_site, one_address)
    console(container_of(has), "systemctl kill --signal=KILL keepalived.service")
    await_true(answers, MOVED_WITHIN_S, what="an answer")
    assert holder(_site, one_address) in ("gw1", "gw2")
    assert _site.plan(one_address)[0] == 0


def test_that_none_or_two_have_it_is_told(_site: Site, one_address: str) -> None:
    has = holder(_site, one_address)
    name = container_of(other(has))
    console(name, f"ip address add {ADDRESS}/32 dev eth0")
    try:
        assert sorted(holders(_site, one_address)) == ["gw1", "gw2"]
        assert not _site.status(one_address)["serving"]
        done = _site.fiefdom("doctor", one_address, "--json")
        assert done.returncode == 2 and "at once" in done.stdout, done.stdout + done.stderr
    finally:
        console(name, f"ip address delete {ADDRESS}/32 dev eth0")
    for each in ("gw1", GW2.name):
        console(each, "systemctl stop keepalived.service")
    assert holders(_site, one_address) == []
    done = _site.fiefdom("doctor", one_address, "--json")
    assert done.returncode == 2 and "is at no gateway" in done.stdout, done.stdout + done.stderr
    settle(_site, one_address)
    assert len(holders(_site, one_address)) == 1
