"""A service switched to maintenance, or back, at all gateways: in the audit, and without a lock."""

from __future__ import annotations

from fiefdom.cluster import ledger, maintenance
from fiefdom.converge.run import Hosts, Known
from fiefdom.errors import FiefdomError
from fiefdom.wording import Tell


def switch(known: Known, hosts: Hosts, service: str, *, close: bool, warn: Tell) -> dict[str, str]:
    """Close ``service`` at every gateway, or open it; those that did not, and why. Raises FiefdomError where none did.

    Without the lock: who closes a service does it because of what a run has just done to it, and cannot wait for that
    run's end. It changes nothing that a run looks at, for hosts, offers and rotation stay as they are.
    """
    word = "on" if close else "off"
    with ledger.recorded(
        hosts, known.gateways, "maintenance", warn, names=known.gateways, note=f"{word}: {service}"
    ) as act:
        missed = maintenance.switch(hosts, known.gateways, service, close=close)
        if len(missed) == len(known.gateways):
            raise FiefdomError("; ".join(f"{name}: {why}" for name, why in missed.items()))
        if missed:
            act.note = f"{word}: {service}; not at {', '.join(missed)}"
    return missed
