"""Shellcheck on what hosts run as it reaches them: scripts put together from parts, and short ones inside modules.

Files and rendered templates are checked by `make lint`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import forked

_finder = Path(__file__).parents[1] / "helpers" / "shell_constants.py"
SCRIPTS: dict[str, str] = json.loads(forked.run(_finder.read_text()).stdout)


def test_the_scripts_are_found() -> None:
    wanted = {"converge.steps_script.SCRIPT", "converge.steps_script.TURN", "converge.guard.SCRIPT"}
    wanted |= {"converge.snapshot.SCRIPT", "cluster.ledger.SCRIPT", "engine.shells.AS_ROOT"}
    assert wanted <= set(SCRIPTS)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_is_clean(name: str) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    command = [str(program) if program.exists() else shutil.which("shellcheck") or "shellcheck", "--shell=sh", "-"]
    done = subprocess.run(command, input=SCRIPTS[name], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
