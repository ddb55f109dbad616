"""metrics.sh with a Docker and a systemd that answer from files: what it tells, and what it leaves out."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from helpers.programs import with_constants
from helpers.promtool import promtool

DOCKER = """#!/bin/sh
[ ! -e "$ROOT/down" ] || exit 1
case "$1 $2" in
  "version --format") ;;
  "inspect --type") [ "$3" = container ] || exit 2
      shift 5
      [ ! -e "$ROOT/hangs" ] || { grep "^/$1 " "$ROOT/docker.txt"; exit 124; }
      for name; do grep "^/$name " "$ROOT/docker.txt" || missing=1; done
      exit ${missing:-0} ;;
  *) exit 2 ;;
esac
"""
SYSTEMCTL = """#!/bin/sh
[ "$1" = show ] && cat "$ROOT/units.txt"
"""
IP = """#!/bin/sh
[ "$*" = "-o -4 address show to 10.1.0.100/32" ] && cat "$ROOT/ip.txt"
"""
ANSWERING = """#!/bin/sh
[ "$1" = answering ] || exit 2
shift
[ ! -e "$ROOT/hangs" ] || { echo serf-agent; exit 124; }
for name; do case $name in web-8001) echo "$name: refused the connection" ;; *) echo "$name" ;; esac; done
"""
CONTAINERS = """/web-8000 true 41 false 268435456 1.2.0
/web-8001 false 0 true 268435456 1.2.0
/serf-agent true 42 false 67108864 0.1.0
"""
UNITS = """Id=fiefdom-web@8000.service
ActiveState=active
NRestarts=3

Id=fiefdom-offer-web.service
ActiveState=failed
NRestarts=0

Id=fiefdom-serf-agent.service
ActiveState=active
NRestarts=1

Id=fiefdom-job-web.tidy.service
ActiveState=inactive
NRestarts=0

Id=fiefdom-job-web.tidy.timer
ActiveState=active
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {"docker": DOCKER, "systemctl": SYSTEMCTL, "ip": IP, "container": ANSWERING}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for folder in ("conf", "offers", "made", "runs", "out", "proc/41", "proc/42", "cgroup/x/41"):
        (tmp_path / folder).mkdir(parents=True)
    for name, role in (("web-8000", "instance"), ("web-8001", "instance"), ("serf-agent", "agent")):
        (tmp_path / f"conf/{name}.conf").write_text(f"# Managed\nspec 1\nimage i\nrole {role}\nversion 1\n")
    (tmp_path / "docker.txt").write_text(CONTAINERS)
    (tmp_path / "units.txt").write_text(UNITS)
    for service in ("web", "db"):
        (tmp_path / f"offers/{service}.conf").write_text("word 1;8000-8001\n")
    (tmp_path / "made/web.offer").write_text("1;8000-8001\n")
    (tmp_path / "runs/web.tidy").write_text("1700000000 1700000009 7\n")
    (tmp_path / "runs/web.long").write_text("1700000100 - 0\n")
    (tmp_path / "runs/.web.tidy.new").write_text("half")
    (tmp_path / "proc/41/cgroup").write_text("0::/x/41\n")
    (tmp_path / "cgroup/x/41/memory.current").write_text("5000\n")
    (tmp_path / "cgroup/x/41/memory.stat").write_text("anon 1\ninactive_file 2000\nactive_file 7\n")
    (tmp_path / "cgroup/x/41/cpu.stat").write_text("usage_usec 1000042\nuser_usec 1\n")
    script = with_constants(
        "metrics",
        conf_dir=tmp_path / "conf",
        offers_dir=tmp_path / "offers",
        made_dir=tmp_path / "made",
        runs_dir=tmp_path / "runs",
        address_conf=tmp_path / "address.conf",
        container=tmp_path / "container",
        out_dir=tmp_path / "out",
        proc=tmp_path / "proc",
        cgroups=tmp_path / "cgroup",
    )
    (tmp_path / "metrics").write_text(script)
    return tmp_path


