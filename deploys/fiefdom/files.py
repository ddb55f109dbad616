"""Files on this machine that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from fiefdom.errors import FiefdomError


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put ``content`` in place of what is at ``path``, with the mode of that, or ``mode`` where nothing is.

    Raises:
        FiefdomError: it cannot be written; what was there is as it was.
    """
    if path.exists() and not path.is_file():
        raise FiefdomError(f"{path}: is no file that could be replaced; name another")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with suppress(FileNotFoundError):
            mode = path.stat().st_mode & 0o777
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise FiefdomError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
