"""Base images: pulled by their pin and by nothing else, or made here; and apt asks for signatures wherever it runs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fiefdom import lab
from fiefdom.errors import FiefdomError
from fiefdom.images import bases
from fiefdom.lab import bases as bases_module

ROOT = Path(__file__).parents[3]
TRIXIE = bases.pins()["trixie"]
OTHER = f"debian@sha256:{'1' * 64}"

# A docker client that knows the images of $IMAGES (JSON: reference -> labels and digests), pulls what is in $PULLS
# (JSON: reference -> digest), and writes down what it was asked.
DOCKER = (
    f"#!{sys.executable}"
    + """
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as asked:
    asked.write(" ".join(sys.argv[1:]) + "\\n")
images = json.loads((here / "images").read_text())
pulls = json.loads((here / "pulls").read_text())
match sys.argv[1:]:
    case ["image", "inspect", *_, ref] if ref in images:
        print(json.dumps(images[ref]))
    case ["pull", ref] if ref in pulls:
        print(f"13: Pulling from library/debian\\nDigest: {pulls[ref]}")
    case ["tag", pin, tag]:
        images[tag] = images[pin] = {"labels": None, "digests": ["debian@" + pin.partition("@")[2]]}
        (here / "images").write_text(json.dumps(images))
    case _:
        sys.exit("Error: no such image, or no registry")
