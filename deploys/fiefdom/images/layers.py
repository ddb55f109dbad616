"""Which layers of an image a host lacks, and an archive of `docker save` without the others.

A daemon finds a layer by its chain, the layer with all those below it, and opens the layer's file of an archive only
where it has no such chain (tarexport/load.go of Docker 20.10 to 28). So the files of chains it has need not travel.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

_CHUNK = 1 << 18
_DESCRIPTION_MAX = 1 << 20  # bytes; a configuration has a few thousand, and what is longer is a layer

# The daemons' newer store looks a layer up by its compressed file, so there nothing may be left out.
_CONTAINERD_STORE = "io.containerd.snapshotter"

# A line about the store, then one for each image: its id and its layers' digests, from the base up. An image that
# goes away in between makes it fail: no answer is safer than half of one.
HELD = (
    "docker info --format '{{json .DriverStatus}}' && docker image ls --all --quiet --no-trunc | sort -u "
    "| xargs -r docker image inspect --format '{{.Id}}{{range .RootFS.Layers}} {{.}}{{end}}'"
)

Chain = tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """What a host has: ids of images, and chains of layers, each as the digests from the base up."""

    ids: frozenset[str] = frozenset()
    chains: frozenset[Chain] = frozenset()


@dataclass(frozen=True)
class Layout:
    """An image as it lies in an archive: its configuration's digest, its layers from the base up, and their files."""

    id: str
    layers: Chain
    files: tuple[str, ...]


def held(lines: Iterable[str]) -> Held:
    """What a host has, from what `HELD` prints there; nothing where its store does not look layers up by chain."""
    store, *images = lines
    if not is_classic(store):
        return Held()
    found = [line.split() for line in images]
    return Held(frozenset(i for i, *_ in found), frozenset(c for _, *layers in found for c in _chains(layers)))


def is_classic(store: str) -> bool:
    """Whether a daemon names images by their configuration, by the first line of `HELD`."""
    return _CONTAINERD_STORE not in store


def _chains(layers: Sequence[str]) -> list[Chain]:
    return [tuple(layers[:top]) for top in range(1, len(layers) + 1)]


def layout(archive: IO[bytes]) -> Layout | None:
    """How the one image of an archive lies in it; None where that is not as the two known layouts have it.

    Older Dockers write `ID/layer.tar` and newer ones `blobs/sha256/DIGEST`, of the compressed layer if it is; both
    say which file is which layer in manifest.json, nearly their last entry. So this reads all of it.
    """
    texts: dict[str, bytes] = {}
    with tarfile.open(fileobj=archive, mode="r|", bufsize=_CHUNK) as entries:
        for entry in entries:
            if entry.isreg() and entry.size <= _DESCRIPTION_MAX and (file := entries.extractfile(entry)):
                text = file.read()
                if text[:1] in (b"{", b"["):
                    texts[entry.name] = text
    try:
        (image,) = json.loads(texts["manifest.json"])
        config = texts[image["Config"]]
        found = Layout(
            "sha256:" + hashlib.sha256(config).hexdigest(),
            tuple(json.loads(config)["rootfs"]["diff_ids"]),
            tuple(image["Layers"]),
        )
    except (ValueError, LookupError, TypeError):
        return None
    named_so = found.id.removeprefix("sha256:") in image["Config"]
    return found if named_so and len(found.files) == len(found.layers) else None


def by_digest(image_id: str, chain: Chain) -> Layout:
    """How an image lies in an archive of a classic store from Docker 25 on: files are named by what is in them."""
    return Layout(image_id, chain, tuple("blobs/" + digest.replace(":", "/") for digest in chain))


def superfluous(images: Iterable[Layout], there: Held) -> frozenset[str]:
    """Files that an archive of ``images`` can do without on a host that has what ``there`` says.

    A layer stays when any image needs it on another base: then its file serves both, for older Dockers write a layer
    that occurs twice once and link to it.
    """
    placed = [(chain, file) for image in images for chain, file in zip(_chains(image.layers), image.files, strict=True)]
    needed = {chain[-1] for chain, _ in placed if chain not in there.chains}
    return frozenset(file for chain, file in placed if chain[-1] not in needed)


def without(archive: IO[bytes], dropped: Container[str]) -> Iterator[bytes]:
    """An archive but for some of its files, in pieces, none of it kept."""
    with tarfile.open(fileobj=archive, mode="r|", bufsize=_CHUNK) as entries:
        for entry in entries:
            if entry.name in dropped:
                continue
            yield entry.tobuf(tarfile.PAX_FORMAT)
            if entry.isreg() and (file := entries.extractfile(entry)):
                while piece := file.read(_CHUNK):
                    yield piece
                yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
    while archive.read(_CHUNK):  # the padding, so that who wrote it ends well
        pass
