"""What can cut the operator's line: each concern says it of its own files and units, and the guard reads it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cutting:
    """Where a mistake of one concern could end the operator's access.

    Of what goes, a host's manifest has no more than a path or a name, and it may be one that no concern makes any more.
    So ``paths`` are how paths begin: a folder, with a slash at its end, stands for itself and all that ever was in it.
    ``units`` stand in the order that lets the operator back in. With ``sysctls``, every live kernel setting counts.

    ``harmless`` is what else the concern makes, by path or unit, and why that cannot: a test wants a word on each.
    """

    paths: tuple[str, ...]
    units: tuple[str, ...]
    sysctls: bool = False
    harmless: Mapping[str, str] = field(default_factory=dict)

    def has_path(self, path: str) -> bool:
        """Whether a file or folder at ``path`` is among it."""
        return path.startswith(self.paths) or f"{path}/" in self.paths
