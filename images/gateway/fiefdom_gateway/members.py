"""What Serf's members say they offer, read only where it fits the patterns; `belief` judges what is read.

A tag `svc:<service>` = `<version>;<first_port>-<last_port>` is an offer; a third field, `;<port>`, is the first port of
the instances' health checks, where these have ports of their own. A host with more offers than Serf carries so has all
in the tag of `packed`. Everything a member sends is a stranger's text until it has passed here.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from fiefdom_gateway import packed
from fiefdom_gateway.log import printable
from fiefdom_gateway.settings import LAST_PORT, Service

APP_ROLE = "app"
# What the tag `state` of a host says that is to get no new requests.
LEAVING = "leaving"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_ROLE = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}", re.ASCII)
# What a gateway remembers may have the code of a version in its place.
_OFFER = re.compile(
    rf"({_VERSION.pattern}|~[A-Za-z0-9_-]{{3}});([0-9]{{1,5}})-([0-9]{{1,5}})(?:;([0-9]{{1,5}}))?", re.ASCII
)
_OFFER_TAG = "svc:"
_STATUSES = frozenset({"alive", "leaving", "left", "failed"})


def is_host_name(text: str) -> bool:
    """Whether a text can be a host's name."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether a text can be a version."""
    return _VERSION.fullmatch(text) is not None


class Unreadable(ValueError):
    """A program's answer is not what it should be."""


class _Rejected(ValueError):
    pass


@dataclass(frozen=True, order=True)
class Offer:
    """`checks` is the first port of health checks; 0 where each instance is asked on its own port."""

    service: str
    version: str
    first_port: int
    last_port: int
    checks: int = 0


@dataclass(frozen=True, order=True)
class Member:
    """`failed_leaving`: its agent died after the host had said that it leaves, so nothing takes that word back."""

    name: str
    address: str
    status: str
    role: str
    offers: tuple[Offer, ...] = ()
    failed_leaving: bool = False

    @property
    def drains(self) -> bool:
        """Whether its instances get no new requests."""
        return self.status == "leaving" or self.failed_leaving


@dataclass(frozen=True, order=True)
class Rejection:
    member: str
    reason: str


@dataclass(frozen=True)
class Roll:
    """The member list of one moment."""

    members: tuple[Member, ...]
    rejected: tuple[Rejection, ...] = ()


class _Reading:
    """What members' words are read with: the services that are routed, and versions whose names are known."""

    def __init__(self, services: Mapping[str, Service], names: packed.Names) -> None:
        self.services = services
        self.names = names

    @cached_property
    def by_code(self) -> Mapping[str, str]:
        return packed.by_code(self.services)


def parse_members(text: str, services: Mapping[str, Service], names: packed.Names = MappingProxyType({})) -> Roll:
    """Return the members in the output of `serf members -format json`, sorted by name, and what was not read.

    `names` are versions that are known by their codes. Raises Unreadable when the text as a whole is not such a list.
    """
    return read_members(listed(text), services, names)


def listed(text: str) -> list[object]:
    """Return the entries in the output of `serf members -format json`, in its order, which is another each time.

    Raises Unreadable.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("serf members did not answer with JSON") from None
    found = data.get("members") if isinstance(data, dict) else None
    if not isinstance(found, list):
        raise Unreadable("serf members answered without a list of members")
    return found


def same(one: list[object], other: list[object]) -> bool:
    """Whether two lists have the same entries, in whatever order."""
    by_name = [{str(e.get("name")): e for e in entries if isinstance(e, dict)} for entries in (one, other)]
    return len(one) == len(by_name[0]) == len(other) and by_name[0] == by_name[1]


class Reader:
    """Reads one list after the other; an entry that says the same as before is not judged again."""

    def __init__(self) -> None:
        self._reading: _Reading | None = None
        self._before: _Judged = {}

    def read(self, entries: list[object], services: Mapping[str, Service], names: packed.Names) -> Roll:
        """As `parse_members`, of the list's entries."""
        reading = self._reading
        if reading is None or reading.services is not services or reading.names != names:
            self._reading = reading = _Reading(services, names)
            self._before = {}
        before, self._before = self._before, {}
        return _read(entries, reading, before, self._before)


def read_members(entries: list[object], services: Mapping[str, Service], names: packed.Names) -> Roll:
    """As `parse_members`, of the list's entries."""
    return _read(entries, _Reading(services, names), {}, {})


_Judged = dict[str, tuple[object, Member, tuple[str, ...]]]
"""By name: an entry, the member that it is, and why not all of its offers are some."""


def _read(entries: list[object], reading: _Reading, before: _Judged, judged: _Judged) -> Roll:
    members: dict[str, Member] = {}
    rejected: list[Rejection] = []
    for entry in entries:
        shown = _shown_name(entry)
        known = before.get(shown)
        if known is not None and known[0] == entry and shown not in members:
            _, member, refused = known
        else:
            try:
                member = _member(entry)
            except _Rejected as error:
                rejected.append(Rejection(shown, str(error)))
                continue
            if member.name in members:
                rejected.append(Rejection(shown, "is listed twice"))
                continue
            member, refused = _with_offers(member, entry, reading)
        judged[member.name] = entry, member, refused
        rejected += [Rejection(shown, reason) for reason in refused]
        members[member.name] = member
    return Roll(tuple(members[name] for name in sorted(members)), tuple(sorted(rejected)))


