"""The script that takes a host into and out of rotation, run by a shell with an agent that says what a test wants."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from fiefdom.desired import serf
from fiefdom.desired.programs import text_of
from helpers.example import context
from helpers.programs import with_constants

NO_GATEWAY_S = 2
AGENT = """#!/bin/sh
case $4 in
  tags) touch {root}/announced ;;
  members)
    case $* in *leaving*) cat {root}/leaving 2>/dev/null ;; esac
    cat {root}/gateways
    [ ! -e {root}/once ] || : > {root}/gateways
    ;;
  query) echo "$*" >>{root}/asked; sleep 0.05; cat {root}/answers ;;
esac
"""


class Agent:
    """A Serf agent as `docker exec serf-agent serf` shows it: the gateways it knows, and what they answer."""

    def __init__(self, root: Path, **settings: int) -> None:
        self.root = root
        (root / "docker").write_text(AGENT.format(root=root))
        (root / "docker").chmod(0o755)
        self.knows()
        conf = serf.desired(context("app1", serf=settings)).file(serf.ROTATION_CONF)
        (root / "rotation.conf").write_bytes(conf.content)
        assert "no_gateway_s=5\n" in text_of("rotation")
        text = with_constants("rotation", conf=root / "rotation.conf", no_gateway_s=NO_GATEWAY_S)
        (root / "rotation").write_text(text)

    def knows(self, *gateways: str, answers: str = "") -> None:
        for name, lines in (("gateways", gateways), ("answers", [f"Response from '{g}': {answers}" for g in gateways])):
            (self.root / "new").write_text("".join(f"{line}\n" for line in lines))
            (self.root / "new").replace(self.root / name)

    def start(self, verb: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PATH": f"{self.root}:{os.environ['PATH']}"}
        command = ["sh", str(self.root / "rotation"), verb]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def ended(run: subprocess.Popen[str]) -> str:
    _, said = run.communicate(timeout=10)
    assert run.returncode == 0
    return said


def test_a_host_leaves_when_every_gateway_has_drained_it(agent: Agent) -> None:
    agent.knows("gw1", "gw2", answers="1 servers in rotation, 0 requests open")
    run = agent.start("leave")
    time.sleep(0.5)
    assert run.poll() is None and (agent.root / "announced").exists()
    agent.knows("gw1", "gw2", answers="drained")
    assert ended(run) == ""


def test_a_host_that_leaves_waits_for_the_only_gateways_agent_to_come_back(agent: Agent) -> None:
    run = agent.start("leave")
    time.sleep(0.5)
    assert run.poll() is None, "no gateway was taken for an agreement"
    agent.knows("gw1", answers="2 servers in rotation, 1 requests open")
    time.sleep(NO_GATEWAY_S + 0.5)
    assert run.poll() is None, "once it is back its word counts"
    agent.knows("gw1", answers="drained")
    assert ended(run) == ""


def test_a_gateway_that_leaves_is_asked_as_long_as_it_is_there(agent: Agent) -> None:
    agent.knows("gw1", answers="0 servers in rotation, 1 requests open")
    (agent.root / "gateways").replace(agent.root / "leaving")
    (agent.root / "gateways").touch()
    run = agent.start("leave")
    time.sleep(NO_GATEWAY_S + 0.5)
    assert run.poll() is None
    agent.knows("gw1", answers="drained")
    (agent.root / "leaving").unlink()
    assert ended(run) == ""


def test_a_host_that_joins_waits_for_a_gateway_that_leaves_as_well(agent: Agent) -> None:
    agent.knows("gw1", answers="0 of 2 servers up")
    (agent.root / "gateways").replace(agent.root / "leaving")
    (agent.root / "gateways").touch()
    run = agent.start("join")
    # Without a gateway it would go on after two seconds.
    time.sleep(3)
    assert run.poll() is None
    agent.knows("gw1", answers="serving")
    (agent.root / "leaving").unlink()
    assert ended(run) == ""


def test_a_host_without_any_gateway_leaves_in_finite_time(agent: Agent) -> None:
    began_s = time.monotonic()
    assert ended(agent.start("leave")) == ""
    # The script counts whole seconds, of which the first may be nearly over.
    assert NO_GATEWAY_S - 1 <= time.monotonic() - began_s < NO_GATEWAY_S + 3


def test_leaving_takes_no_longer_than_draining_may(tmp_path: Path) -> None:
    said = ended(Agent(tmp_path, drain_timeout_s=1).start("leave"))
    assert said.startswith('going on after 1 s: of 0 gateways 0 say "drained"')


def test_a_host_that_joins_does_not_wait_for_a_gateway_that_is_gone(agent: Agent) -> None:
    agent.knows("gw1")
    (agent.root / "once").touch()
    began_s = time.monotonic()
    assert ended(agent.start("join")) == ""
    assert time.monotonic() - began_s < 1


@pytest.mark.parametrize("damage", ["missing", "not whole"])
def test_without_its_configuration_it_says_so_and_announces_nothing(agent: Agent, damage: str) -> None:
    conf = agent.root / "rotation.conf"
    if damage == "missing":
        conf.unlink()
    else:
        conf.write_text(conf.read_text().replace("drain_timeout_s", "something_else"))
    run = agent.start("leave")
    _, said = run.communicate(timeout=10)
    assert (run.returncode, said) == (1, f"{conf} is missing, or not whole\n")
    assert not (agent.root / "announced").exists()


def test_wrong_usage_is_told(agent: Agent) -> None:
    run = agent.start("dance")
    _, said = run.communicate(timeout=10)
    assert (run.returncode, said) == (1, "usage: rotation join|leave\n")


def test_every_gateway_is_asked_about_this_host(agent: Agent) -> None:
    agent.knows("gw1", answers="drained")
    assert ended(agent.start("leave")) == ""
    assert (agent.root / "asked").read_text().splitlines()[0].endswith(" fiefdom-drained app1")
