"""How often the reconciler looked and applied, and how long that took."""

from dataclasses import dataclass, field

# From a round that changes nothing to a reload with thousands of servers.
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass
class Rounds:
    """Counts of this process. `buckets` are how many took no longer than each of `BOUNDS_S`.

    `failed` are those at whose end HAProxy could not be compared with what is wanted.
    """

    count: int = 0
    failed: int = 0
    sum_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BOUNDS_S))

    def add(self, took_s: float) -> None:
        """Count a round."""
        self.count += 1
        self.sum_s += took_s
        for index, bound_s in enumerate(BOUNDS_S):
            self.buckets[index] += took_s <= bound_s
