"""The supervisor looks at mounted files at each start; docker is a script here, and the files are real."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fiefdom.desired.containers import conf_file
from fiefdom.desired.state import Container, File, HostState
from helpers.programs import with_constants

DOCKER = """#!/bin/sh
cd {root} || exit
case $1:$2:$* in
  image:*) echo sha256:1 ;;
  inspect:*'--format {{.Config.User}} '*) echo 1000 ;;
  inspect:*)
    [ -e made ] || exit 1
    printf '%s 4711 0 sha256:1 %s\\n' "$([ -e started ] && echo true || echo false)" "$(cat made)"
    echo facts; echo env ;;
  create:*) sed -n 's/^spec //p' web.conf >made ;;
  start:*) touch started; echo started >>log ;;
  stop:*) rm -f started ;;
  rm:*) rm -f made started; echo removed >>log ;;
esac
"""


class Supervised:
    """A folder that stands for a host with one container, which has one file mounted."""

    def __init__(self, root: Path) -> None:
        self.root, self.file = root, root / "app conf"
        (root / "bin").mkdir()
        for name, text in {"docker": DOCKER.replace("{root}", str(root)), "curl": "#!/bin/sh\n"}.items():
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)
        text = with_constants("container", conf_dir=root, stamp_dir=root / "stamps")
        # Where it goes on, that is enough to know.
        text = text.replace("\n  await_health\n  [ -z", "\n  exit 0\n  [ -z").replace("/proc/$pid/status", "/nowhere")
        (root / "container").write_text(text.replace("in_background sleep 2", ":"))
        self.wants(b"right\n")
        self.file.write_bytes(b"right\n")

    def wants(self, content: bytes) -> None:
        file = File(str(self.file), content, mounted=True)
        web = Container("web", "web.service", "instance", "team/web:7", (), config=(file.path,))
        (self.root / "web.conf").write_bytes(conf_file(web, HostState(files=(replace(file, serves=True),))).content)

    def start(self, *under: str) -> list[str]:
        """What the unit's start asked of docker, ``under`` a program that runs it."""
        (self.root / "log").write_text("")
        env = os.environ | {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        words = [*under, "sh", str(self.root / "container"), "run", "web"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, done.stderr
        return (self.root / "log").read_text().splitlines()

    def reboot(self) -> None:
        (self.root / "started").unlink()

    @property
    def edited(self) -> bool:
        return (self.root / "stamps/web").read_text().endswith(" edited\n")


@pytest.fixture
def web(tmp_path: Path) -> Supervised:
    return Supervised(tmp_path)


def test_one_that_has_what_is_wanted_starts_again_as_it_is(web: Supervised) -> None:
    assert (web.start(), web.edited) == (["started"], False)
    web.reboot()
    assert (web.start(), web.edited) == (["started"], False)
    assert web.start() == [], "it runs"


def test_one_that_is_made_from_an_edited_file_says_so(web: Supervised) -> None:
    web.file.write_text("edited\n")
    assert (web.start(), web.edited) == (["started"], True)


def test_one_that_started_again_with_an_edited_file_is_made_anew_once_that_is_mended(web: Supervised) -> None:
    web.start()
    web.file.write_text("edited\n")
    assert (web.start(), web.edited) == ([], False), "what runs may not have read it"
    web.reboot()
    assert (web.start(), web.edited) == (["started"], True)
    web.file.write_text("right\n")
    assert (web.start(), web.edited) == (["removed", "started"], False)


def test_other_content_is_another_container(web: Supervised) -> None:
    web.start()
    web.file.write_text("next\n")
    web.wants(b"next\n")
    assert (web.start(), web.edited) == (["removed", "started"], False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be without what makes it root")
def test_what_the_units_sandbox_keeps_from_it_is_not_taken_for_edited(web: Supervised) -> None:
    """A secret is its reader's alone, and the unit has no capability to read it all the same."""
    web.file.chmod(0o400)
    os.chown(web.file, 990, 990)
    sandbox = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert subprocess.run([*sandbox, "cat", str(web.file)], capture_output=True, check=False).returncode != 0
    assert (web.start(*sandbox), web.edited) == (["started"], False)
