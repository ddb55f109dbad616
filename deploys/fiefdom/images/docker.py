"""The Docker daemon of this machine: what an image is there, and its archive."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from fiefdom.desired.state import LocalImage
from fiefdom.errors import FiefdomError
from fiefdom.images import bases, layers
from fiefdom.model import references

CONTEXT_LABEL = "fiefdom.context"  # snapshot.sh reads it as well

CHUNK = 1 << 18


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise FiefdomError(
            "there is no docker command on this machine; install it (Debian: docker.io, docker-cli), "
            "or name a `registry` that has the images"
        ) from None


def code_of(arguments: Sequence[str], timeout_s: float) -> int | None:
    """Exit code of a docker command whose words nobody needs; None where it did not end in time."""
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, check=False, timeout=timeout_s).returncode
    except subprocess.TimeoutExpired:
        return None


def save(names: Iterable[str]) -> subprocess.Popen[bytes]:
    """A running `docker save` for several images, so that layers they share travel once."""
    return subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """All of a stream, in pieces."""
    return iter(functools.partial(stream.read, CHUNK), b"")


def require_ended(process: subprocess.Popen[bytes], names: Iterable[str]) -> None:
    """Read what is left of a save, the padding for one, so that it ends well; FiefdomError where it does not."""
    assert process.stdout is not None and process.stderr is not None  # noqa: S101 -- both are pipes
    for _ in chunks(process.stdout):
        pass
    error = " ".join(process.stderr.read().decode(errors="replace").split())
    if process.wait():
        raise FiefdomError(f"docker save {' '.join(names)} failed: {error or f'exit {process.returncode}'}")


def leave(process: subprocess.Popen[bytes]) -> None:
    """End a save, whether or not all of its output was read; a second time does nothing."""
    process.kill()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None  # noqa: S101
        pipe.close()
    process.wait()


@functools.cache  # an id says it all, and reading an archive takes as long as writing it
def layout_of(local_id: str) -> layers.Layout | None:
    process = save([local_id])
    try:
        assert process.stdout is not None  # noqa: S101 -- a pipe
        try:
            found = layers.layout(process.stdout)
        except tarfile.TarError:
            found = None
        require_ended(process, [local_id])
        return found
    finally:
        leave(process)


@dataclass(frozen=True)
class _Found:
    id: str  # on a host
    local_id: str
    context: str
    base: str
    layers: layers.Chain


def inspect(refs: list[str]) -> dict[str, _Found]:
    # Exits 1 when one of them is missing and still prints the others.
    done = run("image", "inspect", *refs)
    if "Cannot connect to the Docker daemon" in done.stderr:
        raise FiefdomError("the Docker daemon of this machine does not answer; start it, for images come from there")
    try:
        images = json.loads(done.stdout or "[]")
    except ValueError:
        return {}
    found = {}
    for image in images:
        labels: Mapping[str, str] = image["Config"].get("Labels") or {}
        chain = tuple(image["RootFS"].get("Layers") or ())
        entry = _Found(
            _id_on_hosts(image["Id"]), image["Id"], labels.get(CONTEXT_LABEL, ""), labels.get(bases.LABEL, ""), chain
        )
        names = {references.familiar(tag) for tag in image["RepoTags"] or []}
        found.update({ref: entry for ref in refs if references.familiar(ref) in names})
    return found


def describe(refs: Collection[str]) -> dict[str, LocalImage]:
    """What images on this machine are for and made of, by reference; those that it lacks are left out."""
    if not refs or shutil.which("docker") is None:
        return {}
    form = "{{json .RepoTags}} {{json .Id}} {{json .Architecture}} {{json .Config.Labels}} {{json .RootFS.Layers}}"
    found = {}
    # Where it finds none, it prints an empty line.
    for line in filter(None, run("image", "inspect", "--format", form, *refs).stdout.splitlines()):
        tags, local_id, architecture, labels, chain = _values(line)
        layers_of, exact = _layers(local_id, chain or [])
        image = LocalImage(architecture, layers_of, exact, (labels or {}).get(CONTEXT_LABEL, ""))
        found.update({ref: image for ref in refs if references.familiar(ref) in (tags or [])})
    return found


def _values(line: str) -> list[Any]:
    """JSON values that stand one after the other."""
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(line):
        value, at = decoder.raw_decode(line, at)
        values.append(value)
        at += 1
    return values


# Of what a Dockerfile says, this makes layers; the others only describe.
_MAKES_LAYER = re.compile(r"^(?:/bin/sh -c #\(nop\)\s+)?(?:RUN|COPY|ADD|WORKDIR)\b|^/bin/sh -c (?!#\(nop\))|^\|\d+ ")


def _layers(local_id: str, chain: list[str]) -> tuple[tuple[tuple[str, int], ...], bool]:
    """An image's layers with their bytes, and whether its history tells which has how much.

    It lists steps without a layer as well, of no bytes; and there are layers of no bytes.
    """
    done = run("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", local_id)
    lines = [line.partition("\t") for line in reversed(done.stdout.splitlines())]
    steps = [(int(count), by) for count, _, by in lines if count.isdecimal()]
    for sizes in (
        [count for count, _ in steps if count],
        [count for count, by in steps if count or _MAKES_LAYER.search(by)],
    ):
        if len(sizes) == len(chain):
            return tuple(zip(chain, sizes, strict=True)), True
    total = sum(count for count, _ in steps)
    return tuple((digest, total if digest == chain[-1] else 0) for digest in chain), False


def _id_on_hosts(local_id: str) -> str:
    """The id a host's classic image store will give an image: its configuration's digest.

    Docker's containerd store (the default from Docker 29 on) takes the manifest's instead, and only the saved archive
    tells the configuration's.
    """
    if layers.is_classic(_local_daemon()):
        return local_id
    if (layout := layout_of(local_id)) is None:
        raise FiefdomError(f"docker save {local_id} holds no manifest; is this Docker's own client?")
    return layout.id


def names_files_by_layer() -> bool:
    """Whether archives need not be read to know what lies where. A wrong yes costs time only: nothing is left out."""
    major = _local_daemon().partition(".")[0]
    return layers.is_classic(_local_daemon()) and major.isdecimal() and int(major) >= 25


@functools.cache
def _local_daemon() -> str:
    """Its version, and what it says about its store."""
    return run("info", "--format", "{{.ServerVersion}} {{json .DriverStatus}}").stdout
