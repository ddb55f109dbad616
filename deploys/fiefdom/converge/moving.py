"""Who has the address of all gateways together, and what of a host's own stands in its way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fiefdom.converge.doctor import Finding
from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired import address
from fiefdom.desired.context import Context
from fiefdom.model import Cluster

# The package's own unit is none that Fiefdom made.
_MADE = ("file", address.KEEPALIVED)
_LOOK = f"look there at `journalctl -u {address.UNIT}`"


def holders(cluster: Cluster, found: Mapping[str, Snapshot]) -> tuple[str, ...]:
    """Gateways that have the address, of those that were looked at; one where all is well."""
    wanted = cluster.gateway.address
    return tuple(name for name in cluster.gateways if name in found and wanted and found[name].holds == wanted)


def complaints(cluster: Cluster, found: Mapping[str, Snapshot]) -> list[str]:
    """A sentence where not one gateway has the address; nothing where one that was not looked at may have it."""
    if cluster.gateway.address is None or not any(name in found for name in cluster.gateways):
        return []
    has = holders(cluster, found)
    if len(has) > 1:
        return [
            f"{cluster.gateway.address} is at {' and '.join(has)} at once, which do not hear each other: let VRRP "
            "(protocol 112) pass between them"
        ]
    if has or not all(name in found for name in cluster.gateways):
        return []
    return [f"{cluster.gateway.address} is at no gateway, so that no client comes to any; {_LOOK}"]


def of_all(cluster: Cluster, found: Mapping[str, Snapshot]) -> dict[str, Finding]:
    """By gateway, what is to be said of all together; nothing before the first converge of one of them."""
    gateways = [name for name in cluster.gateways if name in found]
    if not all(_MADE in found[name].made for name in gateways):
        return {}
    found_wrong = complaints(cluster, found)
    return {gateways[0]: Finding("warning", "address", found_wrong[0])} if found_wrong else {}


def of_address(context: Context, found: Snapshot) -> Iterator[Finding]:
    """What a host has that keeps it from having the address, or that it would do harm to."""
    wanted = context.cluster.gateway.address
    if not context.is_gateway or wanted is None:
        return
    mend = "give gateway.address one that nobody has"
    if wanted in found.routers:
        yield Finding(
            "refused", "address", f"{wanted} is a router of this host", "nobody would reach it any more", mend
        )
    if wanted == found.client:
        yield Finding("refused", "address", f"your connection comes from {wanted}", "no answer would reach you", mend)
    if address.KEEPALIVED in found.files and _MADE not in found.made:
        seen = f"it has a keepalived of its own ({address.KEEPALIVED})"
        effect = "the addresses that it moves would go"
        yield Finding("refused", "address", seen, effect, "move them elsewhere and that file away")
    unit = found.units.get(address.UNIT)
    if _MADE in found.made and (unit is None or unit.active != "active"):
        seen = f"{address.UNIT} does not run"
        effect = f"this gateway would not take {wanted} over from another one"
        yield Finding("warning", "address", seen, effect, f"{_LOOK}; `fiefdom apply` starts it")
