"""Sets of ports as the kernel and nftables write them."""

from __future__ import annotations

from collections.abc import Iterable


def ranges(ports: Iterable[int]) -> tuple[str, ...]:
    """Ports, in order, as single numbers and spans: `("80", "8000-8003")`."""
    spans: list[tuple[int, int]] = []
    for port in sorted(set(ports)):
        if spans and spans[-1][1] == port - 1:
            spans[-1] = (spans[-1][0], port)
        else:
            spans.append((port, port))
    return tuple(str(first) if first == last else f"{first}-{last}" for first, last in spans)