def run(root: Path) -> str:
    """What it told."""
    environ = {"PATH": f"{root}:{os.environ['PATH']}", "ROOT": str(root)}
    done = subprocess.run(["sh", str(root / "metrics")], capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return (root / "out/fiefdom.prom").read_text()


def values(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_a_kernel_with_a_hierarchy_for_each_controller_tells_the_same(root: Path) -> None:
    told = values(run(root))
    for each in (root / "cgroup/x/41").iterdir():
        each.unlink()
    (root / "proc/41/cgroup").write_text("9:name=systemd:/x/41\n4:memory:/m/41\n2:cpu,cpuacct:/c/41\n0::/x/41\n")
    for folder in ("memory/m/41", "cpuacct/c/41"):
        (root / "cgroup" / folder).mkdir(parents=True)
    (root / "cgroup/memory/m/41/memory.usage_in_bytes").write_text("5000\n")
    (root / "cgroup/memory/m/41/memory.stat").write_text("cache 1\ninactive_file 7\ntotal_inactive_file 2000\n")
    (root / "cgroup/cpuacct/c/41/cpuacct.usage").write_text("1000042999\n")
    assert values(run(root)) == told


WEB = 'container="web-8000",kind="instance",service="web"'
WEB1 = 'container="web-8001",kind="instance",service="web"'
AGENT = 'container="serf-agent",kind="agent",service=""'


def test_what_it_tells(root: Path) -> None:
    assert {name.removeprefix("fiefdom_"): value for name, value in values(run(root)).items()} == {
        "docker_up": "1",
        f"container_running{{{WEB}}}": "1",
        f"container_running{{{WEB1}}}": "0",
        f"container_running{{{AGENT}}}": "1",
        f"container_oom_killed{{{WEB}}}": "0",
        f"container_oom_killed{{{WEB1}}}": "1",
        f"container_oom_killed{{{AGENT}}}": "0",
        f'container_info{{{WEB},version="1.2.0"}}': "1",
        f'container_info{{{WEB1},version="1.2.0"}}': "1",
        f'container_info{{{AGENT},version="0.1.0"}}': "1",
        f"container_memory_limit_bytes{{{WEB}}}": "268435456",
        f"container_memory_limit_bytes{{{WEB1}}}": "268435456",
        f"container_memory_limit_bytes{{{AGENT}}}": "67108864",
        f"container_memory_bytes{{{WEB}}}": "3000",
        f"container_cpu_seconds_total{{{WEB}}}": "1.000042",
        f"container_healthy{{{WEB}}}": "1",
        f"container_healthy{{{WEB1}}}": "0",
        f"container_healthy{{{AGENT}}}": "1",
        f"container_restarts_total{{{WEB}}}": "3",
        f"container_restarts_total{{{AGENT}}}": "1",
        'unit_active{unit="fiefdom-web@8000.service"}': "1",
        'unit_active{unit="fiefdom-offer-web.service"}': "0",
        'unit_active{unit="fiefdom-serf-agent.service"}': "1",
        'unit_active{unit="fiefdom-job-web.tidy.timer"}': "1",
        'unit_failed{unit="fiefdom-web@8000.service"}': "0",
        'unit_failed{unit="fiefdom-offer-web.service"}': "1",
        'unit_failed{unit="fiefdom-serf-agent.service"}': "0",
        'unit_failed{unit="fiefdom-job-web.tidy.service"}': "0",
        'unit_failed{unit="fiefdom-job-web.tidy.timer"}': "0",
        'offer_made{service="web"}': "1",
        'offer_made{service="db"}': "0",
        'job_failed{service="web",job_name="tidy"}': "1",
        'job_running{service="web",job_name="tidy"}': "0",
        'job_last_run_timestamp_seconds{service="web",job_name="tidy"}': "1700000000",
        'job_failed{service="web",job_name="long"}': "0",
        'job_running{service="web",job_name="long"}': "1",
        'job_last_run_timestamp_seconds{service="web",job_name="long"}': "1700000100",
    }


def test_prometheus_own_tool_reads_it(root: Path) -> None:
    text = run(root)
    checked = promtool("check", "metrics", text=text)
    assert (checked.returncode, checked.stdout) == (0, "")
    typed = re.findall(r"^# TYPE (\S+) \w+$", text, re.MULTILINE)
    assert len(typed) == len(set(typed)) and len(typed) == text.count("# HELP ")


def test_the_exporter_may_read_it_and_sees_no_half_of_it(root: Path) -> None:
    run(root)
    assert (root / "out/fiefdom.prom").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (root / "out").iterdir()] == ["fiefdom.prom"]


def test_a_container_that_is_not_there_does_not_run(root: Path) -> None:
    (root / "docker.txt").write_text(CONTAINERS.splitlines(keepends=True)[0])
    found = values(run(root))
    assert found[f"fiefdom_container_running{{{WEB1}}}"] == "0"
    assert f"fiefdom_container_memory_limit_bytes{{{WEB1}}}" not in found


def test_where_dockerd_does_not_answer_nothing_is_told_of_containers(root: Path) -> None:
    (root / "down").touch()
    text = run(root)
    assert values(text)["fiefdom_docker_up"] == "0"
    assert "fiefdom_container_running" not in text and "fiefdom_container_healthy" not in text
    assert "fiefdom_offer_made" in text


def test_what_hangs_is_left_out_and_not_told_as_0(root: Path) -> None:
    """As `timeout` ends what it has to end."""
    (root / "hangs").touch()
    found = values(run(root))
    # Docker comes to the first of the containers, and one has answered its check before time was up.
    assert {name for name in found if name.startswith(("fiefdom_container_running", "fiefdom_container_healthy"))} == {
        f"fiefdom_container_running{{{AGENT}}}",
        f"fiefdom_container_healthy{{{AGENT}}}",
    }
    assert 'fiefdom_unit_active{unit="fiefdom-serf-agent.service"}' in found


@pytest.mark.parametrize("version", ['1"} 1', "a b", "1\\", "{x}", "\u20ac", ""])
def test_a_version_that_is_none_costs_nothing_else(root: Path, version: str) -> None:
    (root / "docker.txt").write_text(CONTAINERS.replace("1.2.0", version))
    text = run(root)
    assert promtool("check", "metrics", text=text).returncode == 0
    assert [line for line in text.splitlines() if line.startswith("fiefdom_container_info")] == [
        f'fiefdom_container_info{{{AGENT},version="0.1.0"}} 1'
    ]
    assert values(text)[f"fiefdom_container_running{{{WEB}}}"] == "1"


def test_a_host_that_has_nothing_yet_tells_that(root: Path) -> None:
    for folder in ("conf", "offers", "runs"):
        for path in (root / folder).iterdir():
            path.unlink()
    (root / "units.txt").write_text("")
    assert values(run(root)) == {"fiefdom_docker_up": "1"}


@pytest.mark.parametrize(
    ("shown", "held"),
    [
        ("1: lo    inet 10.1.0.100/32 scope host lo\n", "0"),
        ("1: lo    inet 10.1.0.100/32 scope host lo\n2: eth0    inet 10.1.0.100/32 scope global eth0\n", "1"),
    ],
)
def test_who_has_the_address(root: Path, shown: str, held: str) -> None:
    (root / "address.conf").write_text("address 10.1.0.100\nown 10.1.0.11\n")
    (root / "ip.txt").write_text(shown)
    assert values(run(root))["fiefdom_address_held"] == held
