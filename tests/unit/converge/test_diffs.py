"""Diffs of a plan: what a person sees of a file's change, and what nobody sees."""

from __future__ import annotations

import pytest

from fiefdom.converge import diffs, plan
from fiefdom.converge.snapshot import FoundFile, Snapshot
from fiefdom.desired import docker
from fiefdom.desired.state import File, HostState, digest


def diffs_of(file: File, before: str | None, mode: int = 0o644) -> dict[tuple[str, str], str]:
    """Diffs where a host has ``before`` at the file's path; reading anything else is a mistake."""
    found = {} if before is None else {file.path: FoundFile("regular file", mode, 0, 0, digest(before))}
    wanted = plan.of_host("app1", HostState(files=(file,)), Snapshot(0, "debian", "trixie", files=found), {})

    def read(host: str, path: str) -> str:
        assert (host, path) == ("app1", file.path)
        assert before is not None and not file.secret
        return before

    return diffs.of_plan(plan.merge([wanted]), read)


def test_a_changed_file_is_a_unified_diff() -> None:
    assert diffs_of(File("/etc/x", b"one\n2\n"), "one\ntwo\n") == {
        ("app1", "/etc/x"): "--- /etc/x (host)\n+++ /etc/x (inventory)\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
    }


def test_a_new_file_is_all_additions_and_is_not_read() -> None:
    text = diffs_of(File("/etc/x", b"one\ntwo\n"), None)["app1", "/etc/x"]
    assert text.splitlines()[2:] == ["@@ -0,0 +1,2 @@", "+one", "+two"]


def test_what_is_no_text_is_not_shown_as_one() -> None:
    assert diffs_of(File("/etc/x", b"\0\1"), None) == {("app1", "/etc/x"): diffs.BINARY}


@pytest.mark.parametrize("before", [None, "hunter1\n"])
def test_a_secret_shows_neither_side_and_is_not_read(before: str | None) -> None:
    assert diffs_of(File("/etc/key", b"hunter2\n", secret=True), before) == {("app1", "/etc/key"): diffs.MASK}


@pytest.mark.parametrize("secret", ['"http://ann:hush@proxy:3128"', '{"splunk-token": "hush"}'])
def test_a_password_that_stands_in_dockers_configuration_is_not_shown_when_it_goes(secret: str) -> None:
    before = f'{{"x": {secret}}}\n'
    assert diffs_of(File(docker.CONFIG, b"{}\n"), before) == {("app1", docker.CONFIG): diffs.MASK}
    assert "-{}\n" in diffs_of(File(docker.CONFIG, b"[]\n"), "{}\n")["app1", docker.CONFIG]


def test_a_change_of_mode_alone_has_no_diff() -> None:
    assert diffs_of(File("/etc/x", b"one\n"), "one\n", mode=0o600) == {}


def test_a_right_file_has_no_diff() -> None:
    assert diffs_of(File("/etc/x", b"one\n"), "one\n") == {}


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [("a", "a\n", ["-a", "+a"]), ("a\n", "a", ["-a", "+a"]), ("", "\n", ["+"]), ("a\n", "", ["-a"])],
)
def test_each_line_of_a_diff_ends_where_a_file_ends_without_one(before: str, after: str, lines: list[str]) -> None:
    text = diffs.unified("/etc/x", before, after)
    assert text.endswith("\n")
    assert text.splitlines()[3:] == lines


def test_bytes_that_are_no_text_do_not_end_a_plan() -> None:
    assert "+\N{REPLACEMENT CHARACTER}" in diffs_of(File("/etc/x", b"\xff\n"), "")["app1", "/etc/x"]


@pytest.mark.parametrize(("mode", "hidden"), [(0o400, True), (0o444, False)])
def test_what_a_services_file_held_for_its_reader_alone_is_not_shown_when_it_becomes_a_plain_one(
    mode: int, hidden: bool
) -> None:
    file = File("/etc/fiefdom/files/web-9000/key", b"plain\n", mode=0o444, mounted=True)
    text = diffs_of(file, "hunter1\n", mode)["app1", file.path]
    assert (text == diffs.MASK) == hidden and ("hunter1" in text) != hidden
