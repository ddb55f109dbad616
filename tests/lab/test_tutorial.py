"""The tutorial, run as it stands: every block of docs/start.md in order, on hosts that begin bare.

It takes the lab down before and after, so it comes last.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiefdom import lab
from helpers.tutorial import blocks, missing

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800), pytest.mark.proof]

ROOT = Path(__file__).resolve().parents[2]
BLOCK_TIMEOUT_S = 900
NOT_COPIED = (".git", ".venv", ".lab", "mine", "site", "__pycache__", ".*_cache", ".hypothesis", ".bench-venv")


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A copy of the repository in which the lab's folder is where a reader has it; the lab is gone afterwards."""
    if os.environ.get("FIEFDOM_TEST_KEEP_LAB"):
        pytest.skip("it would take the lab down, which FIEFDOM_TEST_KEEP_LAB=1 keeps")
    copy = tmp_path / "fiefdom"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
    (copy / ".lab").symlink_to(lab.lab_root())
    yield copy
    lab.down()
    images = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "mine/iris"]
    for tag in subprocess.run(images, capture_output=True, text=True, check=True).stdout.split():
        subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, check=True)


def test_every_block_of_the_tutorial_does_what_it_says(checkout: Path) -> None:
    steps = blocks((ROOT / "docs/start.md").read_text())
    assert steps
    # The lab is no business of a proxy's, whatever else has to go through one.
    direct = ",".join(filter(None, [os.environ.get("no_proxy", ""), "10.99.0.11"]))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "no_proxy": direct,
        "NO_PROXY": direct,
    }
    for step in steps:
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{step.commands}"],
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_TIMEOUT_S,
            check=False,
        )
        where = f"docs/start.md:{step.line}"
        assert done.returncode == 0, f"{where}: exit {done.returncode}:\n{step.commands}\n{done.stdout}"
        lacks = missing(step.prints, done.stdout)
        assert lacks is None, f"{where}: not printed, or not in this order: {lacks!r}\n{done.stdout}"
