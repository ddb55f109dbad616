"""What `fiefdom docs [KEY]` prints: what the model says of a key of inventories."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fiefdom.errors import FiefdomError
from fiefdom.inventory import reference
from fiefdom.inventory.complaint import with_word
from fiefdom.model import Cluster, SecretSource
from fiefdom.model.mounts import ServiceFile
from fiefdom.wording import printable

_WIDTH = 120
_MAPPING = "mapping"
_MANY = 6
"""Keys in a question; more of them are none."""
_NAMES = frozenset(reference.NAMES.values())
"""Parts of a key that stand for a name of the person's own, such as SERVICE."""


@dataclass(frozen=True)
class _Row:
    """A row of the table of keys, in plain words."""

    path: tuple[str, ...]
    type: str
    default: str
    description: str

    def __str__(self) -> str:
        return ".".join(self.path)

    @property
    def holds_values(self) -> bool:
        """Whether the person's own names stand beneath it, with a value each."""
        return self.type.startswith(f"{_MAPPING} to ")

    @property
    def takes_secret(self) -> bool:
        return "secret" in re.findall(r"[a-z]+", self.type)


def describe(key: str | None = None) -> list[str]:
    """What the model says of ``key``, and of every key beneath it; without one, of the keys at the top.

    A key is written as in the table of keys (`services.SERVICE.health.path`), with one's own names
    (`services.predictor.health.path`), or by as much of its end as no other key has (`health.path`).

    Raises:
        FiefdomError: there is no such key, or more than one; names those that may be meant.
    """
    rows = list(_rows())
    if key is None:
        top = [row for row in rows if len([part for part in row.path if part not in _NAMES]) == 1]
        return [*_listed(top), "", "Say `fiefdom docs KEY` for what is beneath one of them."]
    given = _parts(key)
    row = _find(rows, given, key)
    beneath = [other for other in rows if other != row and other.path[: len(row.path)] == row.path]
    # First, for what is beneath may be longer than a screen.
    lines = [*_read_as_name(rows, row, given), str(row), *(f"  {line}" for line in _facts(row))]
    if row.takes_secret:
        lines += ["", "A secret is one of", *_sources()]
    return [*lines, *(["", *_listed(beneath)] if beneath else [])]


def _read_as_name(rows: Sequence[_Row], row: _Row, given: Sequence[str]) -> list[str]:
    """Where the end of ``given`` stands for a name and is a key's word as well: that key, which may be meant."""
    at = len(given) - 1
    if at >= len(row.path) or row.path[at] not in _NAMES or row.path[at] == given[at]:
        return []
    meant = " or ".join(map(str, _short_of(rows, given)))
    return (
        [f"{given[at]} is taken for a name of yours here ({row.path[at]}); did you mean {meant}?", ""] if meant else []
    )


def _rows() -> Iterator[_Row]:
    for key, kind, default, description in reference.rows(Cluster, ""):
        yield _Row(tuple(_plain(key).split(".")), _plain(kind), _plain(default), description)


def _plain(cell: str) -> str:
    """A cell of the table without its Markdown."""
    return cell.replace("`", "").replace("**", "")


def _facts(row: _Row) -> Iterator[str]:
    yield f"type: {row.type}"
    if row.default == "required":
        yield "required"
    elif row.default:
        yield f"default: {row.default}"
    yield from textwrap.wrap(row.description, _WIDTH - 2, break_on_hyphens=False)


def _listed(rows: Sequence[_Row]) -> list[str]:
    """A line for each key, and below it what it means."""
    lines = []
    for row in rows:
        default = {"": "", "required": "; required"}.get(row.default, f"; default: {row.default}")
        lines.append(f"{row}  ({row.type}{default})")
        lines += textwrap.wrap(
            row.description, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
        )
    return lines


def _sources() -> Iterator[str]:
    for name, field in SecretSource.model_fields.items():
        value = "[PROGRAM, ARGUMENT]" if name == "command" else "NAME"
        yield f"{{{name}: {value}}}"
        yield from textwrap.wrap(
            _plain(field.description or ""), _WIDTH, initial_indent="    ", subsequent_indent="    "
        )


def _parts(key: str) -> tuple[str, ...]:
    # An index, as in errors of the model (hosts.app1.groups[0]), says nothing about the key.
    return tuple(_without_path(re.sub(r"\[[0-9]*\]", "", key)).strip(".").split("."))


