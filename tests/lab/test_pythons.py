"""The wheel with every Python that it says it takes: what it needs is there for each, and each that is here runs it.

Debian 13's own is always here, in a container. Of the others a machine has what it has; see docs/contributing.md.
"""

from __future__ import annotations

import os
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
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Arguments: a Python, the folder of wheels, an inventory, and a folder for what is made.
INSTALLED = """
set -eu
"$1" -m venv "$4/venv"
"$4/venv/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$2" fiefdom
mkdir "$4/empty"
cd "$4/empty"
"$4/venv/bin/python" --version
"$4/venv/bin/fiefdom" --version
"$4/venv/bin/fiefdom" check "$3"
"$4/venv/bin/python" -c 'from fiefdom import deploys, facts; print(facts.Drift.name)'
"$4/venv/bin/pyinfra" --version
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


@pytest.mark.parametrize("python", PYTHONS)
def test_what_it_needs_is_built_for_each_python(python: str, wheel: Path, tmp_path: Path) -> None:
    only = ("--only-binary=:all:", f"--python-version={python}", "--ignore-installed", f"--target={tmp_path}")
    done = subprocess.run(
        [*PIP, "install", "--dry-run", *only, str(wheel)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_that_is_here_installs_and_runs_it(python: str, wheel: Path, tmp_path: Path) -> None:
    interpreter = found(python)
    if interpreter is None:
        pytest.skip(f"there is no Python {python} on this machine, neither on PATH nor of pyenv")
    inventory = ROOT / "inventories" / "production.example.yaml"
    arguments = (interpreter, str(fetched(wheel, python, tmp_path)), str(inventory), str(tmp_path))
    done = subprocess.run(
        ["sh", "-c", INSTALLED, "installed", *arguments], env=WITHOUT_OURS, capture_output=True, text=True, check=False
    )
    require_run(done, python)


def test_debian_13_installs_and_runs_it(
    docker_here: None, wheel: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    context = ROOT / "tests/lab/images/python"
    build = ["docker", "build", "--quiet", *bases.build_arguments(context), "--tag", IMAGE, str(context)]
    subprocess.run(build, check=True, capture_output=True)
    request.addfinalizer(lambda: subprocess.run(["docker", "image", "rm", IMAGE], check=True, capture_output=True))
    # The inventories' own group_data is a link to the one beside them.
    own = (f"--volume={ROOT / name}:/{name}:ro" for name in ("inventories", "group_data"))
    mounts = (f"--volume={fetched(wheel, '3.13', tmp_path)}:/wheels:ro", *own)
    arguments = ("python3", "/wheels", "/inventories/production.example.yaml", "/tmp")
    run = ["docker", "run", "--rm", "--network=none", *mounts, IMAGE, "sh", "-c", INSTALLED, "installed", *arguments]
    require_run(subprocess.run(run, capture_output=True, text=True, check=False), "3.13")


# The repository's library and this environment are not to be found by what is tried.
WITHOUT_OURS = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def found(python: str) -> str | None:
    """The path of an interpreter of a version such as 3.12; a shim on PATH may stand for one that is not there."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    own = sorted(pyenv.glob(f"versions/{python}.*/bin/python{python}"))
    for candidate in (*(str(path) for path in own), shutil.which(f"python{python}")):
        if candidate and _runs(candidate):
            return candidate
    return None


def _runs(interpreter: str) -> bool:
    tried = [interpreter, "-c", "import ensurepip, venv"]
    return subprocess.run(tried, env=WITHOUT_OURS, capture_output=True, check=False).returncode == 0


def fetched(wheel: Path, python: str, folder: Path) -> Path:
    """A folder with the wheel and all that it needs for a version of Python, from PyPI."""
    wheels = folder / "wheels"
    only = ("--only-binary=:all:", f"--python-version={python}", f"--dest={wheels}")
    subprocess.run([*PIP, "download", *only, str(wheel)], check=True, capture_output=True)
    return wheels


def require_run(done: subprocess.CompletedProcess[str], python: str) -> None:
    """What `INSTALLED` is to print."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"Python {python}.")
    assert "fiefdom, version 0.1.0.dev0" in done.stdout and "fiefdom.facts.Drift" in done.stdout
