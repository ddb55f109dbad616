"""Whom the gateway believes: what members say of themselves, against what the inventory knows of hosts.

A known host is believed at its own address, for the services that it is to run and on as many ports. Gateways are told
first, so that one may still have more: its ports above are drained, and the others serve on. A host that the inventory
does not know yet is believed in the cluster's network, so that it can be added without a change of the gateways; unless
the inventory says that only known hosts are. At a known host's address it is believed while that host is not there
itself, as after a change of name, and for that host's services and ports.
"""

import ipaddress
from collections.abc import Set
from dataclasses import replace

from fiefdom_gateway.members import Member, Offer, Rejection, Roll
from fiefdom_gateway.settings import Inventory

# Who left, or failed, claims nothing any more: Serf lists both for a day.
_CLAIMING = frozenset({"alive", "leaving"})


def believe(roll: Roll, inventory: Inventory) -> Roll:
    """Return the members that are believed, with what is believed of their offers, and all that is not."""
    members: list[Member] = []
    rejected = list(roll.rejected)
    taken = frozenset(m.address for m in roll.members if m.status in _CLAIMING and _is_at_home(m, inventory))
    for member in roll.members:
        reason = doubt(member, inventory, taken)
        if reason is None:
            kept, refused = _offers(member, inventory)
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


def _offers(member: Member, inventory: Inventory) -> tuple[Member, list[str]]:
    host = inventory.hosts.get(member.name) or inventory.hosts.get(inventory.owner(member.address) or "")
    if host is None:
        return member, []
    kept: list[Offer] = []
    refused: list[str] = []
    for offer in member.offers:
        name = offer.service
        last_port = host.last_ports.get(name, offer.last_port)
        if name not in host.services:
            refused.append(f"offers {name}, which the inventory does not let it run")
        elif offer.last_port > last_port:
            refused.append(f"offers {name} on ports up to {offer.last_port}, the inventory has it up to {last_port}")
        if name in host.services and offer.first_port <= last_port:
            kept.append(replace(offer, last_port=min(offer.last_port, last_port)))
    return replace(member, offers=tuple(kept)), refused
