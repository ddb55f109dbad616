"""Host keys that nobody knows yet: shown, and added to known_hosts where somebody says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from paramiko import PKey
from pyinfra.api.exceptions import ConnectError

from fiefdom.engine import known_hosts
from fiefdom.engine.connector import Ways, nobody_there
from fiefdom.engine.places import Place, second_try
from fiefdom.engine.shells import timed
from fiefdom.model import Cluster

State = Literal["known", "trusted", "declined", "refused", "silent"]


@dataclass(frozen=True)
class Shown:
    """What one host, or a jump host on the way to it, showed."""

    name: str
    where: str
    """Its address and port, and what lies on the way."""
    file: str
    """The file that has its key, or would get it."""
    state: State
    kind: str = ""
    fingerprint: str = ""
    """SHA256, as `ssh-keygen -l` prints it."""
    reason: str = ""
    """Why it is not trusted; empty where it is."""


def trust(
    cluster: Cluster,
    names: Iterable[str],
    accept: Callable[[Shown], bool],
    at: Mapping[str, tuple[str | None, int | None]],
) -> Iterator[Shown]:
    """Look at the keys of hosts ``names`` and of the jump hosts on the way, one after the other.

    ``accept`` is asked of each key that is not known; those that it takes are added to known_hosts. A host that shows
    another key than the known one is refused. ``at`` is as in `Session`.

    Raises:
        FiefdomError: known_hosts cannot be read or written.
    """
    ways = Ways(cluster)
    told: set[str] = set()
    try:
        for name in names:
            data = ways.places.data(name, *at.get(name, (None, None)))
            place = ways.places.of_host(name, data)
            for hop, of_hop in _hops(ways, place):
                if of_hop.known_as not in told:
                    told.add(of_hop.known_as)
                    yield _judged(ways, hop, of_hop, accept)
            if place.known_as in told:
                continue
            told.add(place.known_as)
            shown = _judged(ways, name, place, accept)
            again = second_try(place.port, given=name in at)
            if shown.state == "silent" and again is not None:
                new = _judged(ways, name, ways.places.of_host(name, data | {"ssh_port": again}), accept)
                shown = shown if new.state == "silent" else new
            yield shown
    finally:
        ways.close()


def _hops(ways: Ways, place: Place) -> Iterator[tuple[str, Place]]:
    for number, hop in enumerate(place.jumps):
        of_hop = ways.places.of_jump(hop, place.jumps[:number])
        if number == 0:
            yield from _hops(ways, of_hop)
        yield hop, of_hop


def _judged(ways: Ways, name: str, place: Place, accept: Callable[[Shown], bool]) -> Shown:
    file = place.known_hosts[0]
    found = known_hosts.lookup(place.known_hosts, place.known_as)
    try:
        with timed(name, "its host key"):
            key: PKey = ways.shown_key(place, found)
    except ConnectError as error:
        state: State = "silent" if nobody_there(error) else "refused"
        return Shown(name, place.where, str(file), state, reason=str(error))
    reason = known_hosts.judge(found, place.known_as, key)

    def shown(state: State, why: str = "") -> Shown:
        return Shown(name, place.where, str(file), state, key.get_name(), key.fingerprint, why)

    if reason is None:
        return shown("known")
    if any(known.marker == "@revoked" or known.kind == key.get_name() for known in found):
        return shown("refused", reason)
    if not accept(shown("declined", reason)):
        return shown("declined", reason)
    known_hosts.remember(file, place.known_as, key)
    return shown("trusted")
