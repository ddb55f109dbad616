"""What must outlive a power cut is on the disk before its name is."""

from __future__ import annotations

import re

import pytest

from fiefdom.converge.steps_script import SCRIPT
from fiefdom.desired.programs import text_of

WRITES = {"steps.sh": (SCRIPT, "move_file"), "container.sh": (text_of("container"), "put_stamp")}


@pytest.mark.parametrize("name", WRITES)
def test_a_file_is_renamed_only_after_it_was_synced(name: str) -> None:
    """A rename may reach the disk before the content does: an empty manifest would forget all that was made."""
    script, function = WRITES[name]
    found = re.search(rf"^{function}\(\) {{.*?^}}", script, re.MULTILINE | re.DOTALL)
    assert found is not None
    for before, _ in re.findall(r"(?s)(.*?)\bmv (-|\")", found[0]):
        assert "sync -d " in before
    # And nothing is renamed elsewhere, but whole folders that are synced as such.
    elsewhere = script.replace(found[0], "")
    assert [line for line in elsewhere.splitlines() if re.search(r"\bmv -f|\bmv \"", line)] == []
