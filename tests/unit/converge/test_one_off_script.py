"""one_off.sh with a Docker that runs the command here: what it is asked for, how it ends, and what is gone then."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from fiefdom.converge.one_off import LATE, SCRIPT
from helpers.once import asked_for

# `run` writes down its arguments, and then is the command itself, whose process `stop` ends. The image's user and what
# /proc says of the process come from files; `left` is the state of a container that outlived `run`, `made` one that is
# yet to start, `mute` a dockerd that does not answer once.
DOCKER = """#!/bin/sh
case "$1 $2" in
  "run --rm") shift; printf '%s\\n' "$@" >"$ROOT/asked"
      while [ "$1" != --entrypoint ]; do shift; done
      first=$2; shift 3
      echo $$ >"$ROOT/pid"; exec "$first" "$@" ;;
  "stop fiefdom-run-web-1") ! rm "$ROOT/made" 2>/dev/null || exit 0
      [ ! -e "$ROOT/left" ] || { echo exited >"$ROOT/left"; exit 0; }
      kill "$(cat "$ROOT/pid")" ;;
  "rm --force") [ "$(cat "$ROOT/left")" = exited ] && rm "$ROOT/left" ;;
  "ps --filter") case $3 in label=fiefdom.release=web) cat "$ROOT/at-work" 2>/dev/null || : ;; *) exit 1 ;; esac ;;
  "image inspect") [ -e "$ROOT/images/$5" ] || { echo "Error: No such image: $5" >&2; exit 1; }
      echo "sha256:1 $(cat "$ROOT/images/$5")" ;;
  "inspect --type") case $5 in
      '{{.State.Running}}') [ -e "$ROOT/runs/$6" ] && echo true ;;
      '{{.Image}}') cat "$ROOT/runs/$6" ;;
      '{{.State.Pid}}') cat "$ROOT/pid" ;;
      '{{.State.Status}}') ! rm "$ROOT/mute" 2>/dev/null || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
          case $6 in
          fiefdom-run-web-1) cat "$ROOT/left" 2>/dev/null && exit ;;
          *-lives) echo running; exit ;;
          esac
          echo "Error response from daemon: No such container: $6" >&2; exit 1 ;;
      esac ;;
esac
"""
CONF = """# Managed by Fiefdom
spec abc
image team/web:1
version 1
stop_signal SIGINT
stop_grace_s 7
arg --network=bridge
arg --publish=10.1.0.21:9000:3000
arg --label=fiefdom.checks=9100
arg --env-file=/etc/fiefdom/containers/web-9000.env
arg --init
arg --memory=64m
cmd serve
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    for folder in ("images", "runs", "conf", "proc", "one-off/mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "conf/web-9000.conf").write_text(CONF)
    (tmp_path / "conf/web-api-9000.conf").write_text(CONF.replace("team/web", "team/api"))
    (tmp_path / "status").write_text("Name:\tx\nUid:\t1000\t1000\t1000\t1000\n")
    (tmp_path / "images/team").mkdir()
    (tmp_path / "images/team/web:1").write_text("app")
    return tmp_path


def begin(
    root: Path, *command: str, conf: str = "-web", folder: str = "", limit_s: int = 0, silent_s: int = 30
) -> subprocess.Popen[bytes]:
    script = SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={root}:")
    script = script.replace("/etc/fiefdom/containers", f"{root}/conf", 1).replace(
        "/var/lib/fiefdom/one-off", f"{root}/one-off", 1
    )
    script = script.replace("silent_s=30", f"silent_s={silent_s}", 1)
    script = script.replace('"/proc/$pid/status"', f'"{root}/status"')
    words = ["sh", "-c", script, "fiefdom", "fiefdom-run-web-1", conf, folder, str(limit_s), *command]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words, stdin=pipe, stdout=pipe, stderr=pipe, env={"PATH": os.environ["PATH"], "ROOT": str(root)}
    )