def _find(rows: Sequence[_Row], given: Sequence[str], key: str) -> _Row:
    found = [row for row in rows if _is_at(row, given)] or [row for row in rows if _ends_with(row, given)]
    if len(found) > 1:
        found = [row for row in found if _has_at_end(row, given)] or found
    if len(found) == 1:
        return found[0]
    said = printable(key)[:80]
    if found:
        raise FiefdomError(f"{said} may be {' or '.join(map(str, found))}; say which")
    close = _short_of(rows, given) or _with_word(rows, given)
    close = close or [row for row in (_closest(rows, given),) if row is not None]
    mend = f"did you mean {' or '.join(map(str, close))}?" if close else "`fiefdom docs` lists those at the top"
    raise FiefdomError(f"{said} is no key of an inventory; {mend}")


def _without_path(key: str) -> str:
    """``key`` with the word of the table in place of a file's path, which may have dots of its own."""
    before, _, path = key.partition("files./")
    last = path.rpartition(".")[2]
    beneath = f".{last}" if last in ServiceFile.model_fields else ""
    return f"{before}files.{reference.NAMES['files']}{beneath}" if path else key


def _is_at(row: _Row, given: Sequence[str]) -> bool:
    """Whether a key is the one of ``row``: with or without the name at its end, or a value that it holds by name."""
    if len(given) > len(row.path):
        return row.holds_values and _match(row.path, given[: len(row.path)])
    rest = row.path[len(given) :]
    return _match(row.path[: len(given)], given) and (not rest or (len(rest) == 1 and rest[0] in _NAMES))


def _short_of(rows: Sequence[_Row], given: Sequence[str]) -> list[_Row]:
    """Those that ``given`` is the key of, without a name that stands before its end."""
    found = [row for row in rows if not _is_at(row, given) and _fits(row.path, given, row.holds_values)]
    return [row for row in found if given[-1] in row.path] or found


def _with_word(rows: Sequence[_Row], given: Sequence[str]) -> list[_Row]:
    """Keys beneath the one that ``given`` stands in, whose word has its last one: `limits.memory_mib` for `memory`."""
    inside = {
        str(row): row
        for row in rows
        if row.path[-1] not in _NAMES
        and any(_fits(row.path[:end], given[:-1], more=False) for end in range(len(row.path)))
    }
    found = [inside[key] for key in with_word(given[-1], inside)]
    return found if len(found) <= _MANY else []


def _has_at_end(row: _Row, given: Sequence[str]) -> bool:
    """Whether ``row`` ends with ``given``, from that very word on; names may be left out."""
    return any(row.path[i] == given[0] and _fits(row.path[i:], given, more=False) for i in range(len(row.path)))


def _fits(path: Sequence[str], given: Sequence[str], more: bool) -> bool:
    """Whether ``given`` is ``path``, whose names may be left out; ``more`` may follow."""
    if not path:
        return more or not given
    if path[0] in _NAMES and _fits(path[1:], given, more):
        return True
    return bool(given) and (path[0] in _NAMES or path[0] == given[0]) and _fits(path[1:], given[1:], more)


def _ends_with(row: _Row, given: Sequence[str]) -> bool:
    path = row.path[:-1] if row.path[-1] in _NAMES else row.path
    return given[-1] == path[-1] and _match(path[-len(given) :], given)


def _match(path: Sequence[str], given: Sequence[str]) -> bool:
    return len(path) == len(given) and all(p == g or (p in _NAMES and g) for p, g in zip(path, given, strict=True))


def _closest(rows: Sequence[_Row], given: Sequence[str]) -> _Row | None:
    """The key that ``given`` may be a slip of: as a whole, or by its end."""
    candidates: dict[str, _Row] = {}
    wholes = [(row.path[:-1] if row.path[-1] in _NAMES else row.path, row) for row in rows]
    for path, row in [*wholes, *((path[-len(given) :], row) for path, row in wholes)]:
        # The person's own names are as they should be.
        filled = [g if p in _NAMES else p for p, g in zip(path, given, strict=False)]
        candidates.setdefault(".".join([*filled, *path[len(filled) :]]).lower(), row)
    close = difflib.get_close_matches(".".join(given).lower(), candidates, n=1, cutoff=0.7)
    return candidates[close[0]] if close else None
