"""One host's turn, as it is heard while the host takes it: its stages, how it ended, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fiefdom.converge import failure, steps
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError
from fiefdom.waiting import now_s
from fiefdom.wording import printable


@dataclass(frozen=True)
class Failure:
    """Why a host's turn ended badly, and what became of it. ``log`` are last words, told below the reason."""

    host: str
    unit: str
    reason: str
    log: tuple[str, ...] = ()
    restored: bool = False
    kept: tuple[str, ...] = ()
    """Containers that the host keeps aside of it, until the next run."""
    begun: bool = True
    """False where the host's turn was not begun, so that nothing changed there."""


def await_turn(hosts: Hosts, name: str) -> None:
    """Wait until a turn that lost its operator has ended on the host."""
    lock = "/var/lib/fiefdom/lock"
    script = '[ ! -e "$1" ] || { exec 9>>"$1" && flock -w 900 9; }'
    if not hosts.script(name, script, [lock], timeout_s=1000)[0]:
        raise FiefdomError(f"{name}: another run has held {lock} for fifteen minutes; see fiefdom-turn.service there")


@dataclass
class Heard:
    """What a host says during its turn, line by line."""

    host: str
    stage: Callable[..., None]
    failure: Failure | None = None
    restored: bool = False
    taken: int = 0
    """Steps that it is through with."""
    _log: list[str] = field(default_factory=list)
    _current: str = ""
    _began: float = 0.0

    def __call__(self, line: str) -> None:
        """Take a line of steps.sh."""
        kind, _, rest = line.partition("\t")
        first, _, second = rest.partition("\t")
        if kind == "fiefdom-stage":
            self.end()
            self._current, self._began = first, now_s()
            self.stage(self.host, first)
        elif kind == failure.LOG:
            self._log.append(second)
        elif kind == "fiefdom-note":
            self.stage(self.host, rest)
        elif kind == failure.FAILED and self.failure is None:
            self.failure = Failure(self.host, first, printable(second), failure.last_words(self._log))
        elif kind == "done":
            self.taken += 1
        elif kind == "fiefdom-not-restored":
            self.failure = self.failure or Failure(self.host, first, second)
            self.restored = False
        elif kind == "fiefdom-restored":
            self.restored = True
            if self.failure:
                self.failure = replace(self.failure, restored=True)

    def end(self) -> None:
        """The stage that was last spoken of is over."""
        if self._current:
            self.stage(self.host, self._current, self._began)
            self._current = ""


def take_turn(hosts: Hosts, name: str, steps: Sequence[steps.Step], heard: Heard) -> None:
    """Let a host take steps. One that ends before the last without saying why has failed as well.

    Raises Unreachable where the connection broke off.
    """
    hosts.follow(name, steps, heard)
    heard.end()
    if heard.failure is None and not heard.restored and heard.taken < len(steps):
        reason = f"ended after {heard.taken} of {len(steps)} steps; see `journalctl -u fiefdom-turn` there"
        heard.failure = Failure(name, "its turn", reason)
