"""The tutorial as far as it can be held without hosts: its commands, its inventories, and the plans that it shows."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import click
import pytest

from fiefdom import inventory
from fiefdom.cli import show
from fiefdom.cli.main import main
from fiefdom.converge import look, plan
from fiefdom.converge.run import Known
from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired.state import HostState
from fiefdom.images import build
from fiefdom.model import Cluster, Secrets
from helpers.simulated import SimulatedHost, SimulatedHosts, answer, bring, converged
from helpers.tutorial import Block, blocks, inventories, missing

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/start.md").read_text()
STEPS = blocks(PAGE)
SECRETS = Secrets("dGVzdHMgb25seTogMzIgYnl0ZXMgb2Ygbm90aGluZyE=", {})

# Keeps what it is called with, and the inventory as it is then.
STUB = """#!/bin/sh
call=$CALLS/$(date +%s%N)-$$
mkdir "$call"
cd "$call"
printf '%s\\n' "$(basename "$0")" "$@" >argv
cp "$OLDPWD/mine/cluster.yaml" . 2>/dev/null || :
"""


def test_a_page_is_read_block_by_block() -> None:
    page = "a\n```sh\ntrue\n```\n\n```text\nx\ny\n```\nb\n```text\nno\n```\n```yaml\nk: v\n```\n```sh\nfalse\n```\n"
    assert blocks(page) == [Block(2, "true\n", ("x", "y")), Block(17, "false\n")]


@pytest.mark.parametrize(
    ("expected", "printed", "lacks"),
    [
        (["a", "b"], "a\nx\nb", None),
        (["b", "a"], "a\nb", "a"),
        (["a", "a"], "a", "a"),
        (["...", "a ... c"], "a b c", None),
        (["... s  app1     drain"], "   0.4 s  app1     drain", None),
        (["Converged 3 hosts in 5.1 seconds."], "Converged 3 hosts in 61.0 seconds.", None),
        (["2 to change on 1 of 3 hosts. plan 34d318ab88d0"], "5 to change on 2 of 3 hosts. plan 0123456789ab", None),
        (["0 failed of 10"], "0 failed of 12,345", None),
        (["0 failed of 10"], "1 failed of 10", "0 failed of 10"),
        (["0 failed of 10"], "10 failed of 10", "0 failed of 10"),
        (["iris 1.0.0 -> 1.1.0"], "iris 1.0.0 -> 1.2.0", "iris 1.0.0 -> 1.1.0"),
        (["app1:8000 up"], "app1:8001 up", "app1:8000 up"),
        (["app1 2/2"], "app1 1/2", "app1 2/2"),
        (["a  b"], "a b", None),
        (["no"], "", "no"),
    ],
)
def test_what_is_printed_is_compared_line_by_line(expected: list[str], printed: str, lacks: str | None) -> None:
    assert missing(expected, printed) == lacks


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"line {step.line}")
def test_every_block_is_bash(step: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=step.commands, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[str], str]]:
    """What the blocks call when they are run with programs that do nothing, each with the inventory of that moment."""
    root = tmp_path_factory.mktemp("tutorial")
    programs, kept, here = root / "bin", root / "calls", root / "here"
    for folder in (programs, kept, here):
        folder.mkdir()
    for name in ("fiefdom", "docker", "python", "curl"):
        (programs / name).write_text(STUB)
        (programs / name).chmod(0o755)
    shutil.copytree(ROOT / "images/predictor", here / "images/predictor")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(kept)}
    for step in STEPS:
        script = f"set -euo pipefail\n{step.commands}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=here, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"docs/start.md:{step.line}: {done.stderr}"
    assert not (here / "mine").exists(), "the tutorial leaves its folder"
    found = []
    for call in sorted(kept.iterdir()):
        copy = call / "cluster.yaml"
        found.append(((call / "argv").read_text().splitlines(), copy.read_text() if copy.exists() else ""))
    return found


def test_every_call_is_one_that_the_command_takes(calls: list[tuple[list[str], str]]) -> None:
    own = [argv[1:] for argv, _ in calls if argv[0] == "fiefdom"]
    assert len(own) > 15
    for words in own:
        command: click.Command = main
        context = click.Context(main, info_name="fiefdom")
        rest = words
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(context, rest)
            assert found is not None, words
            command, context = found, click.Context(found, info_name=name, parent=context)
        command.make_context(command.name, list(rest), parent=context.parent)


def test_every_inventory_on_the_way_is_valid(calls: list[tuple[list[str], str]], tmp_path: Path) -> None:
    (name,) = set(inventories(STEPS))
    texts = list(dict.fromkeys(text for _, text in calls if text))
    clusters = [cluster_of(text, tmp_path / name) for text in texts]
    said = [(c.services["iris"].version, c.services["iris"].instances, len(c.app_hosts)) for c in clusters]
    assert said == [("1.0.0", 2, 2), ("1.0.0", 3, 2), ("1.1.0", 3, 2), ("1.0.0", 3, 3)]


def cluster_of(text: str, path: Path) -> Cluster:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return inventory.load(path)


def known(text: str, path: Path) -> Known:
    """As a run knows it, with the build folder of this repository."""
    cluster = cluster_of(text.replace("../images", str(ROOT / "images")), path)
    return Known(cluster, SECRETS, build.identities(cluster))


def plan_text(now: Known, hosts: SimulatedHosts) -> str:
    wanted = plan.merge(look.plan_of(now, name, answer(hosts.hosts[name].now)) for name in now.cluster.hosts)
    return "\n".join(line.plain for line in show.plan_tree(wanted, "mine/cluster.yaml"))


def step_with(words: str, number: int = 0) -> Block:
    """The block that has ``words`` in its commands; of several, the one with this number."""
    return [step for step in STEPS if words in step.commands][number]


def test_the_plans_that_it_shows_are_what_such_hosts_would_say(
    calls: list[tuple[list[str], str]], tmp_path: Path
) -> None:
    texts = list(dict.fromkeys(text for _, text in calls if text))
    path = tmp_path / "mine/cluster.yaml"
    first = known(texts[0], path)

    bare = SimulatedHosts(first, tmp_path)
    for name in first.cluster.hosts:
        now = Snapshot(0, "debian", "trixie", hostname=name, static_hostname=name)
        bare.hosts[name] = SimulatedHost(HostState(), dict(first.identities), now)
    assert missing(step_with("fiefdom plan").prints, plan_text(first, bare)) is None

    hosts = converged(first, tmp_path)
    more = known(texts[1], path)
    assert missing(step_with("instances: 3").prints, plan_text(more, hosts)) is None
    bring(hosts, more)
    clean = plan_text(more, hosts)
    assert missing(step_with("fiefdom apply", 1).prints[2:], clean) is None

    newer = known(texts[2], path)
    assert missing(step_with("version: 1.1.0/'").prints, plan_text(newer, hosts)) is None

    hosts.hosts["app1"].now = harmed(hosts.hosts["app1"].now)
    assert missing(step_with("systemctl stop").prints, plan_text(more, hosts)) is None


def harmed(now: Snapshot) -> Snapshot:
    """A host after what the tutorial does to it."""
    edited, stopped, unit = "/etc/sysctl.d/60-fiefdom.conf", "iris-8000", "fiefdom-iris@8000.service"
    assert shlex.quote(edited).strip("'") in step_with("systemctl stop").commands
    return replace(
        now,
        files={**now.files, edited: replace(now.files[edited], digest="another")},
        containers={**now.containers, stopped: replace(now.containers[stopped], running=False)},
        units={**now.units, unit: replace(now.units[unit], active="inactive")},
    )
