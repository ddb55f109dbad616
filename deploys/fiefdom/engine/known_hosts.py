"""known_hosts, for a host that moves: its key is known, only not yet under the new name."""

from __future__ import annotations

import tempfile
from pathlib import Path

from paramiko import PKey

from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster


def path_of(cluster: Cluster) -> Path:
    named = cluster.ssh.known_hosts
    return cluster.path(named) if named is not None else Path("~/.ssh/known_hosts").expanduser()


def trust(known_hosts: Path, name: str, key: PKey) -> str:
    """A file that knows what ``known_hosts`` does, and ``key`` under ``name``."""
    text = _text(known_hosts)
    with tempfile.NamedTemporaryFile("w", prefix="fiefdom-known-hosts-", delete=False) as file:
        file.write(f"{text.rstrip()}\n{_known_hosts_line(name, key)}")
    return file.name


def require_writable(known_hosts: Path, name: str, key: PKey, host: str) -> None:
    """Raise FiefdomError where `_remember` would, while nothing of ``host`` has changed yet."""
    try:
        _add(known_hosts, name, key, dry=True)
    except OSError as error:
        raise FiefdomError(
            f"{host}: was not moved, for {known_hosts} cannot be added to, where its key has to be known as that of "
            f"{name}: {error.strerror}; make it writable"
        ) from error


def remember(known_hosts: Path, name: str, key: PKey) -> None:
    try:
        _add(known_hosts, name, key)
    except OSError as error:
        raise FiefdomError(
            f"{known_hosts}: cannot be added to: {error.strerror}; the host is {name} by now: add its key there"
        ) from error


def _add(known_hosts: Path, name: str, key: PKey, dry: bool = False) -> None:
    line = _known_hosts_line(name, key)
    text = _text(known_hosts)
    if line.strip() in text.splitlines():
        return
    known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with known_hosts.open("a") as file:
        file.write("" if dry else line if not text or text.endswith("\n") else f"\n{line}")


def _text(known_hosts: Path) -> str:
    try:
        return known_hosts.read_text() if known_hosts.exists() else ""
    except OSError as error:
        raise FiefdomError(f"{known_hosts}: cannot be read: {error.strerror}") from error


def _known_hosts_line(name: str, key: PKey) -> str:
    return f"{name} {key.get_name()} {key.get_base64()}\n"
