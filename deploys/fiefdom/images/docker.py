"""The Docker daemon of this machine: what an image is there, and its archive."""

from __future__ import annotations

import functools
import json
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

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
