"""`docker compose` on this machine: which one is here, and what it does with a project's document."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fiefdom.errors import FiefdomError
from fiefdom.images.docker import run

OLDEST = (1, 27)
"""The first docker-compose that reads a file without a `version`."""
_LABEL = "com.docker.compose"
_WAYS = (("docker", "compose"), ("docker-compose",))
_LAST_WORDS = 8
_INSTALL = "install it (Debian, Ubuntu: sudo apt-get install docker-compose)"


@dataclass(frozen=True)
class Found:
    """A container of a project."""

    name: str
    """What its document calls it."""
    id: str
    state: str
    """Docker's word, such as running or exited."""
    exit_code: int
    ports: frozenset[int]
    """Ports of this machine that lead to it."""


def find() -> tuple[str, ...]:
    """How `docker compose` is called here: as Docker's plugin, else by a name of its own.

    Raises:
        FiefdomError: there is none, or one that is too old.
    """
    for way in _WAYS:
        try:
            done = subprocess.run([*way, "version", "--short"], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        found = re.match(r"v?(\d+)\.(\d+)", done.stdout.strip())
        if done.returncode == 0 and found:
            if (int(found[1]), int(found[2])) < OLDEST:
                oldest = ".".join(map(str, OLDEST))
                raise FiefdomError(f"{' '.join(way)} is {done.stdout.strip()}, and {oldest} is needed; {_INSTALL}")
            return way
    raise FiefdomError(f"there is no docker compose on this machine; {_INSTALL}")


def require_daemon() -> None:
    """Raise FiefdomError where no Docker daemon answers here."""
    done = run("version", "--format", "{{.Server.Version}}")
    if done.returncode:
        words = (done.stderr.strip() or "it says nothing").splitlines()[-1]
        raise FiefdomError(f"the Docker daemon of this machine does not answer ({words}); start it, or ask for access")


def do(
    way: Sequence[str], project: str, document: str, values: Mapping[str, str], *arguments: str, seen: bool = False
) -> None:
    """Have Compose do something with a document; ``values`` are of the variables that it refers to.

    What Compose prints goes where this program prints, if it is to be ``seen``.

    Raises:
        FiefdomError: it failed; carries its last words, unless they were seen.
    """
    # A folder with nothing in it: Compose reads an `.env` from where it works.
    with tempfile.TemporaryDirectory(prefix="fiefdom-dev-") as folder:
        done = subprocess.run(
            [*way, "--project-name", project, "--file", "-", *arguments],
            input=document.encode(),
            cwd=folder,
            env={**_environment(), **values},
            stdout=None if seen else subprocess.PIPE,
            stderr=None if seen else subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        lines = (done.stdout or b"").decode(errors="replace").splitlines()
        says = f"`{' '.join(way)} {arguments[0]}` failed with exit code {done.returncode}"
        raise FiefdomError(says).with_log([line for line in lines if line.strip()][-_LAST_WORDS:])


def _environment() -> dict[str, str]:
    """This program's, less what would have Compose work on something else."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}


def containers(project: str) -> list[Found]:
    """Every container of a project, whether it runs or not."""
    ids = run("ps", "--all", "--quiet", "--no-trunc", f"--filter=label={_LABEL}.project={project}").stdout.split()
    done = run("inspect", "--type=container", *ids) if ids else None
    return [_found(one) for one in json.loads(done.stdout or "[]")] if done is not None else []


def _found(told: Mapping[str, object]) -> Found:
    state, config = _mapping(told["State"]), _mapping(told["Config"])
    bindings = _mapping(_mapping(told["HostConfig"])["PortBindings"])
    ports = {int(b["HostPort"]) for bound in bindings.values() for b in _list(bound) if b["HostPort"]}
    name = str(_mapping(config["Labels"])[f"{_LABEL}.service"])
    return Found(name, str(told["Id"]), str(state["Status"]), int(str(state["ExitCode"])), frozenset(ports))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Mapping[str, str]]:
    return value if isinstance(value, list) else []


def last_words(container: Found) -> list[str]:
    """The end of what a container printed."""
    done = run("logs", f"--tail={_LAST_WORDS}", container.id)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-_LAST_WORDS:]


def volumes(project: str) -> list[str]:
    """Names of the volumes that Compose made for a project."""
    return run("volume", "ls", "--quiet", f"--filter=label={_LABEL}.project={project}").stdout.split()


def remove_volumes(names: Sequence[str]) -> None:
    """Remove volumes. Raises FiefdomError for one that something still uses."""
    done = run("volume", "rm", *names)
    if done.returncode:
        raise FiefdomError(f"volumes could not be removed: {done.stderr.strip().splitlines()[-1]}")
