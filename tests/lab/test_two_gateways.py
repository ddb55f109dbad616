"""Two gateways side by side: clients of either see the same, and none of them needs the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fiefdom import lab
from helpers.faults import console, settle, split
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, Site, await_true, tell
from helpers.two_gateways import GW2, mend, ok, two, with_gateway

pytestmark = pytest.mark.proof

AT_LEAST = 20_000
URLS = {"gw1": f"{GATEWAY_URL}/predict", "gw2": f"http://{GW2.address}/predict"}


def with_soak(data: dict[str, Any]) -> None:
    with_gateway(data)
    data["rollout"] = {"soak_s": 2}


def with_release(data: dict[str, Any]) -> None:
    with_soak(data)
    data["services"]["predictor"]["version"] = "3.0.0"


@pytest.fixture(scope="module")
def _inventory(_site: Site) -> Iterator[str]:
    with two(_site, "two-gateways", with_soak) as path:
        yield path


@pytest.fixture
def two_gateways(_site: Site, _inventory: str) -> Iterator[str]:
    """An inventory with a second gateway, converged."""
    yield _inventory
    mend(_site, _inventory)


def test_a_release_waits_for_the_word_of_both(_site: Site, two_gateways: str) -> None:
    """Half of the clients ask one gateway, half the other; the release, and the way back, fail no request of either."""
    loads = {name: Load(url, at_least=AT_LEAST, rate=500) for name, url in URLS.items()}
    with loads["gw1"], loads["gw2"]:
        ok(_site, "rollout", _site.inventory("two-gateways-release", with_release))
        ok(_site, "rollout", two_gateways)
    for name, load in loads.items():
        tell(f"a release and the way back, at {name} of two gateways", load)
        assert load.failed == 0, load.report()
        assert {version for _, version in load.answered} == {"1.0.0", "3.0.0"}
    assert _site.plan(two_gateways)[0] == 0


def test_every_host_reboots_in_turn(_site: Site, two_gateways: str) -> None:
    """With the clients of a gateway on the other one while it is away, `reboot` needs no host to be left out."""
    for asked, rebooted in (("gw1", "gw2"), ("gw2", "app1,app2,gw1")):
        with Load(URLS[asked], at_least=AT_LEAST) as load:
            ok(_site, "reboot", two_gateways, "--limit", rebooted)
        tell(f"rolling reboot of {rebooted}, at {asked} of two gateways", load)
        assert load.failed == 0, load.report()
    assert _site.plan(two_gateways)[0] == 0


def test_the_other_one_serves_on_where_one_dies(_site: Site, two_gateways: str) -> None:
    with Load(URLS["gw2"], at_least=AT_LEAST) as load:
        lab.power_cut("gw1")
        members = "docker exec gateway serf members -name gw1 -format json"
        await_true(lambda: '"failed"' in console(GW2.name, members), what="gw1 failed in the eyes of gw2")
        lab.power_on("gw1")
        lab.await_booted(["gw1"])
        _site.await_serving(two_gateways)
    tell("power cut of one of two gateways, at the other", load)
    assert load.failed == 0, load.report()


def test_a_partition_between_app_hosts_and_one_of_them(_site: Site, two_gateways: str) -> None:
    apps = [lab.host(name).address for name in ("app1", "app2")]
    with Load(URLS["gw1"], at_least=AT_LEAST) as load:
        with split(GW2.name, apps):
            await_true(lambda: _site.rotation(two_gateways) == set(), what="gw2 without servers")
            assert not _site.status(two_gateways)["serving"]
        _site.await_serving(two_gateways)
    tell("a partition between app hosts and one of two gateways, at the other", load)
    assert load.failed == 0, load.report()
    settle(_site, two_gateways)
    with Load(URLS["gw2"], at_least=2_000) as load:
        pass
    tell("... and at that gateway afterwards", load)
    assert load.failed == 0, load.report()
