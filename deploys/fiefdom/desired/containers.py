"""Containers as a host's supervisor script and units see them: paths, arguments, configuration and facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fiefdom import RELEASE
from fiefdom.desired import programs
from fiefdom.desired.process import NO_NEW_PRIVILEGES
from fiefdom.desired.render import render
from fiefdom.desired.state import Container, Directory, File, HostState, Image, spec_hash
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster, references

CONF_DIR = "/etc/fiefdom/containers"
STAMP_DIR = "/var/lib/fiefdom/containers"
UNIT_DIR = "/etc/systemd/system"

# A release's containers that failed are kept under this ending until the next run.
FAILED = ".failed"
# A gateway's successor until it has taken over, and the one before until its last requests are answered: its
# supervisor's alone, see handover.sh.
HANDING_OVER = (".next", ".retiring-")

# The host port of a container's health checks, where that is one of its own.
CHECKS_LABEL = "fiefdom.checks"

# The services that a container was told of, with commas between.
LINKS_LABEL = "fiefdom.links"

# How long a unit waits for dockerd, and what starting and stopping cost beside the container's own time.
DOCKER_TIMEOUT_S = 90
MARGIN_S = 30

# The supervisor's lines that tell what a container was really started with; the snapshot's script has them as well.
_, FACTS, _ = programs.text_of("container").split("# @FACTS@\n")


def service_image(cluster: Cluster, service: str) -> Image:
    """The image of a service, and where hosts get it."""
    ref = cluster.image_ref(service)
    if cluster.registry_of(service) is None:
        return Image(ref)
    digest = references.parse(cluster.services[service].image).digest
    return Image(ref, references.pinned(ref, digest) if digest else ref, digest)


def own_image(cluster: Cluster, name: str) -> Image:
    """An image of this project, whose tag is the project's release, at the cluster's registry where it has one."""
    ref = f"fiefdom/{name}:{RELEASE}"
    if cluster.registry is None:
        return Image(ref)
    ref = references.at(cluster.registry.server, ref)
    return Image(ref, ref)


def sandbox_args(
    cluster: Cluster,
    *,
    memory_mib: int,
    pids: int,
    nofile: int,
    tmpfs: Mapping[str, str],
    writable_root: bool = False,
    privileges: str = NO_NEW_PRIVILEGES,
) -> tuple[str, ...]:
    """Arguments of `docker create` that every container of ours gets.

    ``tmpfs`` gives the options of each folder in memory. The log options are dockerd's own; given again here, a change
    of them is a change of the container, which dockerd would keep as it was.
    """
    docker = cluster.docker
    return (
        "--restart=no",
        *(() if writable_root else ("--read-only",)),
        *(f"--tmpfs={path}:{options}" for path, options in tmpfs.items()),
        "--cap-drop=ALL",
        f"--security-opt={privileges}",
        f"--memory={memory_mib}m",
        f"--memory-swap={memory_mib}m",
        f"--pids-limit={pids}",
        f"--ulimit=nofile={nofile}:{nofile}",
        "--log-driver=local",
        f"--log-opt=max-size={docker.log_max_size}",
        f"--log-opt=max-file={docker.log_max_file}",
    )


def env_path(container: str) -> str:
    """Path of a container's environment file."""
    return f"{CONF_DIR}/{container}.env"


def env_file(container: str, environment: Mapping[str, str]) -> File:
    """A container's environment, for root's eyes only, in the format of `docker create --env-file`.

    `docker inspect` shows it as well, to whoever may use Docker's socket: that is root alone.
    """
    text = "".join(f"{name}={value}\n" for name, value in sorted(environment.items()))
    return File(env_path(container), text.encode(), mode=0o600, secret=True)


def conf_path(container: str) -> str:
    """Path of what the supervisor reads about a container."""
    return f"{CONF_DIR}/{container}.conf"


def conf_file(container: Container, state: HostState) -> File:
    """What the supervisor reads about ``container``: `key value` lines.

    ``state`` holds the files that the container's ``config`` names. Raises FiefdomError for a line break in an
    argument, which the format cannot carry.
    """
    pairs = [
        ("spec", spec_hash(container, state)),
        ("image", container.image),
        ("role", container.role),
        ("version", container.version),
        ("probe", container.probe or ""),
        # The supervisor has the defaults: where these keys are not used, the settings are as they were before them.
        *((("probe_host", container.probe_host),) if container.probe_host else ()),
        *((("probe_status", container.probe_status),) if container.probe_status else ()),
        *(("probe_word", word) for word in container.probe_command),
        ("probe_timeout_s", f"{container.probe_timeout_s:g}"),
        ("start_timeout_s", str(container.start_timeout_s)),
        ("stop_signal", container.stop_signal),
        ("stop_grace_s", str(container.stop_grace_s)),
        *(("env_sha256", file.digest) for file in state.files if f"--env-file={file.path}" in container.args),
        # As `sha256sum --check` reads it.
        *(("file_sha256", f"{f.digest}  {f.path}") for f in state.files if f.mounted and f.path in container.config),
        *(("arg", arg) for arg in container.args),
        *(("cmd", word) for word in container.command),
    ]
    for key, value in pairs:
        if "\n" in value:
            raise FiefdomError(f"{container.name}: {key} {value!r} holds a line break; put it into the image")
    text = render("container.conf.j2", pairs=pairs)
    # The specification's digest covers secrets, and a digest of a weak one could be guessed.
    return File(conf_path(container.name), text.encode(), mode=0o600, secret=True)


def with_containers(state: HostState, *containers: Container) -> HostState:
    """``state`` with ``containers``, what their supervisor reads, and the supervisor itself."""
    support = HostState(
        directories=(
            Directory("/etc/fiefdom"),
            Directory(CONF_DIR),
            Directory(programs.DIR),
            Directory("/var/lib/fiefdom"),
            # Stamps are digests that cover secrets, as the specification's: see `conf_file`.
            Directory(STAMP_DIR, mode=0o700),
        ),
        files=(programs.program("container"),),
    )
    confs = tuple(conf_file(container, state) for container in containers)
    files = tuple(replace(file, serves=True) for file in state.files + confs)
    return support + replace(state, files=files, containers=state.containers + containers)


def start_limit_s(container: Container, others: int = 0) -> int:
    """Seconds after which systemd gives a start up: dockerd, replacing the old one, and the container's own time.

    ``others`` are the seconds that it may wait for other containers first.
    """
    return DOCKER_TIMEOUT_S + container.stop_grace_s + container.start_timeout_s + others + MARGIN_S


def stop_limit_s(container: Container) -> int:
    """Seconds after which systemd gives a stop up; more than the container's own grace."""
    return container.stop_grace_s + MARGIN_S
