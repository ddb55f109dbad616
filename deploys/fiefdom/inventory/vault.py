"""The cluster's encrypted file of secrets: read with the operator's key, written for all recipients.

The format is age (https://age-encryption.org/v1), armoured, so that `age --decrypt` reads it as well; inside is a YAML
mapping of names to text. The text is only ever in memory.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fiefdom import files
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster, EncryptedFile, SecretSource
from fiefdom.wording import from_here, printable

IDENTITY = "FIEFDOM_IDENTITY"
# Where age, sops and ssh-keygen put keys.
_IDENTITIES = ("~/.config/age/keys.txt", "~/.config/sops/age/keys.txt", "~/.ssh/id_ed25519", "~/.ssh/id_rsa")
_AGE_KEY = b"AGE-SECRET-KEY-1"
_SET = "`fiefdom secret set INVENTORY NAME`"

Entries = Mapping[str, str]


def read(cluster: Cluster, environ: Mapping[str, str]) -> Entries:
    """Every secret of the encrypted file, by name.

    The key is in the file that FIEFDOM_IDENTITY in ``environ`` names, or in one of the usual places.

    Raises:
        FiefdomError: there is no file, no key opens it, or it holds something else. What it holds is never told.
    """
    path = cluster.path_here(_settings(cluster).file)
    if not is_there(path):
        raise FiefdomError(f"{path}: there is no such file; {_SET} makes it")
    return _texts(path, _parsed(path, _decrypted(path, _content(path), _Keys.of(environ))))


def read_unasked(cluster: Cluster, environ: Mapping[str, str]) -> Entries | None:
    """As `read`, with keys that no passphrase locks; None where none of these opens the file, or there is none.

    Raises:
        FiefdomError: it is no encrypted file, or holds something else than secrets by name.
    """
    try:
        keys = _Keys.of(environ)
    except FiefdomError:
        return None
    path = cluster.path_here(_settings(cluster).file)
    keys.locked.clear()
    try:
        return _texts(path, _parsed(path, _decrypted(path, _content(path), keys)))
    except _NoKeyError:
        return None


class _NoKeyError(FiefdomError):
    """None of the operator's keys opens the file."""


def change(cluster: Cluster, edit: Callable[[dict[str, str]], Entries], environ: Mapping[str, str]) -> None:
    """Write the encrypted file anew, with what ``edit`` makes of its entries, for those who may read it now.

    A file that is not there yet begins empty. Whole or not at all; two at once take turns.

    Raises:
        FiefdomError: as `read`; or the file cannot be written, or you could not read it any more.
    """
    settings = _settings(cluster)
    # Where a link leads to: the link itself is to stay one.
    path, keys = from_here(os.path.realpath(cluster.path(settings.file))), _Keys.of(environ)
    recipients = _recipients(settings)
    with _turn(path):
        before = dict(_parsed(path, _decrypted(path, _content(path), keys))) if is_there(path) else {}
        # What is no text counts afterwards, so that it can be taken out or written over.
        after = _texts(path, edit(before))
        text = yaml.safe_dump(dict(after), default_flow_style=False)
        sealed = _encrypted(text.encode(), recipients)
        try:
            _decrypted(path, sealed, keys)
        except FiefdomError as error:
            raise FiefdomError(
                f"{path}: stays as it is, for your own key could not read it any more; add its public key to "
                f"secrets.recipients, or name another key with {IDENTITY}"
            ) from error
        files.write(path, sealed)  # nobody but the recipients can read it


def adding(name: str, text: str, replace: bool = True) -> Callable[[dict[str, str]], Entries]:
    """For `change`: put ``text`` in; FiefdomError where ``name`` is there and is not to be replaced."""

    def edit(entries: dict[str, str]) -> Entries:
        if name in entries and not replace:
            raise FiefdomError(f"{name}: is in the encrypted file already and stays as it is; remove it there first")
        return {**entries, name: text}

    return edit


def removing(name: str) -> Callable[[dict[str, str]], Entries]:
    """For `change`: take ``name`` out; FiefdomError where it is not there."""

    def edit(entries: dict[str, str]) -> Entries:
        if name not in entries:
            raise FiefdomError(f"{printable(name)}: is not in the encrypted file; `fiefdom secret list` shows what is")
        return {other: text for other, text in entries.items() if other != name}

    return edit


def as_it_is(entries: dict[str, str]) -> Entries:
    """For `change`: the same secrets, for other recipients; FiefdomError where there are none."""
    if not entries:
        raise FiefdomError(f"the encrypted file holds no secret yet; {_SET} puts one in")
    return entries


def require_name(name: str) -> None:
    """Raise FiefdomError where ``name`` cannot stand in an inventory."""
    try:
        SecretSource(secret=name)
    except ValidationError:
        raise FiefdomError(
            f"{printable(name)}: is no name for a secret; take at most 64 letters, digits, dots, dashes and underscores"
        ) from None


def _settings(cluster: Cluster) -> EncryptedFile:
    if cluster.secrets is None:
        raise FiefdomError("secrets: the inventory names no encrypted file; add `secrets` with file and recipients")
    return cluster.secrets


def _recipients(settings: EncryptedFile) -> list[Any]:
    import pyrage  # type: ignore[import-untyped] # deferred: a library of its own that most runs do without

    found = []
    for i, line in enumerate(settings.recipients):
        kind = pyrage.x25519 if line.startswith("age1") else pyrage.ssh
        try:
            found.append(kind.Recipient.from_str(line))
        except pyrage.RecipientError as error:
            raise FiefdomError(f"secrets.recipients[{i}]: is no whole public key ({error}); copy it anew") from error
    return found


