"""All concerns in one order, and the state that they want of a host together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fiefdom.desired import docker, firewall, gateway, network, offers, serf, services, sshd
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
    "sshd": sshd.desired,
}
ALL = tuple(CONCERNS)

BY_DEBIAN = ("docker", "sshd")
"""Those that want other things of one Debian than of the next; of the others, one state does for all."""

CUTTING: Mapping[str, Cutting] = {
    "network": network.CUTTING,
    "firewall": firewall.CUTTING,
    "sshd": sshd.CUTTING,
}
"""What can cut the operator's line, by concern; in the order that lets the operator back in."""


def state_of(context: Context, concerns: Sequence[str] = ALL) -> HostState:
    """What a host should hold, as far as ``concerns`` say."""
    return HostState.together(CONCERNS[name](context) for name in concerns)


def states_of(
    cluster: Cluster, name: str, secrets: Secrets, concerns: Sequence[str] = ALL
) -> dict[Codename, HostState]:
    """What a host should hold under each Debian that it may turn out to run."""
    contexts = {codename: Context(name, cluster, codename, secrets) for codename in CODENAMES}
    alike = {concern: CONCERNS[concern](contexts[CODENAMES[0]]) for concern in concerns if concern not in BY_DEBIAN}
    return {
        codename: HostState.together(
            alike[concern] if concern in alike else CONCERNS[concern](context) for concern in concerns
        )
        for codename, context in contexts.items()
    }
