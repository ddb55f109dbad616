"""Alerts, judged by Prometheus' own tool: each fires where it should and nowhere else, and asks for what is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom.cluster import scraping
from fiefdom.resources import monitoring_dir
from helpers.promtool import promtool
from helpers.told import exposition

ALERTS = monitoring_dir() / "alerts.yml"
DATA = Path(__file__).parent / "data"
GW = 'cluster="c", host="gw1", role="gateway"'
APP = 'cluster="c", host="app1", role="app"'
# Of promtool's own clock, which begins at 0: `1x60` is 60 samples more, one each minute.
DAY = 86400


def series(name: str, labels: str, values: str) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": values}


def always(name: str, labels: str, value: float) -> dict[str, str]:
    return series(name, labels, f"{value:g}x60")


def answers(code: str, per_minute: int) -> dict[str, str]:
    return series(
        "haproxy_backend_http_responses_total", f'{GW}, service="web", proxy="web", code="{code}"', f"0+{per_minute}x60"
    )


def up(job: str, labels: str, value: int) -> dict[str, str]:
    return always("up", f'job="{job}", {labels}', value)


def state(up_now: int, wanted: int, closed: int = 0) -> list[dict[str, str]]:
    of = f'{GW}, service="web"'
    return [
        always("fiefdom_gateway_servers", f'{of}, state="up"', up_now),
        always("fiefdom_gateway_servers_wanted", of, wanted),
        always("fiefdom_gateway_service_closed", of, closed),
    ]


def disk(available: int, fstype: str = "ext4") -> list[dict[str, str]]:
    of = f'{APP}, mountpoint="/", fstype="{fstype}"'
    sizes = ("node_filesystem_avail_bytes", available), ("node_filesystem_size_bytes", 100)
    return [always(name, of, size) for name, size in sizes]


def one(name: str, labels: str, value: float) -> list[dict[str, str]]:
    return [always(name, labels, value)]


CLOSED = "fiefdom_gateway_service_closed", f'{GW}, service="web"'
TEXTFILE = f'{APP}, file="/run/fiefdom-metrics/fiefdom.prom"'
CONTAINER = f'{APP}, container="web-8000", service="web"'
GATEWAYS = scraping.HAPROXY, scraping.GATEWAY
Series = list[dict[str, str]]

# Alert, what fires it, and what does not.
CASES: list[tuple[str, Series, list[Series]]] = [
    ("FiefdomGatewayDown", [up(GATEWAYS[0], GW, 0)], [[up(GATEWAYS[0], GW, 1)], [up("other", GW, 0)]]),
    (
        "FiefdomReconcilerDown",
        [up(GATEWAYS[0], GW, 1), up(GATEWAYS[1], GW, 0)],
        # A gateway that is off has its own alert.
        [[up(GATEWAYS[0], GW, 0), up(GATEWAYS[1], GW, 0)], [up(GATEWAYS[0], GW, 1), up(GATEWAYS[1], GW, 1)]],
    ),
    ("FiefdomSerfSilent", one("fiefdom_gateway_serf_up", GW, 0), [one("fiefdom_gateway_serf_up", GW, 1)]),
    (
        "FiefdomReconcileStuck",
        one("fiefdom_gateway_reconcile_age_seconds", GW, 90),
        [one("fiefdom_gateway_reconcile_age_seconds", GW, 6)],
    ),
    (
        "FiefdomConfigRefused",
        one("fiefdom_gateway_config_refused", GW, 1),
        [one("fiefdom_gateway_config_refused", GW, 0)],
    ),
    (
        "FiefdomCertificateEnds",
        one("fiefdom_gateway_certificate_not_after_timestamp_seconds", f'{GW}, name="a"', 10 * DAY),
        [one("fiefdom_gateway_certificate_not_after_timestamp_seconds", f'{GW}, name="a"', 20 * DAY)],
    ),
    (
        "FiefdomCertificateMissing",
        one("fiefdom_gateway_certificate_missing", f'{GW}, name="a"', 1),
        [one("fiefdom_gateway_certificate_missing", f'{GW}, name="a"', 0)],
    ),
    # One that an operator closed is not down.
    ("FiefdomServiceDown", state(0, 4), [state(1, 4), state(0, 4, closed=1)]),
    ("FiefdomServersMissing", state(2, 4), [state(3, 4), state(4, 4)]),
    (
        "FiefdomErrors",
        [answers("2xx", 90), answers("5xx", 10)],
        # A gateway answers 503 in the place of a service that is closed, and that stays in the rate for a while.
        [
            [answers("2xx", 99), answers("5xx", 1)],
            [answers("2xx", 0), answers("5xx", 0)],
            [answers("2xx", 0), answers("5xx", 10), *state(0, 4, closed=1)],
            [answers("2xx", 0), answers("5xx", 10), series(CLOSED[0], CLOSED[1], "1x46 0x14")],
        ],
    ),
    (
        "FiefdomInstanceRestarting",
        [series("fiefdom_container_restarts_total", CONTAINER, "0+1x60")],
        # A release starts the count anew, and one restart is none of a row.
        [
            [series("fiefdom_container_restarts_total", CONTAINER, "7x29 0x30")],
            [series("fiefdom_container_restarts_total", CONTAINER, "0x55 1x5")],
        ],
    ),
    (
        "FiefdomInstanceUnhealthy",
        one("fiefdom_container_healthy", CONTAINER, 0),
        [one("fiefdom_container_healthy", CONTAINER, 1)],
    ),
    (
        "FiefdomJobFailed",
        one("fiefdom_job_failed", f'{APP}, service="web", job_name="tidy"', 1),
        [one("fiefdom_job_failed", f'{APP}, service="web", job_name="tidy"', 0)],
    ),
    ("FiefdomHostDown", [up(scraping.HOST, APP, 0)], [[up(scraping.HOST, APP, 1)]]),
    (
        "FiefdomHostTellsNothing",
        one("node_textfile_mtime_seconds", TEXTFILE, 0),
        # A host that is off has its own alert.
        [
            [series("node_textfile_mtime_seconds", TEXTFILE, "0+60x60"), up(scraping.HOST, APP, 1)],
            [up(scraping.HOST, APP, 0)],
        ],
    ),
    ("FiefdomHostTellsNothing", [up(scraping.HOST, APP, 1)], []),
    ("FiefdomDiskFull", disk(5), [disk(50), disk(5, "tmpfs"), disk(0, "squashfs"), disk(0, "iso9660")]),
    ("FiefdomDockerDown", one("fiefdom_docker_up", APP, 0), [one("fiefdom_docker_up", APP, 1)]),
    (
        "FiefdomUnitFailed",
        one("fiefdom_unit_failed", f'{APP}, unit="fiefdom-web@8000.service"', 1),
        [one("fiefdom_unit_failed", f'{APP}, unit="fiefdom-web@8000.service"', 0)],
    ),
]
RULES = {rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}


def checked(tmp_path: Path, alert: str, given: Series, *, fires: bool) -> None:
    """Whether after 50 minutes the alert fires, and with it every word that it says is filled in."""
    test: dict[str, Any] = {"interval": "1m", "input_series": given, "promql_expr_test": []}
    expected = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
    test["promql_expr_test"] = [
        {"expr": expected, "eval_time": "50m", "exp_samples": [{"labels": "{}", "value": int(fires)}]}
    ]
    (tmp_path / "test.yml").write_text(
        json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]})
    )
    done = promtool("test", "rules", tmp_path / "test.yml")
    assert done.returncode == 0, done.stdout


def test_the_rules_are_what_prometheus_reads() -> None:
    done = promtool("check", "rules", "--lint-fatal", ALERTS)
    assert done.returncode == 0, done.stdout


def test_every_alert_has_a_test() -> None:
    assert {name for name, _, _ in CASES} == set(RULES)


@pytest.mark.parametrize(("alert", "firing"), [(name, firing) for name, firing, _ in CASES], ids=lambda v: str(v)[:40])
def test_an_alert_fires(alert: str, firing: Series, tmp_path: Path) -> None:
    checked(tmp_path, alert, firing, fires=True)


@pytest.mark.parametrize(
    ("alert", "quiet"),
    [(name, quiet) for name, _, all_quiet in CASES for quiet in all_quiet],
    ids=lambda v: str(v)[:40],
)
def test_an_alert_keeps_quiet(alert: str, quiet: Series, tmp_path: Path) -> None:
    checked(tmp_path, alert, quiet, fires=False)


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: str) -> None:
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description"}


# --- What is asked is told


def of_hosts() -> set[str]:
    from fiefdom.desired.programs import text_of

    return set(re.findall(r"^(fiefdom_\w+) (?:gauge|counter) ", text_of("metrics"), re.MULTILINE))


def known() -> set[str]:
    """Every metric there is: HAProxy's and the exporter's own lists are what they told in a test of ours."""
    lists = (DATA / "haproxy.txt").read_text() + (DATA / "node_exporter.txt").read_text()
    told = {line.split("{")[0].split(" ")[0] for line in exposition().splitlines() if not line.startswith("#")}
    return {"up", "ALERTS", *lists.split(), *told, *of_hosts()}


def expressions() -> Iterator[tuple[str, str]]:
    for name, rule in RULES.items():
        yield name, rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$cluster", "c")


DASHBOARD = json.loads((monitoring_dir() / "dashboard.json").read_text())
METRIC = re.compile(r"\b(?:haproxy|node|fiefdom|up)(?:_\w+)?\b(?=\s*(?:\{|\[|==|<|>|-|/|$|\)))")


@pytest.mark.parametrize(("title", "expr"), list(expressions()))
def test_an_expression_asks_for_what_is_told(title: str, expr: str) -> None:
    without_values = re.sub(r'"[^"]*"', '""', expr)
    asked = set(METRIC.findall(without_values))
    assert asked and asked <= known(), title


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"p:{i}", "expr": expr} for i, (_, expr) in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = promtool("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stdout


def test_the_dashboard_has_its_rows_and_no_panel_over_another() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Errors", "Latency", "Servers", "Hosts", "Instances", "Certificates"]
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
