"""inside.sh with a Docker that runs the command here: in which instance, how it ends, and what is left of it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from fiefdom.converge.inside import SCRIPT

# `exec` writes down its arguments, and then is the command itself with the environment that it is given.
DOCKER = """#!/bin/sh
case $1 in
ps) cat "$ROOT/running" ;;
exec)
    shift
    printf '%s\\n' "$@" >"$ROOT/asked"
    while [ "$1" != --env ]; do shift; done
    export "$2"
    shift 2
    [ "$1" != --env ] || shift 2
    shift
    exec "$@" ;;
esac
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "running").write_text("web-8001\nweb-800\nweb-api-7000\nweb-1-9\nother-1\nweb-8000.next\n")
    return tmp_path


def words(root: Path, *arguments: str) -> list[str]:
    return ["sh", "-c", SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={root}:"), "fiefdom", *arguments]


def run(root: Path, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    env = {"PATH": os.environ["PATH"], "ROOT": str(root), "TERM": "vt100"}
    done = subprocess.run(words(root, *arguments), input=stdin, capture_output=True, text=True, env=env, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("no", "web", ""), ["web-800"]),
        (("no", "web", "8001"), ["web-8001"]),
        (("no", "web-api", ""), ["web-api-7000"]),
        (("no", "web-1", "9"), ["web-1-9"]),
    ],
)
def test_which_instance_is_meant(root: Path, arguments: tuple[str, ...], where: list[str]) -> None:
    ends = run(root, *arguments, "sh", "-c", 'cat; printf "<%s>" "$@"; echo bad >&2; exit 7', "sh", "a  b", stdin="in")
    assert ends == (7, "in<a  b>", "bad\n")
    first, env, mark, *rest = (root / "asked").read_text().splitlines()
    assert (first, env, mark[:13], rest[:2]) == ("--interactive", "--env", "FIEFDOM_EXEC=", [*where, "sh"])


def test_a_terminal_is_told_with_its_kind(root: Path) -> None:
    assert run(root, "yes", "web", "", "true") == (0, "", "")
    asked = (root / "asked").read_text().splitlines()
    assert asked[:4] == ["--interactive", "--tty", "--env", "TERM=vt100"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("no", "db", ""), "fiefdom: no instance of db runs here\n"),
        (("no", "web", "8000"), "fiefdom: web-8000 does not run here; these do: web-800 web-8001\n"),
    ],
)
def test_what_does_not_run_is_a_line(root: Path, arguments: tuple[str, ...], says: str) -> None:
    assert run(root, *arguments, "true") == (1, "", says)


def test_a_docker_that_does_not_answer_is_a_line(root: Path) -> None:
    (root / "docker").write_text("#!/bin/sh\necho 'Cannot connect' >&2\nexit 1\n")
    assert run(root, "no", "web", "", "true") == (1, "", "fiefdom: docker does not answer: Cannot connect\n")


def test_nothing_goes_on_when_the_connection_ends(root: Path) -> None:
    """Neither the command, which Docker would leave alone, nor what it began; nor who watches for it."""
    (root / "sshd").symlink_to("/bin/bash")
    # Its name is what the script looks for; the word behind keeps the shell from becoming the script itself.
    env = {"PATH": os.environ["PATH"], "ROOT": str(root)}
    command = f"setsid sh -c 'echo $$ >{root}/one; sleep 300; :' & echo $$ >{root}/two; sleep 300; :"
    begin = [str(root / "sshd"), "-c", '"$@"; :', "sshd", *words(root, "no", "web", "", "sh", "-c", command)]
    with subprocess.Popen(begin, env=env, stdin=subprocess.PIPE, start_new_session=True) as sshd:
        deadline_s = time.monotonic() + 20
        while not all((root / name).exists() and (root / name).read_text() for name in ("one", "two")):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        processes = [(root / name).read_text().strip() for name in ("one", "two")]
        sshd.kill()
    while left := [each for each in processes if lives(each)]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


def lives(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
