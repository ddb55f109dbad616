"""Only missing layers travel: what a host has, which files of an archive it can do without, and that dockerd agrees."""

from __future__ import annotations

import io
import json
import tarfile
from hashlib import sha256

import pytest

from fiefdom.images import layers

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
