"""Images on the operator's machine: what tells one build from another, and what a person hears where one is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fiefdom import RELEASE
from fiefdom.errors import FiefdomError
from fiefdom.images import bases, build, docker
from fiefdom.model import Cluster
from helpers.example import INVENTORY, merged

REF = "team/predictor:1.2.0"
OWN = {f"fiefdom/gateway:{RELEASE}", f"fiefdom/serf:{RELEASE}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    context = tmp_path / "predictor"
    (context / "src").mkdir(parents=True)
    (context / "Dockerfile").write_text("FROM scratch\n")
    (context / "src" / "app.py").write_text("print(1)\n")
    return context


@pytest.fixture
def without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def cluster(base_dir: Path = Path(), **changes: object) -> Cluster:
    """One service, whose folder is `predictor` beside the inventory unless changed."""
    built = {
        "services": {"web": None, "predictor": {"build": "predictor"}},
        "hosts": {"app2": {"groups": ["app_hosts"]}},
    }
    return Cluster.model_validate({**merged(merged(INVENTORY, built), changes), "base_dir": str(base_dir)})


PLAIN: dict[str, object] = {"services": {"predictor": {"build": None}}}
REGISTRY: dict[str, object] = {"registry": {"server": "registry.example.org:5000"}}


def edit(path: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        edit("src/app.py", "print(2)\n"),
        edit("src/app.py", ""),
        edit("src/new.py", ""),
        lambda folder: (folder / "src/app.py").rename(folder / "src/main.py"),
        lambda folder: (folder / "src/app.py").rename(folder / "app.py"),
        lambda folder: (folder / "src/app.py").chmod(0o755),
        lambda folder: (folder / "src/app.py").unlink(),
    ],
    ids=["content", "emptied", "added", "renamed", "moved", "executable", "removed"],
)
def test_a_build_is_another_when_its_folder_is(folder: Path, change: Callable[[Path], object]) -> None:
    before = build.identities(cluster(folder.parent))[REF]
    change(folder)
    assert build.identities(cluster(folder.parent))[REF] != before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "src/app.py").touch(),
        lambda folder: (folder / "src/app.py").chmod(0o600),  # as another operator's umask would have it
        lambda folder: (folder / "src/__pycache__").mkdir() or (folder / "src/__pycache__/app.pyc").write_text("x"),
    ],
    ids=["time", "mode", "bytecode"],
)
def test_a_build_is_the_same_for_two_operators(folder: Path, change: Callable[[Path], object]) -> None:
    before = build.identities(cluster(folder.parent))[REF]
    change(folder)
    assert build.identities(cluster(folder.parent))[REF] == before


def test_what_is_built_here_is_known_by_its_folder_without_asking_docker(folder: Path, without_docker: None) -> None:
    known = build.identities(cluster(folder.parent))
    assert known.keys() == {REF, *OWN}
    assert all(identity.startswith("context:") for identity in known.values())


def test_a_registry_decides_on_its_images_itself(folder: Path, without_docker: None) -> None:
    with_registry = cluster(folder.parent, **REGISTRY)
    assert build.identities(with_registry) == {}
    build.ensure(with_registry, [w.ref for w in build.wanted(with_registry)], pytest.fail)
    assert {w.ref for w in build.wanted(with_registry)} == {f"registry.example.org:5000/{r}" for r in (REF, *OWN)}


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["built", "plain"])
def test_without_a_docker_client_a_person_hears_one_sentence(
    folder: Path, without_docker: None, changes: dict[str, object]
) -> None:
    with pytest.raises(FiefdomError, match=r"^there is no docker command on this machine; install it[^\n]*$"):
        build.ensure(cluster(folder.parent, **changes), [REF], pytest.fail)


def test_nothing_to_send_needs_no_docker(folder: Path, without_docker: None) -> None:
    build.ensure(cluster(folder.parent), [], pytest.fail)


SOME_PULLED: dict[str, object] = {
    "registries": {"gh": {"server": "ghcr.io"}},
    "services": {"predictor": {"image": "ghcr.io/team/predictor"}},
}


def test_of_several_registries_each_decides_on_its_own(folder: Path, without_docker: None) -> None:
    some = cluster(folder.parent, **SOME_PULLED)
    assert {w.ref: w.pulled for w in build.wanted(some)} == {
        "ghcr.io/team/predictor:1.2.0": True,
        **dict.fromkeys(OWN, False),
    }
    assert build.identities(some).keys() == OWN
    build.ensure(some, ["ghcr.io/team/predictor:1.2.0"], pytest.fail)


def test_an_image_here_is_found_however_the_inventory_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = {"Id": "sha256:1", "RepoTags": ["nginx:1", "ghcr.io/a/web:1"], "Config": {}, "RootFS": {}}
    (tmp_path / "images").write_text(json.dumps([image]))
    client = tmp_path / "docker"
    client.write_text(
        f'#!/bin/sh\n[ "$1" = image ] && exec cat {tmp_path}/images\necho \'27.0 [["Backing", "ext"]]\'\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    docker._local_daemon.cache_clear()
    refs = ["nginx:1", "docker.io/library/nginx:1", "index.docker.io/nginx:1", "ghcr.io/a/web:1", "a/web:1", "nginx:2"]
    assert list(docker.inspect(refs)) == refs[:4]
    docker._local_daemon.cache_clear()


DOCKER = """#!/bin/sh
printf '%s\\n' "$1 $2 $3 $4 $5" >>"$ROOT/asked"
[ "$1 $2" != "image inspect" ] || cat "$ROOT/inspected"
"""


def test_after_a_build_what_lost_its_name_goes(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "inspected").write_text("[]")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("ROOT", str(tmp_path))
    of, said = cluster(folder.parent), []
    build.ensure(of, [REF], said.append)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert said == [f"building {REF}"]
    assert [line.split()[0] for line in asked] == ["image", "build", "image"]
    assert asked[-1] == "image prune --force --filter label=fiefdom.context", "no other image without a name"
    context = build.identities(of)[REF].removeprefix("context:")
    image = {"Id": "sha256:1", "RepoTags": [REF], "Config": {"Labels": {"fiefdom.context": context}}, "RootFS": {}}
    (tmp_path / "inspected").write_text(json.dumps([image]))
    build.ensure(of, [REF], pytest.fail)
    assert "prune" not in "".join((tmp_path / "asked").read_text().splitlines()[len(asked) :])


# --- contents


def test_contents_are_listed_by_image_and_package() -> None:
    own = build.Contents(
        "fiefdom/serf:1", "sha256:1", "debian:trixie@sha256:2", (("libc6", "2.41"), ("serf", "0.10.1"))
    )
    assert list(own.lines()) == [
        "fiefdom/serf:1: sha256:1, on debian:trixie@sha256:2, 2 packages",
        "  libc6 2.41",
        "  serf 0.10.1",
    ]
    assert list(build.Contents("x:1", "sha256:1", "", ()).lines()) == [
        "x:1: sha256:1, on a base it does not name, no list of packages"
    ]
    assert list(build.Contents("x:1", "", "", ()).lines()) == ["x:1: not on this machine"]


@pytest.mark.parametrize("name", ["gateway", "serf", "predictor"])
def test_every_image_writes_down_its_packages(name: str) -> None:
    dockerfile = (bases.images_dir() / name / "Dockerfile").read_text()
    _, _, after_installing = dockerfile.partition("apt-get install")
    assert f"dpkg-query --show > {build._PACKAGES}" in after_installing