def read_member(
    entry: object, services: Mapping[str, Service], names: packed.Names = MappingProxyType({})
) -> Member | None:
    """Return the member that one entry of the list is; None where it is none that can be read."""
    try:
        return _with_offers(_member(entry), entry, _Reading(services, names))[0]
    except _Rejected:
        return None


def _with_offers(member: Member, entry: object, reading: _Reading) -> tuple[Member, tuple[str, ...]]:
    if member.role != APP_ROLE or not isinstance(entry, dict):
        return member, ()
    offers, refused = _offers(entry.get("tags"), reading)
    return replace(member, offers=offers), refused


def _shown_name(entry: object) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return printable(name, 64) if isinstance(name, str) else "?"


def _member(entry: object) -> Member:
    if not isinstance(entry, dict):
        raise _Rejected("is not an object")
    name, status, tags = entry.get("name"), entry.get("status"), entry.get("tags")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise _Rejected("has a name that is no host name")
    if not (isinstance(status, str) and status in _STATUSES):
        raise _Rejected(f"has the unknown status {_quoted(status)}")
    role = tags.get("role") if isinstance(tags, dict) else None
    if not (isinstance(role, str) and _ROLE.fullmatch(role)):
        role = ""
    # A host says so itself before its agent leaves, and waits until it is drained.
    says_leaving = isinstance(tags, dict) and tags.get("state") == LEAVING
    if says_leaving and status == "alive":
        status = "leaving"
    return Member(name, _address(entry.get("addr")), status, role, failed_leaving=says_leaving and status == "failed")


def _address(value: object) -> str:
    """Return the IP address of Serf's "10.0.0.1:7946" or "[fd00::1]:7946"."""
    host = value.rpartition(":")[0].removeprefix("[").removesuffix("]") if isinstance(value, str) else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise _Rejected(f"has the address {_quoted(value)}, which is none") from None
    # A scope would reach a command as text, and a loopback address would point at the gateway's own ports.
    scoped = isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None
    if scoped or address.is_loopback or address.is_multicast or address.is_unspecified or address.is_reserved:
        raise _Rejected(f"has the address {_quoted(value)}, which no host of a cluster has")
    return str(address)


def _offers(tags: object, reading: _Reading) -> tuple[tuple[Offer, ...], tuple[str, ...]]:
    """Return the offers by service, and why others are none. Of a service that has a tag of its own that one counts."""
    offers: dict[str, Offer] = {}
    refused: list[str] = []
    for tag, value in sorted(tags.items()) if isinstance(tags, dict) else ():
        try:
            if tag == packed.TAG:
                refused += _unpack(value, reading, offers)
            elif tag.startswith(_OFFER_TAG):
                offer = _offer(tag.removeprefix(_OFFER_TAG), value, reading.services)
                offers[offer.service] = offer
        except _Rejected as error:
            refused.append(str(error))
    return tuple(offers[name] for name in sorted(offers)), tuple(refused)


def _unpack(value: object, reading: _Reading, offers: dict[str, Offer]) -> list[str]:
    """Add to `offers` what the tag for all of them holds; return why others of it are none."""
    refused: list[str] = []
    try:
        entries = packed.entries(value if isinstance(value, str) else "")
    except packed.Garbled as error:
        raise _Rejected(f"offers {_quoted(value)}, which is garbled: {error}") from None
    for entry in entries:
        name = reading.by_code.get(entry.service_code)
        try:
            if name is None:
                raise _Rejected(f"offers a service with the code {_quoted(entry.service_code)}, which is not one here")
            version = packed.version_of(name, entry.version_code, reading.names)
            offers[name] = _checked(Offer(name, version, entry.first_port, entry.last_port, entry.checks))
        except _Rejected as error:
            refused.append(str(error))
    return refused


def _offer(name: str, value: object, services: Mapping[str, Service]) -> Offer:
    if name not in services:
        raise _Rejected(f"offers {_quoted(name)}, which this gateway does not route")
    match = _OFFER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _Rejected(f"offers {name} as {_quoted(value)}, which is not VERSION;FIRST-LAST[;CHECKS]")
    checks = int(match[4] or 0)
    if match[4] is not None and not checks:
        raise _Rejected(f"offers {name} with checks on ports from 0 on, which are none")
    return _checked(Offer(name, match[1], int(match[2]), int(match[3]), checks))


def _checked(offer: Offer) -> Offer:
    first, last, checks = offer.first_port, offer.last_port, offer.checks
    if not 1 <= first <= last <= LAST_PORT:
        raise _Rejected(f"offers {offer.service} on ports {first}-{last}, which are none")
    if checks and not 1 <= checks <= LAST_PORT - (last - first):
        raise _Rejected(f"offers {offer.service} with checks on ports from {checks} on, which are none")
    return offer


def _quoted(value: object) -> str:
    # Serf's own are all text; of anything else only its kind is told, for its text could be without end.
    return printable(repr(value) if isinstance(value, str) else f"a {type(value).__name__}", 60)
