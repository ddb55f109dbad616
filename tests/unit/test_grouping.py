"""Values by what they have in common."""

from __future__ import annotations

from fiefdom.grouping import grouped


def test_values_stand_by_their_keys_in_the_order_in_which_they_came() -> None:
    found = grouped([("b", 2), ("a", 1), ("b", 1), ("b", 2)])
    assert list(found.items()) == [("b", [2, 1, 2]), ("a", [1])]
    assert grouped([]) == {}
