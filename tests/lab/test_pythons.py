"""The wheel with every Python that it says it takes: what it needs is there for each, and Debian 13's own runs it.

The others but this machine's own cannot be had here, so nothing is run on them; see docs/contributing.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fiefdom.images import bases
from helpers.operator_view import ROOT

IMAGE = "scratch-pythons-test:1"
NEEDED = ("deploys", "templates", "monitoring", "images", "examples")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
INSIDE = """
set -eu
python3 -m venv /tmp/venv
/tmp/venv/bin/pip install --quiet --no-index --find-links /wheels fiefdom
mkdir /tmp/empty
cd /tmp/empty
/tmp/venv/bin/python --version
/tmp/venv/bin/fiefdom --version
/tmp/venv/bin/fiefdom check /inventories/production.example.yaml
/tmp/venv/bin/python -c 'from fiefdom import deploys, facts; print(facts.Drift.name)'
/tmp/venv/bin/pyinfra --version
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name in NEEDED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_version.py"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_what_it_needs_is_built_for_each_python(python: str, wheel: Path, tmp_path: Path) -> None:
    only = ("--only-binary=:all:", f"--python-version={python}", "--ignore-installed", f"--target={tmp_path}")
    done = subprocess.run(
        [*PIP, "install", "--dry-run", *only, str(wheel)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_debian_13_installs_and_runs_it(
    docker_here: None, wheel: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    context = ROOT / "tests/lab/images/python"
    build = ["docker", "build", "--quiet", *bases.build_arguments(context), "--tag", IMAGE, str(context)]
    subprocess.run(build, check=True, capture_output=True)
    request.addfinalizer(lambda: subprocess.run(["docker", "image", "rm", IMAGE], check=True, capture_output=True))
    fetched = tmp_path / "wheels"
    fetch = [*PIP, "download", "--only-binary=:all:", "--python-version=3.13", f"--dest={fetched}", str(wheel)]
    subprocess.run(fetch, check=True, capture_output=True)
    # The inventories' own group_data is a link to the one beside them.
    own = (f"--volume={ROOT / name}:/{name}:ro" for name in ("inventories", "group_data"))
    mounts = (f"--volume={fetched}:/wheels:ro", *own)
    run = ["docker", "run", "--rm", "--network=none", *mounts, IMAGE, "sh", "-c", INSIDE]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Python 3.13.")
    assert "fiefdom, version 0.1.0.dev0" in done.stdout and "fiefdom.facts.Drift" in done.stdout
