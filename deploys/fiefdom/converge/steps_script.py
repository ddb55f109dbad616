"""What takes steps on a host: steps.sh, alone or in a turn that outlives its operator, and the text that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import groupby
from pathlib import Path

from fiefdom.converge.snapshot import SSHD

Step = tuple[str, ...]
"""A verb of steps.sh and its arguments."""

_HERE = Path(__file__).parent
_PARTS = {f"# @{name.upper()}@\n": (_HERE / f"{name}.sh").read_text() for name in ("originals", "blocks")}
_PARTS["# @SSHD@\n"] = SSHD
SCRIPT = reduce(lambda text, part: text.replace(*part), _PARTS.items(), (_HERE / "steps.sh").read_text())
TURN = (_HERE / "turn.sh").read_text().replace("@APPLY@\n", SCRIPT)
"""Does what SCRIPT does, and comes to its end on the host where the operator's connection breaks off."""

_END = "end"  # what breaks off on its way must not be taken for all


def steps_text(steps: Iterable[Step]) -> str:
    """Steps as steps.sh reads them: a line each, fields separated by tabs.

    Raises ValueError for a field that would read as more than one.
    """
    steps = list(merged(steps))
    for step in steps:
        if any("\n" in field or "\t" in field for field in step):
            raise ValueError(f"a field of the step {step[:2]} holds a line break or a tab")
    lines = ["\t".join(field or "-" for field in step) for step in steps]
    return "".join(f"{line}\n" for line in [*lines, _END]) if lines else ""


_OF_MANY = (("record",), ("guard", "keep"))
"""How steps begin that take kinds and names, as many as there are."""


def merged(steps: Iterable[Step]) -> Iterator[Step]:
    """Steps with those that follow each other as one, where one does for many: programs and writes to the disk cost."""

    def beginning(step: Step) -> Step:
        return next((words for words in _OF_MANY if step[: len(words)] == words), ())

    for words, group in groupby(steps, beginning):
        if words:
            yield (*words, *(field for step in group for field in step[len(words) :]))
        else:
            yield from group
