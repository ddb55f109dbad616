"""One change of a host: a thing, what becomes of it, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from fiefdom.desired.state import Resource

Sign = Literal["+", "~", "-", "-/+"]

# The order in which a plan lists kinds; also, roughly, the order in which they are applied.
KINDS: tuple[str, ...] = ("hostname", "package", "account", "directory", "file", "block", "sysctl")
KINDS += ("unit", "image", "container", "offer", "record")


@dataclass(frozen=True)
class Change:
    """One difference. ``why`` is for people; ``resource`` is what apply needs and never printed.

    ``release`` names the service whose running, healthy instances it would replace: such a change is a rollout's to
    make, and apply leaves it alone. ``cuts`` names the concern that could end the operator's access by it, where that
    depends on what the host holds now; what is always so is `guard`'s to say.
    """

    kind: str
    sign: Sign
    name: str
    why: str
    resource: Resource = field(default=None, repr=False, compare=False)
    release: str = ""
    cuts: str = field(default="", repr=False, compare=False)

    def as_data(self) -> dict[str, str | None]:
        """The change as plain data, for JSON: no content, no secret."""
        release = self.release or None
        return {"kind": self.kind, "sign": self.sign, "name": self.name, "why": self.why, "release": release}


def in_order(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Changes of one host, as a plan has them."""
    return tuple(sorted(changes, key=lambda c: (KINDS.index(c.kind), c.name, c.sign)))
