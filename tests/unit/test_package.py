"""What a wheel and a source archive of Fiefdom hold, that the wheel works without a repository, and its version."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tarfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from fiefdom.converge import made_by

ROOT = Path(__file__).parents[2]
NEVER_BUILT = "0.1.0.dev0"
KEPT = (
    "bench",
    "deploys",
    "docs",
    "examples",
    "group_data",
    "images",
    "inventories",
    "monitoring",
    "schema",
    "templates",
    "tests",
)
KEPT += ("CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml", "requirements.lock")
KEPT += (".git_archival.txt", ".gitattributes", ".gitignore")
TRAVELS = {name: f"data/{name}" for name in ("templates", "monitoring", "images", "examples")}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository without its history: a build writes the version into it, which no test beside this may see."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked(*KEPT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both archives, and the wheel's content in `site`."""
    folder = tmp_path_factory.mktemp("dist")
    hatchling(source, "build", "-d", str(folder))
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, folder / "site", "zip")
    return folder


def hatchling(folder: Path, *words: str) -> str:
    # Above the folder may be a repository that has nothing to do with it.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    command = [sys.executable, "-m", "hatchling", *words]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def tracked(*places: str) -> set[str]:
    """Files of the repository in some folders, or by their own names, but for what Python and the build make."""
    found = (path for place in places for path in [ROOT / place, *(ROOT / place).rglob("*")] if path.is_file())
    return {
        str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts and path.name != "_version.py"
    }


def test_the_wheel_has_the_library_and_all_that_it_reads(built: Path) -> None:
    site = built / "site"
    library = {name.removeprefix("deploys/") for name in tracked("deploys/fiefdom")}
    read = {f"fiefdom/{TRAVELS[n.split('/')[0]]}/{n.split('/', 1)[1]}" for n in tracked(*TRAVELS)}
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    library.add("fiefdom/_version.py")
    assert {name for name in found if ".dist-info/" not in name} == library | read
    assert {
        "fiefdom/py.typed",
        "fiefdom/converge/snapshot.sh",
        "fiefdom/inventory/workflow.github.yml",
        "fiefdom/data/images/serf/Dockerfile",
    } <= found


def test_the_source_archive_has_the_pages_the_tests_and_the_inventories(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        found = {name.split("/", 1)[1] for name in source.getnames()}
    assert tracked("docs", "tests", "inventories", "examples", "bench") <= found
    assert {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "requirements.lock", "pyproject.toml"} <= found


def test_it_says_what_it_is(built: Path) -> None:
    (metadata,) = (built / "site").glob("*.dist-info/METADATA")
    says = BytesParser().parsebytes(metadata.read_bytes())
    assert (says["Name"], says["Version"]) == ("fiefdom", NEVER_BUILT)
    assert says["License-Expression"] == "MIT" and says.get_all("License-File") == ["LICENSE"]
    assert "Typing :: Typed" in says.get_all("Classifier", [])
    (entries,) = (built / "site").glob("*.dist-info/entry_points.txt")
    assert "fiefdom = fiefdom.cli.main:main" in entries.read_text()


@pytest.fixture
def history(source: Path, tmp_path: Path) -> Path:
    """The repository with a history of its own, of one commit."""
    folder = tmp_path / "repository"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("docs", "tests", "images", "_version.py"))
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *names, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "x")
    return git(folder, "rev-parse", "HEAD")[:7]


