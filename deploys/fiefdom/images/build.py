"""Images on the operator's machine: built once from their folder, known by id, sent to hosts that lack them."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fiefdom.desired.containers import own_image, service_image
from fiefdom.errors import FiefdomError
from fiefdom.images import bases
from fiefdom.images.docker import CONTEXT_LABEL, inspect, run
from fiefdom.model import Cluster
from fiefdom.resources import images_dir
from fiefdom.wording import Tell, from_here

_PACKAGES = "/usr/share/fiefdom/packages.txt"  # `dpkg-query --show`, written by the Dockerfiles


@dataclass(frozen=True)
class Wanted:
    """An image that a cluster runs. ``context`` is the folder it is built from, if it is built here.

    One that is ``pulled`` is a registry's: hosts get it from there, and this machine has no part in it.
    """

    ref: str
    key: str
    context: Path | None
    pulled: bool = False


def wanted(cluster: Cluster) -> tuple[Wanted, ...]:
    """Every image of a cluster: Fiefdom's own two and one for each service."""
    own = [
        Wanted(image.ref, f"Fiefdom's own fiefdom/{name}", _own_context(name), bool(image.pull))
        for name in ("gateway", "serf")
        for image in [own_image(cluster, name)]
    ]
    services = [
        Wanted(
            image.ref,
            f"services.{name}.image",
            cluster.path(service.build) if service.build else None,
            bool(image.pull),
        )
        for name, service in cluster.services.items()
        for image in [service_image(cluster, name)]
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
    needed = [w for w in wanted(cluster) if not w.pulled]
    known = {w.ref: f"context:{_digest_of(w.context)}" for w in needed if w.context is not None}
    others = [w.ref for w in needed if w.context is None]
    if others and shutil.which("docker") is not None:
        known |= {ref: found.id for ref, found in inspect(others).items()}
    return known


def ensure(cluster: Cluster, refs: Iterable[str], say: Tell) -> None:
    """Build those of ``refs`` that are missing here or older than their folder.

    Raises FiefdomError for an image that is neither here nor can be built. For a registry's there is nothing to do.
    """
    ensure_images([w for w in wanted(cluster) if w.ref in set(refs) and not w.pulled], say)


def ensure_images(needed: Sequence[Wanted], say: Tell) -> None:
    """Build those of ``needed`` that are missing here or older than their folder; FiefdomError as `ensure`."""
    present = inspect([w.ref for w in needed]) if needed else {}
    built = False
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
            built = True
    if built:
        # What builds left without a name when they gave it to others. One that stays is no reason to end anything.
        run("image", "prune", "--force", "--filter", f"label={CONTEXT_LABEL}")


def build(image: Wanted, say: Tell) -> None:
    """Build one image from its folder with the local Docker daemon."""
    context = image.context
    if context is None or not (context / "Dockerfile").is_file():
        folder = context and from_here(context)
        raise FiefdomError(f"{image.key.replace('.image', '.build')}: {folder} has no Dockerfile; correct the folder")
    say(f"building {image.ref}")
    label = f"{CONTEXT_LABEL}={_digest_of(context)}"
    base = bases.build_arguments(context)
    done = run("build", "--force-rm", "--label", label, *base, "--tag", image.ref, str(context))
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise FiefdomError(f"{image.ref} could not be built from {from_here(context)}: " + " | ".join(lines[-3:]))


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
    present = inspect(refs)
    for ref in refs:
        found = present.get(ref)
        if found is None:
            yield Contents(ref, "", "", ())
        else:
            yield Contents(ref, found.local_id, found.base, _packages(found.local_id))


def _packages(image: str) -> tuple[tuple[str, str], ...]:
    made = run("create", "--network=none", image, "never-run")
    if made.returncode:
        raise FiefdomError(f"docker could not open {image}: {made.stderr.strip().splitlines()[-1]}")
    container = made.stdout.strip()
    try:
        copied = subprocess.run(["docker", "cp", f"{container}:{_PACKAGES}", "-"], capture_output=True, check=False)
    finally:
        run("rm", "--volumes", container)
    if copied.returncode:
        return ()
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as archive:
        listed = archive.extractfile(archive.getmembers()[0])
        lines = listed.read().decode().splitlines() if listed else []
    return tuple((name, version) for name, _, version in (line.partition("\t") for line in lines))


def _digest_of(context: Path) -> str:
    """Digest of all files of a build folder: names, executable bits, content."""
    total = hashlib.sha256()
    for path in sorted(context.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            mode = path.stat().st_mode & 0o100  # the one bit that git keeps, whatever the umask
            total.update(f"{path.relative_to(context)}\0{mode}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
