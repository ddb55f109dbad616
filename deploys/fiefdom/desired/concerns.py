"""All concerns in one order, and the state that they want of a host together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from fiefdom.desired import address, docker, firewall, gateway, monitoring, network, offers, serf, services, sshd
from fiefdom.desired.context import Context
from fiefdom.desired.cutting import Cutting
from fiefdom.desired.state import CODENAMES, Codename, HostState
from fiefdom.model import Cluster, Secrets

# In the order in which units come up: the firewall before what it protects, sshd when nothing can fail any more.
CONCERNS: Mapping[str, Callable[[Context], HostState]] = {
    "network": network.desired,
    "firewall": firewall.desired,
    "docker": docker.desired,
    "services": services.desired,
    "serf": serf.desired,
    "offers": offers.desired,
    "gateway": gateway.desired,
    "address": address.desired,
    "monitoring": monitoring.desired,
    "sshd": sshd.desired,
}
ALL = tuple(CONCERNS)

BY_DEBIAN = ("docker", "sshd")
"""Those that want other things of one Debian than of the next; of the others, one state does for all."""

BY_TURN = ("firewall", "offers")
"""Those that want other things of a host that waits for its turn in a release than of one that had it."""

CUTTING: Mapping[str, Cutting] = {
    "network": network.CUTTING,
    "firewall": firewall.CUTTING,
    "sshd": sshd.CUTTING,
}
"""What can cut the operator's line, by concern; in the order that lets the operator back in."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """A context to remember a state by. To compare clusters would take as long as the concerns do, and no cluster ever
    changes: it and the secrets have to be the very same.
    """

    context: Context

    @cached_property
    def _key(self) -> tuple[object, ...]:
        c = self.context
        turn = (frozenset(c.running.items()), frozenset(c.checks.items()), c.going)
        return (id(c.cluster), id(c.secrets), c.name, c.codename, *turn)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


# What is remembered keeps its context, so that no other cluster gets the same id.
@lru_cache(maxsize=4096)
def _state_of(asked: _Asked, concerns: tuple[str, ...]) -> HostState:
    context = asked.context
    by_debian = _Asked(replace(context, running={}, checks={}, going=()))
    by_turn = _Asked(replace(context, codename=CODENAMES[0]))
    by_neither = _Asked(replace(by_debian.context, codename=CODENAMES[0]))
    by = dict.fromkeys(BY_DEBIAN, by_debian) | dict.fromkeys(BY_TURN, by_turn)
    return HostState.together(_state_of_one(by.get(name, by_neither), name) for name in concerns)


@lru_cache(maxsize=16384)
def _state_of_one(asked: _Asked, concern: str) -> HostState:
    return CONCERNS[concern](asked.context)


def state_of(context: Context, concerns: Sequence[str] = ALL) -> HostState:
    """What a host should hold, as far as ``concerns`` say. A run asks it of each host many times."""
    return _state_of(_Asked(context), tuple(concerns))


def states_of(
    cluster: Cluster, name: str, secrets: Secrets, concerns: Sequence[str] = ALL
) -> dict[Codename, HostState]:
    """What a host should hold under each Debian that it may turn out to run."""
    return {codename: state_of(Context(name, cluster, codename, secrets), concerns) for codename in CODENAMES}
