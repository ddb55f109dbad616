"""Whom the gateway believes: what members say of themselves, against what the inventory knows of hosts.

A known host is believed at its own address, for the services that it is to run and on as many ports. A host that the
inventory does not know yet is believed in the cluster's network, so that it can be added without a change of the
gateways; unless the inventory says that only known hosts are. At a known host's address it is believed while that host
is not there itself, as after a change of name, and for that host's services and ports.

Gateways are told of a change first, and hosts change one after the other. So what a host offers and was believed for
stays believed until it offers something else: a service whose ports change, or that goes to other hosts, is never
without servers. That is for offers only: a host whose name or address is not borne out any more loses them at once.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from fiefdom_gateway.members import Member, Offer, Rejection, Roll
from fiefdom_gateway.settings import Host, Inventory, Service

# Who left, or failed, claims nothing any more: Serf lists both for a day.
_CLAIMING = frozenset({"alive", "leaving"})


def believe(roll: Roll, inventory: Inventory, services: Mapping[str, Service], before: Iterable[Member] = ()) -> Roll:
    """Return the members that are believed, with what is believed of their offers, and all that is not.

    `before` are members as they were believed last.
    """
    held = {(member.name, member.address): member.offers for member in before}
    members: list[Member] = []
    rejected = list(roll.rejected)
    taken = frozenset(m.address for m in roll.members if m.status in _CLAIMING and _is_at_home(m, inventory))
    for member in roll.members:
        reason = doubt(member, inventory, taken)
        if reason is None:
            kept, refused = _offers(member, inventory, services, held.get((member.name, member.address), ()))
            members.append(kept)
        else:
            refused = [reason]
        if member.status in _CLAIMING:
            rejected += [Rejection(member.name, each) for each in refused]
    return Roll(tuple(members), tuple(sorted(rejected)))


def doubt(member: Member, inventory: Inventory, taken: Set[str]) -> str | None:
    """Return why a member cannot be the host that it says it is; None when it can.

    `taken` are the addresses at which known hosts are members now.
    """
    host = inventory.hosts.get(member.name)
    if host is None:
        return _doubt_of_new(member, inventory, taken)
    if _is_at_home(member, inventory):
        return None
    return f"claims the name at {member.address}, the inventory has it at {host.address}"


def _is_at_home(member: Member, inventory: Inventory) -> bool:
    host = inventory.hosts.get(member.name)
    return host is not None and host.address == member.address


def _doubt_of_new(member: Member, inventory: Inventory, taken: Set[str]) -> str | None:
    if inventory.known_hosts_only:
        return f"at {member.address} is no host of the inventory"
    # Serf's names differ by their case, and people's do not.
    if member.name.lower() in inventory.hosts:
        return f"at {member.address} has a name too much like a host's of the inventory"
    if member.address in taken:
        owner = inventory.owner(member.address)
        return f"claims {member.address}, which the inventory has as the address of {owner}"
    if ipaddress.ip_address(member.address) not in inventory.network:
        return f"claims {member.address}, outside {inventory.network}"
    return None


def _offers(
    member: Member, inventory: Inventory, services: Mapping[str, Service], held: Sequence[Offer]
) -> tuple[Member, list[str]]:
    host = inventory.hosts.get(member.name) or inventory.hosts.get(inventory.owner(member.address) or "")
    kept: list[Offer] = []
    refused: list[str] = []
    for offer in member.offers:
        believed, reason = (offer, None) if offer in held else _judged(offer, services[offer.service], host)
        if believed is not None:
            kept.append(believed)
        if reason is not None:
            refused.append(reason)
    return member if member.offers == (offers := tuple(kept)) else replace(member, offers=offers), refused


def _judged(offer: Offer, service: Service, host: Host | None) -> tuple[Offer | None, str | None]:
    """Return what is believed of an offer, and why not all of it."""
    name, first, last = offer.service, offer.first_port, offer.last_port
    if not service.base_port <= first <= last <= service.last_port:
        return None, f"offers {name} on ports {first}-{last}, outside {service.base_port}-{service.last_port}"
    if host is None:
        return offer, None
    if name not in host.services:
        return None, f"offers {name}, which the inventory does not let it run"
    last_port = host.last_ports.get(name, last)
    if last <= last_port:
        return offer, None
    reason = f"offers {name} on ports up to {last}, the inventory has it up to {last_port}"
    return replace(offer, last_port=last_port) if first <= last_port else None, reason
