"""Only missing layers travel: what a host has, which files of an archive it can do without, and that dockerd agrees."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO

import pytest

from fiefdom.errors import FiefdomError
from fiefdom.images import layers, send

CLASSIC = '[["Backing Filesystem","extfs"],["Supports d_type","true"]]'
CONTAINERD = '[["driver-type","io.containerd.snapshotter.v1"]]'
BASE, MIDDLE, OLD_TOP, NEW_TOP = (f"sha256:{c * 64}" for c in "abcd")


def there(*chains: layers.Chain) -> layers.Held:
    return layers.held([CLASSIC, *(" ".join([f"sha256:{n}", *chain]) for n, chain in enumerate(chains))])


def image(*chain: str, prefix: str = "") -> layers.Layout:
    return layers.Layout("sha256:0", chain, tuple(f"{prefix}{digest}/layer.tar" for digest in chain))


def files(*chain: str, prefix: str = "") -> frozenset[str]:
    return frozenset(image(*chain, prefix=prefix).files)


def test_a_host_holds_every_chain_from_the_base_up_and_nothing_without_its_base() -> None:
    held = there((BASE, MIDDLE))
    assert held.chains == {(BASE,), (BASE, MIDDLE)}
    assert held.ids == {"sha256:0"}


def test_an_image_without_layers_counts_as_an_id() -> None:
    assert there(()) == layers.Held(frozenset({"sha256:0"}), frozenset())


def test_a_store_that_does_not_look_layers_up_by_chain_counts_as_empty() -> None:
    assert layers.held([CONTAINERD, f"sha256:0 {BASE}"]) == layers.Held()


@pytest.mark.parametrize(
    ("wanted", "held", "dropped"),
    [
        ([image(BASE, MIDDLE, NEW_TOP)], there((BASE, MIDDLE, OLD_TOP)), files(BASE, MIDDLE)),
        ([image(BASE, MIDDLE)], there((BASE, MIDDLE, OLD_TOP)), files(BASE, MIDDLE)),
        ([image(BASE, MIDDLE)], there(), files()),
        ([image(BASE, MIDDLE)], there((OLD_TOP, MIDDLE)), files()),
        ([image(BASE, MIDDLE)], there((BASE,), (OLD_TOP, MIDDLE)), files(BASE)),
        ([image(BASE, MIDDLE, BASE)], there((BASE, MIDDLE)), files(MIDDLE)),
        ([image(BASE, MIDDLE), image(OLD_TOP, MIDDLE, prefix="other")], there((BASE, MIDDLE)), files(BASE)),
        (
            [image(BASE, MIDDLE), image(BASE, NEW_TOP, prefix="other")],
            there((BASE, MIDDLE)),
            files(BASE, MIDDLE) | files(BASE, prefix="other"),
        ),
    ],
    ids=[
        "new top",
        "only metadata",
        "empty host",
        "other base",
        "base alone",
        "twice in one",
        "on two bases",
        "shared",
    ],
)
def test_a_file_travels_where_any_image_needs_its_layer_on_a_chain_that_is_not_there(
    wanted: list[layers.Layout], held: layers.Held, dropped: frozenset[str]
) -> None:
    assert layers.superfluous(wanted, held) == dropped


# --- archives --------------------------------------------------------------------------------------------------------

CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [BASE, MIDDLE]}}).encode()
ID = sha256(CONFIG).hexdigest()
MANIFEST = {"Config": f"{ID}.json", "RepoTags": None, "Layers": ["b/layer.tar", "m/layer.tar"]}
LEGACY: dict[str, bytes] = {
    f"{ID}.json": CONFIG,
    "b/VERSION": b"1.0",
    "b/json": b"{}",
    "b/layer.tar": b"base" * 400_000,
    "m/layer.tar": b"{ a small layer",
    "manifest.json": json.dumps([MANIFEST]).encode(),
}


def archive(entries: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), 1.5
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return out.getvalue()


def content(data: bytes) -> dict[str, bytes | str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {e.name: f.read() if (f := tar.extractfile(e)) else e.linkname for e in tar if not e.issym()} | {
            e.name: e.linkname for e in tar if e.issym()
        }


def test_an_archive_says_which_file_is_which_layer() -> None:
    found = layers.layout(io.BytesIO(archive(LEGACY)))
    assert found == layers.Layout(f"sha256:{ID}", (BASE, MIDDLE), ("b/layer.tar", "m/layer.tar"))


@pytest.mark.parametrize(
    "change",
    [
        {"manifest.json": b"{"},
        {"manifest.json": b"[]"},
        {"manifest.json": b"{}"},
        {"manifest.json": json.dumps([MANIFEST, MANIFEST]).encode()},
        {"manifest.json": json.dumps([{**MANIFEST, "Layers": ["b/layer.tar"]}]).encode()},
        {"manifest.json": json.dumps([{**MANIFEST, "Layers": None}]).encode()},
        {"manifest.json": json.dumps([{**MANIFEST, "Config": "gone.json"}]).encode()},
        {"manifest.json": json.dumps([{**MANIFEST, "Config": "b/json"}]).encode()},
        {f"{ID}.json": CONFIG + b" "},
        {f"{ID}.json": b'{"rootfs": 1}'},
    ],
    ids=["broken", "none", "no list", "two", "a layer short", "null", "gone", "other", "altered", "no layers"],
)
def test_an_archive_that_is_not_as_expected_is_not_understood(change: dict[str, bytes]) -> None:
    assert layers.layout(io.BytesIO(archive(LEGACY | change))) is None


def test_newer_dockers_name_a_file_by_its_layer() -> None:
    assert layers.by_digest("sha256:0", (BASE,)).files == (f"blobs/sha256/{'a' * 64}",)


def test_an_archive_keeps_all_but_what_is_dropped() -> None:
    links = {"x/layer.tar": "../m/layer.tar", "y/" + "long" * 60: "../b/layer.tar"}
    source = io.BytesIO(archive(LEGACY, links))
    filtered = b"".join(layers.without(source, {"b/layer.tar"}))
    assert content(filtered) == {k: v for k, v in (LEGACY | links).items() if k != "b/layer.tar"}
    assert source.read() == b"", "docker save could not have ended"


def test_an_archive_is_passed_on_in_pieces() -> None:
    pieces = list(layers.without(io.BytesIO(archive(LEGACY)), ()))
    assert content(b"".join(pieces)) == LEGACY
    assert max(map(len, pieces)) <= 1 << 18


# --- dockerd ---------------------------------------------------------------------------------------------------------

PREFIX = f"scratch-layers/{os.getpid()}"
BASE_REF, FIRST, SECOND = (f"{PREFIX}-{name}:1" for name in ("base", "first", "second"))
AGAIN = f"{PREFIX}-second:2"
BASE_BYTES = 3_000_000


def docker(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout


def shell(script: str, pieces: Iterable[bytes]) -> str:
    """This machine as the host."""
    done = subprocess.run(["sh", "-c", script], input=b"".join(pieces), capture_output=True, check=False)
    if done.returncode:
        raise FiefdomError(done.stderr.decode())
    return done.stdout.decode()


def id_of(ref: str) -> str | None:
    return docker("image", "inspect", "--format", "{{.Id}}", ref, check=False).strip() or None


def chain_of(ref: str) -> layers.Chain:
    return tuple(docker("image", "inspect", "--format", "{{range .RootFS.Layers}}{{.}} {{end}}", ref).split())


@pytest.fixture
def two(tmp_path: Path) -> Iterator[None]:
    """Two images on one base of incompressible 3 MB; the second repeats the first's layer above another."""
    if not layers.is_classic(docker("info", "--format", "{{json .DriverStatus}}")):
        pytest.skip("a host's daemon is classic, and this machine's, which would play it here, is not")
    (tmp_path / "big").write_bytes(os.urandom(BASE_BYTES))
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        tar.add(tmp_path / "big", "big")
    (tmp_path / "big").unlink()
    (tmp_path / "same").write_text("the same layer")
    (tmp_path / "other").write_text(PREFIX)
    try:
        docker("import", str(tmp_path / "base.tar"), BASE_REF)
        (tmp_path / "base.tar").unlink()
        for ref, copied in ((FIRST, ["same"]), (SECOND, ["other", "same"])):
            steps = [f"FROM {BASE_REF}", *(f"COPY {name} /" for name in copied)]
            (tmp_path / "Dockerfile").write_text("\n".join(steps))
            docker("build", "--quiet", "--tag", ref, str(tmp_path))
        yield
    finally:
        docker("image", "rm", "--force", FIRST, SECOND, AGAIN, BASE_REF, check=False)


