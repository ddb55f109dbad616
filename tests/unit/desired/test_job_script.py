"""job.sh with a Docker that runs the command here and an agent that lists members: whose turn it is, what is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fiefdom.desired import programs
from helpers.once import asked_for

# As that of test_one_off_script.py. `members` is what the agent says, and without it there is no agent; each look at
# them takes the next of `members.N`, if there is one. What stands in `left` is a container that a power cut left.
DOCKER = """#!/bin/sh
case "$1 $2" in
  "run --rm") shift; printf '%s\\n' "$@" >"$ROOT/asked"
      cp "$ROOT/runs/web.tidy" "$ROOT/while"
      while [ "$1" != --entrypoint ]; do shift; done
      first=$2; shift 3
      echo $$ >"$ROOT/pid"; exec "$first" "$@" ;;
  "stop fiefdom-job-web.tidy") kill "$(cat "$ROOT/pid")" ;;
  "rm --force") [ "$3" = fiefdom-job-web.tidy ] && rm "$ROOT/left" ;;
  "exec serf-agent") [ "$*" = "exec serf-agent serf members -status=alive -format=text" ] || exit 2
      for each in "$ROOT"/members.*; do [ ! -e "$each" ] || { cat "$each"; rm "$each"; exit; }; done
      cat "$ROOT/members" ;;
  "image inspect") [ -e "$ROOT/images/$5" ] || { echo "Error: No such image: $5" >&2; exit 1; }
      echo "sha256:1 1000" ;;
  "inspect --type") case $5 in
      '{{.State.Running}}') [ -e "$ROOT/live/$6" ] && echo true ;;
      '{{.Image}}') cat "$ROOT/live/$6" ;;
      '{{.State.Pid}}') cat "$ROOT/pid" ;;
      '{{.State.Status}}') echo "Error response from daemon: No such container: $6" >&2; exit 1 ;;
      esac ;;
