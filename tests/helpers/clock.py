"""The clock of tests: time passes only where the library waits, and what is to happen meanwhile happens then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from fiefdom import waiting


@dataclass
class Clock:
    """Stands in for the module `time` in `fiefdom.waiting`; ``meanwhile`` is called at each sleep."""

    now_s: float = 1000.0
    meanwhile: Callable[[], object] = lambda: None
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += max(seconds, 0.001)
        self.slept.append(seconds)
        self.meanwhile()

    @property
    def passed_s(self) -> float:
        """How long was waited in all."""
        return sum(self.slept)


def stopped(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None) -> Clock:
    """A clock that every wait of the library goes by from now on."""
    clock = Clock(meanwhile=meanwhile)
    monkeypatch.setattr(waiting, "time", clock)
    return clock
