"""Jump hosts: which lie on the way to a host, and what is wrong with them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress

from fiefdom.model.draft import Draft
from fiefdom.model.text import LAST_PORT, Problem
from fiefdom.wording import KeyPath

NO_JUMP = "none"


def parts_of(hop: str) -> tuple[str, str, str]:
    """User, place and port of a jump host; what it does not say is empty. An IPv6 address loses its brackets."""
    user, _, rest = hop.rpartition("@")
    if not rest.startswith("["):
        place, _, port = rest.partition(":")
        return user, place, port
    place, _, port = rest[1:].partition("]")
    with suppress(ValueError):  # in somebody's ~/.ssh/config
        # As known_hosts has it: OpenSSH writes such an address in one way, however it was given.
        place = str(ipaddress.ip_address(place))
    return user, place, port.removeprefix(":")


def jumps_of(cluster: Draft, host: str) -> tuple[str, ...]:
    """Jump hosts on the way to ``host``, the nearest first: names of hosts, or `[USER@]HOST[:PORT]`.

    A host that lies on the cluster's own way is reached by what comes before it.
    """
    own = cluster.hosts[host].ssh.jump
    words = own or cluster.ssh.jump or NO_JUMP
    hops = () if words == NO_JUMP else tuple(words.split(","))
    return hops[: hops.index(host)] if own is None and host in hops else hops


def forwards(cluster: Draft, host: str) -> str:
    """What the sshd of ``host`` is to forward."""
    return cluster.hosts[host].ssh.tcp_forwarding or cluster.ssh.tcp_forwarding


def jump_problems(cluster: Draft) -> Iterator[Problem]:
    """What keeps jump hosts from being any, and where it stands."""
    told: set[tuple[KeyPath, str]] = set()
    by_address = {host.address: name for name, host in cluster.hosts.items()}
    for name, host in cluster.hosts.items():
        key: KeyPath = ("ssh", "jump") if host.ssh.jump is None else ("hosts", name, "ssh", "jump")
        hops = jumps_of(cluster, name)
        for number, hop in enumerate(hops):
            says = ""
            _, place, port = parts_of(hop)
            # By its name or its address, and whoever logs in: it is the same sshd, which forwards what it forwards.
            own = place if place in cluster.hosts else by_address.get(place, "")
            if port and not 1 <= int(port) <= LAST_PORT:
                says = f"{hop} has no port from 1 to {LAST_PORT}; mend it"
            elif own == name:
                everywhere = f"{hop} is {name} itself; write {name}, or `none` to hosts.{name}.ssh.jump"
                says = everywhere if host.ssh.jump is None else f"{hop} is the host itself; take it out"
            elif hop.lower() == NO_JUMP:
                says = f"{hop} is no host; write `{NO_JUMP}` alone where no jump host is meant"
            elif parts_of(hop) in map(parts_of, hops[:number]):
                says = f"{hop} stands there twice; take it out once"
            elif own and forwards(cluster, own) == "none":
                says = f"{hop} would forward nothing; write `local` to hosts.{own}.ssh.tcp_forwarding"
            elif own and (way := jumps_of(cluster, own)) != hops[:number]:
                says = f"{hop} is reached through {','.join(way) or 'nothing'}; write the whole way, the nearest first"
            if says and (key, hop) not in told:
                told.add((key, hop))
                yield key, says


def address_problems(cluster: Draft) -> Iterator[Problem]:
    """Two hosts that SSH would take for one."""
    seen: dict[tuple[object, ...], str] = {}
    for name, host in cluster.hosts.items():
        if host.ssh.address is None:
            continue
        place = (host.ssh.address, host.ssh.port or cluster.ssh.port, jumps_of(cluster, name))
        if place in seen:
            says = f"{host.ssh.address} is also where SSH finds {seen[place]}; give each host its own address or port"
            yield ("hosts", name, "ssh", "address"), says
        seen.setdefault(place, name)
