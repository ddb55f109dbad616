"""Images on the operator's machine: built once from their folder, known by id, sent to hosts that lack them."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fiefdom.desired.containers import image_ref, own_image_ref
from fiefdom.errors import FiefdomError
from fiefdom.images import bases, layers
from fiefdom.model import Cluster
from fiefdom.resources import images_dir

_CONTEXT_LABEL = "fiefdom.context"  # snapshot.sh reads it as well

_PACKAGES = "/usr/share/fiefdom/packages.txt"  # `dpkg-query --show`, written by the Dockerfiles

_CHUNK = 1 << 18

Say = Callable[[str], None]

# Runs a script as root on a host, its input in pieces, and returns what it printed; FiefdomError where it failed.
Shell = Callable[[str, Iterable[bytes]], str]


@dataclass(frozen=True)
class Wanted:
    """An image that a cluster runs. ``context`` is the folder it is built from, if it is built here."""

    ref: str
    key: str
    context: Path | None


def wanted(cluster: Cluster) -> tuple[Wanted, ...]:
    """Every image of a cluster: Fiefdom's own two and one for each service."""
    own = [
        Wanted(own_image_ref(cluster, name), f"Fiefdom's own fiefdom/{name}", _own_context(name))
        for name in ("gateway", "serf")
    ]
    services = [
        Wanted(
            image_ref(cluster, service.image, service.version),
            f"services.{name}.image",
            cluster.path(service.build) if service.build else None,
        )
        for name, service in cluster.services.items()
    ]
    return tuple(dict.fromkeys([*own, *services]))


def _own_context(name: str) -> Path:
    context = images_dir() / name
    if not context.is_dir():
        raise FiefdomError(
            f"the build folder of fiefdom/{name} is missing from this installation; install Fiefdom anew"
        )
    return context


def identities(cluster: Cluster) -> dict[str, str]:
    """What tells the right image from another of the same name, by reference.

    For an image built here that is the digest of its folder, which the build leaves in a label: two operators
    whose builds differ in nothing but their time agree. For one that is only present here it is its id. Images
    of a registry, and those that this machine does not know, are not in the result.
    """
    if cluster.registry is not None:
        return {}
    needed = wanted(cluster)
    known = {w.ref: f"context:{_digest_of(w.context)}" for w in needed if w.context is not None}
    others = [w.ref for w in needed if w.context is None]
    if others and shutil.which("docker") is not None:
        known |= {ref: found.id for ref, found in _inspect(others).items()}
    return known


def ensure(cluster: Cluster, refs: Iterable[str], say: Say) -> None:
    """Build those of ``refs`` that are missing here or older than their folder.

    Raises FiefdomError for an image that is neither here nor can be built. With a registry there is nothing to do.
    """
    if cluster.registry is not None:
        return
    needed = [w for w in wanted(cluster) if w.ref in set(refs)]
    present = _inspect([w.ref for w in needed]) if needed else {}
    for image in needed:
        found = present.get(image.ref)
        if image.context is None:
            if found is None:
                raise FiefdomError(
                    f"{image.key}: {image.ref} is not on this machine; build or pull it here, "
                    "give the service a `build` folder, or name a `registry`"
                )
        elif found is None or found.context != _digest_of(image.context):
            build(image, say)


def build(image: Wanted, say: Say) -> None:
    """Build one image from its folder with the local Docker daemon."""
    context = image.context
    if context is None or not (context / "Dockerfile").is_file():
        raise FiefdomError(f"{image.key.replace('.image', '.build')}: {context} has no Dockerfile; correct the folder")
    say(f"building {image.ref}")
    label = f"{_CONTEXT_LABEL}={_digest_of(context)}"
    base = bases.build_arguments(context)
    done = _docker("build", "--force-rm", "--label", label, *base, "--tag", image.ref, str(context))
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise FiefdomError(f"{image.ref} could not be built from {context}: " + " | ".join(lines[-3:]))


@dataclass(frozen=True)
class Contents:
    """What an image is made of: what it was built on, and its Debian packages as name and version.

    Both are empty for an image that says nothing of them; ``id`` is where the image is not on this machine.
    """

    ref: str
    id: str
    base: str
    packages: tuple[tuple[str, str], ...]

    def lines(self) -> Iterator[str]:
        """As a person reads it: what the image is, then a line for each package."""
        if not self.id:
            yield f"{self.ref}: not on this machine"
            return
        count = f"{len(self.packages)} packages" if self.packages else "no list of packages"
        yield f"{self.ref}: {self.id}, on {self.base or 'a base it does not name'}, {count}"
        yield from (f"  {name} {version}" for name, version in self.packages)


def contents(cluster: Cluster) -> Iterator[Contents]:
    """What is in each of a cluster's images on this machine; nothing in them is run."""
    refs = [w.ref for w in wanted(cluster)]
    present = _inspect(refs)
    for ref in refs:
        found = present.get(ref)
        if found is None:
            yield Contents(ref, "", "", ())
        else:
            yield Contents(ref, found.local_id, found.base, _packages(found.local_id))


def _packages(image: str) -> tuple[tuple[str, str], ...]:
    made = _docker("create", "--network=none", image, "never-run")
    if made.returncode:
        raise FiefdomError(f"docker could not open {image}: {made.stderr.strip().splitlines()[-1]}")
    container = made.stdout.strip()
    try:
        copied = subprocess.run(["docker", "cp", f"{container}:{_PACKAGES}", "-"], capture_output=True, check=False)
    finally:
        _docker("rm", "--volumes", container)
    if copied.returncode:
        return ()
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as archive:
        listed = archive.extractfile(archive.getmembers()[0])
        lines = listed.read().decode().splitlines() if listed else []
    return tuple((name, version) for name, _, version in (line.partition("\t") for line in lines))


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise FiefdomError(
            "there is no docker command on this machine; install it (Debian: docker.io, docker-cli), "
            "or name a `registry` that has the images"
        ) from None


