"""Files beside the inventory that services name: whether they are there and fit, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster, Problem
from fiefdom.model.answers import PAGE_MAX_BYTES
from fiefdom.model.mounts import FILE_MAX_BYTES, ServiceFile, require_size
from fiefdom.model.templates import mistakes as template_mistakes
from fiefdom.wording import KeyPath, dotted


def problems(cluster: Cluster) -> Iterator[Problem]:
    """What is wrong with the files that services name; those of a service that runs nowhere count as well."""
    for key, path, file in named(cluster):
        try:
            content = read(cluster.path_here(path))
        except ValueError as error:
            yield key, str(error)
            continue
        if file.template is not None:
            yield from ((key, says) for says in _of_template(content, path))
    for key, path in pages(cluster):
        try:
            _page(cluster.path_here(path))
        except ValueError as error:
            yield key, str(error)


def contents(cluster: Cluster) -> dict[str, bytes]:
    """What is in the files that services name which run anywhere, and in pages, by the path as the inventory has it.

    Raises:
        FiefdomError: one is not there, too large, or a template that cannot be filled in.
    """
    found: dict[str, bytes] = {}
    for key, path, file in named(cluster):
        if not cluster.runs_on(str(key[1])):
            continue
        try:
            found.setdefault(path, read(cluster.path_here(path)))
        except ValueError as error:
            raise FiefdomError(f"{dotted(key)}: {error}") from error
        for says in _of_template(found[path], path) if file.template is not None else ():
            raise FiefdomError(f"{dotted(key)}: {says}")
    for key, path in pages(cluster):
        try:
            found[path] = _page(cluster.path_here(path))
        except ValueError as error:
            raise FiefdomError(f"{dotted(key)}: {error}") from error
    return found


def pages(cluster: Cluster) -> Iterator[tuple[KeyPath, str]]:
    """Key and path, as it is written, of each page that gateways show in a service's place."""
    for name, service in cluster.services.items():
        if (path := service.route.maintenance.page) is not None:
            yield ("services", name, "route", "maintenance", "page"), path


def _page(path: Path) -> bytes:
    content = read(path)
    if not content or len(content) > PAGE_MAX_BYTES:
        raise ValueError(f"{path} has {len(content)} bytes; a page has 1 to {PAGE_MAX_BYTES}, with what it needs in it")
    return content


def named(cluster: Cluster) -> Iterator[tuple[KeyPath, str, ServiceFile]]:
    """Key, path as it is written, and the file of a service that it is the content of."""
    for name, service in cluster.services.items():
        for at, file in service.files.items():
            for kind in ("file", "template"):
                if (path := getattr(file, kind)) is not None:
                    yield ("services", name, "files", at, kind), path, file


def read(path: Path) -> bytes:
    """What is in a file beside the inventory. Raises ValueError where it cannot be read, or is too large."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; name a file in it") from None
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; correct the path, which begins in the inventory's folder") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its owner and mode") from error
    try:
        require_size(len(content) if len(content) <= FILE_MAX_BYTES else path.stat().st_size)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    return content


def _of_template(content: bytes, path: str) -> Iterator[str]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield f"{path}:{line}: a template is UTF-8 text; save it as that, or name it as `file`"
        return
    yield from template_mistakes(text, path)
