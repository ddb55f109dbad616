"""From members, and what is remembered of them, to the servers that HAProxy should have."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter

from fiefdom_gateway.belief import believe
from fiefdom_gateway.members import APP_ROLE, LEAVING, Member, Rejection, Roll, parse_members
from fiefdom_gateway.settings import Inventory, Service


@dataclass(frozen=True)
class Known:
    """An app host in use. `absent_since` is the clock's second at which the member list first lacked it."""

    member: Member
    absent_since: float | None = None


Memory = Mapping[str, Known]


@dataclass(frozen=True, order=True)
class Server:
    """`check_port` is where its health checks ask; 0 for its own port. `weight` is as HAProxy has it, 1 unless said."""

    service: str
    name: str
    address: str
    port: int
    drain: bool
    version: str
    check_port: int = 0
    weight: int = 1


# The order of servers; dataclasses compare much more slowly than tuples.
_ORDER = attrgetter("service", "name", "address", "port", "drain", "version", "check_port", "weight")


def remember(memory: Memory, roll: Roll, now_s: float, absent_grace_s: float) -> dict[str, Known]:
    """Return the memory after a look at the member list.

    Who left is forgotten. Who failed stays, for gossip can be wrong where HAProxy's health check is not. Who is absent
    without having left (reaped, or not yet heard of by an agent that just started) stays for `absent_grace_s`, and for
    as long as no app host is alive at all: then it is this gateway that is cut off.
    """
    listed = {member.name: member for member in roll.members if member.role == APP_ROLE}
    others = {member.name for member in roll.members if member.role != APP_ROLE}
    known = {name: Known(member) for name, member in listed.items() if member.status != "left"}
    cut_off = not any(member.status == "alive" for member in listed.values())
    for name, before in memory.items():
        if name in listed or name in others:
            continue
        since = now_s if cut_off or before.absent_since is None else before.absent_since
        if now_s - since < absent_grace_s:
            known[name] = replace(before, absent_since=since)
    return known


def still_believed(memory: Memory, inventory: Inventory, services: Mapping[str, Service]) -> dict[str, Known]:
    """Return the memory without the hosts, and the services, that what was asked for does not bear out any more."""
    offered = [_routed(known.member, services) for known in memory.values()]
    roll = believe(Roll(tuple(offered)), inventory, services, before=offered)
    return {member.name: replace(memory[member.name], member=member) for member in roll.members}


def _routed(member: Member, services: Mapping[str, Service]) -> Member:
    return replace(member, offers=tuple(offer for offer in member.offers if offer.service in services))


def none_alive(memory: Memory) -> bool:
    """Whether hosts are in use and not one of them is alive."""
    return bool(memory) and not any(_is_alive(known) for known in memory.values())


class Made:
    """The servers of members, by name; of one that says the same as before they are not made again."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Member, tuple[Server, ...]]] = {}
        self._services: Mapping[str, Service] | None = None

    def servers(self, member: Member, services: Mapping[str, Service]) -> tuple[Server, ...]:
        """Return one server for each port that a member offers."""
        if services is not self._services:
            self._of, self._services = {}, services
        before = self._of.get(member.name)
        if before is None or before[0] != member:
            before = self._of[member.name] = member, tuple(_servers(member, services))
        return before[1]

    def forget_others(self, memory: Memory) -> None:
        """Keep what is remembered of those members alone."""
        for name in self._of.keys() - memory.keys():
            del self._of[name]


def _servers(member: Member, services: Mapping[str, Service]) -> Iterator[Server]:
    for offer in member.offers:
        if offer.service not in services:
            continue
        for port in range(offer.first_port, offer.last_port + 1):
            check_port = offer.checks + port - offer.first_port if offer.checks else 0
            name = f"{member.name}-{port}"
            yield Server(offer.service, name, member.address, port, member.drains, offer.version, check_port)


def wanted_servers(
    memory: Memory, services: Mapping[str, Service], made: Made | None = None
) -> tuple[tuple[Server, ...], tuple[Rejection, ...]]:
    """Return one server per offered port, sorted, and the claims on an address and port that another member holds."""
    made = made or Made()
    made.forget_others(memory)
    sharers = Counter(known.member.address for known in memory.values())
    servers: list[Server] = []
    rejected: set[Rejection] = set()
    holder: dict[tuple[str, int], tuple[str, str]] = {}
    # A host that was renamed is there twice for a while, and the living name is right.
    for name in sorted(memory, key=lambda name: (not _is_alive(memory[name]), name)):
        member = memory[name].member
        found = made.servers(member, services)
        if sharers[member.address] == 1 and len({server.port for server in found}) == len(found):
            servers += found
            continue
        for server in found:
            claim = (name, server.service)
            other = holder.setdefault((server.address, server.port), claim)
            if other == claim:
                servers.append(server)
                continue
            at = f"{server.service} at {server.address} on ports"
            rejected.add(Rejection(name, f"offers {at} that {other[0]} holds for {other[1]}"))
    # Each service for itself: its servers are nearly in order then, which is what sorting is quick with.
    by_service: dict[str, list[Server]] = {}
    for server in servers:
        by_service.setdefault(server.service, []).append(server)
    ordered = (sorted(by_service[service], key=_ORDER) for service in sorted(by_service))
    return tuple(chain.from_iterable(ordered)), tuple(sorted(rejected))


def _is_alive(known: Known) -> bool:
    return known.member.status == "alive" and known.absent_since is None


def dump_memory(memory: Memory) -> str:
    """Return the memory as text for the next start, in the shape of Serf's own list so that it is read as warily."""
    return json.dumps({"members": [_as_listed(memory[name].member) for name in sorted(memory)]}) + "\n"


def load_memory(text: str, services: Mapping[str, Service]) -> dict[str, Known]:
    """Return what dump_memory wrote; absence counts anew, for a gateway that was off saw nobody. Raises Unreadable."""
    roll = parse_members(text, services)
    return {member.name: Known(member) for member in _usable(roll.members)}


def _usable(members: Iterable[Member]) -> list[Member]:
    return [member for member in members if member.role == APP_ROLE and member.status != "left"]


def _as_listed(member: Member) -> dict[str, object]:
    offers = {
        f"svc:{o.service}": f"{o.version};{o.first_port}-{o.last_port}" + (f";{o.checks}" if o.checks else "")
        for o in member.offers
    }
    host = f"[{member.address}]" if ":" in member.address else member.address
    return {
        "name": member.name,
        "addr": f"{host}:7946",
        "status": member.status,
        "tags": {"role": member.role, **offers, **({"state": LEAVING} if member.failed_leaving else {})},
    }
