"""Images that a plan brings to a host: whether they fit on its disk, and whether they could run there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from fiefdom.converge.change import Change
from fiefdom.converge.doctor import Finding, require_none_refused
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.converge.run import Known
from fiefdom.converge.snapshot import Disk, Snapshot
from fiefdom.desired.state import Image, LocalImage
from fiefdom.wording import size

PACKAGES_KIB = 600 * 1024
"""Docker's packages, with what they need to be unpacked."""
UNKNOWN_KIB = 200 * 1024
"""What is asked for where nobody knows how large an image is: a modest one's."""
LOADS = 2
"""dockerd lays an archive's layers down and only then unpacks them (tarexport/load.go of Docker 20.10 to 28)."""
TIGHT = 0.05
"""Share of a disk that should be free once all has come."""

# Debian's names of what Docker calls otherwise.
_DOCKERS = {"armhf": "arm", "armel": "arm", "i386": "386", "ppc64el": "ppc64le", "mips64el": "mips64le"}


def judged(known: Known, plans: Iterable[HostPlan]) -> dict[str, HostPlan]:
    """Plans with findings about the images that they bring, by host.

    What does not fit, or could not run, is refused; where it comes with a pending release it is a warning until that.
    """
    plans = tuple(plans)
    here = _local(known, plans)
    found = {}
    for host in plans:
        due = {(f.what, f.seen): f for f in findings(host.due, here)}
        later = (replace(f, level="warning") for f in findings(host, here) if (f.what, f.seen) not in due)
        found[host.host] = replace(host, findings=(*host.findings, *due.values(), *later))
    return found


def require_fit(known: Known, wanted: Plan) -> None:
    """Raise FiefdomError for the first host that what ``wanted`` brings does not fit on, or could not run on."""
    here = _local(known, wanted.hosts)
    for host in wanted.hosts:
        require_none_refused(host.host, findings(host, here))


def findings(host: HostPlan, here: Mapping[str, LocalImage]) -> tuple[Finding, ...]:
    """What is to be said of the images that ``host`` brings, of which this machine has those in ``here``."""
    coming = _coming(host)
    if not coming:
        return ()
    return (
        *_architectures(coming, here, host.snapshot),
        *_space(coming, here, host),
    )


def _local(known: Known, plans: Collection[HostPlan]) -> dict[str, LocalImage]:
    """The images on their way that are on this machine already, and not about to be built anew."""
    refs = dict.fromkeys(c.name for host in plans for c in _coming(host) if not _is_pulled(c))
    if not refs:
        return {}
    found = known.local(tuple(refs))
    return {ref: image for ref, image in found.items() if not _is_stale(known.identities.get(ref, ""), image)}


def _is_stale(identity: str, image: LocalImage) -> bool:
    kind, _, context = identity.partition(":")
    return kind == "context" and context != image.context


def _is_pulled(change: Change) -> bool:
    return isinstance(change.resource, Image) and bool(change.resource.pull)


def _coming(host: HostPlan) -> tuple[Change, ...]:
    return host.of("image", "+", "~")


def _architectures(coming: Iterable[Change], here: Mapping[str, LocalImage], now: Snapshot) -> Iterator[Finding]:
    own = _DOCKERS.get(now.architecture, now.architecture)
    for change in coming:
        image = here.get(change.name)
        # Whoever imports an image may say nothing of it.
        if not own or image is None or image.architecture in ("", own):
            continue
        if image.context:
            mend = (
                f"`docker image rm {change.name}` here, and build it anew with DOCKER_DEFAULT_PLATFORM=linux/{own} "
                "in the environment"
            )
        else:
            mend = f"build it with `docker build --platform linux/{own}`, or pull it with the same option"
        yield Finding(
            "refused",
            "architecture",
            f"{change.name} on this machine is for {image.architecture}, and the host is {own}",
            "its containers could not start there",
            mend,
        )


def _space(coming: Collection[Change], here: Mapping[str, LocalImage], host: HostPlan) -> Iterator[Finding]:
    now = host.snapshot
    disk = now.disk or (Disk(0, now.free_kib) if now.free_kib is not None else None)
    if disk is None:
        return
    unknown = [c.name for c in coming if c.name not in here]
    known = [here[c.name] for c in coming if c.name in here]
    layers_kib = _lacking(known, now) // 1024
    needed_kib = LOADS * layers_kib + (UNKNOWN_KIB if unknown else 0)
    # What is installed comes first, and on the same disk where the two have the same room.
    packages_kib = PACKAGES_KIB if host.of("package") and disk.free_kib == now.free_kib else 0
    left_kib = disk.free_kib - needed_kib - packages_kib
    parts = [f"{size(layers_kib)} of layers, twice until Docker has unpacked them"] if known else []
    if unknown:
        later = ["the host has pulled it"] * any(c.name in unknown and _is_pulled(c) for c in coming)
        later += ["it is built"] * any(c.name in unknown and not _is_pulled(c) for c in coming)
        why = f"it is known once {' or '.join(later)}"
        parts.append(f"{size(UNKNOWN_KIB)} for {', '.join(unknown)}, whose size nobody knows: {why}")
    parts += [f"{size(PACKAGES_KIB)} of packages"] if packages_kib else []
    words = (
        f"{size(disk.free_kib)} are free where Docker has its images, and {size(needed_kib + packages_kib)} are needed",
        "; ".join(parts),
        "make room there (`docker system df -v` tells of it), or give Docker another disk: docker.daemon.data-root",
    )
    if left_kib < 0 and all(image.exact for image in known):
        yield Finding("refused", "disk", *words)
    elif left_kib < TIGHT * disk.size_kib:
        yield Finding("warning", "disk", *words)


def _lacking(images: Iterable[LocalImage], now: Snapshot) -> int:
    """Bytes of the layers that a host lacks. It finds one by all those below it, and has each once."""
    there = {stored.layers[:top] for stored in now.stored.values() for top in range(1, len(stored.layers) + 1)}
    lacks: dict[tuple[str, ...], int] = {}
    for image in images:
        digests = tuple(digest for digest, _ in image.layers)
        for top, (_, count) in enumerate(image.layers, 1):
            if digests[:top] not in there:
                lacks[digests[:top]] = count
    return sum(lacks.values())
