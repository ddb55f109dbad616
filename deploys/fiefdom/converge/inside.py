"""A command in an instance that runs: which one is meant, and what its host is told for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError
from fiefdom.wording import shown

SCRIPT = (Path(__file__).parent / "inside.sh").read_text()
_TARGET = re.compile(r"([^@:]+)(?:@([^@:]+)(?::([0-9]{1,5}))?)?", re.ASCII)


@dataclass(frozen=True)
class Target:
    """An instance: of a service, on a host, or any that answers; by its port, or the first that runs."""

    service: str
    host: str | None = None
    port: int | None = None


def target(text: str) -> Target:
    """What `SERVICE[@HOST[:PORT]]` means. Raises FiefdomError for what has another form."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise FiefdomError(f"{shown(text)}: no instance; say SERVICE, SERVICE@HOST or SERVICE@HOST:PORT")
    service, host, port = found.groups()
    return Target(service, host, None if port is None else int(port))


def attend(hosts: Hosts, host: str, wanted: Target, command: Sequence[str], *, terminal: bool) -> int:
    """Run a command in an instance on ``host``, at this process's own input and outputs, and return its exit code.

    Raises as `run.Hosts.interact`.
    """
    port = "" if wanted.port is None else str(wanted.port)
    words = ("yes" if terminal else "no", wanted.service, port, *command)
    return hosts.interact(host, SCRIPT, words, terminal=terminal)