"""
)

FakeDocker = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    def make(images: Mapping[str, object], pulls: Mapping[str, str] | None = None) -> Callable[[], list[str]]:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "images").write_text(json.dumps(images))
        (folder / "pulls").write_text(json.dumps(pulls or {}))
        (folder / "asked").touch()
        (folder / "docker").write_text(DOCKER)
        (folder / "docker").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return lambda: [line for line in (folder / "asked").read_text().splitlines() if not line.startswith("image ")]

    return make


def image(labels: Mapping[str, str] | None = None, *digests: str) -> dict[str, object]:
    return {"labels": labels, "digests": list(digests)}


PINNED = image(None, TRIXIE.replace(":trixie", ""))
MADE_HERE = image({bases.LABEL: bases.MADE_HERE})


def dockerfiles() -> list[Path]:
    found = [path for top in ("images", "tests/lab/images") for path in (ROOT / top).glob("*/Dockerfile")]
    assert {path.parent.name for path in found} >= {"gateway", "serf", "predictor", "lab-host", "hello", "registry"}
    return found


def test_every_release_has_one_pin_and_every_dockerfile_the_same() -> None:
    pins = bases.pins()
    assert set(pins) == set(lab.CODENAMES)
    for dockerfile in dockerfiles():
        text = dockerfile.read_text()
        assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == ["${BASE}"], dockerfile
        (default,) = re.findall(r"^ARG BASE=?(.*)$", text, re.MULTILINE)
        assert default in pins.values() or (default == "" and dockerfile.parent.name == "lab-host"), dockerfile


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ({TRIXIE: PINNED, "debian:trixie": PINNED}, TRIXIE),
        ({TRIXIE: PINNED, "debian:trixie": image(None, OTHER)}, TRIXIE),
        ({"debian:trixie": MADE_HERE}, "debian:trixie"),
        ({"debian:trixie": image(None)}, "debian:trixie"),
        ({"debian:trixie": image({bases.LABEL: bases.MADE_HERE}, OTHER)}, "debian:trixie"),  # the containerd store
        ({"debian:trixie": image(None, "registry.example.org/debian@sha256:1")}, "debian:trixie"),  # pushed from here
        ({"debian:trixie": image(None, OTHER)}, None),  # pulled by its name alone
        ({}, None),
    ],
)
def test_what_there_is_to_build_on(docker: FakeDocker, images: Mapping[str, object], found: str | None) -> None:
    docker(images)
    assert bases.here("trixie") == found


def test_without_a_docker_client_there_is_nothing_to_build_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bases.here("trixie") is None


def test_a_build_stands_on_the_pin_or_on_what_was_made_here_and_says_so(docker: FakeDocker) -> None:
    serf = ROOT / "images/serf"
    docker({"debian:trixie": MADE_HERE})
    assert bases.build_arguments(serf) == [
        "--build-arg=BASE=debian:trixie",
        "--label=fiefdom.base=debian:trixie, made from Debian's packages",
    ]


@pytest.mark.parametrize("images", [{}, {"debian:trixie": image(None, OTHER)}, {TRIXIE: PINNED}])
def test_a_build_takes_no_other_image_that_was_pulled(docker: FakeDocker, images: Mapping[str, object]) -> None:
    docker(images)
    assert bases.build_arguments(ROOT / "images/serf") == [f"--label=fiefdom.base={TRIXIE}"]


def test_a_build_on_a_release_of_its_own_keeps_its_pin(docker: FakeDocker, tmp_path: Path) -> None:
    docker({})
    pin = f"debian:bullseye@sha256:{'3' * 64}"
    (tmp_path / "Dockerfile").write_text(f"ARG BASE={pin}\nFROM ${{BASE}}\n")
    assert bases.build_arguments(tmp_path) == [f"--label=fiefdom.base={pin}"]


def test_a_build_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:trixie\n")
    assert bases.build_arguments(tmp_path) == []
    assert bases.build_arguments(tmp_path / "nothing") == []


def test_a_base_is_pulled_by_its_pin_alone(docker: FakeDocker) -> None:
    pins = bases.pins()
    asked = docker({"debian:trixie": image(None, OTHER)}, {pin: pin.partition("@")[2] for pin in pins.values()})
    lab.ensure_base_images(lambda _: None)
    assert asked() == [line for r in lab.CODENAMES for line in (f"pull {pins[r]}", f"tag {pins[r]} debian:{r}")]
    assert bases.here("trixie") == TRIXIE


def test_where_the_pin_is_not_to_be_had_the_base_is_made_and_not_pulled_by_name(
    docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, str]] = []
    monkeypatch.setattr(bases_module, "make_base_images", lambda tags, _: made.append(tags))
    asked = docker({"debian:bookworm": MADE_HERE}, {"debian:trixie": "sha256:" + "2" * 64})
    lab.ensure_base_images(lambda _: None)
    assert asked() == [f"pull {TRIXIE}"]
    assert made == [{"trixie": "debian:trixie"}]


def images_folder(tmp_path: Path) -> Path:
    for name in ("images", "tests/lab/images"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "rootfs"))
    return tmp_path / "images"


def test_renewing_pins_what_the_registry_gave_everywhere(docker: FakeDocker, tmp_path: Path) -> None:
    folder = images_folder(tmp_path)
    docker({}, {"debian:bookworm": f"sha256:{'b' * 64}", "debian:trixie": f"sha256:{'c' * 64}"})
    bases.renew(folder, lambda _: None)
    assert bases.pins(folder) == {r: f"debian:{r}@sha256:{c * 64}" for r, c in (("bookworm", "b"), ("trixie", "c"))}
    for name in ("gateway", "serf", "predictor", "../tests/lab/images/hello", "../tests/lab/images/registry"):
        assert f"ARG BASE=debian:trixie@sha256:{'c' * 64}\n" in (folder / name / "Dockerfile").read_text()


def test_renewing_changes_nothing_where_a_registry_lacks_one(docker: FakeDocker, tmp_path: Path) -> None:
    folder = images_folder(tmp_path)
    docker({}, {"debian:bookworm": f"sha256:{'b' * 64}"})
    with pytest.raises(
        FiefdomError, match=r"^debian:trixie could not be pulled, and no pin was changed: Error: no such"
    ):
        bases.renew(folder, lambda _: None)
    assert bases.pins(folder) == bases.pins()


# --- apt

# Whatever makes apt, dpkg or mmdebstrap take packages that nobody signed.
UNSIGNED = re.compile(
    r"trusted[=:]\s*yes|allow-unauthenticated|AllowUnauthenticated|force-yes|allow-insecure|AllowInsecure"
    r"|no-check-gpg|AllowWeak|allow-downgrade-to-insecure|AllowDowngradeToInsecure",
    re.IGNORECASE,
)


def runs_apt() -> list[Path]:
    shipped = [p for top in ("images", "deploys", "templates", ".ci", "bench") for p in (ROOT / top).rglob("*")]
    return [p for p in (*shipped, ROOT / "Makefile") if p.is_file() and p.suffix not in (".pyc", ".lock")]


def test_nothing_turns_signatures_off() -> None:
    files = [p for p in runs_apt() if re.search(r"apt-get|mmdebstrap", p.read_text(errors="replace"))]
    assert {"Dockerfile", "bases.py", "steps.sh", "Makefile"} <= {p.name for p in files}
    for path in files:
        assert not UNSIGNED.search(path.read_text(errors="replace")), path


def test_no_image_is_built_on_a_list_of_packages_that_could_not_be_had_anew() -> None:
    for path in dockerfiles():
        updates = re.findall(r"apt-get update(.*)", path.read_text())
        assert updates and all(rest.startswith(" --error-on=any") for rest in updates), path


@pytest.mark.parametrize(
    "line",
    [
        "deb [trusted=yes] http://x y z",
        "apt-get install --allow-unauthenticated x",
        "-o Acquire::AllowInsecureRepositories=1",
    ],
)
def test_what_would_turn_them_off_is_recognised(line: str) -> None:
    assert UNSIGNED.search(line)
