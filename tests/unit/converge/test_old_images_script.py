"""steps.sh takes images away, with a Docker and a systemd that write down what they are asked: no force, no failure."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fiefdom.converge.steps_script import SCRIPT, Step, steps_text

DOCKER = """#!/bin/sh
printf 'docker %s\\n' "$*" >>"$ROOT/log"
case "$1 $2" in
  "image rm") [ "$3" != team/web:used ] || { printf 'Error: conflict: a container\\nuses it\\n' >&2; exit 1; }
      [ "$3" != team/web:gone ] || exit 1 ;;
  "image inspect") [ "$3" = team/web:used ] ;;
  "ps -a") cat "$ROOT/retiring" ;;
  inspect*) [ -e "$ROOT/alive" ] && rm "$ROOT/alive" ;;
esac
"""
SYSTEMD_RUN = """#!/bin/sh
printf 'systemd-run %s\\n' "$*" >>"$ROOT/log"
shift 2
exec "$@"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {"docker": DOCKER, "systemd-run": SYSTEMD_RUN}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/manifest").write_text("".join(f"brought\tteam/web:{name}\n" for name in ("gone", "old", "used")))
    (tmp_path / "retiring").write_text("")
    return tmp_path


def take(root: Path, *steps: Step) -> list[str]:
    """What steps.sh prints, with folders of its own."""
    script = SCRIPT.replace("state=/var/lib/fiefdom\n", f"state={root}/state\n").replace("/run/fiefdom", f"{root}/run")
    script = script.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={root}:")
    env = {"PATH": os.environ["PATH"], "ROOT": str(root)}
    words = ["sh", "-c", script, "fiefdom"]
    done = subprocess.run(
        words, input=steps_text(steps), env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def log(root: Path) -> list[str]:
    return (root / "log").read_text().splitlines()


def test_an_image_goes_and_is_forgotten(root: Path) -> None:
    assert take(root, ("remove-image", "team/web:old"), ("remove-image", "sha256:1")) == [
        "done\tremove-image\tteam/web:old",
        "done\tremove-image\tsha256:1",
    ]
    assert log(root) == ["docker image rm team/web:old", "docker image rm sha256:1"]
    assert (root / "state/manifest").read_text() == "brought\tteam/web:gone\nbrought\tteam/web:used\n"


def test_one_that_docker_keeps_is_told_of_and_not_forgotten(root: Path) -> None:
    note, done = take(root, ("remove-image", "team/web:used"))
    assert note == "fiefdom-note\tthe image team/web:used stays: Error: conflict: a container uses it"
    assert done == "done\tremove-image\tteam/web:used"
    assert "brought\tteam/web:used\n" in (root / "state/manifest").read_text()


def test_one_that_is_gone_already_is_forgotten(root: Path) -> None:
    assert take(root, ("remove-image", "team/web:gone")) == ["done\tremove-image\tteam/web:gone"]
    assert "brought\tteam/web:gone\n" not in (root / "state/manifest").read_text()


def test_a_gateway_that_still_answers_takes_its_image_with_it(root: Path) -> None:
    (root / "retiring").write_text("gateway.retiring-1\n")
    (root / "alive").touch()
    assert take(root, ("image-follows", "gateway", "sha256:before")) == ["done\timage-follows\tgateway"]
    asked = log(root)
    assert r"--filter name=^gateway\.retiring-[0-9]+$ --filter ancestor=sha256:before" in asked[0]
    assert (
        asked[1] == f"systemd-run --quiet --collect /bin/sh {root}/run/image-follows sha256:before gateway.retiring-1"
    )
    assert asked[2:] == [
        "docker wait gateway.retiring-1",
        "docker inspect --type container gateway.retiring-1",
        "docker inspect --type container gateway.retiring-1",
        "docker image rm sha256:before",
    ]
    assert not any("$" in word for word in asked[1:]), "systemd fills in variables"


def test_a_gateway_that_is_gone_already_leaves_its_image_to_the_run(root: Path) -> None:
    take(root, ("image-follows", "gateway", "sha256:before"))
    assert len(log(root)) == 1
