"""What a service's containers have mounted: the arguments for it, and what of it a host keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote

from fiefdom.desired.context import Context
from fiefdom.desired.state import Container, Directory, File, HostState
from fiefdom.errors import FiefdomError
from fiefdom.model import Instance, Service
from fiefdom.model.mounts import ServiceFile, Volume, is_beneath, owner_of_file, owner_of_volume, require_size
from fiefdom.model.templates import TemplateMistake, rendered
from fiefdom.wording import dotted

VOLUMES = "/var/lib/fiefdom/volumes"
FILES = "/etc/fiefdom/files"


def volume_path(instance: Instance, volume: Volume) -> str:
    """Where a host has a volume: one of Fiefdom's, or a folder of its own.

    All above it is root's alone. So that of one instance does not lie in that of all, where whoever writes there could
    put a link in its place.
    """
    if volume.host is not None:
        return volume.host
    own = f"@{instance.port}" if volume.each_instance else ""
    return f"{VOLUMES}/{instance.service}/{volume.name}{own}"


def is_volume(path: str) -> bool:
    """Whether a path is that of a volume which Fiefdom keeps, of whichever service."""
    return re.fullmatch(rf"{VOLUMES}/[a-z][a-z0-9-]*/[a-z][a-z0-9-]*(@[0-9]{{1,5}})?", path, re.ASCII) is not None


def files_dir(container: str) -> str:
    """The folder of a container's files; for root alone, as what is mounted is each file."""
    return f"{FILES}/{container}"


def file_path(container: str, path: str) -> str:
    """Where a host has what a container has at ``path``."""
    return f"{files_dir(container)}/{quote(path[1:], safe='@+')}"


def is_way_of_files(path: str, container: str) -> bool:
    """Whether a path is that of a container's file, or of a folder on the way there."""
    return path == FILES or is_beneath(path, files_dir(container))


def is_of(folder: str, container: Container) -> bool:
    """Whether a folder is one of Fiefdom's that ``container`` has its volumes or files in, or the way there."""
    own = (*container.volumes, *(path for path in container.config if path.startswith(f"{FILES}/")))
    return folder.startswith((VOLUMES, FILES)) and any(is_beneath(path, folder) for path in own)


def arguments(instance: Instance, service: Service) -> tuple[str, ...]:
    """Arguments of `docker create` for volumes and files. Unlike `--volume`, `--mount` makes no folder on the host."""
    mounts = [(volume_path(instance, v), v.path, v.is_writable) for v in service.volumes]
    mounts += [(file_path(instance.container, path), path, False) for path in service.files]
    return tuple(
        f"--mount=type=bind,source={source},target={target}" + ("" if writable else ",readonly")
        for source, target, writable in mounts
    )


def state_of(context: Context, instance: Instance, service: Service) -> HostState:
    """What of an instance's volumes and files the host keeps. Raises FiefdomError for a template that has no text."""
    return HostState(
        directories=(*_volume_directories(instance, service), *_file_directories(instance, service)),
        files=tuple(_file(context, instance, service, path, file) for path, file in service.files.items()),
    )


def _volume_directories(instance: Instance, service: Service) -> Iterator[Directory]:
    for volume in service.volumes:
        if volume.host is not None:
            continue
        uid, gid = owner_of_volume(volume, service.user) or (0, 0)
        yield Directory(VOLUMES, mode=0o700, keeps=True)
        yield Directory(f"{VOLUMES}/{instance.service}", mode=0o700, keeps=True)
        yield Directory(volume_path(instance, volume), volume.mode_number, uid, gid, keeps=True)


def _file_directories(instance: Instance, service: Service) -> Iterator[Directory]:
    if service.files:
        yield Directory(FILES, mode=0o700)
        yield Directory(files_dir(instance.container), mode=0o700)


def _file(context: Context, instance: Instance, service: Service, path: str, file: ServiceFile) -> File:
    uid, gid = owner_of_file(file, service.user) or (0, 0)
    return File(
        file_path(instance.container, path),
        _content(context, instance, service, path, file),
        mode=file.mode_number,
        uid=uid,
        gid=gid,
        secret=file.source is not None,
        mounted=True,
    )


def _content(context: Context, instance: Instance, service: Service, path: str, file: ServiceFile) -> bytes:
    if file.text is not None:
        return file.text.encode()
    if file.template is None:
        return context.secrets.contents[file.source or file.file or ""]
    ports = tuple(i.port for i in context.instances if i.service == instance.service)
    values = (
        ("host", context.name),
        ("address", context.host.address),
        ("service", instance.service),
        ("version", service.version),
        ("port", instance.port),
        ("ports", ports),
        ("cluster", context.cluster.cluster),
    )
    try:
        content = _filled_in(context.secrets.contents[file.template], file.template, values)
        require_size(len(content))
    except TemplateMistake as error:
        raise FiefdomError(f"{dotted(('services', instance.service, 'files', path, 'template'))}: {error}") from error
    except ValueError as error:
        raise FiefdomError(f"services.{instance.service}.files.{path}: {file.template} {error}") from error
    return content


@lru_cache(maxsize=1024)  # of a host every plan asks several times
def _filled_in(template: bytes, file: str, values: tuple[tuple[str, object], ...]) -> bytes:
    return rendered(template.decode(), file, dict(values)).encode()
