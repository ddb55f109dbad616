"""What hosts get for Prometheus, whom the firewall lets in, and that a cluster without it is as it was."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fiefdom.desired import concerns, firewall, monitoring, network
from fiefdom.desired.state import HostState
from helpers.example import check_expected, context

ON: dict[str, Any] = {
    "monitoring": {"node_exporter": True, "from_cidrs": ["10.7.0.9/32", "10.7.0.9/32", "10.8.0.0/24"]}
}


def test_nothing_is_there_unless_it_is_asked_for() -> None:
    assert monitoring.desired(context("app1")) == HostState()
    assert monitoring.desired(context("app1", monitoring={"from_cidrs": ["10.7.0.9/32"]})) == HostState()


@pytest.mark.parametrize("host", ["gw1", "app1"])
def test_files_are_as_expected(host: str) -> None:
    check_expected(f"trixie/{host}-monitoring", monitoring.desired(context(host, "trixie", **ON)))


def test_the_exporter_listens_at_the_hosts_address_alone_and_with_a_fixed_list() -> None:
    unit = monitoring.desired(context("app1", **ON)).file(monitoring.UNIT_FILE)
    text = unit.content.decode()
    assert re.findall(r"--web.listen-address=(\S+)", text) == ["10.1.0.21:9100"]
    assert "--collector.disable-defaults" in text and "EnvironmentFile" not in text
    assert re.findall(r"--collector\.([a-z]+)(?: |$)", text, re.MULTILINE) == list(monitoring.COLLECTORS)
    # Debian starts what it installs: by then the unit is ours.
    assert unit.precedes == monitoring.PACKAGE


def test_another_configuration_starts_it_anew() -> None:
    units = {unit.name: unit for unit in monitoring.desired(context("app1", **ON)).units}
    assert units[monitoring.UNIT].config == (monitoring.UNIT_FILE,)
    assert not units["fiefdom-metrics.service"].active and units["fiefdom-metrics.timer"].active


def test_what_hosts_tell_is_where_the_exporter_looks() -> None:
    state = monitoring.desired(context("app1", **ON))
    folder = "/run/fiefdom-metrics"
    assert f"--collector.textfile.directory={folder}\n" in state.file(monitoring.UNIT_FILE).content.decode()
    assert f"\nout_dir={folder}\n" in state.file("/usr/local/lib/fiefdom/metrics").content.decode()
    service = state.file("/etc/systemd/system/fiefdom-metrics.service").content.decode()
    assert f"\nRuntimeDirectory={folder.removeprefix('/run/')}\n" in service


def rules(host: str, **changes: object) -> list[str]:
    text = concerns.state_of(context(host, **changes)).file(firewall.RULES).content.decode()
    return [line.strip() for line in text.splitlines() if "10.7.0.9" in line or "9100" in line]


def test_the_firewall_lets_in_who_watches_and_nobody_else() -> None:
    exporter = "ip saddr { 10.7.0.9/32, 10.8.0.0/24 } tcp dport 9100 accept"
    assert rules("app1", **ON) == [exporter]
    assert rules("gw1", **ON) == [exporter, "ip saddr { 10.7.0.9/32, 10.8.0.0/24 } tcp dport 8404 accept"]
    assert rules("app1") == rules("gw1") == []


def test_gateways_alone_can_be_asked() -> None:
    only = {"monitoring": {"from_cidrs": ["10.7.0.9/32"]}}
    assert rules("gw1", **only) == ["ip saddr { 10.7.0.9/32 } tcp dport 8404 accept"] and rules("app1", **only) == []


@pytest.mark.parametrize(("changes", "reserved"), [({}, False), (ON, True)])
def test_the_kernel_gives_its_port_to_nobody_else(changes: dict[str, Any], reserved: bool) -> None:
    state = network.desired(context("app1", **changes))
    found = {sysctl.key: sysctl.value for sysctl in state.sysctls}["net.ipv4.ip_local_reserved_ports"]
    assert ("9100" in found.split(",")) == reserved


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd")
@pytest.mark.parametrize(
    ("path", "most"), [(monitoring.UNIT_FILE, 1.7), ("/etc/systemd/system/fiefdom-metrics.service", 2.1)]
)
def test_its_units_are_exposed_no_more_than_they_must_be(path: str, most: float, tmp_path: Path) -> None:
    unit = tmp_path / Path(path).name
    unit.write_bytes(monitoring.desired(context("app1", **ON)).file(path).content)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= most
