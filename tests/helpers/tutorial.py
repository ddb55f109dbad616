"""The tutorial of docs/start.md as a test reads it: what is typed, and what that prints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A number that stands alone, other than 0: not a version, an address, a port behind a name or a share such as 2/2.
_NUMBER = re.compile(r"(?<![\w./:@-])(?!0(?![\d.,]))\d+(?:,\d{3})*(?:\.\d+)?(?![\w./:@-])")
_HASH = re.compile(r"\bplan [0-9a-f]{12}\b")


@dataclass(frozen=True)
class Block:
    """Lines for bash, and of what they print those that matter: see `missing`. ``line`` is where it begins."""

    line: int
    commands: str
    prints: tuple[str, ...] = ()


def blocks(page: str) -> list[Block]:
    """The blocks of a page that are run, those marked `sh`; each with the one marked `text` that directly follows."""
    found: list[Block] = []
    end = -1
    for fence in _FENCE.finditer(page):
        kind, body = fence.groups()
        if kind == "sh":
            found.append(Block(page.count("\n", 0, fence.start()) + 1, body))
        elif kind == "text" and found and not page[end : fence.start()].strip():
            found[-1] = Block(found[-1].line, found[-1].commands, tuple(body.splitlines()))
        end = fence.end()
    return found


def missing(expected: Sequence[str], printed: str) -> str | None:
    """The first line of ``expected`` that ``printed`` lacks, in that order; None where all are there.

    Other lines may stand between. `...` stands for anything, numbers for any number but 0, and blanks do not count.
    """
    lines = map(_normal, printed.splitlines())
    for line in expected:
        wanted = _pattern(line)
        if wanted and not any(re.fullmatch(wanted, given) for given in lines):
            return line
    return None


def _pattern(line: str) -> str:
    """A regular expression for a line; empty for one that says nothing."""
    parts = [re.escape(_normal(part)) for part in line.split("...")]
    return r"\s*.*?\s*".join(parts) if any(parts) else ""


def _normal(text: str) -> str:
    return " ".join(_NUMBER.sub("N", _HASH.sub("plan HASH", text)).split())


def inventories(blocks: Sequence[Block]) -> Iterator[str]:
    """Names of the inventories that the blocks make."""
    for block in blocks:
        yield from re.findall(r"^cat > (\S+\.yaml) <<", block.commands, re.MULTILINE)