def ended(run: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Exit code and what it said, while the operator stays."""
    assert run.stdin and run.stdout and run.stderr
    code = run.wait(20)
    out, err = run.stdout.read().decode(), run.stderr.read().decode()
    run.stdin.close()
    return code, out, err


def test_the_command_is_all_that_differs_from_an_instance(root: Path) -> None:
    done = ended(begin(root, "sh", "-c", 'echo "$1"; echo two >&2; cat; exit 7', "sh", "a  b"))
    assert done == (7, "fiefdom-begun\na  b\n", "two\n"), "it reads nothing"
    assert asked_for(root, "fiefdom-run-web-1", "fiefdom.run=web-9000", "sh", "team/web:1", "-c") == {
        *("--network=bridge", "--env-file=/etc/fiefdom/containers/web-9000.env", "--init", "--memory=64m"),
        *("--stop-signal", "SIGINT", "--stop-timeout", "7"),
    }, "no port, and no label by which a plan would know it"


def test_what_runs_tells_the_settings_and_the_image(root: Path) -> None:
    (root / "conf/web-9001.conf").write_text(CONF.replace("--memory=64m", "--memory=65m"))
    (root / "runs/web-9001").write_text("sha256:running\n")
    (root / "images/sha256:running").write_text("1000")
    assert ended(begin(root, "true"))[0] == 0
    asked = (root / "asked").read_text().splitlines()
    assert "--memory=65m" in asked and "sha256:running" in asked and "fiefdom.run=web-9001" in asked


def test_what_was_placed_for_it_is_what_it_is_made_from_and_goes_with_it(root: Path) -> None:
    folder = root / "one-off/mine"
    (folder / "web-9000.conf").write_text("image team/web:2\narg --user=1000\narg --memory=66m\n")
    (root / "images/team/web:2").write_text("")
    (root / "runs/web-9000").write_text("sha256:running\n")
    assert ended(begin(root, "true", conf=f"{folder}/web-9000.conf", folder=str(folder)))[0] == 0
    asked = (root / "asked").read_text().splitlines()
    assert "--memory=66m" in asked and "team/web:2" in asked
    assert not folder.exists()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("rm conf/web-9000.conf", "no instance of web is set up here"),
        ("rm images/team/web:1", "the image team/web:1 is not here"),
        (
            "echo 0:0 >images/team/web:1",
            "team/web:1 would run as root: give the service a user, such as 1000:1000, or the Dockerfile a USER",
        ),
        ("echo >images/team/web:1", "team/web:1 would run as root: give the service a user"),
        ("echo root >images/team/web:1", "team/web:1 would run as root: give the service a user"),
    ],
)
def test_what_cannot_begin_says_why_in_a_line_and_nothing_else(root: Path, prepare: str, words: str) -> None:
    subprocess.run(["sh", "-c", prepare], cwd=root, check=True)
    folder = root / "one-off/mine"
    code, out, err = ended(begin(root, "true", folder=str(folder)))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(words)
    assert not (root / "asked").exists() and not folder.exists()


def test_it_stops_when_the_operator_goes(root: Path) -> None:
    run = begin(root, "sh", "-c", "trap 'echo stopped; exit 3' TERM; echo at work; while :; do sleep 0.1; done")
    assert run.stdin and run.stdout
    assert [run.stdout.readline() for _ in range(2)] == [b"fiefdom-begun\n", b"at work\n"]
    run.stdin.close()
    assert run.wait(10) == 3
    assert run.stdout.read() == b"stopped\n"


def test_it_stops_although_the_operator_went_before_it_began(root: Path) -> None:
    run = begin(root, "sleep", "30")
    assert run.stdin
    run.stdin.close()
    began = time.monotonic()
    assert run.wait(10) != 0
    assert time.monotonic() - began < 8


@pytest.mark.long
def test_it_stops_when_its_time_is_over(root: Path) -> None:
    code, out, _ = ended(
        begin(root, "sh", "-c", "trap 'echo stopped; exit 3' TERM; while :; do sleep 0.1; done", limit_s=1)
    )
    assert (code, out) == (LATE, "fiefdom-begun\nstopped\n")


def test_a_process_that_is_roots_is_stopped(root: Path) -> None:
    (root / "status").write_text("Name:\tx\nUid:\t1000\t0\t0\t0\n")
    code, _, err = ended(begin(root, "sleep", "30"))
    assert code == 1
    assert err.endswith(
        "fiefdom: its process is root's; give the service a user, such as 1000:1000, or the Dockerfile a USER\n"
    )


def test_a_container_that_is_yet_to_start_is_stopped_again(root: Path) -> None:
    (root / "made").touch()
    run = begin(root, "sleep", "30")
    assert run.stdin and run.stdout
    assert run.stdout.readline() == b"fiefdom-begun\n"
    run.stdin.close()
    assert run.wait(10) != 0
    assert not (root / "made").exists(), "Docker said that it was stopped, before it had started"


@pytest.mark.parametrize("code", [0, 125])
def test_a_container_that_outlives_its_client_is_stopped_and_removed(root: Path, code: int) -> None:
    folder = root / "one-off/mine"
    words = ["sh", "-c", f'echo running >"$ROOT/left"; touch "$ROOT/mute"; exit {code}']
    (folder / "web-9000.conf").write_text(CONF)
    done = ended(begin(root, *words, conf=f"{folder}/web-9000.conf", folder=str(folder)))
    assert (done[0], done[2]) == (code or 1, "fiefdom: the connection to Docker broke off; its container is gone\n")
    assert not (root / "left").exists() and not folder.exists()


@pytest.mark.long
def test_an_operator_who_gives_no_sign_is_gone(root: Path) -> None:
    run = begin(root, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done", silent_s=1)
    assert run.stdin
    for _ in range(6):
        run.stdin.write(b".")
        run.stdin.flush()
        time.sleep(0.3)
    assert run.poll() is None
    assert run.wait(10) == 3


def test_nothing_begins_for_nobody(root: Path) -> None:
    image = root / "images/team/web:1"
    image.unlink()
    os.mkfifo(image)  # it waits there
    run = begin(root, "sh", "-c", 'touch "$ROOT/ran"', folder=str(root / "one-off/mine"))
    assert run.stdin and run.stdout and run.stderr
    run.stdout.close()
    run.stderr.close()
    image.write_text("app")
    run.wait(10)
    assert not (root / "ran").exists() and not (root / "one-off/mine").exists()


def test_a_release_command_is_alone_and_known_by_its_label(root: Path) -> None:
    folder = root / "one-off/mine"
    conf = folder / "web-9000.conf"
    conf.write_text(CONF + "release web\n")
    (root / "at-work").write_text("fiefdom-run-web-0\n")
    code, out, err = ended(begin(root, "true", conf=str(conf), folder=str(folder)))
    assert (code, out) == (1, "")
    assert err == "an earlier release command of web is still at work here, in the container fiefdom-run-web-0\n"
    assert not folder.exists() and not (root / "asked").exists()

    folder.mkdir()
    conf.write_text(CONF + "release web\n")
    (root / "at-work").unlink()
    assert ended(begin(root, "true", conf=str(conf), folder=str(folder)))[0] == 0
    assert "fiefdom.release=web" in (root / "asked").read_text().splitlines()


def test_what_earlier_ones_left_goes_where_their_container_is_gone(root: Path) -> None:
    folder = root / "one-off/mine"
    (folder / "web-9000.conf").write_text(CONF)
    for name in ("fiefdom-run-web-gone", "fiefdom-run-web-lives"):
        (root / "one-off" / name).mkdir()
    assert ended(begin(root, "true", conf=f"{folder}/web-9000.conf", folder=str(folder)))[0] == 0
    assert [path.name for path in (root / "one-off").iterdir()] == ["fiefdom-run-web-lives"]
