"""The supervisor asks the process itself whether it is root's; docker is a script here, and the process is a file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fiefdom.desired.containers import conf_file
from fiefdom.desired.state import Container, HostState
from helpers.programs import with_constants

DOCKER = """#!/bin/sh
cd {root} || exit
case $1:$2:$* in
  image:*) echo sha256:1 ;;
  inspect:*'--format {{.Config.User}} '*) echo app ;;
  inspect:*)
    [ -e made ] || exit 1
    printf '%s 4711 0 sha256:1 %s\\n' "$([ -e started ] && echo true || echo false)" "$(sed -n 's/^spec //p' web.conf)"
    echo facts ;;
  create:*) touch made ;;
  start:*) touch started; echo started >>log ;;
  rm:*) rm -f made started; echo "$*" >>log ;;
esac
"""
WEB = Container("web", "web.service", "instance", "team/web:7", ())
AS_ROOT = "web: team/web:7 would run as root: give the service a user, such as 1000:1000, or the Dockerfile a USER\n"


def run(root: Path, uids: str, gids: str = "1000 1000 1000 1000") -> tuple[str, list[str]]:
    """What the supervisor says of a container whose process has these, and what it asked of docker."""
    (root / "bin").mkdir(exist_ok=True)
    for name, text in {"docker": DOCKER.replace("{root}", str(root)), "curl": "#!/bin/sh\n"}.items():
        (root / "bin" / name).write_text(text)
        (root / "bin" / name).chmod(0o755)
    (root / "web.conf").write_bytes(conf_file(WEB, HostState()).content)
    tabs = {"Uid": uids.replace(" ", "\t"), "Gid": gids.replace(" ", "\t")}
    (root / "status").write_text("Name:\tweb\n" + "".join(f"{k}:\t{v}\n" for k, v in tabs.items()))
    text = with_constants("container", conf_dir=root, stamp_dir=root / "stamps")
    assert "/proc/$pid/status" in text
    text = text.replace("/proc/$pid/status", str(root / "status")).replace("in_background sleep 2", ":")
    # Where it goes on, that is enough to know.
    text = text.replace("\n  await_health\n  [ -z", "\n  exit 0\n  [ -z")
    (root / "container").write_text(text)
    (root / "log").write_text("")
    env = os.environ | {"PATH": f"{root / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", str(root / "container"), "run", "web"], env=env, capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == bool(done.stderr), done.stderr
    return done.stderr, (root / "log").read_text().splitlines()


@pytest.mark.parametrize("uids", ["0 0 0 0", "1000 0 1000 0", "0 1000 1000 1000"])
def test_a_user_that_the_image_maps_to_root_is_refused(tmp_path: Path, uids: str) -> None:
    assert run(tmp_path, uids) == (AS_ROOT, ["started", "rm --force --volumes web"])


def test_one_that_a_killed_run_left_is_refused_as_well(tmp_path: Path) -> None:
    assert run(tmp_path, "1000 1000 1000 1000") == ("", ["started"])
    assert run(tmp_path, "1000 1000 1000 1000") == ("", [])
    assert run(tmp_path, "0 0 0 0") == (AS_ROOT, ["rm --force --volumes web"])


def test_roots_group_alone_is_what_an_image_has_that_names_a_number_only(tmp_path: Path) -> None:
    assert run(tmp_path, "1000 1000 1000 1000", gids="0 0 0 0") == ("", ["started"])