def _encrypted(text: bytes, recipients: Sequence[Any]) -> bytes:
    import pyrage

    sealed: bytes = pyrage.encrypt(text, recipients, True)
    return sealed


def _decrypted(path: Path, sealed: bytes, keys: _Keys) -> bytes:
    import pyrage

    for identities in keys.attempts():
        try:
            text: bytes = pyrage.decrypt(sealed, identities)
        except pyrage.DecryptError as error:
            if "no matching keys" not in str(error).lower():
                raise FiefdomError(
                    f"{path}: is no whole age file ({error}); bring back its last version, or remove it and set "
                    "its secrets anew"
                ) from None
            continue
        return text
    tried = "; ".join([*(f"tried {found}" for found in keys.tried), *keys.refused]) or "found none"
    raise _NoKeyError(
        f"{path}: none of your keys opens it ({tried}); name one with {IDENTITY}, or ask a colleague to add yours to "
        "secrets.recipients and to run `fiefdom secret rekey`"
    )


@dataclass
class _Keys:
    """The operator's private keys; an object because a passphrase is asked for once, and only if it has to be."""

    paths: Sequence[Path]
    named: bool
    """By the operator: then a file that cannot be used is an error."""
    tried: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    opened: list[Any] = field(default_factory=list, repr=False)
    locked: list[tuple[Path, bytes]] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> _Keys:
        """Keys at the usual places of the user, or at the one that FIEFDOM_IDENTITY names."""
        named = environ.get(IDENTITY)
        try:
            keys = cls([Path(p).expanduser() for p in ([named] if named else _IDENTITIES)], bool(named))
        except RuntimeError:  # a home that nobody knows
            where = f"{printable(named)}: its" if named else "your"
            raise FiefdomError(f"{IDENTITY}: {where} home folder is unknown; give a whole path") from None
        for path in keys.paths:
            if named or is_there(path):
                keys._load(path)
        return keys

    def attempts(self) -> Iterator[list[Any]]:
        """Keys to decrypt with: those that lie open, then each that a passphrase opens."""
        if self.opened:
            yield self.opened
        while self.locked and sys.stdin.isatty():
            path, data = self.locked.pop(0)
            self.opened.append(_unlocked(path, data))
            self.tried.append(str(path))
            yield self.opened
        self.refused += [f"{path} has a passphrase, and there is no terminal to ask on" for path, _ in self.locked]

    def _load(self, path: Path) -> None:
        import pyrage

        try:
            data = _private(path)
            lines = [line.strip() for line in data.splitlines() if line.strip().startswith(_AGE_KEY)]
            if lines:
                self.opened += [pyrage.x25519.Identity.from_str(line.decode(errors="replace")) for line in lines]
            else:
                self.opened.append(pyrage.ssh.Identity.from_buffer(data))
            self.tried.append(str(path))
        except (pyrage.IdentityError, FiefdomError) as error:
            if "must be decrypted first" in str(error):
                self.locked.append((path, data))
            elif self.named:
                raise FiefdomError(f"{IDENTITY}: {path}: cannot be used ({error}); name an age or SSH key") from None
            else:
                self.refused.append(f"{path}: {error}")


def _private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if (mode := os.fstat(file.fileno()).st_mode & 0o777) & 0o077:
                raise FiefdomError(f"others may read it, mode {mode:04o}: chmod 600 {path}")
            return file.read(1 << 20)
    except OSError as error:
        raise FiefdomError(str(error.strerror)) from error


def _unlocked(path: Path, data: bytes) -> Any:
    import pyrage
    from cryptography.hazmat.primitives import serialization  # paramiko's, which pyinfra brings

    passphrase = getpass.getpass(f"Passphrase of {path}: ")
    try:
        key = serialization.load_ssh_private_key(data, passphrase.encode())
    except (ValueError, TypeError) as error:  # the latter for an empty one
        raise FiefdomError(f"{path}: this is not its passphrase; try again") from error
    kind = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    try:
        return pyrage.ssh.Identity.from_buffer(key.private_bytes(*kind))
    except pyrage.IdentityError as error:
        raise FiefdomError(
            f"{path}: cannot be used ({error}); name an age, Ed25519 or RSA key with {IDENTITY}"
        ) from None


def is_there(path: Path) -> bool:
    """Whether there is such a file, or something that keeps us from knowing, which opening it tells."""
    try:
        return path.exists()
    except OSError:
        return True


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FiefdomError(f"{path}: cannot be read ({error.strerror}); check its owner and mode") from error


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    mend = f"remove the file, and set its secrets anew with {_SET}"
    try:
        entries = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 -- knows text only, so that 0123 stays 0123
    except (yaml.YAMLError, RecursionError):  # its words repeat the text
        raise FiefdomError(f"{path}: what it holds is no YAML; {mend}") from None
    if not isinstance(entries, dict):
        raise FiefdomError(f"{path}: what it holds is no mapping of names to text; {mend}")
    return {str(name): value for name, value in entries.items()}


def _texts(path: Path, entries: Mapping[str, Any]) -> Entries:
    for name, value in entries.items():
        if not isinstance(value, str):
            raise FiefdomError(
                f"{path}: {printable(name)}: what it holds is not text; set it anew with {_SET}, or take it out with "
                "`fiefdom secret remove`"
            )
    return entries


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    # The folder is locked, for the file itself is replaced.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise FiefdomError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
