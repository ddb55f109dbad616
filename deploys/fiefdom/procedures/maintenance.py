"""A service switched to maintenance, or back, at all gateways: in the audit, and without a lock."""

from __future__ import annotations

from fiefdom.cluster.told import tell_recorded
from fiefdom.converge.run import Hosts, Known
from fiefdom.wording import Tell


def switch(known: Known, hosts: Hosts, word: str, service: str, warn: Tell) -> dict[str, str]:
    """Close ``service`` at every gateway, by the ``word`` on, or open it, by off; those that did not, and why.

    Without the lock: who closes a service does it because of what a run has just done to it, and cannot wait for that
    run's end. It changes nothing that a run looks at, for hosts, offers and rotation stay as they are. Raises
    FiefdomError where none did.
    """
    return tell_recorded(hosts, known.gateways, "maintenance", (word, service), f"{word}: {service}", warn)
