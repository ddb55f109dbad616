"""known_hosts: which host keys the operator trusts, and new ones that are written there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from paramiko import PKey
from paramiko.hostkeys import HostKeys

from fiefdom.engine import host_certificate
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.wording import from_here

SYSTEM = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True)
class Known:
    """One line of a file: a key in base64 that is trusted under some names, or a CA's, or one that is revoked."""

    file: Path
    line: int
    marker: str
    kind: str
    key: str


def path_of(cluster: Cluster) -> Path:
    """Where a new key is written."""
    named = cluster.ssh.known_hosts
    return cluster.path(named) if named is not None else Path("~/.ssh/known_hosts").expanduser()


def known_as(address: str, port: int) -> str:
    """The name that a host has in known_hosts."""
    return address if port == 22 else f"[{address}]:{port}"


def lookup(files: Iterable[Path], name: str) -> list[Known]:
    """What files say of the host ``name``, as OpenSSH reads them: patterns, hashed names and markers."""
    return [known for file in files for known in _of_file(file, name)]


def _of_file(file: Path, name: str) -> Iterator[Known]:
    for number, text in enumerate(_text(file).splitlines(), 1):
        fields = text.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) >= 3 and not text.lstrip().startswith("#") and _names(fields[0], name):
            yield Known(file, number, marker, fields[1], fields[2])


def _names(patterns: str, name: str) -> bool:
    if patterns.startswith("|1|"):
        try:
            return bool(HostKeys.hash_host(name, patterns) == patterns)
        except (ValueError, IndexError):
            return False
    found = False
    for pattern in patterns.lower().split(","):
        # What stands in brackets is a host with its port, and no set of characters.
        plain = pattern.lstrip("!").replace("[", "[[]")
        if fnmatchcase(name.lower(), plain):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def kinds(found: Sequence[Known]) -> list[str]:
    """Types of host keys that the host ought to show, for they can be verified; none where nothing is known."""
    wanted: list[str] = []
    if any(known.marker == "@cert-authority" for known in found):
        wanted += host_certificate.KINDS
    for known in found:
        if not known.marker:
            wanted += ["rsa-sha2-512", "rsa-sha2-256"] if known.kind == "ssh-rsa" else [known.kind]
    return list(dict.fromkeys(wanted))


def judge(found: Sequence[Known], name: str, key: PKey) -> str | None:
    """Why the host ``name`` is not to be trusted that showed ``key``; None where it is."""
    shown = f"{key.get_name()} {key.fingerprint}"
    if any(known.marker == "@revoked" and known.key == key.get_base64() for known in found):
        return f"the host key of {name} ({shown}) is revoked"
    if any(known.key == key.get_base64() for known in found if not known.marker):
        return None
    authorities = [known.key for known in found if known.marker == "@cert-authority"]
    certificate = getattr(key, "public_blob", None)
    if certificate is not None and authorities:
        return host_certificate.judge(certificate.key_blob, authorities, name)
    return f"SSH host key error: {_unknown(found, name, key)}"


def _unknown(found: Sequence[Known], name: str, key: PKey) -> str:
    shown = f"{key.get_name()} {key.fingerprint}"
    plain = [known for known in found if not known.marker]
    if same := [known for known in plain if known.kind == key.get_name()]:
        file = from_here(same[0].file)
        return (
            f"the host key of {name} ({shown}) is not the one in {file} line {same[0].line}; if the host was "
            f"set up anew, take that out (`ssh-keygen -R '{name}' -f {file}`) and let `fiefdom trust` show you "
            "the new one"
        )
    if plain:
        others = ", ".join(dict.fromkeys(known.kind for known in plain))
        return (
            f"{name} shows its {shown}, and {from_here(plain[0].file)} knows {others} only; `fiefdom trust` adds it "
            "once you have compared it"
        )
    if any(known.marker == "@cert-authority" for known in found):
        return f"{name} shows no certificate of a known @cert-authority, but its key {shown}"
    return f"the host key of {name} ({shown}) is not known; `fiefdom trust` shows and keeps the keys of new hosts"


def trust(known_hosts: Path, lines: Iterable[tuple[str, PKey]]) -> str:
    """A file that knows what ``known_hosts`` does, and keys under names."""
    text = _text(known_hosts)
    with tempfile.NamedTemporaryFile("w", prefix="fiefdom-known-hosts-", delete=False) as file:
        file.write(f"{text.rstrip()}\n{''.join(_line(name, key) for name, key in lines)}")
    return file.name


def require_writable(known_hosts: Path, name: str, host: str) -> None:
    """Raise FiefdomError where `remember` would, while nothing of ``host`` has changed yet."""
    try:
        known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=known_hosts.resolve().parent):
            pass
    except OSError as error:
        raise FiefdomError(
            f"{host}: was not changed, for {from_here(known_hosts)} cannot be added to, where its key has to be known "
            f"as that of {name}: {error.strerror}; make it writable"
        ) from error


def remember(known_hosts: Path, name: str, key: PKey) -> None:
    """Add a key, hashed as the others of the file are. Raises FiefdomError where that cannot be."""
    if any(known.key == key.get_base64() and not known.marker for known in _of_file(known_hosts, name)):
        return
    text = _text(known_hosts)
    hashed = any(line.startswith("|1|") for line in text.splitlines())
    line = _line(HostKeys.hash_host(name) if hashed else name, key)
    try:
        _replace(known_hosts, text + line if not text or text.endswith("\n") else f"{text}\n{line}")
    except OSError as error:
        raise FiefdomError(
            f"{from_here(known_hosts)}: cannot be added to: {error.strerror}; the host is {name} by now: add its key "
            "there"
        ) from error


def _replace(path: Path, text: str) -> None:
    # Whoever reads it meanwhile has the old one or the new one, and a link to it stays a link.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    real = path.resolve()
    mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
    with tempfile.NamedTemporaryFile("w", dir=real.parent, prefix=".known_hosts-", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            Path(file.name).replace(real)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


def _text(known_hosts: Path) -> str:
    try:
        return known_hosts.read_text(errors="replace") if known_hosts.exists() else ""
    except OSError as error:
        raise FiefdomError(f"{from_here(known_hosts)}: cannot be read: {error.strerror}") from error


def _line(name: str, key: PKey) -> str:
    return f"{name} {key.get_name()} {key.get_base64()}\n"
