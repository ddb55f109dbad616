"""Back to the version before, or to a named one: what to release, then as gentle as a rollout."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fiefdom.cluster import audit, ledger
from fiefdom.converge import look, run, snapshot
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError
from fiefdom.model import references
from fiefdom.wording import printable

AUDITED = 1000
"""How many acts of the audit a rollback looks back over."""


def known_before(known: run.Known, hosts: Hosts, service: str, version: str | None) -> run.Known:
    """What is known with ``service`` at ``version``, or at the last other one that was healthy by the audit's word.

    Its image is taken as the hosts have it, or this machine: a version of the past is not built anew.
    """
    if version is None:
        answers = look.look(known, hosts.names, hosts)
        seen = [snapshot.parse(name, lines).containers for name, lines in answers.items()]
        all_instances = (i for host in known.cluster.hosts for i in known.cluster.instances(host))
        names = {i.container for i in all_instances if i.service == service}
        running = Counter(c.version for found in seen for name, c in found.items() if name in names and c.version)
        if not running:
            raise FiefdomError(f"{service} runs nowhere, so there is nothing to go back from")
        entries = ledger.read(hosts, known.gateways, AUDITED).entries
        # After a canary, or a run that ended half way, most hosts may still be where the others are to go back to.
        current = audit.last_brought(entries, service, running) or running.most_common(1)[0][0]
        version = audit.last_healthy(entries, service, current)
        if version is None:
            raise FiefdomError(
                f"the audit knows no healthy version of {service} before {current}; name one: "
                f"fiefdom rollback INVENTORY {service} VERSION"
            )
    try:
        cluster = known.cluster.with_version(service, version)
    except ValueError:
        raise FiefdomError(f"{printable(version)!r} cannot be a version; it is an image's tag") from None
    ref = cluster.image_ref(service)
    identities = {k: v for k, v in known.identities.items() if not references.same(k, ref)}
    return replace(known, cluster=cluster, identities=identities)
