"""What the volumes and files of a service can contradict each other in."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.hosts import Service
from fiefdom.model.mounts import is_beneath, normal, owner_of_file, owner_of_volume, require_may_be_given
from fiefdom.model.passthrough import tmpfs_path
from fiefdom.model.text import Problem
from fiefdom.wording import KeyPath

_LONGEST_PATH = 200


def mount_problems(cluster: Draft) -> Iterator[Problem]:
    """Of services: mount points in each other's way, owners that nobody knows, and what is Docker's own."""
    root = cluster.docker.daemon.get("data-root")
    written = {v.host for s in cluster.services.values() for v in s.volumes if v.host is not None and v.is_writable}
    for name, service in cluster.services.items():
        above: KeyPath = ("services", name)
        yield from _points_in_the_way(above, service)
        yield from _unknown_owners(above, service)
        yield from _long_paths(above, service)
        seen: set[str] = set()
        for i, volume in enumerate(service.volumes):
            key = (*above, "volumes", i)
            if volume.name is not None and volume.name in seen:
                yield (*key, "name"), f"another volume of {name} is called {volume.name}; give it its own name"
            seen.add(volume.name or "")
            for other in sorted(written - {volume.host}):
                if volume.host is not None and is_beneath(volume.host, other):
                    says = (
                        f"{volume.host} is in {other}, where a container that may write could put a link in its place"
                    )
                    yield (*key, "host"), f"{says}; give folders that are not in each other"
            if volume.host is not None and isinstance(root, str):
                try:
                    require_may_be_given(volume.host, (normal(root),))
                except ValueError as error:
                    yield (*key, "host"), str(error)


def _long_paths(above: KeyPath, service: Service) -> Iterator[Problem]:
    for path in service.files:
        # It is one name in a folder of the host, where each slash takes three letters.
        if len(path) + 2 * path.count("/") > _LONGEST_PATH:
            yield (*above, "files", path), "is too long for one name on a host; choose a shorter path"


def _points_in_the_way(above: KeyPath, service: Service) -> Iterator[Problem]:
    points: list[tuple[str, str, KeyPath]] = [
        (normal(tmpfs_path(folder)), "a folder of tmpfs", (*above, "tmpfs", i))
        for i, folder in enumerate(service.tmpfs)
    ]
    points += [(v.path, "a volume", (*above, "volumes", i, "path")) for i, v in enumerate(service.volumes)]
    points += [(path, "a file", (*above, "files", path)) for path in service.files]
    for n, (path, what, key) in enumerate(points):
        for other, kind, other_key in points[:n]:
            if path == other:
                yield key, f"{path} is {kind} already; choose another path for one of the two"
            elif kind != "a folder of tmpfs" and is_beneath(path, other):
                yield key, _beneath(path, what, other, kind)
            elif what != "a folder of tmpfs" and is_beneath(other, path):
                yield other_key, _beneath(other, kind, path, what)


def _beneath(path: str, what: str, other: str, kind: str) -> str:
    if kind == "a file":
        return f"{path} is {what} in {other}, which is a file; choose another path for one of the two"
    # Docker makes the mount point where there is none: in what is kept, where it stays.
    return f"{path} is {what} in {other}, which is a volume, and would leave its mark there; choose another path"


def _unknown_owners(above: KeyPath, service: Service) -> Iterator[Problem]:
    mend = 'give it `owner`, such as "999:999", or the service a `user`'
    for i, volume in enumerate(service.volumes):
        if volume.name is not None and owner_of_volume(volume, service.user) is None:
            yield (
                (*above, "volumes", i),
                f"nobody says who owns {volume.name}, for the image's own user is not known; {mend}",
            )
    for path, file in service.files.items():
        if owner_of_file(file, service.user) is None:
            yield (
                (*above, "files", path),
                f"its mode lets nobody but its owner read it, and the image's own user is not known; {mend}",
            )