def says(folder: Path) -> str:
    return hatchling(folder, "version").strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_a_tag_sets_the_version(history: Path, tmp_path: Path) -> None:
    """Behind it, and where there is none yet, it is a dev version of what comes next; git's archives know it too."""
    assert says(history).startswith("0.1.0.dev1+g")
    git(history, "tag", "v1.2.3")
    assert says(history) == "1.2.3"
    behind = commit(history)
    assert says(history).startswith(f"1.2.4.dev1+g{behind}")
    archive = tmp_path / "archive"
    git(history, "archive", "--output", f"{archive}.tar", "HEAD")
    shutil.unpack_archive(f"{archive}.tar", archive)
    assert says(archive).startswith(f"1.2.4.dev1+g{behind}")


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_builds_count_in_the_order_in_which_they_are_made(history: Path) -> None:
    """Each release, candidate and dev build before the next tag, and what hosts are told of them."""
    found = [says(history)]
    for tag in ("v0.1.0", "v0.2.0rc1", "v0.2.0", "v0.3.0a1", "v0.3.0"):
        if tag != "v0.1.0":
            commit(history)
            found.append(says(history))
        git(history, "tag", tag)
        found.append(says(history))
        commit(history)
    assert [version.partition("+")[0] for version in found] == [
        *("0.1.0.dev1", "0.1.0"),
        *("0.1.1.dev2", "0.2.0rc1"),
        *("0.2.0rc2.dev2", "0.2.0"),
        *("0.2.1.dev2", "0.3.0a1"),
        *("0.3.0a2.dev2", "0.3.0"),
    ]
    told = [version.partition("+")[0].partition(".dev")[0] for version in found]
    for versions in (found, told):
        for before, after in itertools.pairwise(versions):
            assert not made_by.is_newer(before, after), f"{before} before {after}"


def test_without_git_it_is_what_the_source_says(source: Path, built: Path, tmp_path: Path) -> None:
    """And a source archive goes on saying what it was built as."""
    assert says(source) == NEVER_BUILT
    assert f'fallback-version = "{NEVER_BUILT}"' in (ROOT / "pyproject.toml").read_text()
    (archive,) = built.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    (folder,) = tmp_path.glob("fiefdom-*")
    assert folder.name == f"fiefdom-{NEVER_BUILT}"
    packed = folder / "PKG-INFO"
    packed.write_text(packed.read_text().replace(f"Version: {NEVER_BUILT}", "Version: 7.8.9"))
    assert says(folder) == "7.8.9"


@pytest.mark.parametrize(
    ("written", "version", "release"),
    [
        ("1.2.3", "1.2.3", "1.2.3"),
        ("1.2.4.dev5+gabc", "1.2.4.dev5+gabc", "1.2.4"),
        ("2.0.0rc1", "2.0.0rc1", "2.0.0rc1"),
        (None, NEVER_BUILT, "0.1.0"),
    ],
)
def test_what_hosts_are_told_is_the_release(tmp_path: Path, written: str | None, version: str, release: str) -> None:
    (tmp_path / "fiefdom").mkdir()
    shutil.copy2(ROOT / "deploys/fiefdom/__init__.py", tmp_path / "fiefdom")
    if written:
        (tmp_path / "fiefdom/_version.py").write_text(f"__version__ = {written!r}\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import fiefdom as f; print(f.__version__, f.RELEASE)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [version, release]


def test_its_command_works_in_an_empty_folder(built: Path, tmp_path: Path) -> None:
    """It reads an inventory, and makes the whole state of every host from its own templates."""
    inventory = tmp_path / "cluster.yaml"
    inventory.write_text((ROOT / "inventories/production.example.yaml").read_text())
    program = f"""
import sys; sys.path.insert(0, {str(built / "site")!r})
import fiefdom
assert fiefdom.__file__.startswith({str(built)!r}), fiefdom.__file__
from pathlib import Path
from fiefdom.desired.concerns import states_of
from fiefdom.images import build
from fiefdom.inventory import read
from fiefdom.model.secrets import Secrets
cluster = read.load(Path("cluster.yaml"))
assert all(states_of(cluster, host, Secrets("dGVzdHMgb25seTogMzIgYnl0ZXMgb2Ygbm90aGluZyE=")) for host in cluster.hosts)
assert build.identities(cluster)
assert fiefdom.__version__ == {NEVER_BUILT!r}
from fiefdom.cli.main import main
main()
"""
    run = [sys.executable, "-I", "-c", program, "docs", "services.S.version"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "version" in done.stdout