esac
"""
CONF = """# Managed by Fiefdom
image team/web:1
stop_signal SIGTERM
stop_grace_s 7
arg --publish=10.1.0.21:9000:3000
arg --label=fiefdom.checks=9100
arg --env-file=/etc/fiefdom/containers/web-9000.env
arg --memory=64m
cmd serve
"""
JOB = """# Managed by Fiefdom
service web
host {host}
{turns}limit_s {limit_s}
{words}"""
MEMBERS = """app1  10.1.0.21:7946  alive  role=app,svc:web=1;9000-9000
gw1   10.1.0.11:7946  alive  role=gateway
app2  10.1.0.22:7946  alive  role=app
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    for folder in ("images/team", "live", "conf", "jobs", "runs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "conf/web-9000.conf").write_text(CONF)
    (tmp_path / "status").write_text("Uid:\t1000\t1000\t1000\t1000\n")
    (tmp_path / "images/team/web:1").touch()
    (tmp_path / "members").write_text(MEMBERS)
    once = programs.text_of("once").replace("/etc/fiefdom/containers", f"{tmp_path}/conf", 1)
    (tmp_path / "once").write_text(once.replace('"/proc/$pid/status"', f'"{tmp_path}/status"'))
    script = programs.text_of("job").replace("/etc/fiefdom/jobs", f"{tmp_path}/jobs", 1)
    script = script.replace("/var/lib/fiefdom/jobs", f"{tmp_path}/runs", 1).replace("alone_s=3", "alone_s=1", 1)
    (tmp_path / "job").write_text(script.replace("/usr/local/lib/fiefdom/once", f"{tmp_path}/once", 1))
    describe(tmp_path)
    return tmp_path


def describe(
    root: Path, *words: str, host: str = "app1", turns: tuple[str, ...] = ("app1", "app2"), limit_s: int = 60
) -> None:
    lines = "".join(f"word {word}\n" for word in words or ("sh", "-c", "echo done"))
    text = JOB.format(host=host, turns="".join(f"turn {t}\n" for t in turns), limit_s=limit_s, words=lines)
    (root / "jobs/web.tidy.conf").write_text(text)


def begin(root: Path) -> subprocess.Popen[str]:
    path = {"PATH": f"{root}:{os.environ['PATH']}", "ROOT": str(root)}
    pipe = subprocess.PIPE
    argv = ["sh", str(root / "job"), "run", "web.tidy"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=path)


def run(root: Path) -> tuple[int, str, str]:
    """Exit code and what it said."""
    with begin(root) as job:
        out, err = job.communicate(timeout=20)
    return job.returncode, out, err


def kept(root: Path) -> str:
    """How the last run ended, as the host keeps it."""
    began, ended, outcome = (root / "runs/web.tidy").read_text().split()
    assert abs(int(began) - time.time()) < 30 and (ended == "-" or int(ended) >= int(began))
    assert not list((root / "runs").glob(".*"))
    return outcome


def test_it_runs_as_an_instance_does_and_what_it_came_to_is_kept(root: Path) -> None:
    describe(root, "sh", "-c", 'echo "$1"; echo two >&2; exit 7', "sh", "a  b")
    assert run(root) == (7, "a  b\n", "two\n")
    assert kept(root) == "7"
    assert (root / "while").read_text().split()[1:] == ["-", "-"], "at work"
    assert asked_for(root, "fiefdom-job-web.tidy", "fiefdom.job=web.tidy", "sh", "team/web:1", "-c") == {
        *("--env-file=/etc/fiefdom/containers/web-9000.env", "--memory=64m"),
        *("--stop-signal", "SIGTERM", "--stop-timeout", "7"),
    }, "no port, and no label by which a plan would know it"


def test_its_version_is_what_this_hosts_instances_run(root: Path) -> None:
    (root / "live/web-9000").write_text("sha256:running\n")
    (root / "images/sha256:running").touch()
    assert run(root)[0] == 0 and kept(root) == "0"
    assert "sha256:running" in (root / "asked").read_text().splitlines()


LEAVES = MEMBERS.replace("role=app,svc", "role=app,state=leaving,svc")
NO_APP1 = MEMBERS.partition("\n")[2]
OTHER = "app10  10.1.0.30:7946  alive  role=app\n"


@pytest.mark.parametrize(
    ("host", "turns", "members", "runs_on"),
    [
        pytest.param("app1", ("app1", "app2"), MEMBERS, "app1", id="first"),
        pytest.param("app2", ("app1", "app2"), MEMBERS, "app1", id="second"),
        pytest.param("app1", ("app2", "app1"), MEMBERS, "app2", id="other-order"),
        pytest.param("app2", ("app1", "app2"), NO_APP1, "app2", id="first-is-gone"),
        pytest.param("app2", ("app1", "app2"), LEAVES, "app2", id="first-leaves"),
        pytest.param("app1", ("app1", "app2"), LEAVES, "app2", id="leaves-itself"),
        pytest.param("app2", ("app1", "app2"), OTHER + NO_APP1, "app2", id="one-whose-name-begins-so"),
        pytest.param("app1", ("app3", "app1"), MEMBERS, "app1", id="first-is-new-and-not-there-yet"),
    ],
)
def test_the_first_that_is_alive_runs_it(
    root: Path, host: str, turns: tuple[str, ...], members: str, runs_on: str
) -> None:
    describe(root, host=host, turns=turns)
    (root / "members").write_text(members)
    code, out, err = run(root)
    if runs_on == host:
        assert (code, out, err) == (0, "done\n", "")
    else:
        assert (code, out, err) == (0, "", f"web.tidy runs on {runs_on}\n")
        assert not (root / "runs/web.tidy").exists() and not (root / "asked").exists()


def test_who_is_no_member_runs_nothing(root: Path) -> None:
    (root / "members").unlink()
    assert run(root) == (0, "", "web.tidy is not run here: this host is no member of the cluster now\n")
    describe(root, host="app1", turns=("app3", "app1"))
    (root / "members").write_text(NO_APP1)
    assert run(root)[2] == "web.tidy is not run here: this host is no member of the cluster now\n"
    assert not (root / "asked").exists()


def test_the_only_host_asks_nobody(root: Path) -> None:
    (root / "members").unlink()
    describe(root, turns=("app1",))
    assert run(root) == (0, "done\n", "")


def test_an_agent_that_has_just_started_is_given_time_to_find_others(root: Path) -> None:
    describe(root, host="app2")
    (root / "members.1").write_text("app2  10.1.0.22:7946  alive  role=app\n")
    assert run(root)[2] == "web.tidy runs on app1\n"
    (root / "members").write_text("app2  10.1.0.22:7946  alive  role=app\n")
    assert run(root) == (0, "done\n", ""), "who is alone for good runs it"


def test_what_a_power_cut_left_goes_first(root: Path) -> None:
    (root / "left").touch()
    describe(root, host="app2")
    assert run(root)[2] == "web.tidy runs on app1\n"
    assert not (root / "left").exists()


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ("conf/web-9000.conf", "no instance of web is set up here\n"),
        ("images/team/web:1", "the image team/web:1 is not here\n"),
    ],
)
def test_what_cannot_begin_has_failed_and_says_why(root: Path, lacks: str, words: str) -> None:
    (root / lacks).unlink()
    assert run(root) == (1, "", words)
    assert kept(root) == "1"


def test_what_is_not_whole_is_not_run(root: Path) -> None:
    (root / "jobs/web.tidy.conf").write_text("service web\n")
    assert run(root) == (1, "", f"{root}/jobs/web.tidy.conf is missing, or not whole\n")


def test_it_is_stopped_when_its_time_is_over(root: Path) -> None:
    describe(root, "sh", "-c", "trap 'echo stopped; exit 3' TERM; while :; do sleep 0.1; done", limit_s=1)
    assert run(root) == (124, "stopped\n", "web.tidy was not at its end in time, and was stopped\n")
    assert kept(root) == "late"


def test_it_is_stopped_with_its_unit(root: Path) -> None:
    describe(root, "sh", "-c", "trap 'echo stopped; exit 3' TERM; echo at work; while :; do sleep 0.1; done")
    with begin(root) as job:
        assert job.stdout is not None and job.stdout.readline() == "at work\n"
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=20)
    assert (job.returncode, out, err) == (3, "stopped\n", "web.tidy was stopped\n")
    assert kept(root) == "stopped"


def test_without_room_for_its_line_it_runs_all_the_same(root: Path) -> None:
    (root / "runs").rmdir()
    code, out, err = run(root)
    assert (code, out) == (0, "done\n") and f"{root}/runs/web.tidy cannot be written\n" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [(None, "-"), ("100 130 7", "7"), ("100 130 0", "0"), ("100 - 7", "broken"), ("100 - -", "broken")],
)
def test_while_it_is_at_work_it_is_told_how_the_run_before_ended(root: Path, line: str | None, told: str) -> None:
    if line:
        (root / "runs/web.tidy").write_text(f"{line}\n")
    assert run(root)[0] == 0
    assert (root / "while").read_text().split()[1:] == ["-", told]
