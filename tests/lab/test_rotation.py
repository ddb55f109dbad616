"""Traffic runs while hosts come, go, reboot and die: planned events fail no request, and rotation follows by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from load import Load
from operator_view import GATEWAY_URL, LAB_YAML, ROOT, Site, answers, await_true, tell

from fiefdom import lab

URL = f"{GATEWAY_URL}/predict"
IDEMPOTENT = ("busy", "pausing", "new", "slow")


def reboot(site: Site, name: str) -> None:
    boot = lab.boot_of(name)
    site.ssh(name, "systemctl reboot", check=False)
    await_true(lambda: lab.boot_of(name) != boot, what=f"a new boot of {name}")
    lab.await_booted([name])


@pytest.mark.parametrize("name", ["app1", "app2"])
def test_a_reboot_of_an_app_host_fails_no_request(site: Site, name: str) -> None:
    with Load(URL) as load:
        reboot(site, name)
        site.await_serving()
    tell(f"reboot of {name}", load)
    assert load.failed == 0, load.report()
    assert {host.split(":")[0] for host, _ in load.answered} == {"app1", "app2"}


def test_an_agent_that_stops_takes_its_host_out_and_brings_it_back(site: Site) -> None:
    with Load(URL) as load:
        site.ssh("app1", "systemctl stop serf-agent")
        await_true(lambda: site.rotation() == {"app2:8000", "app2:8001"}, what="app1 out of rotation")
        site.ssh("app1", "systemctl start serf-agent")
        site.await_serving()
    tell("agent stopped and started", load)
    assert load.failed == 0, load.report()


def test_a_host_leaves_only_when_its_open_requests_are_answered(site: Site) -> None:
    """Requests of several seconds, which no fixed pause would cover, and a gateway whose word is waited for."""
    with Load(URL, kinds=("slow",), clients=8, slow_ms=(4000, 5000)) as load:
        await_true(lambda: open_requests(site, "app1") > 0, what="a long request on app1")
        site.ssh("app1", "systemctl stop serf-agent")
        assert open_requests(site, "app1") == 0
        assert site.rotation() == {"app2:8000", "app2:8001"}
        site.ssh("app1", "systemctl start serf-agent")
        site.await_serving()
    tell("leaving with long requests open", load)
    assert load.failed == 0, load.report()


def open_requests(site: Site, host: str) -> int:
    status = json.loads(site.ssh("gw1", "docker exec gateway fiefdom-gateway status"))
    return sum(int(s["sessions"]) for s in status["servers"] if s["name"].startswith(f"{host}-"))


def test_a_host_that_loses_power_costs_no_request_that_can_be_retried(site: Site) -> None:
    with Load(URL) as load:
        lab.power_cut("app2")
        await_true(lambda: not answered_by("app2", 20), what="app2 out of rotation")
        lab.power_on("app2")
        lab.await_booted(["app2"])
        site.await_serving()
    tell("power cut of app2", load)
    assert load.failed_of(*IDEMPOTENT) == 0, load.report()
    assert site.plan()[0] == 0


def answered_by(host: str, count: int) -> bool:
    return any(answer.startswith(f"{host}:") for answer in answers(count))


def test_a_killed_instance_is_back_without_help(site: Site) -> None:
    before = site.ssh("app1", "docker inspect predictor-8000 --format '{{.State.Pid}}'")
    with Load(URL) as load:
        site.ssh("app1", f"kill -9 {before}")
        await_true(
            lambda: site.ssh("app1", "docker inspect predictor-8000 --format '{{.State.Pid}}'") not in ("0", before),
            timeout_s=10,
            what="a new process",
        )
        site.await_serving()
    tell("instance killed", load)
    assert load.failed_of(*IDEMPOTENT) == 0, load.report()


@pytest.mark.parametrize("name", ["app1", "gw1"])
def test_a_restart_of_dockerd_touches_no_container_and_fails_no_request(site: Site, name: str) -> None:
    containers = "docker ps --format '{{.Names}}' | sort | xargs docker inspect --format '{{.Name}} {{.State.Pid}}'"
    before = site.ssh(name, containers)
    with Load(URL) as load:
        site.ssh(name, "systemctl restart docker")
        site.await_serving()
    tell(f"dockerd restarted on {name}", load)
    assert site.ssh(name, containers) == before
    assert load.failed == 0, load.report()
    assert site.plan()[0] == 0


def test_the_gateway_serves_on_while_its_serf_agent_is_killed(site: Site) -> None:
    with Load(URL) as load:
        site.ssh("gw1", "pkill -9 -x serf")
        await_true(lambda: site.status()["serving"], what="Serf back")
    tell("the gateway's Serf killed", load)
    assert load.failed == 0, load.report()
    assert site.status()["problems"] == []


def test_two_services_of_different_technology_stand_side_by_side_as_data(site: Site) -> None:
    def add_hello(data: dict[str, Any]) -> None:
        data["services"]["hello"] = {
            "image": "fiefdom-test/hello",
            "version": "1",
            "build": str(ROOT / "tests/lab/images/hello"),
            "instances": 2,
            "base_port": 9000,
            "container_port": 8080,
            "user": "1000:1000",
            "health": {"path": "/hello/index.html"},
            "limits": {"memory_mib": 32, "pids": 32},
            "route": {"path_prefix": "/hello"},
        }

    two = site.inventory("two", add_hello)
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
