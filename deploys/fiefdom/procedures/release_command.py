"""What a service wants done once for each version before the first host gets it, such as a migration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fiefdom.cluster import audit, ledger
from fiefdom.cluster.locking import Held
from fiefdom.converge import failure, one_off, steps
from fiefdom.converge.run import Hosts, Known, Say
from fiefdom.desired import mounts
from fiefdom.desired.state import Container, Directory
from fiefdom.errors import FiefdomError, HostError
from fiefdom.procedures.release import Release
from fiefdom.procedures.rollback import AUDITED
from fiefdom.procedures.turn import Failure
from fiefdom.waiting import now_s
from fiefdom.wording import printable

STAGE = "release"


@dataclass(frozen=True)
class Due:
    """A release command that is yet to run: where, and in what."""

    service: str
    version: str
    host: str
    container: Container
    command: tuple[str, ...]
    limit_s: int


def due(known: Known, hosts: Hosts, wanted: Release) -> tuple[Due, ...]:
    """The commands that come before the first turn of a release, by the audit's word: one that ended well for a version
    does not run again for it, until another version was brought.

    The audit is asked only where a service has one.

    Raises:
        FiefdomError: a gateway does not answer that may be the only one to know that a command ended well.
    """
    found = tuple(_wished(known, wanted))
    if not found:
        return ()
    read = ledger.read(hosts, known.gateways, AUDITED)
    wanted_again = tuple(one for one in found if not audit.was_prepared(read.entries, one.service, one.version))
    if wanted_again and read.silent:
        silent = "; ".join(f"{name}: {reason}" for name, reason in read.silent.items())
        first = wanted_again[0]
        raise FiefdomError(
            f"{silent}; its audit may tell that the release command of {first.service} {first.version} has run"
        )
    return wanted_again


def _wished(known: Known, wanted: Release) -> Iterator[Due]:
    for service in wanted.services:
        own = known.cluster.services[service]
        if not own.release:
            continue
        for host in wanted.hosts:
            containers = [c.resource for c in wanted.turns[host].of("container", "-/+")]
            of_it = [c for c in containers if isinstance(c, Container) and c.service == service]
            if of_it:
                yield Due(service, own.version, host, of_it[0], own.release, own.release_timeout_s)
                break


def run_due(
    known: Known, hosts: Hosts, wanted: Release, held: Held, say: Say, stages: dict[str, dict[str, float]]
) -> Failure | None:
    """Run what is `due`, each as an act under the lock that is ``held``; the first that fails, if one does."""
    for one in due(known, hosts, wanted):
        began_s = now_s()
        say(one.host, f"{STAGE}: {one.service}")
        try:
            with held.recorded(audit.preparing(one.service), names=[one.host], note=one.version):
                _run(hosts, wanted, one, say)
        except _Failed as error:
            return error.failure
        stages.setdefault(one.host, {})[STAGE] = round(now_s() - began_s, 3)
    return None


class _Failed(FiefdomError):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.reason)


def _run(hosts: Hosts, wanted: Release, one: Due, say: Say) -> None:
    """Run a command to its end. Raises _Failed."""
    began_s, lines = now_s(), _Lines(lambda line: say(one.host, f"{STAGE}: {line}"))
    turn = wanted.turns[one.host]
    asked = one_off.as_wanted(one.container, turn.state, one.command, one.limit_s)
    # A new volume is the turn's to make, which comes later; what is mounted has to be there.
    new = [c.resource for c in turn.of("directory", "+") if isinstance(c.resource, Directory) and c.resource.keeps]
    own = [steps.directory(volume) for volume in new if mounts.is_of(volume.path, one.container)]
    asked = replace(asked, steps=(*own, *asked.steps))
    try:
        code = one_off.attend(hosts, one.host, asked, lines)
    except HostError as error:
        raise _failed(one, error.reason, lines) from error
    if code == one_off.LATE and now_s() - began_s >= one.limit_s:
        raise _failed(one, f"was not at its end after {one.limit_s} s, and was stopped", lines)
    if code:
        raise _failed(one, f"ended with exit code {code}", lines)


def _failed(one: Due, reason: str, lines: _Lines) -> _Failed:
    words = f"{reason}; no host began its turn"
    return _Failed(Failure(one.host, f"the release command of {one.service}", words, lines.last, begun=False))


class _Lines:
    """What a command says, line by line; its two outputs each for itself."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._parts = {one_off.OUT: b"", one_off.ERR: b""}
        self._said: list[str] = []

    def __call__(self, which: int, piece: bytes) -> None:
        *whole, self._parts[which] = (self._parts[which] + piece).split(b"\n")
        for line in whole:
            self._take(line)

    def _take(self, line: bytes) -> None:
        if words := printable(line.decode(errors="replace")):
            self._said = [*self._said[1 - failure.MOST_LINES :], words]
            self._tell(words)

    @property
    def last(self) -> tuple[str, ...]:
        """Its last words, those without a line break at their end as well."""
        rest = (part.decode(errors="replace") for part in self._parts.values())
        return failure.last_words([*self._said, *rest])
