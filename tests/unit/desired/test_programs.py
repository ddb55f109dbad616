"""The scripts that hosts keep: plain files, which host carries which, and that they come to it in one stroke."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from fiefdom.desired import concerns, containers, programs
from fiefdom.desired.state import File, HostState
from helpers import journal
from helpers.example import context

FOLDER = Path(programs.__file__).parent
LIBRARY = FOLDER.parent
CARRIED = {
    "gw1": ["container", "handover"],
    "gw1 with an address of all": ["address", "container", "handover"],
    "app1": ["container", "offer"],
    "app2": ["container", "offer"],
    "app2 with a link on it": ["container", "links", "offer"],
    "app1 with an exporter": ["container", "metrics", "offer"],
    "app2 with a job on it": ["container", "job", "offer", "once"],
}
LINKED = {"web": {"links": ["redis"]}, "redis": {"image": "redis", "version": "7", "kind": "tcp", "base_port": 6379}}
LINKED["redis"]["groups"] = ["web_hosts"]
MORE: dict[str, dict[str, object]] = {
    "with a link on it": {"services": LINKED},
    "with a job on it": {"services": {"web": {"jobs": {"tidy": {"command": ["tidy"], "schedule": "daily"}}}}},
    "with an exporter": {"monitoring": {"node_exporter": True, "from_cidrs": ["10.7.0.9/32"]}},
    "with an address of all": {"gateway": {"address": "10.1.0.100"}},
}


def state(host: str) -> HostState:
    name, _, more = host.partition(" ")
    return concerns.state_of(context(name, **MORE.get(more, {})))


def carried(host: str) -> dict[str, File]:
    """A host's programs by name."""
    files = (f for f in state(host).files if f.path.startswith(f"{programs.DIR}/"))
    return {f.path.removeprefix(f"{programs.DIR}/"): f for f in files}


@pytest.mark.parametrize("host", CARRIED)
def test_a_host_carries_what_its_containers_need_and_nothing_else(host: str) -> None:
    assert sorted(carried(host)) == CARRIED[host]


def test_every_program_is_carried_by_some_host() -> None:
    assert {f"{name}.sh" for names in CARRIED.values() for name in names} == {p.name for p in FOLDER.glob("*.sh")}


@pytest.mark.parametrize("host", CARRIED)
def test_a_program_lands_byte_for_byte(host: str) -> None:
    for name, file in carried(host).items():
        assert file.content == (FOLDER / f"{name}.sh").read_bytes()
        # What is run says what runs it; the other is read by one that is.
        assert file.content.startswith(b"#!/bin/sh\n") == (file.mode == 0o755)
        assert file.mode in (0o755, 0o644) and (file.uid, file.gid, file.secret) == (0, 0, False)


@pytest.mark.parametrize("host", CARRIED)
def test_a_program_that_no_shell_can_read_is_not_put_into_place(host: str) -> None:
    for file in carried(host).values():
        assert file.check == ("sh", "-n", "{}")
        subprocess.run(["sh", "-n", "/dev/stdin"], input=file.content, check=True)


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.sh")), ids=lambda path: path.name)
def test_no_script_is_a_template(path: Path) -> None:
    text = path.read_text()
    assert "{%" not in text
    assert "{{ " not in text, "Docker's own braces have no blank behind them"
    assert "{{-" not in text


def test_no_template_is_a_script() -> None:
    folder = LIBRARY.parents[1] / "templates"
    assert not [p.name for p in folder.iterdir() if p.is_file() and (".sh" in p.name or p.read_text().startswith("#!"))]


def test_app_hosts_have_nothing_of_the_handing_over() -> None:
    for file in carried("app1").values():
        text = file.content.decode()
        for word in (*containers.HANDING_OVER, "hand_over()", "would_hand_over", "lends", "kill -s HUP", "on_reload()"):
            assert word not in text, word


def test_the_supervisor_and_its_handing_over_are_placed_together() -> None:
    # Not in the host's own turn, which may be many minutes later: see `File.serves`.
    found = carried("gw1")
    assert not found["container"].serves and not found["handover"].serves


SAY_WHY = """\
say_why() {
  level=
  [ "${JOURNAL_STREAM:-}" != "$(stat -L -c %d:%i /proc/self/fd/2)" ] || level='<3>'
  printf '%s%s\\n' "$level" "$*" >&2
}
"""
ENDING = [
    path for path in sorted(FOLDER.glob("*.sh")) if re.search(r"^(die|fail)\(\)|^ +exit 1$", path.read_text(), re.M)
]


@pytest.mark.parametrize("path", ENDING, ids=lambda path: path.name)
def test_why_a_program_ends_is_an_error_in_the_journal(tmp_path: Path, path: Path) -> None:
    """systemd says where its journal reads, and takes a number in front for the line's level."""
    text = path.read_text()
    assert SAY_WHY in text, "alike in all of them"
    assert not re.search(r">&2\n *exit [1-9]", text), "words that only say_why may print"
    for level, code, words in journal.said(tmp_path, ["sh", str(path), "dance"]):
        assert code == 1 and re.match(rf"{level}[a-z/]", words)


def test_programs_that_end_so_are_found() -> None:
    assert [path.stem for path in ENDING] == ["address", "container", "job", "links", "offer"]
