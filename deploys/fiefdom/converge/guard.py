"""Commit-confirm: a change that could cut the operator's line stays only if a new login confirms it.

What is about to change is kept on the host, and a timer there puts it back unless it is disarmed in time; so does a
reboot. The deployer confirms over a brand-new connection to where the inventory now says that the host answers. The
host's half is guard.sh; `apply` writes the steps, and `engine` is the line.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Literal, Protocol

from fiefdom.converge import failure, originals
from fiefdom.converge.change import Change
from fiefdom.converge.plan import HostPlan, merge
from fiefdom.converge.snapshot import sysctl_path
from fiefdom.converge.steps_script import Step
from fiefdom.desired import docker, network, sshd
from fiefdom.desired.concerns import CONCERNS, CUTTING
from fiefdom.desired.cutting import Cutting
from fiefdom.errors import FiefdomError, HostError
from fiefdom.waiting import looks, now_s, pause

SCRIPT = (Path(__file__).parent / "guard.sh").read_text()
PATH = "/var/lib/fiefdom/guard/guard.sh"
"""Under which name steps.sh finds the staged script."""

MANIFEST = "/var/lib/fiefdom/manifest"

CONFIRM_S = 60
PAUSE_S = 0.5
LOGINS = 2
"""Logins that may be refused for who the operator is: sshd of Debian 13 locks out an address that fails too often."""
BACK_S = 60
"""Seconds beyond the host's own limit within which its former state must answer again: it may be rebooting."""
AGAIN_S = 15
"""Seconds within which it must after it said that all is as before."""

_REFUSED = ("Authentication", "root ")

_STILL = (
    "the host is not as before yet: it goes on taking back the change of {about}, so look there at `systemctl status "
    "fiefdom-revert.timer fiefdom-revert.service`"
)
_SILENT = "the host says no word of what became of the change of {about}: see with `fiefdom plan` what it has now"
_ARMED = "done\tguard\tarm"
"""The line after which something may have changed."""

Answer = Literal["confirmed", "waiting", "applying", "reverted", "unknown"]


@dataclass(frozen=True)
class Backup:
    """What of one host is kept before a change: ``attempt`` names this try of it, ``about`` says it to a person."""

    attempt: str
    about: str
    confirm_s: int
    items: tuple[tuple[str, str], ...]


class Line(Protocol):
    """The operator's way to one host, as `engine` has it."""

    name: str
    where: str
    """Address and port that the inventory now says."""

    def trial(self, config: str) -> str | None:
        """Why this client could not come back through an sshd with ``config``, found out before it is live, or None.

        Ends in the mend where there is one.
        """

    def take(self, steps: Sequence[Step], last: str) -> list[str]:
        """Let the host take steps over the connection that is there, in a turn that it ends by itself; the lines heard.

        Ends where the turn or the connection does, or where nothing more is heard for a while after the line ``last``.
        """

    def login(self) -> str | None:
        """Open another connection, to ``where``, and become root there; why that failed, or None."""

    def confirm(self, attempt: str) -> tuple[Answer, str]:
        """Confirm over the new connection, which takes the old one's place where that is the answer; and the reason."""

    def ask(self, attempt: str) -> tuple[Answer, str]:
        """What has become of the change and why, over the old connection or one like it; "unknown" where neither is."""

    def revert(self) -> bool:
        """Ask the host over the old connection to put all back now; False where it cannot be reached."""

    def back(self) -> str | None:
        """Connect anew as at the beginning of the run; why that failed, or None."""


def cuts_line(change: Change) -> bool:
    """Whether a mistake in ``change`` could end the operator's access."""
    return bool(topic(change))


def topic(change: Change) -> str:
    """The concern that says of itself that ``change`` could cut the line; empty where none does."""
    return change.cuts or _concern_of(change.kind, change.name, change.sign == "-")


@lru_cache(maxsize=4096)  # most of what changes on one host does on the next
def _concern_of(kind: str, name: str, goes: bool) -> str:
    return next((concern for concern, cutting in CUTTING.items() if _is_of(cutting, kind, name, goes)), "")


def _is_of(cutting: Cutting, kind: str, name: str, goes: bool) -> bool:
    if kind in ("file", "block") or (kind == "directory" and not goes):
        return cutting.has_path(name)
    if kind == "unit":
        return name in cutting.units
    return kind == "sysctl" and cutting.sysctls


def backup(plan: HostPlan, confirm_s: int) -> Backup:
    """What has to be kept before the changes of ``plan``, all of which may cut the line."""
    files = [c.name for kind in ("file", "block") for c in plan.of(kind)]
    left = any(c.name.startswith(network.LINKS) for c in plan.of("file", "-"))
    changed = {c.name for c in plan.of("unit")} | ({network.NETWORKD_UNIT} if left else set())
    order = [name for cutting in CUTTING.values() for name in cutting.units]
    units = [name for name in (*order, docker.UNIT) if name in changed]
    links = _interfaces(plan) if network.NETWORKD_UNIT in units else []
    items = [
        *(("file", name) for name in files),
        *(("directory", name) for name in _directories(plan)),
        *(("file", name) for name in originals.kept_for(files, plan.state, plan.snapshot)),
        ("file", MANIFEST),
        # Without its stamp, a unit that is as it was would look as if it ran something else.
        *(("file", f"/var/lib/fiefdom/stamps/{name}") for name in units),
        *(("sysctl", sysctl_path(c.name)) for c in plan.of("sysctl")),
        *(("link", name) for name in links),
        *(("unit", name) for name in units),
    ]
    # What became of an earlier run's try of the same plan must not be taken for this one's.
    attempt = f"{merge([plan]).hash}-{secrets.token_hex(4)}"
    return Backup(attempt, about(plan.changes), confirm_s, tuple(items))


