"""The share of a service's requests that one of its versions gets, at all gateways: in the audit, without a lock."""

from __future__ import annotations

from fiefdom.cluster import ledger
from fiefdom.cluster.told import tell
from fiefdom.converge.run import Hosts, Known
from fiefdom.errors import FiefdomError
from fiefdom.wording import Tell


def share_out(known: Known, hosts: Hosts, service: str, words: tuple[str, ...], warn: Tell) -> dict[str, str]:
    """Tell every gateway ``words`` of ``service``, its version and percent, or "off"; those that did not, and why.

    Without the lock, for it is wanted while a cluster waits after its canary, and is locked by that. Raises
    FiefdomError where none did.
    """
    note = f"{service}: {' '.join(words)}"
    with ledger.recorded(hosts, known.gateways, "weight", warn, names=known.gateways, note=note) as act:
        missed = tell(hosts, known.gateways, "weight", service, *words)
        if len(missed) == len(known.gateways):
            raise FiefdomError("; ".join(f"{name}: {why}" for name, why in missed.items()))
        if missed:
            act.note = f"{note}; not at {', '.join(missed)}"
    return missed
