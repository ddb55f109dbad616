"""Images on this machine, as its dockerd has them: built, missing, broken; and bases that ask apt for signatures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fiefdom import RELEASE, lab
from fiefdom.errors import FiefdomError
from fiefdom.images import bases, build
from fiefdom.model import Cluster
from helpers.example import INVENTORY, merged

pytestmark = pytest.mark.usefixtures("docker_here")

REF = "team/predictor:1.2.0"
OWN = {f"fiefdom/gateway:{RELEASE}", f"fiefdom/serf:{RELEASE}"}
PLAIN: dict[str, object] = {"services": {"predictor": {"build": None}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    context = tmp_path / "predictor"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\n")
    return context


def cluster(base_dir: Path = Path(), **changes: object) -> Cluster:
    """One service, whose folder is `predictor` beside the inventory unless changed."""
    built = {"services": {"web": None, "predictor": {"build": "predictor"}}}
    return Cluster.model_validate({**merged(merged(INVENTORY, built), changes), "base_dir": str(base_dir)})


def test_what_is_only_present_here_is_known_by_its_id() -> None:
    present = cluster(services={"predictor": {"build": None, "image": "debian", "version": "trixie"}})
    assert build.identities(present)["debian:trixie"].startswith("sha256:")


def test_what_this_machine_does_not_have_is_not_known_and_is_refused() -> None:
    assert build.identities(cluster(**PLAIN)).keys() == OWN
    with pytest.raises(
        FiefdomError, match=rf"^services\.predictor\.image: {REF} is not on this machine; build or pull"
    ):
        build.ensure(cluster(**PLAIN), [REF], pytest.fail)


def test_a_folder_without_a_dockerfile_is_refused(folder: Path) -> None:
    (folder / "Dockerfile").unlink()
    with pytest.raises(FiefdomError, match=rf"^services\.predictor\.build: {folder} has no Dockerfile; correct"):
        build.ensure(cluster(folder.parent), [REF], pytest.fail)


def test_a_build_that_fails_says_where_and_why(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY no-such-file /\n")
    said: list[str] = []
    with pytest.raises(FiefdomError) as error:
        build.ensure(cluster(folder.parent), [REF], said.append)
    assert str(error.value).startswith(f"{REF} could not be built from {folder}: ")
    assert "no-such-file" in str(error.value) and "\n" not in str(error.value)
    assert said == [f"building {REF}"]


def test_contents_are_those_of_the_image(tmp_path: Path) -> None:
    """Of a real image, which is opened and not run: it has nothing that could run."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY packages.txt /usr/share/fiefdom/packages.txt\n")
    (tmp_path / "packages.txt").write_text("libc6:amd64\t2.41-12\nserf\t0.10.1\n")
    context = tmp_path / "predictor"
    context.mkdir()
    for file in ("Dockerfile", "packages.txt"):
        (tmp_path / file).rename(context / file)
    of = cluster(tmp_path, services={"predictor": {"build": "predictor", "image": "scratch-images-test"}})
    ref = "scratch-images-test:1.2.0"
    build.ensure(of, [ref], lambda _: None)
    try:
        found = {c.ref: c for c in build.contents(of)}
        assert found[ref].packages == (("libc6:amd64", "2.41-12"), ("serf", "0.10.1"))
        assert found[ref].base == ""
    finally:
        subprocess.run(["docker", "rmi", ref], capture_output=True, check=False)


# A repository without a signature, in the image itself.
TRY_UNSIGNED = """
mkdir -p /repository && cd /repository && : > Packages
{ echo 'Suite: x'; echo 'SHA256:'; echo " $(sha256sum < Packages | cut -d' ' -f1) 0 Packages"; } > Release
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb file:/repository ./' > /etc/apt/sources.list
apt-get update --error-on=any
"""


@pytest.mark.parametrize("codename", lab.CODENAMES)
def test_the_base_refuses_a_repository_that_nobody_signed(codename: str) -> None:
    command = ["docker", "run", "--rm", "--network=none", bases.tag_of(codename), "sh", "-c", TRY_UNSIGNED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 100
    assert "is not signed" in done.stderr
    # The refusal is of the signature, not of the repository.
    signed_off = TRY_UNSIGNED.replace("deb file", "deb [trusted=yes] file")
    done = subprocess.run([*command[:-1], signed_off], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