@contextmanager
def saved(refs: Iterable[str]) -> Iterator[IO[bytes]]:
    """A stream of `docker save` for several images, so that layers they share travel once.

    Raises FiefdomError where Docker failed; not where the reader stopped early, who has the better reason.
    """
    with subprocess.Popen(["docker", "save", *refs], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None  # noqa: S101 -- both are pipes
        try:
            yield process.stdout
            complete = not process.stdout.read(1)
        finally:
            process.stdout.close()
            error = process.stderr.read().decode(errors="replace").strip()
        if process.wait() and complete:
            raise FiefdomError(f"docker save {' '.join(refs)} failed: {error}")


@dataclass(frozen=True)
class Parcel:
    """What brings some images to one host.

    ``names`` are all of them, each with its id on the host; ``sent`` those it lacks, by their id on this machine;
    ``dropped`` the files of their archive that it can do without.
    """

    names: tuple[tuple[str, str], ...]
    sent: tuple[str, ...]
    dropped: frozenset[str]


def held(shell: Shell) -> layers.Held:
    """What a host has already. One that cannot say counts as having nothing: what fails there next tells why."""
    try:
        return layers.held(shell(layers.HELD, ()).splitlines())
    except FiefdomError:
        return layers.Held()


def parcel(refs: Sequence[str], there: layers.Held) -> Parcel | None:
    """What must travel to a host that has what ``there`` says; None where only the whole will do."""
    here = _inspect(list(refs))
    if not there.ids or not here.keys() >= set(refs):
        return None
    missing = list(dict.fromkeys(found for found in here.values() if found.id not in there.ids))
    layouts = []
    if any(found.layers[:1] in there.chains for found in missing):
        named_so = _names_files_by_layer()
        layouts = [layers.by_digest(f.id, f.layers) if named_so else _layout(f.local_id) for f in missing]
    known = [found for found in layouts if found is not None]
    return Parcel(
        tuple((ref, here[ref].id) for ref in refs),
        tuple(found.local_id for found in missing),
        layers.superfluous(known, there) if len(known) == len(layouts) else frozenset(),
    )


def send(refs: Sequence[str], packed: Parcel | None, shell: Shell) -> int:
    """Bring images to a host, and return how many bytes of archive travelled.

    The host tags what came by the id that it must have, which fails unless it is there with all its layers. Whatever
    was wrong with the parcel, the whole is sent then. Raises FiefdomError where that fails, too.
    """
    travelled = 0

    def counted(pieces: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal travelled
        for piece in pieces:
            travelled += len(piece)
            yield piece

    def load(archive: Generator[bytes, None, None], *then: str) -> None:
        with closing(archive) as pieces:
            shell(" && ".join(["docker load --quiet", *then]), counted(pieces))

    if packed is not None:
        tags = [shlex.join(["docker", "tag", image, ref]) for ref, image in packed.names]
        try:
            if packed.sent:
                load(_archive(packed.sent, packed.dropped), *tags)
            else:
                shell(" && ".join(tags), ())
        except FiefdomError:  # an image may have left the host since it was asked
            pass
        else:
            return travelled
    load(_archive(refs, frozenset()))
    return travelled


def _archive(names: Iterable[str], dropped: frozenset[str]) -> Generator[bytes, None, None]:
    with saved(names) as stream:
        if dropped:
            yield from layers.without(stream, dropped)
        else:
            yield from iter(functools.partial(stream.read, _CHUNK), b"")


@functools.cache  # an id says it all, and reading an archive takes as long as writing it
def _layout(local_id: str) -> layers.Layout | None:
    with saved([local_id]) as stream:
        try:
            return layers.layout(stream)
        except tarfile.TarError:
            return None


@dataclass(frozen=True)
class _Found:
    id: str  # on a host
    local_id: str
    context: str
    base: str
    layers: layers.Chain


def _inspect(refs: list[str]) -> dict[str, _Found]:
    # Exits 1 when one of them is missing and still prints the others.
    done = _docker("image", "inspect", *refs)
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
            _id_on_hosts(image["Id"]), image["Id"], labels.get(_CONTEXT_LABEL, ""), labels.get(bases.LABEL, ""), chain
        )
        found.update({tag: entry for tag in image["RepoTags"] or [] if tag in refs})
    return found


def _id_on_hosts(local_id: str) -> str:
    """The id a host's classic image store will give an image: its configuration's digest.

    Docker's containerd store (the default from Docker 29 on) takes the manifest's instead, and only the saved archive
    tells the configuration's.
    """
    if layers.is_classic(_local_daemon()):
        return local_id
    if (layout := _layout(local_id)) is None:
        raise FiefdomError(f"docker save {local_id} holds no manifest; is this Docker's own client?")
    return layout.id


def _names_files_by_layer() -> bool:
    """Whether archives need not be read to know what lies where. A wrong yes costs time only: nothing is left out."""
    major = _local_daemon().partition(".")[0]
    return layers.is_classic(_local_daemon()) and major.isdecimal() and int(major) >= 25


@functools.cache
def _local_daemon() -> str:
    """Its version, and what it says about its store."""
    return _docker("info", "--format", "{{.ServerVersion}} {{json .DriverStatus}}").stdout


def _digest_of(context: Path) -> str:
    """Digest of all files of a build folder: names, executable bits, content."""
    total = hashlib.sha256()
    for path in sorted(context.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            mode = path.stat().st_mode & 0o100  # the one bit that git keeps, whatever the umask
            total.update(f"{path.relative_to(context)}\0{mode}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
