"""What a host says of its own instances, where no gateway could: those that gateways do not have."""

from __future__ import annotations

from collections.abc import Collection

from fiefdom.cluster.views import Missing
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.grouping import grouped
from fiefdom.model import Cluster, Instance
from fiefdom.waiting import looks
from fiefdom.wording import printable

_WORDS_MAX = 400
# The longest check that an inventory may have (`health.timeout_s`), and what asking costs; all are asked at once.
_ASK_S = 70
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
        _, output, error = hosts.script(host, _ASK, [i.container for i in instances], timeout_s=_ASK_S)
    except Unreachable as broken:
        return Missing("the host", str(broken))
    lines = output.splitlines()
    for i in instances:
        if i.container not in lines:
            why = next((line for line in lines if line.startswith(f"{i.container}: ")), error or "it does not say why")
            return Missing(i.unit, printable(why.removeprefix(f"{i.container}: "))[:_WORDS_MAX])
    return None


def alone(
    cluster: Cluster,
    hosts: Hosts,
    names: Collection[str],
    *,
    if_up: bool = False,
    services: Collection[str] | None = None,
) -> str | None:
    """As `views.alone`, of what no gateway has: which of it would answer nowhere while ``names`` are away; or None."""
    here = [i for name in names for i in unrouted(cluster, name, services)]
    wanted = {i.service for i in here}
    there = [i for name in cluster.hosts if name not in names for i in unrouted(cluster, name, wanted)]
    shared = wanted & {i.service for i in there}
    lacking = shared - _answering(hosts, [i for i in there if i.service in shared])
    if lacking and if_up:
        lacking &= _answering(hosts, [i for i in here if i.service in lacking])
    service = next((name for name in cluster.services if name in lacking), None)
    return f"{service} is up nowhere else" if service else None


def _answering(hosts: Hosts, instances: Collection[Instance]) -> set[str]:
    """Services of which any of ``instances`` answers its check; hosts that say nothing have none."""
    by_host = grouped((i.host, i) for i in instances)

    def services(name: str) -> set[str]:
        # One by one, for a host tells of the first that is missing.
        return {i.service for i in by_host[name] if missing(hosts, name, [i]) is None}

    return {service for found in hosts.on_all(services, by_host).values() for service in found}


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
