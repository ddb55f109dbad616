"""Shellcheck on what hosts run as it reaches them: scripts put together from parts, and short ones inside modules.

Files and rendered templates are checked by `make lint`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fiefdom

# What shell is recognised by, at the top of a module: a parameter, a test or a command of ours at the start of a line.
SHELL = re.compile(r"\$\{?[@#0-9a-zA-Z_]|^\s*(if|for|while|docker|set|exec) ", re.MULTILINE)

# One that is only ever part of another is checked there: snapshot.sh and the supervisor.
PARTS = {("containers", "FACTS_FUNCTION"), ("containers", "FACTS_FORMAT")}


def scripts() -> dict[str, str]:
    """Every text of shell among the constants of the library's modules, each once, under the name of its home."""
    found = {}
    for info in pkgutil.walk_packages(fiefdom.__path__, "fiefdom."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            short = info.name.removeprefix("fiefdom.")
            if (
                isinstance(value, str)
                and name.strip("_").isupper()
                and SHELL.search(value)
                and (short, name) not in PARTS
            ):
                found.setdefault(value, f"{short}.{name}")
    return {name: value for value, name in found.items()}


def test_the_scripts_are_found() -> None:
    assert {"apply.SCRIPT", "apply.TURN", "snapshot.SCRIPT", "ledger.SCRIPT", "engine._AS_ROOT", "layers.HELD"} <= set(
        scripts()
    )


@pytest.mark.parametrize("name", sorted(scripts()))
def test_a_script_is_clean(name: str) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    command = [str(program) if program.exists() else shutil.which("shellcheck") or "shellcheck", "--shell=sh", "-"]
    done = subprocess.run(command, input=scripts()[name], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
