"""Waiting for turns that lost their operator: on hosts whose locks are real, and what is told of it meanwhile."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fiefdom.converge import turn_steps
from fiefdom.errors import FiefdomError
from fiefdom.procedures import reboot, turn
from helpers.clock import Clock, stopped
from helpers.simulated import SimulatedHosts


class Asked(SimulatedHosts):
    """Hosts that say in turn, at each look, what they are at: a stage, nothing of it, or None once they are free."""

    def __init__(self, at: dict[str, list[str | None]], takes_s: Clock | None = None) -> None:
        self.at, self.clock = at, takes_s
        self.waited_s: list[str] = []

    def on_all(self, function: Any, names: Any = None) -> dict[str, Any]:
        return {name: function(name) for name in names}

    def script(self, name: str, _text: str, arguments: Any = (), _stdin: str = "", **options: Any) -> Any:
        lock, wait_s, _ = arguments
        assert lock == "/var/lib/fiefdom/lock"
        # The connection gives up later than the host.
        assert options["timeout_s"] > int(wait_s)
        self.waited_s.append(wait_s)
        if self.clock is not None:
            self.clock.now_s += int(wait_s)
        stages = self.at[name]
        stage = stages.pop(0) if len(stages) > 1 else stages[0]
        return True, "" if stage is None else f"held\t{stage}\n", ""


def told(at: dict[str, list[str | None]]) -> list[str]:
    words: list[str] = []
    turn.await_turns(Asked(at), list(at), words.append)
    return words


def test_who_is_free_is_not_spoken_of_and_nobody_waits() -> None:
    hosts = Asked({"app1": [None], "app2": [None]})
    turn.await_turns(hosts, ["app1", "app2"], pytest.fail)
    assert hosts.waited_s == ["0", "0"]


def test_it_is_told_at_once_and_then_when_it_changes() -> None:
    at = {"gw1": [None], "app1": ["drain", "drain", "replace", None], "app2": ["drain", "drain", None]}
    assert told(at) == [
        "app1, app2: waits for the end of what another run began there, which is at drain",
        "app2: what another run began there has ended",
        "app1: waits for the end of what another run began there, which is at replace",
        "app1: what another run began there has ended",
    ]


def test_what_is_no_turn_has_no_stage() -> None:
    assert told({"app1": ["", None]}) == [
        "app1: waits for the end of what another run began there",
        "app1: what another run began there has ended",
    ]


def test_a_turn_that_never_ends_is_waited_for_a_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = stopped(monkeypatch)
    began_s = clock.now_s
    words = r"^app1: another run has held /var/lib/fiefdom/lock for fifteen minutes; see fiefdom-turn.service there$"
    heard: list[str] = []
    with pytest.raises(FiefdomError, match=words):
        turn.await_turns(Asked({"app1": ["drain"]}, clock), ["app1"], heard.append)
    assert 900 <= clock.now_s - began_s < 920
    assert heard == ["app1: waits for the end of what another run began there, which is at drain"]


class Here(SimulatedHosts):
    """This machine as a host: the script is run, with the paths of a folder in place of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "bin").mkdir()
        is_active = root / "bin/systemctl"
        is_active.write_text(f"#!/bin/sh\n[ -e {root}/active ]\n")
        is_active.chmod(0o755)

    def on_all(self, function: Any, names: Any = None) -> dict[str, Any]:
        return {name: function(name) for name in names}

    def script(self, _name: str, text: str, arguments: Any = (), _stdin: str = "", **_: Any) -> Any:
        lock, wait_s, output = arguments
        own = [str(self.root / Path(lock).name), str(min(int(wait_s), 1)), str(self.root / Path(output).name)]
        env = os.environ | {"PATH": f"{self.root}/bin:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-c", text, "fiefdom", *own], capture_output=True, text=True, check=False, env=env)
        return done.returncode == 0, done.stdout, done.stderr


def test_a_host_without_a_lock_or_with_one_that_nobody_has_is_free(tmp_path: Path) -> None:
    hosts = Here(tmp_path)
    turn.await_turns(hosts, ["app1"], pytest.fail)
    (tmp_path / "lock").touch()
    turn.await_turns(hosts, ["app1"], pytest.fail)


@pytest.mark.parametrize("active", [True, False])
def test_the_stage_is_the_last_that_a_turn_at_work_has_said(tmp_path: Path, active: bool) -> None:
    hosts = Here(tmp_path)
    (tmp_path / "output").write_text("fiefdom-stage\tdrain\ndone\tx\nfiefdom-stage\treplace\nfiefdom-note\tslow\n")
    if active:
        (tmp_path / "active").touch()
    heard: list[str] = []

    def tell(words: str) -> None:
        heard.append(words)
        if len(heard) == 1:
            held.close()  # the turn ends

    held = (tmp_path / "lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    turn.await_turns(hosts, ["app1"], tell)
    at = ", which is at replace" if active else ""
    assert heard == [
        f"app1: waits for the end of what another run began there{at}",
        "app1: what another run began there has ended",
    ]


def test_a_lock_that_cannot_be_asked_for_is_no_turn(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(FiefdomError, match=r"^app1: /var/lib/fiefdom/lock cannot be asked for: .*directory"):
        turn.await_turns(Here(tmp_path), ["app1"], pytest.fail)


def test_each_stage_that_a_host_tells_of_its_turn_is_known_as_one() -> None:
    written = [Path(module.__file__).read_text() for module in (turn_steps, reboot)]
    told = {word for text in written for word in re.findall(r'\("say", f?"([a-z]+)', text)}
    assert told == set(turn.STAGES) - {"soak", "reboot"}


@pytest.mark.parametrize(
    ("what", "stage"),
    [
        *(("drain", True), ("drain predictor", True), ("soak", True), ("image", False), ("done", False), ("", False)),
        *(("put back", False), ("restore what was there before", False), ("predictor pauses: its one", False)),
    ],
)
def test_a_word_on_a_turn_is_no_stage(what: str, stage: bool) -> None:
    assert turn.is_stage(what) == stage
