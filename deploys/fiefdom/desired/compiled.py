"""Templates as Python runs them, kept beside them as Python keeps its modules: to compile them anew would take a fifth
of a run that has nothing to do.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from types import CodeType

from jinja2.bccache import Bucket, BytecodeCache


class Compiled(BytecodeCache):
    """Keeps what ``folder`` has compiled where Python would: in its `__pycache__`, or under PYTHONPYCACHEPREFIX; not
    where it cannot be written, nor where PYTHONDONTWRITEBYTECODE is set. ``options`` are all else that makes it what it
    is.
    """

    def __init__(self, folder: Path, options: object) -> None:
        self._folder = Path(cache_from_source(str(folder / "any.py"))).parent
        self._options = repr(options)

    def get_source_checksum(self, source: str) -> str:
        """What is kept is of this source and these options, or is made anew."""
        return hashlib.sha256(f"{self._options}\n{source}".encode()).hexdigest()

    def load_bytecode(self, bucket: Bucket) -> None:
        """Take what is kept, where it is of the same source and of this Python."""
        try:
            bucket.load_bytecode(io.BytesIO(self._path(bucket).read_bytes()))
        except Exception:  # Jinja unpickles what stands in front, which raises whatever it likes for half a file
            bucket.reset()
        if not isinstance(bucket.code, CodeType):
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what was compiled; whole or not at all, for another run may read it."""
        if sys.dont_write_bytecode:
            return
        path = self._path(bucket)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            # It is run later on: as with Python's modules, no umask lets others write it.
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(bucket.bytecode_to_string())
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)

    def _path(self, bucket: Bucket) -> Path:
        return self._folder / f"{bucket.key}.{sys.implementation.cache_tag}.pyc"

    def get_cache_key(self, name: str, filename: str | None = None) -> str:  # noqa: ARG002
        """A template's name, which stands once in its folder."""
        return name
