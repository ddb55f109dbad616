"""What a host says of its own instances, where no gateway could: those that gateways do not have."""

from __future__ import annotations

from collections.abc import Collection

from fiefdom.cluster.views import Missing
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.model import Cluster, Instance
from fiefdom.waiting import looks
from fiefdom.wording import printable

_WORDS_MAX = 400
_ASK = 'exec /usr/local/lib/fiefdom/container answering "$@"'


def unrouted(cluster: Cluster, host: str, services: Collection[str] | None = None) -> tuple[Instance, ...]:
    """Instances on a host, of ``services`` or all, that gateways do not have."""
    wanted = cluster.services if services is None else services
    return tuple(i for i in cluster.instances(host) if not cluster.is_routed(i.service) and i.service in wanted)


def missing(hosts: Hosts, host: str, instances: Collection[Instance]) -> Missing | None:
    """The first of a host's ``instances`` that does not answer its check there, and why; or None."""
    if not instances:
        return None
    try:
        _, output, error = hosts.script(host, _ASK, [i.container for i in instances])
    except Unreachable as broken:
        return Missing("the host", str(broken))
    lines = output.splitlines()
    for i in instances:
        if i.container not in lines:
            why = next((line for line in lines if line.startswith(f"{i.container}: ")), error or "it does not say why")
            return Missing(i.unit, printable(why.removeprefix(f"{i.container}: "))[:_WORDS_MAX])
    return None


def await_answering(cluster: Cluster, hosts: Hosts, host: str) -> None:
    """Wait until every instance of a host that no gateway has answers there.

    Raises FiefdomError where that takes long.
    """
    wanted = unrouted(cluster, host)
    start_s = max((cluster.services[i.service].health.start_timeout_s for i in wanted), default=0)
    for late in looks(2 * start_s + 60):
        found = missing(hosts, host, wanted)
        if found is None:
            return
        if late:
            raise FiefdomError(f"{host}: {found.unit}: {found.reason}; the other hosts were left alone")
