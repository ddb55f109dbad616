"""A cluster of the release before offers is taken to this one by `fiefdom apply`, under traffic."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiefdom import lab
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, tell

# The last commit whose hosts are in rotation as a whole or not at all.
BEFORE = "42ad0c5"
AT_LEAST = 10_000


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That commit's tree."""
    tree = tmp_path_factory.mktemp("before") / "fiefdom"
    made = subprocess.run(
        ["git", "worktree", "add", "--detach", "--force", str(tree), BEFORE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no history here to take {BEFORE} from: {made.stderr.strip()}")
    yield tree
    subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True, capture_output=True)


def with_tree(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`fiefdom` of that tree: its library, templates and images."""
    return subprocess.run(
        [sys.executable, "-c", "import sys; from fiefdom.cli.main import main; sys.exit(main())", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tree / "deploys")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.proof
def test_the_release_before_becomes_this_one_under_traffic(first_converge: tuple[Site, str], before: Path) -> None:
    site, _ = first_converge
    lab.down()
    lab.up(2)
    done = with_tree(before, "apply", LAB_YAML, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "svc:predictor" in site.ssh("app1", "cat /etc/fiefdom/serf/agent.json"), "hosts offer at run time already"
    with Load(f"{GATEWAY_URL}/predict", at_least=AT_LEAST) as load:
        site.apply()
        await_true(site.whole, what="the whole cluster")
    tell("the release before taken to this one", load)
    assert load.failed == 0, load.report()
    assert (
        site.ssh("app1", "ls /usr/local/lib/fiefdom /etc/fiefdom").split()
        == site.ssh("app2", "ls /usr/local/lib/fiefdom /etc/fiefdom").split()
    )
    assert "rotation" not in site.ssh("app1", "ls /usr/local/lib/fiefdom /etc/fiefdom")
