"""Values as a person wrote them, the place of each, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fiefdom.errors import FiefdomError
from fiefdom.wording import KeyPath, dotted, printable

_SECRETS = (("serf", "key"), ("registry", "password"))


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str
    line: int | None = None
    text: str | None = None
    """A scalar as it stands in the file: YAML reads 1.10 as 1.1."""
    rank: int = 0
    """Files of a higher rank are told of later."""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Mistake:
    """What is wrong, where, and how to mend it."""

    origin: Origin
    key: KeyPath
    says: str
    hides: bool = False
    """Whether values cannot be read because of it, so that what seems to be missing may stand there."""

    def __str__(self) -> str:
        where = f"{dotted(self.key)}: " if self.key else ""
        return printable(f"{self.origin}: {where}{self.says}")

    @property
    def same(self) -> object:
        """What two mistakes have in common that are one: in the data of a group, once for each of its hosts."""
        return self.origin, self.key[2 if self.origin.rank and self.key[:1] == ("hosts",) else 0 :], self.says

    @property
    def place(self) -> tuple[int, str, float]:
        """By what mistakes are ordered: the inventory's own first, from the top; without a line, last."""
        origin = self.origin
        return origin.rank, origin.file if origin.rank else "", origin.line or float("inf")


class Mistakes(FiefdomError):
    """An inventory is not valid. The sentence is the first of ``all``, in the order of the files, with their number."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        first: dict[object, Mistake] = {}
        for mistake in mistakes:
            first.setdefault(mistake.same, mistake)
        self.all = tuple(sorted(first.values(), key=lambda m: m.place))
        more = f" (and {len(self.all) - 1} more)" if len(self.all) > 1 else ""
        super().__init__(f"{self.all[0]}{more}")


@dataclass(frozen=True)
class Written:
    """Values as a person wrote them, where, and what was wrong with them already."""

    value: Any
    origins: Mapping[KeyPath, Origin] = field(repr=False)
    mistakes: tuple[Mistake, ...] = ()

    def origin(self, key: KeyPath) -> Origin:
        """Where ``key`` was written, or the nearest mapping around it."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.origins:
                return self.origins[key[:end]]
        return Origin("inventory")

    def at(self, *prefix: str) -> Written:
        """The same values as they stand inside of ``prefix``."""
        value = self.value
        for part in reversed(prefix):
            value = {part: value}
        return Written(value, {prefix + key: origin for key, origin in self.origins.items()}, self.mistakes)

    def only(self, *names: str) -> Written:
        """The mapping with these of its keys."""
        value = {k: v for k, v in self.value.items() if k in names}
        origins = {key: o for key, o in self.origins.items() if not key or key[0] in names}
        return Written(value, origins, self.mistakes)

    def over(self, under: Written) -> Written:
        """These values on top of ``under``: mappings are merged at every depth, all else replaces."""
        value = _merged(under.value, self.value)
        return Written(value, {**under.origins, **self.origins}, under.mistakes + self.mistakes)


def _is_source(at: KeyPath) -> bool:
    """Whether the source of a secret or a file stands at ``at``: it has one, so `{env: X}` replaces `{text: ...}`."""
    if at[-4:-3] == ("services",) and at[-2:-1] == ("files",):
        return True
    if at[-3:-2] == ("registries",) and at[-1:] == ("password",):
        return True
    return at[-2:] in _SECRETS or (at[-4:-3] in (("services",), ("overrides",)) and at[-2:-1] == ("environment",))


def _merged(under: object, over: object, at: KeyPath = ()) -> object:
    if isinstance(under, dict) and isinstance(over, dict) and not _is_source(at):
        both = {key: _merged(value, over[key], (*at, key)) if key in over else value for key, value in under.items()}
        return {**both, **{key: value for key, value in over.items() if key not in under}}
    return over
