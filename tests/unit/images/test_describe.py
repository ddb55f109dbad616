"""What this machine's Docker says of images, as sizes of layers; and what goes after a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from fiefdom.desired.state import LocalImage
from fiefdom.images import docker

# One small Dockerfile in the words of Docker's older builder and of BuildKit, the top first.
CLASSIC = """\
0\t/bin/sh -c #(nop)  LABEL fiefdom.context=abc
0\t/bin/sh -c #(nop)  CMD ["/hello"]
1200\t/bin/sh -c #(nop) COPY file:1 in /hello
0\t/bin/sh -c #(nop) WORKDIR /srv
30\t/bin/sh -c echo x >/x
0\t/bin/sh -c #(nop)  ENV A=b
74000000\t/bin/sh -c #(nop) ADD file:2 in /
"""
BUILDKIT = """\
0\tLABEL fiefdom.context=abc
0\tCMD ["/hello"]
1200\tCOPY hello /hello # buildkit
0\tWORKDIR /srv
30\tRUN |1 A=b /bin/sh -c echo x >/x # buildkit
0\tENV A=b
74000000\t# debian.sh --arch 'amd64' out/ 'trixie'
"""
SIZES = (74000000, 30, 0, 1200)

DOCKER = """#!/bin/sh
printf '%s\\n' "$*" >>"$ROOT/asked"
case $1 in
  image) cat "$ROOT/inspected"; exit 1 ;;
  history) cat "$ROOT/history" ;;
esac
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose Docker prints files of this folder."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("ROOT", str(tmp_path))
    return tmp_path


def inspected(tags: str, layers: int, labels: str = "null") -> str:
    chain = ",".join(f'"sha256:{number}"' for number in range(layers))
    return f'{tags} "sha256:id" "arm64" {labels} [{chain}]\n'


@pytest.mark.parametrize("history", [CLASSIC, BUILDKIT])
def test_every_layer_has_its_size(here: Path, history: str) -> None:
    (here / "inspected").write_text(inspected('["a:1","a:2"]', 4, '{"fiefdom.context":"abc"}'))
    (here / "history").write_text(history)
    layers = tuple((f"sha256:{number}", size) for number, size in enumerate(SIZES))
    assert docker.describe(["a:1", "b:1"]) == {"a:1": LocalImage("arm64", layers, True, "abc")}


def test_where_history_says_too_little_the_last_layer_has_all(here: Path) -> None:
    (here / "inspected").write_text(inspected('["a:1"]', 6))
    (here / "history").write_text(BUILDKIT)
    found = docker.describe(["a:1"])["a:1"]
    assert not found.exact
    assert [size for _, size in found.layers] == [0, 0, 0, 0, 0, sum(SIZES)]


def test_an_image_without_layers_has_none(here: Path) -> None:
    (here / "inspected").write_text('["a:1"] "sha256:id" "" null null\n')
    (here / "history").write_text("0\tCMD x\n")
    assert docker.describe(["a:1"]) == {"a:1": LocalImage("", ())}


def test_without_docker_or_a_question_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert docker.describe(["a:1"]) == {}


def test_what_this_machine_lacks_is_left_out(here: Path) -> None:
    (here / "inspected").write_text("\n")
    assert docker.describe(["a:1"]) == {}


def test_nobody_is_asked_about_nothing(here: Path) -> None:
    assert docker.describe([]) == {}
    assert not (here / "asked").exists()
