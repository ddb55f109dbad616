"""The configuration for a Prometheus: what is in it, that Prometheus reads it, and the labels that alerts rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom.cluster.scraping import GATEWAY, HAPROXY, HOST, scrape_config
from fiefdom.resources import monitoring_dir
from helpers import forked
from helpers.example import context
from helpers.promtool import promtool

ON: dict[str, Any] = {"monitoring": {"node_exporter": True, "port": 9200, "from_cidrs": ["10.7.0.9/32"]}}


def targets(changes: dict[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    """Of each job the path, and of each target its address, host and role."""
    jobs = scrape_config(context(**changes).cluster)["scrape_configs"]
    return {
        f"{job['job_name']} {job['metrics_path']}": [
            (*one["targets"], one["labels"]["host"], one["labels"]["role"]) for one in job["static_configs"]
        ]
        for job in jobs
    }


def test_every_host_is_asked_for_what_it_has() -> None:
    gateways = [("10.1.0.11:8404", "gw1", "gateway"), ("10.1.0.12:8404", "gw2", "gateway")]
    assert targets(ON) == {
        f"{HAPROXY} /metrics": gateways,
        f"{GATEWAY} /fiefdom/metrics": gateways,
        f"{HOST} /metrics": [
            ("10.1.0.11:9200", "gw1", "gateway"),
            ("10.1.0.12:9200", "gw2", "gateway"),
            ("10.1.0.21:9200", "app1", "app"),
            ("10.1.0.22:9200", "app2", "app"),
        ],
    }


def test_without_exporters_gateways_alone_are_asked() -> None:
    """As `network.admin_cidrs` may, whatever `monitoring` says."""
    assert [name.split()[0] for name in targets({})] == [HAPROXY, GATEWAY]


def test_prometheus_reads_it(tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text(yaml.safe_dump(scrape_config(context(**ON).cluster)))
    done = promtool("check", "config", tmp_path / "p.yml")
    assert done.returncode == 0, done.stdout


def test_what_haproxy_calls_a_proxy_is_a_service_where_it_is_one() -> None:
    haproxy = scrape_config(context(**ON).cluster)["scrape_configs"][0]
    assert haproxy["metric_relabel_configs"] == [
        {"source_labels": ["proxy"], "regex": "predictor|web", "target_label": "service", "replacement": "$0"}
    ]


ROOT = Path(__file__).parents[3]


def test_the_command_prints_what_prometheus_takes(tmp_path: Path) -> None:
    done = forked.fiefdom("monitoring", "inventories/lab.yaml", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "p.yml").write_text(done.stdout)
    checked = promtool("check", "config", tmp_path / "p.yml")
    assert checked.returncode == 0, checked.stdout
    assert [job["job_name"] for job in yaml.safe_load(done.stdout)["scrape_configs"]] == [HAPROXY, GATEWAY]


@pytest.mark.parametrize(("option", "file"), [("--alerts", "alerts.yml"), ("--dashboard", "dashboard.json")])
def test_the_command_prints_what_lies_beside_it(option: str, file: str) -> None:
    done = forked.fiefdom("monitoring", "inventories/lab.yaml", option, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, (monitoring_dir() / file).read_text())


def test_two_files_at_once_are_refused() -> None:
    done = forked.fiefdom("monitoring", "inventories/lab.yaml", "--alerts", "--dashboard", cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "--alerts and --dashboard" in done.stderr


def test_an_inventory_that_is_wrong_is_one_line() -> None:
    done = forked.fiefdom("monitoring", "inventories/none.yaml", cwd=ROOT)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
