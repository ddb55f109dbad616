"""A real Prometheus asks the lab: all targets answer, and an alert comes with a fault and goes with its mend."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.faults import settle, with_hello
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, LAB_YAML, Site, await_true, ok, tell

PORT = 19090
URL = f"{GATEWAY_URL}/predict"
EXPORTER_PORT = 9199
EXPORTER = "prometheus-node-exporter.service"


def watched(data: dict[str, Any]) -> None:
    """The lab with exporters, which this machine may ask, and with a second service that may be lost."""
    with_hello(data)
    data["monitoring"] = {"node_exporter": True, "port": EXPORTER_PORT, "from_cidrs": ["10.99.0.1/32"]}


@dataclass
class Prometheus:
    """One that runs on this machine."""

    site: Site
    inventory: str

    def get(self, path: str, **query: str) -> Any:
        asked = f"http://127.0.0.1:{PORT}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(asked, timeout=5) as reply:
            return json.load(reply)["data"]

    def values(self, expression: str, *labels: str) -> dict[tuple[str, ...], float]:
        """What an expression is now, by these labels."""
        found = self.get("query", query=expression)["result"]
        return {tuple(one["metric"].get(name, "") for name in labels): float(one["value"][1]) for one in found}

    def firing(self) -> set[tuple[str, str]]:
        """Alerts that fire, with the service that each is about."""
        return set(self.values('ALERTS{alertstate="firing"}', "alertname", "service"))


@pytest.fixture(scope="module")
def prometheus(_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Debian's Prometheus, with what `fiefdom monitoring` prints, only sooner."""
    program = shutil.which("prometheus")
    assert program, "no prometheus on this machine: RUNLEVEL=1 apt install --no-install-recommends prometheus"
    inventory, folder = _site.inventory("metrics", watched), tmp_path_factory.mktemp("prometheus")
    _site.converge(inventory)
    config = yaml.safe_load(ok(_site.fiefdom("monitoring", inventory)))
    for job in config["scrape_configs"]:
        job["scrape_interval"] = "1s"
    config = {"global": {"evaluation_interval": "1s"}, "rule_files": ["alerts.yml"], **config}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yml").write_text(ok(_site.fiefdom("monitoring", inventory, "--alerts")))
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{PORT}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        one = Prometheus(_site, inventory)
        await_true(lambda: answers(one), 30, f"Prometheus answers; {Path(log.name).read_text()[-500:]}")
        yield one
    finally:
        running.terminate()
        running.wait(30)
        _site.converge(LAB_YAML)


def answers(prometheus: Prometheus) -> bool:
    try:
        return bool(prometheus.get("targets")["activeTargets"])
    except OSError:
        return False


def test_every_target_answers(prometheus: Prometheus) -> None:
    def up() -> dict[tuple[str, ...], float]:
        return prometheus.values("up", "job", "host")

    wanted = {("fiefdom-haproxy", "gw1"), ("fiefdom-gateway", "gw1")}
    wanted |= {("fiefdom-host", host) for host in ("gw1", "app1", "app2")}
    await_true(lambda: up() == dict.fromkeys(wanted, 1.0), 30, "all targets up")


def test_what_is_told_is_so(prometheus: Prometheus) -> None:
    def servers() -> dict[tuple[str, ...], float]:
        return prometheus.values('fiefdom_gateway_servers{state="up"}', "service")

    await_true(lambda: servers() == {("predictor",): 4.0, ("hello",): 2.0}, 60, "all servers told as up")
    assert prometheus.values('fiefdom_gateway_members{kind="app",status="alive"}', "host") == {("gw1",): 2.0}
    assert prometheus.values("fiefdom_gateway_serf_up", "host") == {("gw1",): 1.0}

    def healthy() -> dict[tuple[str, ...], float]:
        return prometheus.values('fiefdom_container_healthy{kind="instance"}', "host", "container")

    names = ("predictor-8000", "predictor-8001", "hello-9000")
    instances = {(host, name): 1.0 for host in ("app1", "app2") for name in names}
    await_true(lambda: healthy() == instances, 90, "all instances told as healthy")
    assert prometheus.values("fiefdom_container_healthy{kind='gateway'}", "host") == {("gw1",): 1.0}
    used = prometheus.values("fiefdom_container_memory_bytes{kind='instance'}", "host", "container")
    assert used.keys() == instances.keys() and all(value > 100_000 for value in used.values())
    assert set(prometheus.values("fiefdom_offer_made", "service", "host").values()) == {1.0}
    assert prometheus.values("node_memory_MemTotal_bytes", "host").keys() == {("gw1",), ("app1",), ("app2",)}
    # What its sandbox would keep from it shows here.
    looked = 'node_scrape_collector_success{collector=~"cpu|filesystem|meminfo|netdev|netstat|stat|textfile|vmstat"}'
    found = prometheus.values(looked, "host", "collector")
    assert len(found) == 3 * 8 and set(found.values()) == {1.0}, found
    assert set(prometheus.values("node_textfile_scrape_error", "host").values()) == {0.0}


def test_nobody_else_may_ask_an_exporter(prometheus: Prometheus) -> None:
    asked = prometheus.site.ssh(
        "app2", f"curl -s -m 3 -o /dev/null -w '%{{http_code}}' http://10.99.0.21:{EXPORTER_PORT}/metrics", check=False
    )
    assert asked == "000"


def test_a_second_run_changes_nothing_and_harm_is_mended(prometheus: Prometheus) -> None:
    settle(prometheus.site, prometheus.inventory)
    prometheus.site.ssh(
        "app1", f"echo '# by hand' >>/etc/systemd/system/{EXPORTER}; systemctl stop fiefdom-metrics.timer"
    )
    code, changes = prometheus.site.plan(prometheus.inventory)
    assert code == 2
    named = {change.split(" ", 1)[1] for change in changes["app1"]}
    assert {f"file /etc/systemd/system/{EXPORTER}", "unit fiefdom-metrics.timer"} <= named
    settle(prometheus.site, prometheus.inventory)


def test_an_alert_comes_with_a_fault_and_goes_with_its_mend(prometheus: Prometheus) -> None:
    """All instances of one service stop for good: the alert names it, and clients of the other notice nothing."""
    down = ("FiefdomServiceDown", "hello")
    await_true(lambda: down not in prometheus.firing(), 60, "no alert before the fault")
    with Load(URL, at_least=20_000) as load:
        began_s = time.monotonic()
        for host in ("app1", "app2"):
            prometheus.site.ssh(host, "systemctl stop fiefdom-offer-hello fiefdom-hello@9000")
        await_true(lambda: down in prometheus.firing(), 120, "the alert")
        fired_s = time.monotonic() - began_s
        assert ("FiefdomServiceDown", "predictor") not in prometheus.firing()
        prometheus.site.apply(prometheus.inventory)
        prometheus.site.await_serving(prometheus.inventory)
        await_true(lambda: down not in prometheus.firing(), 60, "the end of the alert")
    tell(f"a service without servers: an alert after {fired_s:.0f} s, gone when mended", load)
    assert load.failed == 0, load.report()


def test_without_the_key_all_of_it_goes(prometheus: Prometheus) -> None:
    try:
        prometheus.site.converge(LAB_YAML)
        assert prometheus.site.ssh("app1", f"systemctl is-active {EXPORTER}", check=False) == "inactive"
        units = f"/etc/systemd/system/{EXPORTER} /etc/systemd/system/fiefdom-metrics.*"
        assert prometheus.site.ssh("app1", f"ls {units}", check=False) == ""
        assert prometheus.site.plan()[0] == 0
    finally:
        prometheus.site.converge(prometheus.inventory)
