"""What hosts hold for jobs: a timer, its unit, and who comes first."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fiefdom.desired import jobs, services
from fiefdom.desired.state import HostState, Unit
from helpers.example import context

JOB: dict[str, Any] = {"command": ["manage", "tidy", "two words", ""], "schedule": "*-*-* 03:00", "timeout_s": 90}
TIMER, UNIT = "fiefdom-job-predictor.tidy.timer", "fiefdom-job-predictor.tidy.service"


def wanted(**job: Any) -> dict[str, Any]:
    return {"services": {"predictor": {"jobs": {"tidy": {**JOB, **job}}}}}


def on(host: str, **changes: Any) -> HostState:
    return services.desired(context(host, **(changes or wanted())))


def text(state: HostState, path: str) -> list[str]:
    return state.file(path).content.decode().splitlines()


def test_every_host_of_the_service_has_the_timer_and_no_other_has_anything() -> None:
    for host in ("app1", "app2"):
        names = {unit.name for unit in on(host).units}
        assert {TIMER, UNIT} <= names
    assert on("gw1") == HostState()
    web = on("app1", services={"web": {"jobs": {"tidy": JOB}}})
    assert not [f.path for f in web.files if "job" in f.path], "it runs web on app2 alone"


def test_without_a_job_nothing_is_there_for_any() -> None:
    plain = services.desired(context("app1"))
    assert not [f.path for f in plain.files if "job" in f.path or "once" in f.path]
    assert jobs.state_of(context("app1")) == HostState()


def test_the_timer_is_what_is_kept_running_and_its_unit_is_left_to_it() -> None:
    state = on("app1")
    timer = f"/etc/systemd/system/{TIMER}"
    assert {Unit(TIMER, config=(timer,)), Unit(UNIT, enabled=False, active=False)} <= set(state.units)
    assert state.file(timer).check == ("systemd-analyze", "calendar", "*-*-* 03:00")
    found = text(state, timer)
    assert {"OnCalendar=*-*-* 03:00", "AccuracySec=1us", "Persistent=no", "WantedBy=timers.target"} <= set(found)
    unit = text(state, f"/etc/systemd/system/{UNIT}")
    # The job's own time, who is alive, and then the 30 s of the service's grace, docker and a margin.
    limits = {"TimeoutStartSec=390", "TimeoutStopSec=240"}
    assert {"Type=oneshot", "ExecStart=/usr/local/lib/fiefdom/job run predictor.tidy", *limits} <= set(unit)
    assert "[Install]" not in unit


def test_a_job_tells_its_words_and_its_order_and_nothing_of_a_version() -> None:
    found = text(on("app2"), "/etc/fiefdom/jobs/predictor.tidy.conf")
    order = [line for line in found if line.startswith("turn ")]
    assert found[1:3] == ["service predictor", "host app2"]
    assert sorted(order) == ["turn app1", "turn app2"]
    assert found[-5:] == ["limit_s 90", "word manage", "word tidy", "word two words", "word "]
    own = {f.path: f for f in on("app1").files if "job" in f.path}
    later = wanted()
    later["services"]["predictor"]["version"] = "2.0.0"
    assert own == {f.path: f for f in on("app1", **later).files if "job" in f.path}, "a release changes none of it"


def test_all_hosts_have_one_order_and_jobs_are_not_all_the_first_hosts() -> None:
    hosts = {f"app{n}": {"address": f"10.1.0.{20 + n}", "groups": ["app_hosts"]} for n in range(1, 6)}
    names = [f"job{n}" for n in range(60)]
    cluster = context(hosts=hosts, services={"web": None}).cluster
    orders = {name: jobs.turns(cluster, "predictor", name) for name in names}
    assert all(sorted(order) == sorted(hosts) for order in orders.values())
    firsts = Counter(order[0] for order in orders.values())
    assert firsts.keys() == hosts.keys() and max(firsts.values()) < 30
    fewer = context(hosts={n: h for n, h in hosts.items() if n != "app5"} | {"app5": None}, services={"web": None})
    for name, order in orders.items():
        assert jobs.turns(fewer.cluster, "predictor", name) == tuple(host for host in order if host != "app5")


def test_two_jobs_never_share_a_unit() -> None:
    assert jobs.unit_of("a-b", "c") != jobs.unit_of("a", "b-c")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd")
def test_systemd_takes_both_and_the_unit_is_exposed_no_more_than_it_must_be(tmp_path: Path) -> None:
    state = on("app1")
    for name in (TIMER, UNIT):
        # What it runs is not here.
        content = state.file(f"/etc/systemd/system/{name}").content.decode()
        (tmp_path / name).write_text(re.sub("ExecStart=.*", "ExecStart=/bin/true", content))
    verify = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in (TIMER, UNIT))]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, timeout=60)
    assert "fiefdom-job" not in done.stderr, done.stderr
    security = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(tmp_path / UNIT)]
    done = subprocess.run(security, capture_output=True, text=True, check=False, timeout=60)
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert level is not None and float(level[1]) <= 2.1, done.stderr