def _directories(plan: HostPlan) -> list[str]:
    """Folders that change or may have to be made, for themselves or for a file; what is inside comes first.

    The manifest of before does not name a new one, so that nobody else would ever remove it.
    """
    named = {c.name for c in plan.of("directory", "+", "~")}
    return sorted(named | {str(PurePath(c.name).parent) for c in plan.of("file", "+")}, reverse=True)


def _interfaces(plan: HostPlan) -> list[str]:
    names = [
        line.removeprefix("Name=")
        for f in plan.state.files
        if f.path.startswith(network.LINKS)
        for line in f.content.decode().splitlines()
        if line.startswith("Name=")
    ]
    return list(dict.fromkeys(names))


def about(changes: Iterable[Change]) -> str:
    """What the changes are about, as a person says it: network, firewall, docker, sshd."""
    found = {topic(c) for c in changes}
    return ", ".join(concern for concern in CONCERNS if concern in found)


def before(kept: Backup) -> tuple[Step, ...]:
    """Steps that keep what is there and start the host's timer: after all is checked, before anything is live."""
    return (
        ("guard", "begin"),
        *(("guard", "keep", kind, name) for kind, name in kept.items),
        ("guard", "arm", kept.attempt, str(kept.confirm_s)),
    )


def staged() -> tuple[Step, ...]:
    """Steps that bring guard.sh to the host."""
    return (("stage", PATH, "0700", "0", "0", base64.b64encode(SCRIPT.encode()).decode()),)


def after() -> tuple[Step, ...]:
    """The step that says that all is live and may be confirmed."""
    return (("guard", "applied"),)


def perform(line: Line, steps: Sequence[Step], kept: Backup) -> None:
    """Let a host take guarded steps and confirm them over a new connection.

    Raises FiefdomError where that fails: the host is then as it was before, or the error says when it will be.
    """
    config = _sshd_config(steps)
    if config is not None and (reason := line.trial(config)) is not None:
        raise FiefdomError(f"{line.name}: nothing was changed, for the new sshd would keep this client out: {reason}")
    lines = line.take(steps, _ARMED)
    words, log = failure.of_lines(lines)
    if words:
        raise HostError(line.name, _after_failure(line, kept, lines, words), log)
    began_s = now_s()
    why = _unconfirmed(line, kept)
    if why is None:
        return
    _await_way_back(line, kept, why, began_s)


def _await_way_back(line: Line, kept: Backup, why: str, began_s: float) -> None:
    """Have a host take back what was not confirmed, for the reason ``why``, and raise FiefdomError with what it says.

    Returns where it says that the change was confirmed after all, and the word of it was lost.
    """
    reached = line.revert()
    if not reached and (reason := _not_back(line, began_s + kept.confirm_s + BACK_S - now_s())):
        raise FiefdomError(
            f"{line.name}: {why}; and it does not answer as before either, which it should {kept.confirm_s} s after "
            f"the change of {kept.about} at the latest: {reason}"
        )
    answer, _ = line.ask(kept.attempt)
    if answer == "confirmed":
        return
    if answer != "reverted":
        said = _SILENT if answer == "unknown" else _STILL
        raise FiefdomError(f"{line.name}: {why}; and {said.format(about=kept.about)}")
    taken_back = f"{line.name}: the change of {kept.about} was taken back: {why}"
    if reached and (reason := _not_back(line, AGAIN_S)):
        raise FiefdomError(
            f"{taken_back}; a login as before fails as well ({reason}), so something else keeps it out: look at "
            "what others changed on that host, over a connection that is open or its console"
        )
    raise FiefdomError(taken_back)


def _sshd_config(steps: Sequence[Step]) -> str | None:
    staged = [step[-1] for step in steps if step[:2] == ("stage", sshd.CONFIG)]
    return base64.b64decode(staged[0]).decode() if staged else None


def _unconfirmed(line: Line, kept: Backup) -> str | None:
    """None once the change is confirmed, or why it was not within half of the time that the host waits."""
    # No look begins when half of it is over: a login may take its time, and the host must not be at its way back then.
    deadline_s, refused = now_s() + kept.confirm_s / 2, 0
    while True:
        reason = line.login()
        if reason is None:
            answer, words = line.confirm(kept.attempt)
            if answer == "confirmed":
                return None
            if answer != "applying":
                return words or "the host does not know of it any more"
            why = "its steps did not come to their end"
        else:
            why = f"a new login to {line.where} failed: {reason}"
            refused += reason.startswith(_REFUSED)
            answer, words = line.ask(kept.attempt)
            if answer == "confirmed":  # and the word of it was lost
                return None
            if answer == "reverted":
                return words
        if refused >= LOGINS or now_s() >= deadline_s:
            return why
        pause(PAUSE_S)


def _not_back(line: Line, within_s: float) -> str | None:
    reason = None
    for late in looks(within_s, PAUSE_S):
        reason = line.back()
        if late or reason is None:
            break
    return reason


def _after_failure(line: Line, kept: Backup, lines: Sequence[str], words: str) -> str:
    """What a step that failed with ``words`` left of the host: it has put back what came before, or is still at it."""
    taken_back = f"the change of {kept.about} was taken back: {words}"
    if any(text.startswith("fiefdom-reverted\t") for text in lines):
        return taken_back
    if _ARMED not in lines:
        return words
    if reason := _not_back(line, kept.confirm_s + BACK_S):
        return (
            f"{words}; and it does not answer as before either, which it should {kept.confirm_s} s after the change of "
            f"{kept.about} at the latest: {reason}"
        )
    if line.ask(kept.attempt)[0] == "reverted":
        return taken_back
    return f"{words}; and {_STILL.format(about=kept.about)}"
