"""Templates as Python runs them, kept beside them as Python keeps its modules: to compile them anew would take a fifth
of a run that has nothing to do.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from contextlib import suppress
from pathlib import Path

from jinja2.bccache import Bucket, BytecodeCache


class Compiled(BytecodeCache):
    """Keeps what ``folder`` has compiled in its `__pycache__`, where Python would: not where it cannot be written, nor
    where PYTHONDONTWRITEBYTECODE is set. ``options`` are all else that makes it what it is.
    """

    def __init__(self, folder: Path, options: object) -> None:
        self._folder = folder / "__pycache__"
        self._options = repr(options)

    def get_source_checksum(self, source: str) -> str:
        """What is kept is of this source and these options, or is made anew."""
        return hashlib.sha256(f"{self._options}\n{source}".encode()).hexdigest()

    def load_bytecode(self, bucket: Bucket) -> None:
        """Take what is kept, where it is of the same source and of this Python."""
        with suppress(OSError):
            bucket.load_bytecode(io.BytesIO(self._path(bucket).read_bytes()))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what was compiled; whole or not at all, for another run may read it."""
        if sys.dont_write_bytecode:
            return
        path = self._path(bucket)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            try:
                draft.write_bytes(bucket.bytecode_to_string())
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)

    def _path(self, bucket: Bucket) -> Path:
        return self._folder / f"{bucket.key}.{sys.implementation.cache_tag}.pyc"

    def get_cache_key(self, name: str, filename: str | None = None) -> str:  # noqa: ARG002
        """A template's name, which stands once in its folder."""
        return name