def packed(*refs: str) -> send.Parcel:
    found = send.parcel(refs, held_without(*refs))
    assert found is not None
    return found


def held_without(*refs: str) -> layers.Held:
    """What this machine would hold without these images."""
    held = send.held(shell)
    others = [chain_of(ref) for ref in (FIRST, SECOND, BASE_REF) if ref not in refs]
    return layers.Held(held.ids - {id_of(ref) or "" for ref in refs}, there(*others).chains)


Record = Callable[[Iterable[str]], IO[bytes]]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Record:
    """One daemon plays both ends: what it saves is kept, to be sent when it has lost the images."""

    def recorded(names: Iterable[str]) -> IO[bytes]:
        path = tmp_path / sha256(" ".join(names).encode()).hexdigest()
        if not path.exists():
            docker("save", "--output", str(path), *names)
        return path.open("rb")

    monkeypatch.setattr(send, "saved", recorded)
    return recorded


@pytest.mark.lab
def test_dockerd_names_what_it_holds(two: None) -> None:
    held = send.held(shell)
    assert {id_of(FIRST), id_of(SECOND), id_of(BASE_REF)} <= held.ids
    assert {chain_of(FIRST), chain_of(SECOND), chain_of(BASE_REF)} <= held.chains


@pytest.mark.lab
def test_a_host_that_has_the_base_gets_only_the_rest(two: None, record: Record) -> None:
    expected, parcel = id_of(SECOND), packed(SECOND)
    record(parcel.sent).close()
    docker("image", "rm", "--force", SECOND)
    assert id_of(SECOND) is None
    assert send.send([SECOND], parcel, shell) < 100_000
    assert id_of(SECOND) == expected


