"""Commands on more hosts than a person reads one by one: what is shown, with --all and without, and what JSON keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from fiefdom.converge import made_by
from fiefdom.converge.carry_out import DONE
from fiefdom.procedures.rotate_key import ROUNDS
from helpers import crowd
from helpers.clock import stopped
from helpers.simulated import SimulatedHosts, converged

pytestmark = pytest.mark.long

HOSTS = 24
APPS = [f"h{number}" for number in range(crowd.GATEWAYS, HOSTS)]
# One address of several gateways wants keepalived's word, which simulated hosts have not.
PLAIN: dict[str, Any] = {"gateway": {"known_hosts_only": True}}
KNOWN = crowd.known(HOSTS, **PLAIN)
CHANGED = crowd.known(
    HOSTS,
    services=crowd.SERVICES | {"predictor": crowd.SERVICES["predictor"] | {"version": "1.3.0"}},
    serf={"memory_mib": 96},
    **PLAIN,
)

Fiefdom = Callable[..., Result]


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(KNOWN, tmp_path)


def lines_of(result: Result, code: int = 0) -> list[str]:
    assert result.exit_code == code, result.output + repr(result.exception)
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_status_counts_what_is_well_and_shows_each_when_asked(hosts: SimulatedHosts, command: Fiefdom) -> None:
    del hosts.hosts["h7"].now.containers["web-9001"]
    few, every = lines_of(command("status")), lines_of(command("status", "--all"))
    assert every == lines_of(command("status", "-a"))
    assert len(few) < 40 and len(every) > 12 * len(APPS)
    sick = [line.split() for line in few if line.startswith("web ") and "h7:9001" in line]
    assert sick == [line.split() for line in every if line.startswith("web ") and "h7:9001" in line] != []
    data = json.loads(command("status", "--json").stdout)
    assert data == json.loads(command("status", "--json", "--all").stdout)
    assert len(data["instances"]) == 12 * len(APPS) + 1


def test_plan_and_apply_show_a_change_once_and_a_line_for_each_host_done(
    hosts: SimulatedHosts, command: Fiefdom
) -> None:
    hosts.known = CHANGED
    few, every = lines_of(command("plan"), 2), lines_of(command("plan", "-a"), 2)
    assert sum("container serf-agent" in line for line in every) == len(APPS)
    assert sum("container serf-agent" in line for line in few) == 1
    # What is counted, named and typed next is the same.
    assert few[-2:] == every[-2:]
    data = json.loads(command("plan", "--json").stdout)
    assert data == json.loads(command("plan", "--json", "--all").stdout) and len(data["hosts"]) == HOSTS

    said = lines_of(command("apply", "--yes"))
    stages = [re.sub(r"^ +\d+\.\d s +", "", line) for line in said if re.match(r" +\d+\.\d s", line)]
    changed = len([name for name, changes in data["hosts"].items() if any(not c["release"] for c in changes)])
    done = [line for line in stages if " done, " in line]
    assert [line.split()[-3:] for line in done] == [[str(at), "of", str(changed)] for at in range(1, changed + 1)]
    assert len(stages) < changed + 12
    assert said[-1].startswith(f"Converged {HOSTS} hosts in ")


def test_a_release_is_foreseen_in_few_lines(hosts: SimulatedHosts, command: Fiefdom) -> None:
    predictor = crowd.SERVICES["predictor"] | {"environment": {"MODEL": "small"}}
    hosts.known = crowd.known(HOSTS, services=crowd.SERVICES | {"predictor": predictor}, **PLAIN)
    few, every = lines_of(command("rollout", "predictor", "--dry")), lines_of(command("rollout", "--dry", "--all"))
    assert few == [
        f"1 to {len(APPS)}. {'; '.join(APPS)}",
        "   -/+ predictor x 8 on each host  1.2.0 -> 1.2.0",
    ]
    assert len(every) == 2 * len(APPS)


def test_an_upgrade_is_foreseen_in_few_lines(hosts: SimulatedHosts, command: Fiefdom) -> None:
    for name in hosts.names:
        now = hosts.hosts[name].now
        for container, found in now.containers.items():
            if found.role in made_by.OWN_ROLES:
                now.containers[container] = replace(found, version="0.0.9", spec="other", image_id="sha256:old")
    few, every = lines_of(command("upgrade", "--dry")), lines_of(command("upgrade", "--dry", "--all"))
    assert len(few) < 20 and len(every) > 2 * HOSTS
    assert f"{len(APPS)} hosts: {', '.join(APPS)}" in few
    assert few[-3:] == every[-3:]


def stages_of(result: Result) -> list[str]:
    return [re.sub(r"^ +\d+\.\d s +", "", line) for line in lines_of(result) if re.match(r" +\d+\.\d s", line)]


def done(turns: list[str], names: list[str]) -> None:
    """Each host's turn is a line where it begins and one where it is over."""
    assert [line.split()[0] for line in turns] == [name for name in names for _ in range(2)]
    ends = [" ".join(line.split()[1:]) for line in turns[1::2]]
    assert ends == [f"done, {at} of {len(names)}" for at in range(1, len(names) + 1)]


