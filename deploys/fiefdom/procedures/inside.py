"""A command in an instance that runs, on one host that answers: in the audit, and without a lock."""

from __future__ import annotations

from collections.abc import Sequence

from fiefdom.cluster import locking
from fiefdom.converge import inside
from fiefdom.converge.inside import Target
from fiefdom.converge.run import Hosts, Known
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.procedures.one_off import Ended, first_that_answers, hosts_of, told
from fiefdom.wording import Tell, printable


def hosts_for(cluster: Cluster, wanted: Target) -> tuple[str, ...]:
    """The hosts that may have the instance. Raises FiefdomError where there is none."""
    running = hosts_of(cluster, wanted.service, None)
    if wanted.host is not None and wanted.host not in running:
        raise FiefdomError(
            f"{wanted.service}@{printable(wanted.host)}: runs no {wanted.service}; these hosts do: {', '.join(running)}"
        )
    names = running if wanted.host is None else (wanted.host,)
    ports = cluster.ports_on(names, wanted.service)
    if wanted.port is not None and wanted.port not in ports:
        raise FiefdomError(
            f"{wanted.service}@{wanted.host}:{wanted.port}: no such instance; ports are {', '.join(map(str, ports))}"
        )
    return names


def exec_in(
    known: Known,
    hosts: Hosts,
    wanted: Target,
    names: Sequence[str],
    command: Sequence[str],
    warn: Tell,
    *,
    terminal: bool,
) -> None:
    """Run a command in an instance on the first of ``names`` that answers.

    Raises:
        Ended: it ended with another exit code than 0.
        FiefdomError: no host answers, or its connection broke off.
    """
    host = first_that_answers(hosts, names)
    where = wanted.service if wanted.port is None else f"{wanted.service}:{wanted.port}"
    note = f"{where}: {told(command, known.secrets)}"
    with locking.recorded(hosts, known.gateways, "exec", warn, names=[host], note=note):
        code = inside.attend(hosts, host, wanted, command, terminal=terminal)
        if code:
            raise Ended(code)
