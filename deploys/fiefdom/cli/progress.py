"""How the work of a run looks to a person while it is under way."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from fiefdom.cli.show import counted, named
from fiefdom.converge.carry_out import DONE, LEFT
from fiefdom.converge.run import HERE
from fiefdom.converge.steps import PHASES
from fiefdom.grouping import grouped
from fiefdom.procedures.rollout import IMAGE
from fiefdom.procedures.rotate_key import ROUNDS
from fiefdom.procedures.tidy import OLD
from fiefdom.procedures.turn import is_stage

if TYPE_CHECKING:
    import rich.progress

_AT_ONCE = (*PHASES, IMAGE, *OLD)
"""What many hosts are at in the same moment, as `Say` hears it."""


def _is_stage(what: str) -> bool:
    return is_stage(what) or what in ROUNDS


class Progress:
    """A line for each host and stage with the elapsed seconds; on a terminal also a live line of who is at what.

    Where it is known how many turns hosts take, ``turns``, the live line begins with a bar of those that are over.
    Where so many hosts change, ``crowd``, that nobody reads their phases, a phase is told once for all hosts, and a
    host when it is done; of an error, also who was at what. A turn's stages then are the live line's alone; where there
    is none, a turn is told as it begins, so that a log says who is at it.
    """

    def __init__(self, console: Console, turns: int | None = None, crowd: int | None = None) -> None:
        self._console = console
        self._start = time.monotonic()
        self._busy: dict[str, str] = {}
        self._turns, self._crowd = turns, crowd
        self._told: set[str] = set()
        self._done: set[str] = set()
        self._at_turn: set[str] = set()
        self._left: list[str] = []
        self._over = 0
        self._live = _live(console, turns or crowd) if console.is_terminal else None
        self._task = self._live.add_task("", total=turns or crowd) if self._live else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the progress began."""
        return time.monotonic() - self._start

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if error is not None and self._crowd is not None:
            left = self._left
            for what, names in self._at().items():
                if what in _AT_ONCE or _is_stage(what):
                    self._print(named(names), f"not done, last at {what}")
                    left = [name for name in left if name not in names]
            if left:
                self._print(named(left), LEFT)

    def __call__(self, who: str, what: str) -> None:
        """Say what ``who`` does now."""
        if what == LEFT and self._crowd is not None:
            self._left.append(who)
            return
        again = self._turns is None and who in self._done
        if who != HERE:
            self._busy.pop(HERE, None)
        self._busy[who] = what
        if what == DONE:
            del self._busy[who]
            self._done.add(who)
            # Of a host that changes once more all the same is done.
            self._over += not (again and self._crowd is not None)
        if self._crowd is None:
            self._print(who, what)
        else:
            self._gather(who, what, self._crowd if self._turns is None else self._turns)
        if self._live and self._task is not None:
            self._live.update(self._task, description=escape(self._now()), completed=self._over)

    def _gather(self, who: str, what: str, all_of_them: int) -> None:
        if what == DONE:
            self._at_turn.discard(who)
            self._print(who, f"{what}, {self._over} of {max(self._over, all_of_them)}")
        elif _is_stage(what):
            # What all hosts do at once is over when the first has its turn.
            self._busy = {name: at for name, at in self._busy.items() if name in self._at_turn or name == who}
            if who not in self._at_turn and not self._live:
                self._print(who, what)
            self._at_turn.add(who)
        elif what not in _AT_ONCE:
            self._print(who, what)
        elif what not in self._told:
            self._told.add(what)
            self._print("hosts", what)

    def _print(self, who: str, what: str) -> None:
        self._console.print(
            f"[dim]{self.elapsed_s:6.1f} s[/dim]  [bold]{escape(who):<8}[/bold] {escape(what)}", highlight=False
        )

    def _now(self) -> str:
        """Who is at what, in a line."""
        if self._crowd is None:
            return ", ".join(f"{name}: {text}" for name, text in self._busy.items())
        at = self._at().items()
        return ", ".join(f"{names[0] if len(names) == 1 else counted(len(names))}: {text}" for text, names in at)

    def _at(self) -> dict[str, list[str]]:
        """Who is at what, by what it is."""
        return grouped((what, name) for name, what in self._busy.items())


def _live(console: Console, turns: int | None) -> rich.progress.Progress:
    # Deferred: its thread must be one of those that the engine patched, or it would print in the middle of a line.
    import rich.progress

    what = rich.progress.TextColumn("{task.description}")
    columns: list[rich.progress.ProgressColumn] = [rich.progress.SpinnerColumn(), what]
    if turns is not None:
        columns = [rich.progress.BarColumn(20), rich.progress.MofNCompleteColumn(), what]
    return rich.progress.Progress(*columns, console=console, transient=True)
