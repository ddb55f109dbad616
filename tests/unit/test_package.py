"""What a wheel and a source archive of Fiefdom hold, and that the wheel works where there is no repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from email.parser import BytesParser
from pathlib import Path

import pytest

import fiefdom

ROOT = Path(__file__).parents[2]
TRAVELS = {name: f"data/{name}" for name in ("templates", "monitoring", "images", "examples")}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both archives, and the wheel's content in `site`."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, folder / "site", "zip")
    return folder


def tracked(*places: str) -> set[str]:
    """Files of the repository below some folders, without what Python makes of them."""
    found = (path for place in places for path in (ROOT / place).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


def test_the_wheel_has_the_library_and_all_that_it_reads(built: Path) -> None:
    site = built / "site"
    library = {name.removeprefix("deploys/") for name in tracked("deploys/fiefdom")}
    read = {f"fiefdom/{TRAVELS[n.split('/')[0]]}/{n.split('/', 1)[1]}" for n in tracked(*TRAVELS)}
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert {name for name in found if ".dist-info/" not in name} == library | read
    assert {"fiefdom/py.typed", "fiefdom/converge/snapshot.sh", "fiefdom/data/images/serf/Dockerfile"} <= found


def test_the_source_archive_has_the_pages_the_tests_and_the_inventories(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        found = {name.split("/", 1)[1] for name in source.getnames()}
    assert tracked("docs", "tests", "inventories", "examples", "bench") <= found
    assert {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "requirements.lock", "pyproject.toml"} <= found


def test_it_says_what_it_is(built: Path) -> None:
    (metadata,) = (built / "site").glob("*.dist-info/METADATA")
    says = BytesParser().parsebytes(metadata.read_bytes())
    assert (says["Name"], says["Version"]) == ("fiefdom", fiefdom.__version__)
    assert says["License-Expression"] == "MIT" and says.get_all("License-File") == ["LICENSE"]
    assert "Typing :: Typed" in says.get_all("Classifier", [])
    (entries,) = (built / "site").glob("*.dist-info/entry_points.txt")
    assert "fiefdom = fiefdom.cli.main:main" in entries.read_text()


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
from fiefdom.cli.main import main
main()
"""
    run = [sys.executable, "-I", "-c", program, "docs", "services.S.version"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "version" in done.stdout
