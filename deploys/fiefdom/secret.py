"""The cluster's secrets: where they come from, and how they are made."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from fiefdom.desired import Secrets
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster

VARIABLE = "FIEFDOM_GOSSIP_KEY"
KEY_BYTES = 32
"""Serf takes 16, 24 or 32 bytes and chooses AES-128, 192 or 256 by them."""
_MAKE = "`fiefdom keygen INVENTORY` makes one"


def load(cluster: Cluster, environ: Mapping[str, str] | None = None) -> Secrets:
    """The secrets of ``cluster``: from the environment variable FIEFDOM_GOSSIP_KEY, else from `serf.key_file`.

    Raises:
        FiefdomError: there is none, others can read its file, or it is no key. The key itself is never told.
    """
    given = (os.environ if environ is None else environ).get(VARIABLE)
    if given is not None:
        return Secrets(gossip_key=_checked(given, VARIABLE))
    if cluster.serf.key_file is None:
        raise FiefdomError(
            f"serf.key_file: there is no gossip key; name a file in the inventory ({_MAKE} there) or set {VARIABLE}"
        )
    path = cluster.path(cluster.serf.key_file)
    return Secrets(gossip_key=_checked(_private_text(path), str(path)))


def generate(path: Path) -> None:
    """Write a new gossip key to ``path``, readable by its owner alone; whole or not at all.

    A missing folder is made for the owner alone.

    Raises:
        FiefdomError: the file exists, which is never overwritten, or cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            _publish(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        raise FiefdomError(f"{path}: the gossip key cannot be written ({error.strerror}); check the folder") from error


def _publish(draft: Path, path: Path) -> None:
    try:
        # Unlike a rename, a link never replaces what is there.
        path.hardlink_to(draft)
    except FileExistsError as error:
        raise FiefdomError(
            f"{path}: exists already and stays as it is; a new key cuts off every member that has the old one, "
            "so remove the file yourself if you want that"
        ) from error


def _private_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                raise FiefdomError(f"{path}: others may read this gossip key (mode {mode:04o}); type: chmod 600 {path}")
            return file.read(4096).decode("ascii", errors="replace")
    except FileNotFoundError as error:
        raise FiefdomError(f"{path}: there is no gossip key; {_MAKE}, or set {VARIABLE}") from error
    except OSError as error:
        raise FiefdomError(
            f"{path}: the gossip key cannot be read ({error.strerror}); check serf.key_file, owner and mode"
        ) from error


def _checked(text: str, where: str) -> str:
    key = text.strip()
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FiefdomError(f"{where}: the gossip key is not base64; {_MAKE}") from error
    if len(raw) != KEY_BYTES:
        raise FiefdomError(f"{where}: the gossip key has {len(raw)} bytes and needs {KEY_BYTES}; {_MAKE}")
    return key
