"""What a program on a host says where systemd's journal reads it, and where it does not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path


def said(folder: Path, command: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """For the journal and for anything else: the level that an error has in front there, exit code and words of
    ``command``.

    systemd says where its journal reads, and takes a number in front for the line's level.
    """
    path = folder / "said"
    with path.open("w") as file:
        found = os.fstat(file.fileno())
        for stream, level in ((f"{found.st_dev}:{found.st_ino}", "<3>"), ("1:1", "")):
            file.truncate(0)
            file.seek(0)
            env = {**os.environ, "JOURNAL_STREAM": stream}
            done = subprocess.run(command, stderr=file, env=env, check=False, timeout=60)
            yield level, done.returncode, path.read_text()
