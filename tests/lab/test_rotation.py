"""Traffic runs while hosts come, go, reboot and die: planned events fail no request, and rotation follows by itself."""

from __future__ import annotations

import json

import pytest

from helpers.faults import with_hello
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, LAB_YAML, Site, answers, await_true, tell

URL = f"{GATEWAY_URL}/predict"
IDEMPOTENT = ("busy", "pausing", "new", "slow")


def test_an_agent_that_stops_takes_its_host_out_and_brings_it_back(site: Site) -> None:
    with Load(URL) as load:
        site.ssh("app1", "systemctl stop fiefdom-serf-agent")
        await_true(lambda: site.rotation() == {"app2:8000", "app2:8001"}, what="app1 out of rotation")
        site.ssh("app1", "systemctl start fiefdom-serf-agent")
        site.await_serving()
    tell("agent stopped and started", load)
    assert load.failed == 0, load.report()


def test_a_host_leaves_only_when_its_open_requests_are_answered(site: Site) -> None:
    """Requests of several seconds, which no fixed pause would cover, and a gateway whose word is waited for."""
    with Load(URL, kinds=("slow",), clients=8, slow_ms=(4000, 5000)) as load:
        await_true(lambda: open_requests(site, "app1") > 0, what="a long request on app1")
        site.ssh("app1", "systemctl stop fiefdom-serf-agent")
        assert open_requests(site, "app1") == 0
        assert site.rotation() == {"app2:8000", "app2:8001"}
        site.ssh("app1", "systemctl start fiefdom-serf-agent")
        site.await_serving()
    tell("leaving with long requests open", load)
    assert load.failed == 0, load.report()


def open_requests(site: Site, host: str) -> int:
    status = json.loads(site.ssh("gw1", "docker exec gateway fiefdom-gateway status"))
    return sum(int(s["sessions"]) for s in status["servers"] if s["name"].startswith(f"{host}-"))


@pytest.mark.proof
def test_two_services_of_different_technology_stand_side_by_side_as_data(site: Site) -> None:
    two = site.inventory("two", lambda data: with_hello(data, instances=2))
    with Load(URL) as load:
        site.apply(two)
        site.await_serving(two)
    tell("a service added", load)
    assert load.failed == 0, load.report()
    assert site.plan(two)[0] == 0
    hello = site.ssh("gw1", f"curl -sf {GATEWAY_URL}/hello/index.html")
    assert hello == "hello from busybox"
    assert set(answers(8)) == {"app1:8000", "app1:8001", "app2:8000", "app2:8001"}
    with Load(URL) as load:
        site.apply(LAB_YAML)
        site.await_serving()
    tell("a service removed", load)
    assert load.failed == 0, load.report()
    assert site.ssh("app1", "docker ps -a --filter name=hello -q; ls /etc/systemd/system | grep hello || :") == ""
