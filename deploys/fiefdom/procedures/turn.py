"""One host's turn, as it is heard while the host takes it: its stages, how it ended, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from fiefdom.converge import failure
from fiefdom.converge.run import Hosts
from fiefdom.converge.steps_script import Step
from fiefdom.errors import HostError, HostErrors
from fiefdom.grouping import grouped
from fiefdom.waiting import looks, now_s
from fiefdom.wording import Tell, printable


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


STAGES = ("drain", "replace", "join", "soak", "restore", "remove", "upgrade", "reboot")
"""What a host is at in its turn, as `Say` hears it; where several services go one after the other, with a service."""

_LOCK = "/var/lib/fiefdom/lock"
_TURN = "/run/fiefdom/turn/output"
"""What fiefdom-turn.service has printed; see converge/turn.sh."""
TURN_WITHIN_S = 900
"""Seconds after which whoever has a host's lock is taken for stuck."""
_ASK_S = 5

# Wait for a host's lock for so many seconds; where it is held still, say so, and at which stage the turn is.
_AWAIT = r"""
[ -e "$1" ] || exit 0
exec 9>>"$1" || exit 1
flock -w "$2" 9 && exit 0
stage=
systemctl -q is-active fiefdom-turn.service && stage=$(sed -n 's/^fiefdom-stage\t//p' "$3" | tail -n 1)
printf 'held\t%s\n' "$stage"
"""


def is_stage(what: str) -> bool:
    """Whether that is what a host is at in its turn, and no word on it."""
    stage, _, service = what.partition(" ")
    return stage in STAGES and " " not in service


def await_turns(hosts: Hosts, names: Iterable[str], tell: Tell) -> None:
    """Wait until turns that lost their operator have ended on hosts; ``tell`` hears at once where there are some, and
    then of what changes.

    Raises FiefdomError where one takes too long.
    """
    told: dict[str, str] = {}
    asked, wait_s = tuple(names), 0
    for late in looks(TURN_WITHIN_S, 0):
        held = {name: at for name, at in _held(hosts, asked, wait_s).items() if at is not None}
        if over := [name for name in told if name not in held]:
            tell(f"{', '.join(over)}: what another run began there has ended")
        for at, at_once in grouped((at, name) for name, at in held.items() if told.get(name) != at).items():
            stage = f", which is at {at}" if at else ""
            tell(f"{', '.join(at_once)}: waits for the end of what another run began there{stage}")
        if late or not held:
            break
        told, asked, wait_s = held, tuple(held), _ASK_S
    if held:
        words = f"another run has held {_LOCK} for fifteen minutes; see fiefdom-turn.service there"
        raise HostErrors(HostError(name, words) for name in held)


def _held(hosts: Hosts, names: Iterable[str], wait_s: int) -> dict[str, str | None]:
    """At which stage is who has a host's lock after so many seconds; empty for one without, None where nobody has."""

    def ask(name: str) -> str | None:
        well, output, errors = hosts.script(name, _AWAIT, [_LOCK, str(wait_s), _TURN], timeout_s=wait_s + 30)
        if not well:
            raise HostError(name, f"{_LOCK} cannot be asked for: {printable(errors)}")
        kind, _, stage = output.strip("\n").partition("\t")
        return printable(stage) if kind == "held" else None

    return hosts.on_all(ask, names)


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


def take_turn(hosts: Hosts, name: str, steps: Sequence[Step], heard: Heard) -> None:
    """Let a host take steps. One that ends before the last without saying why has failed as well.

    Raises Unreachable where the connection broke off.
    """
    hosts.follow(name, steps, heard)
    heard.end()
    if heard.failure is None and not heard.restored and heard.taken < len(steps):
        reason = f"ended after {heard.taken} of {len(steps)} steps; see `journalctl -u fiefdom-turn` there"
        heard.failure = Failure(name, "its turn", reason)
