"""A slip of YAML is told in the line where it was made, which is often not the one where YAML could not go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fiefdom import inventory
from fiefdom.errors import FiefdomError
from helpers.inventories import TEXT

OPEN_QUOTE = "a quote opens here"
SLIPS = [
    ('version: "1.0"', 'version: "1.0', 15, OPEN_QUOTE),
    ('version: "1.0"', "version: '1.0", 15, OPEN_QUOTE),
    ("image: team/web", 'image: "team/web', 14, "the next one, in line 15, closes it; close it here"),
    ("cluster: test", 'cluster: "test', 1, "the next one, in line 15, closes it"),
    ("instances: 2", "user: '1:1\n    command: ['a']", 16, "the next one, in line 17, closes it"),
    ("instances: 2", 'environment: {A: "x", B: "y}', 16, OPEN_QUOTE),
    ("[gateways]", "[gateways", 8, "`[` opens here, and line 9 goes on without a comma or `]`; close it"),
    ("[10.0.0.1/32]", "[10.0.0.1/32", 4, "`[` opens here, and line 5"),
    ("[10.0.0.1/32]", "{10.0.0.1/32", 4, "`{` opens here, and line 5 goes on without a comma or `}`"),
    ("instances: 2", 'environment: {A: x\n    user: "1"', 16, "`{` opens here, and line 17"),
    (
        "instances: 2",
        "instances:2",
        16,
        "'instances:2' has no blank after its colon; write `instances: ` and the value",
    ),
    ("    address: 10.0.0.11", "    address:10.0.0.11", 7, "write `address: `"),
    ("cluster: test", "cluster:test", 1, "write `cluster: `"),
    ("cidr: 10", "cidr:10", 3, "write `cidr: `"),
    ("    image: team/web\n", "    image: team/web\n    stray\n", 15, "'stray' is no key with a value"),
    ("hosts:\n", "hosts:\n  stray\n", 6, "'stray' is no key with a value"),
    ("hosts:\n", "stray\nhosts:\n", 5, "'stray' is no key with a value"),
    ("instances: 2", "instances: 2\nstray", 17, "'stray' is no key with a value; write `KEY: VALUE`, or take it out"),
    ("  gw1:", "  gw1", 6, "'gw1' is no key with a value"),
    ("  app1:", "  app1", 9, "'app1' is no key with a value"),
    ("network:", "network", 2, "'network' is no key with a value"),
    ('version: "1.0"', 'version "1.0"', 15, "is no key with a value"),
    ("    groups: [gateways]", "   groups: [gateways]", 8, "check the indentation"),
    ("    groups: [gateways]", "      groups: [gateways]", 8, "wrong indentation"),
    ('version: "1.0"', "version: @1", 15, "cannot start any token"),
    ("instances: 2", "\tinstances: 3", 16, "indent with spaces"),
]


@pytest.mark.parametrize(("right", "slip", "line", "says"), SLIPS, ids=[slip for _, slip, _, _ in SLIPS])
def test_a_slip_is_told_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, slip: str, line: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert right in TEXT
    Path("bad.yaml").write_text(TEXT.replace(right, slip, 1))
    with pytest.raises(FiefdomError) as caught:
        inventory.load("bad.yaml")
    assert str(caught.value).startswith(f"bad.yaml:{line}: not valid YAML: ")
    assert says in str(caught.value)