@pytest.mark.lab
def test_several_images_travel_together(two: None, record: Record) -> None:
    expected, parcel = (id_of(FIRST), id_of(SECOND)), packed(FIRST, SECOND)
    assert chain_of(FIRST)[-1] == chain_of(SECOND)[-1], "then an older Docker writes a link"
    record(parcel.sent).close()
    docker("image", "rm", "--force", FIRST, SECOND)
    assert send.send([FIRST, SECOND], parcel, shell) < 100_000
    assert (id_of(FIRST), id_of(SECOND)) == expected


@pytest.mark.lab
def test_a_host_that_lost_the_base_gets_the_whole(two: None, record: Record) -> None:
    expected, parcel = id_of(SECOND), packed(SECOND)
    record(parcel.sent).close()
    record([SECOND]).close()
    docker("image", "rm", "--force", SECOND, FIRST, BASE_REF)
    with pytest.raises(FiefdomError, match="no such file"):
        shell("docker load", layers.without(record(parcel.sent), parcel.dropped))
    assert send.send([SECOND], parcel, shell) > BASE_BYTES
    assert id_of(SECOND) == expected


@pytest.mark.lab
def test_a_host_that_has_the_image_only_tags_it(two: None) -> None:
    docker("tag", SECOND, AGAIN)
    parcel = send.parcel([AGAIN], send.held(shell))
    assert parcel is not None and parcel.sent == ()
    docker("image", "rm", AGAIN)
    assert send.send([AGAIN], parcel, shell) == 0
    assert id_of(AGAIN) == id_of(SECOND)


@pytest.mark.lab
def test_a_host_without_images_or_without_an_answer_gets_the_whole(two: None) -> None:
    def silent(script: str, pieces: Iterable[bytes]) -> str:
        raise FiefdomError("Cannot connect to the Docker daemon")

    assert send.held(silent) == layers.Held()
    assert send.parcel([SECOND], layers.Held()) is None


@pytest.mark.lab
def test_what_fails_on_the_host_is_said(two: None) -> None:
    def full(script: str, pieces: Iterable[bytes]) -> str:
        return shell("echo no room >&2; exit 1", pieces)

    with pytest.raises(FiefdomError, match="no room"):
        send.send([SECOND], packed(SECOND), full)


@pytest.mark.lab
def test_an_image_that_is_gone_here_is_said() -> None:
    def patient(script: str, pieces: Iterable[bytes]) -> str:
        return shell("cat > /dev/null", pieces)

    with pytest.raises(FiefdomError, match=r"^docker save no/such:1 failed: "):
        send.send(["no/such:1"], None, patient)
