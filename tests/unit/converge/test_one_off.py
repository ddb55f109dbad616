"""A one-off command by value: what its host is told, and whose words are whose."""

from __future__ import annotations

import base64

import pytest

from fiefdom.converge import one_off
from fiefdom.converge.one_off import BEGUN, ERR, OUT, OneOff, attend
from fiefdom.converge.steps import Phase
from fiefdom.converge.steps_script import Step
from fiefdom.desired import services
from fiefdom.errors import HostError
from helpers.example import context

FILES = {
    "volumes": [{"name": "data", "path": "/data"}],
    "files": {"/etc/app.conf": {"text": "a\n"}, "/run/key": {"text": "k\n", "mode": "0400"}},
}


def test_a_command_in_what_runs_is_told_by_its_service() -> None:
    wanted = one_off.as_running("web", ["ls", "-l"])
    assert wanted.name.startswith("fiefdom-run-web-") and len(wanted.name) == len("fiefdom-run-web-") + 8
    assert wanted.arguments == (wanted.name, "-web", "", "0", "ls", "-l")
    assert wanted.steps == ()


def test_a_command_in_what_is_wanted_has_files_of_its_own() -> None:
    state = services.desired(context("app2", services={"web": FILES}))
    (container,) = (c for c in state.containers if c.name == "web-9000")
    wanted = one_off.as_wanted(container, state, ["migrate"], 60)
    folder = f"/var/lib/fiefdom/one-off/{wanted.name}"
    assert wanted.arguments == (wanted.name, f"{folder}/web-9000.conf", folder, "60", "migrate")
    staged = {step[1]: step for step in wanted.steps if step[0] == "stage"}
    assert [step for step in wanted.steps if step[0] == "directory"] == [
        ("directory", "/var/lib/fiefdom/one-off", "0700", "0", "0"),
        ("directory", folder, "0700", "0", "0"),
    ]
    assert [step[1] for step in wanted.steps if step[0] == "place"] == list(staged)
    text = {path: base64.b64decode(step[-1]).decode() for path, step in staged.items()}
    assert "FIEFDOM_VERSION=7\n" in text[f"{folder}/0"]
    assert (text[f"{folder}/1"], text[f"{folder}/2"]) == ("a\n", "k\n")
    assert [staged[f"{folder}/{n}"][2:5] for n in range(3)] == [
        ("0600", "0", "0"),
        ("0444", "0", "0"),
        ("0400", "1000", "1000"),
    ]
    conf = text[f"{folder}/web-9000.conf"].splitlines()
    assert conf[:3] == ["image team/web:7", "stop_signal SIGTERM", "stop_grace_s 5"]
    assert [line for line in conf if "mount" in line or "env-file" in line] == [
        f"arg --env-file={folder}/0",
        "arg --mount=type=bind,source=/var/lib/fiefdom/volumes/web/data,target=/data",
        f"arg --mount=type=bind,source={folder}/1,target=/etc/app.conf,readonly",
        f"arg --mount=type=bind,source={folder}/2,target=/run/key,readonly",
    ]
    rest = [f"arg {arg}" for arg in container.args if "mount" not in arg and "env-file" not in arg]
    assert [line for line in conf[3:] if "mount" not in line and "env-file" not in line] == [*rest, "release web"]


class Host:
    """A host that says ``pieces``."""

    def __init__(self, pieces: list[tuple[int, bytes]], code: int = 0) -> None:
        self.pieces, self.code = pieces, code
        self.ran: list[Step] = []

    def run(self, _name: str, phase: Phase) -> None:
        self.ran += phase.steps

    def attach(self, _name: str, text: str, arguments: tuple[str, ...], hear: one_off.Hear) -> int:
        assert text == one_off.SCRIPT and arguments
        for which, piece in self.pieces:
            hear(which, piece)
        return self.code


def test_what_was_placed_goes_where_nothing_began() -> None:
    class Cut(Host):
        def attach(self, *_: object) -> int:  # type: ignore[override]
            raise HostError("app1", "the connection broke off")

        def shell(self, _name: str, argv: list[str]) -> tuple[bool, str, str]:
            self.ran.append(tuple(argv))
            return True, "", ""

    host = Cut([])
    with pytest.raises(HostError):
        attend(host, "app1", OneOff("x", "c", ("ls",), folder="/f/x", steps=(("place", "/f/x/0"),)), lambda *_: None)  # type: ignore[arg-type]
    assert host.ran == [("place", "/f/x/0"), ("rm", "-rf", "--", "/f/x")]


def heard(pieces: list[tuple[int, bytes]], code: int = 0) -> tuple[int, bytes, bytes]:
    said = {OUT: b"", ERR: b""}

    def hear(which: int, piece: bytes) -> None:
        said[which] += piece

    host = Host(pieces, code)
    found = attend(host, "app1", OneOff("x", "-web", ("ls",), steps=(("place", "/x"),)), hear)  # type: ignore[arg-type]
    assert host.ran == [("place", "/x")]
    return found, said[OUT], said[ERR]


def test_what_a_command_says_is_handed_on_byte_by_byte_with_its_exit_code() -> None:
    pieces = [(OUT, BEGUN[:5]), (OUT, BEGUN[5:] + b"\xff\n"), (ERR, b"e"), (OUT, b"b\r")]
    assert heard(pieces, 3) == (3, b"\xff\nb\r", b"e")
    assert heard([(ERR, b"sooner"), (OUT, BEGUN)]) == (0, b"", b"sooner"), "the two come by ways of their own"


def test_what_is_said_before_the_command_is_why_it_did_not_begin() -> None:
    with pytest.raises(HostError, match=r"^app1: the image web:1 is not here$"):
        heard([(ERR, b"the image web:1 "), (ERR, b"is not here\n")], 1)
    with pytest.raises(HostError, match=r"^app1: it does not say why nothing began$"):
        heard([], 1)