PULLED: dict[str, Any] = {"registry": {"server": "registry.example.org"}, **PLAIN}


@pytest.fixture
def releasing(hosts: SimulatedHosts, tmp_path: Path) -> SimulatedHosts:
    """The hosts where another version of a service waits, which they pull."""
    found = converged(crowd.known(HOSTS, **PULLED), tmp_path)
    hosts.__dict__.update(found.__dict__)
    predictor = crowd.SERVICES["predictor"] | {"version": "1.3.0"}
    hosts.known = crowd.known(HOSTS, services=crowd.SERVICES | {"predictor": predictor}, **PULLED)
    return hosts


@pytest.mark.usefixtures("releasing")
def test_a_release_at_work_tells_images_once_and_each_turn(command: Fiefdom) -> None:
    stages = stages_of(command("rollout", "predictor", "--force"))
    assert stages[0] == "hosts    image"
    turns = [line for line in stages if line.split()[0] in APPS]
    done(turns, APPS)
    assert {line.split()[1] for line in turns[::2]} == {"drain"}
    assert len(stages) - len(turns) <= 2


@pytest.mark.usefixtures("releasing")
def test_all_tells_each_stage_of_a_release(command: Fiefdom) -> None:
    stages = stages_of(command("rollout", "predictor", "--force", "--all"))
    for stage in ("image", "drain", "replace", "join", "soak", "done"):
        assert [line.split()[0] for line in stages if line.split()[1:] == [stage]] == APPS, stage


@pytest.mark.parametrize("every", [False, True])
def test_reboots_are_told_turn_by_turn(
    hosts: SimulatedHosts, command: Fiefdom, monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    def reboot(_known: Any, _hosts: Any, names: tuple[str, ...], *, say: Callable[[str, str], None], **_: Any) -> None:
        assert list(names) == APPS
        for name in names:
            for stage in ("reboot", "join", DONE):
                say(name, stage)

    monkeypatch.setattr("fiefdom.procedures.reboot.reboot", reboot)
    stages = stages_of(command("reboot", *["--all"] * every))
    if every:
        assert len(stages) == 3 * len(APPS)
    else:
        done(stages, APPS)


@pytest.mark.parametrize("every", [False, True])
def test_another_key_is_told_turn_by_turn(
    hosts: SimulatedHosts, command: Fiefdom, monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    def rotate(_known: Any, session: SimulatedHosts, *, say: Callable[[str, str], None], **_: Any) -> list[str]:
        for what in ROUNDS:
            for name in session.names:
                say(name, what)
                say(name, DONE)
        return []

    monkeypatch.setattr("fiefdom.cli.hosts.rotate", rotate)
    stages = stages_of(command("rotate-key", "--yes", *["--all"] * every))
    assert len(stages) == 2 * len(ROUNDS) * HOSTS
    ends = [" ".join(line.split()[1:]) for line in stages[1::2]]
    turns = len(ROUNDS) * HOSTS
    assert ends == (["done"] * turns if every else [f"done, {at} of {turns}" for at in range(1, turns + 1)])
