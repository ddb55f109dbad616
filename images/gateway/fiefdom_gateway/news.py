"""What the log says of members: who they are now, and whose claims are not believed, each once."""

from collections.abc import Iterable, Mapping

from fiefdom_gateway import haproxy, replies
from fiefdom_gateway.log import Once, say
from fiefdom_gateway.members import Member, Rejection
from fiefdom_gateway.wanted import Known, none_alive


class News:
    """Says what has changed since it was asked last."""

    def __init__(self, say_once: Once) -> None:
        self._say_once = say_once
        self._told: set[str] = set()
        self._doubted: set[str] = set()

    def of_members(self, members: Iterable[Member], memory: Mapping[str, Known]) -> None:
        """Tell of those that Serf lists, and of those that are remembered and not listed any more."""
        listed = set()
        for member in members:
            listed.add(member.name)
            self._say_once(f"member {member.name}", f"{member.name} at {member.address} is {member.status}")
        absent = memory.keys() - listed
        for name in absent:
            self._say_once(f"member {name}", f"{name} is absent without having left")
        for name in self._told - listed - absent:
            self._say_once(f"member {name}", None)
        self._told = listed | absent
        alone = "no app host is alive: the servers stay, HAProxy's health checks judge them"
        self._say_once("alone", alone if none_alive(memory) else None, mended="app hosts are alive again")

    def of_rejected(self, rejected: Iterable[Rejection]) -> None:
        """Tell whose claims are not believed and why, and who claims nothing any more that is not."""
        reasons: dict[str, list[str]] = {}
        for rejection in rejected:
            reasons.setdefault(rejection.member, []).append(rejection.reason)
        for member in sorted(reasons):
            self._say_once(f"rejected {member}", f"{member} {'; '.join(sorted(reasons[member]))}: not believed")
        for member in sorted(self._doubted - reasons.keys()):
            self._say_once(f"rejected {member}", None, mended=f"{member} claims nothing any more that is not believed")
        self._doubted = set(reasons)


def of_command(command: haproxy.Command) -> None:
    """Tell what HAProxy has done."""
    match command:
        case haproxy.Add():
            say(f"{command.backend}/{command.name} added at {command.address} port {command.port}")
        case haproxy.SetState(state=replies.State.DRAIN):
            say(f"{command.backend}/{command.name} drains")
        case haproxy.Delete():
            say(f"{command.backend}/{command.name} removed")
