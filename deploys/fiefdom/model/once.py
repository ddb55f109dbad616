"""What follows from an inventory alone, worked out once for all hosts that ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Generic, TypeVar

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Same(Generic[C]):
    """Equal to itself alone, as what is in it is: to compare inventories would take as long as what is remembered."""

    value: C

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def once(function: Callable[[C], T]) -> Callable[[C], T]:
    """Remember what ``function`` makes of each of the last few inventories, which never change in place.

    Where every host asks for what all hosts are part of, the work would grow with the square of their number.
    """

    # What is remembered keeps its inventory, so that no other one gets the same id.
    @lru_cache(maxsize=8)
    def kept(same: _Same[C]) -> T:
        return function(same.value)

    @wraps(function)
    def remembered(value: C) -> T:
        return kept(_Same(value))

    return remembered
