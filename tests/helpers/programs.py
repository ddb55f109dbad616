"""Copies of the programs that hosts keep, for tests to run: what stands fixed in them is something else here.

Nothing outside of a program moves its paths, so a test changes the line where one is set.
"""

from __future__ import annotations

import re

from fiefdom.desired.programs import text_of


def with_constants(name: str, **values: object) -> str:
    """Text of a program with other values of its constants, each of which is set on a line of its own."""
    text = text_of(name)
    for constant, value in values.items():
        text, found = re.subn(rf"^{constant}=\S+$", f"{constant}={value}", text, flags=re.MULTILINE)
        assert found == 1, constant
    return text
