"""The share of a service's requests that one of its versions gets, at all gateways: in the audit, without a lock."""

from __future__ import annotations

from fiefdom.cluster.told import tell_recorded
from fiefdom.converge.run import Hosts, Known
from fiefdom.wording import Tell


def share_out(known: Known, hosts: Hosts, service: str, words: tuple[str, ...], warn: Tell) -> dict[str, str]:
    """Tell every gateway ``words`` of ``service``, its version and percent, or "off"; those that did not, and why.

    Without the lock, for it is wanted while a cluster waits after its canary, and is locked by that. Raises
    FiefdomError where none did.
    """
    about, note = (service, *words), f"{service}: {' '.join(words)}"
    return tell_recorded(hosts, known.gateways, "weight", about, note, warn)
