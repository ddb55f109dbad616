"""Copies of the programs that hosts keep, for tests to run: what stands fixed in them is something else here.

Nothing outside of a program moves its paths, so a test changes the line where one is set.
"""

from __future__ import annotations

import re
from pathlib import Path

from fiefdom.desired.programs import text_of


def with_constants(name: str, **values: object) -> str:
    """Text of a program with other values of its constants, each of which is set on a line of its own."""
    text = text_of(name)
    for constant, value in values.items():
        text, found = re.subn(rf"^{constant}=\S+$", f"{constant}={value}", text, flags=re.MULTILINE)
        assert found == 1, constant
    return text


def place_supervisor(folder: Path) -> Path:
    """The supervisor of containers whose files are all in ``folder``, as is `handover` where somebody puts it."""
    text = with_constants("container", conf_dir=folder, stamp_dir=folder / "stamps", handover=folder / "handover")
    path = folder / "container"
    path.write_text(text)
    path.chmod(0o755)
    return path


def place_handover(folder: Path) -> None:
    """What the supervisor of `place_supervisor` needs for containers that have successors."""
    (folder / "handover").write_text(text_of("handover"))
