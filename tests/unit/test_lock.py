"""requirements.lock: all that is installed for development and CI, pinned and hashed."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Locked:
    requirement: Requirement
    hashes: tuple[str, ...]
    asked_for_by: tuple[str, ...]

    @property
    def version(self) -> str:
        (pin,) = self.requirement.specifier
        assert pin.operator == "=="
        return pin.version


def read_lock(text: str) -> list[Locked]:
    """Every package of a lock, with its hashes and what the comments under it say it is there for."""
    found = []
    for block in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)):
        lines = [line.strip().rstrip("\\").strip() for line in block.splitlines()]
        hashes = tuple(line.removeprefix("--hash=") for line in lines if line.startswith("--hash="))
        via = [line.lstrip("# ").removeprefix("via").strip() for line in lines if line.startswith("#")]
        found.append(Locked(Requirement(lines[0]), hashes, tuple(filter(None, via))))
    return found


@pytest.fixture(scope="module")
def lock() -> list[Locked]:
    return read_lock((ROOT / "requirements.lock").read_text())


@pytest.fixture(scope="module")
def asked_for() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["dev"])]


def test_every_locked_package_has_one_version_and_its_hashes(lock: list[Locked]) -> None:
    assert len(lock) > 40
    for package in lock:
        assert package.version
        assert package.hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in package.hashes), package.requirement.name


def test_the_lock_is_of_what_the_project_asks_for(lock: list[Locked], asked_for: list[Requirement]) -> None:
    """Else: `make lock`."""
    here = {canonicalize_name(p.requirement.name) for p in lock if "fiefdom (pyproject.toml)" in p.asked_for_by}
    assert here == {canonicalize_name(r.name) for r in asked_for}


def test_every_locked_version_is_one_that_the_project_takes(lock: list[Locked], asked_for: list[Requirement]) -> None:
    for wanted in asked_for:
        versions = [p.version for p in lock if canonicalize_name(p.requirement.name) == canonicalize_name(wanted.name)]
        assert versions and all(wanted.specifier.contains(v, prereleases=True) for v in versions), wanted


def test_the_project_is_built_with_what_is_locked(asked_for: list[Requirement]) -> None:
    """`make venv` builds without isolation: pip would fetch what a build asks for, and check no hash of it."""
    built_with = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {Requirement(line).name for line in built_with} <= {r.name for r in asked_for}
    makefile = (ROOT / "Makefile").read_text()
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert installs
    for line in installs:
        assert "--require-hashes" in line or ("--no-deps" in line and "--no-build-isolation" in line), line


@pytest.mark.parametrize(
    ("old", "new"),
    [('"click>=8.1"', '"click>=8.1", "attrs"'), ('"click>=8.1"', '"click>=99"')],
    ids=["one more", "a newer one"],
)
def test_a_lock_that_is_behind_is_noticed(old: str, new: str, lock: list[Locked]) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert old in text
    project = tomllib.loads(text.replace(old, new))["project"]
    behind = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["dev"])]
    with pytest.raises(AssertionError):
        test_the_lock_is_of_what_the_project_asks_for(lock, behind)
        test_every_locked_version_is_one_that_the_project_takes(lock, behind)


PYTHONS = ("3.10", "3.11", "3.12", "3.13")
VERMIN = (str(Path(sys.executable).with_name("vermin")), "--no-tips", f"--target={PYTHONS[0]}-", "--violations")


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_gets_one_version_of_each_package(
    python: str, lock: list[Locked], asked_for: list[Requirement]
) -> None:
    """The lock is for all of them, with what differs behind markers."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    environment |= {"implementation_name": "cpython", "platform_python_implementation": "CPython", "os_name": "posix"}
    taken = [
        canonicalize_name(package.requirement.name)
        for package in lock
        if package.requirement.marker is None or package.requirement.marker.evaluate(environment)
    ]
    assert len(taken) == len(set(taken)), sorted(name for name in taken if taken.count(name) > 1)
    assert {canonicalize_name(r.name) for r in asked_for} <= set(taken)


@pytest.mark.long
def test_the_library_uses_nothing_that_is_newer_than_the_oldest_python() -> None:
    """Of the standard library and of the language; ruff and mypy hold the latter as well."""
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert oldest == f">={PYTHONS[0]}"
    done = subprocess.run([*VERMIN, "deploys"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_something_newer_is_found(tmp_path: Path) -> None:
    (tmp_path / "newer.py").write_text("import tomllib\n")
    done = subprocess.run([*VERMIN, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "'tomllib' module requires" in done.stdout
