"""Sets of ports as text."""

import pytest

from fiefdom.desired.ports import ranges


@pytest.mark.parametrize(
    ("ports", "expected"),
    [((), ()), ((80,), ("80",)), ((8003, 8000, 8001, 8001), ("8000-8001", "8003")), ((1, 2, 3), ("1-3",))],
)
def test_ranges(ports: tuple[int, ...], expected: tuple[str, ...]) -> None:
    assert ranges(ports) == expected
