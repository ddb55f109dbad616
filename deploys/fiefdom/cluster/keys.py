"""The gossip keys that the agents of a cluster hold, known by their fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from contextlib import suppress

from fiefdom.converge import plan, run
from fiefdom.converge.run import Hosts
from fiefdom.desired import gateway, membership, serf
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.model import Cluster

Ring = tuple[str, ...]
"""Keys of an agent: it encrypts with the first and understands all."""

# Fingerprints of an agent's keys, the first one first: no key ever stands in an argument, nor leaves the host.
_RING_SCRIPT = r"""
[ -e "$1" ] || exit 0
if grep -q '"keyring_file"' "$1"; then
  sed -n 's/^ *"\([^"]*\)",\{0,1\}$/\1/p' "$2"
else
  sed -n 's/^ *"encrypt_key": "\([^"]*\)",\{0,1\}$/\1/p' "$1"
fi | while IFS= read -r key; do hash=$(printf '%s' "$key" | sha256sum); echo "${hash%% *}"; done
"""


def touches_keys(wanted: Iterable[plan.HostPlan]) -> bool:
    """Whether a plan changes what an agent's keys stand in: then `require_same_key` has a say."""
    paths = {gateway.AGENT_CONFIG, serf.CONFIG, *ring_paths()}
    return any(change.name in paths for host in wanted for change in host.of("file"))


def require_same_key(known: run.Known, hosts: Hosts) -> None:
    """Raise FiefdomError where this machine's gossip key is not the one that the cluster speaks with.

    The hosts of ``hosts`` and all gateways that answer are asked. Where they differ, most of them are right and the
    others are drift, to be mended; of a part of the cluster only the gateways' word counts. Where nobody has a key yet,
    any will do.
    """
    cluster, names = known.cluster, set(hosts.names)
    found = {name: ring for name, ring in rings_of(cluster, hosts, names).items() if ring}
    others = [name for name in cluster.gateways if name not in names]
    found |= {name: ring for name, ring in _rings_that_answer(cluster, hosts, others).items() if ring}
    for name, ring in found.items():
        if len(ring) > 1:
            raise FiefdomError(f"{name}: another gossip key is on its way; `fiefdom rotate-key` brings it to all hosts")
    (own,) = fingerprints((known.secrets.gossip_key,))
    foreign = [name for name, ring in found.items() if ring[0] != own]
    gates = [name for name in cluster.gateways if name in found]
    everybody = names.issuperset(cluster.hosts)
    lead = _lead(found if everybody or not gates else gates, foreign) or _lead(gates, foreign)
    if foreign and lead <= 0:
        rest = "" if everybody else "; if one host alone is wrong, `fiefdom apply` without --limit mends it"
        raise FiefdomError(
            f"{', '.join(foreign)}: the gossip key there is not this machine's, and a member with another one is cut "
            f"off from the rest; bring the right key here, or let `fiefdom rotate-key` change it{rest}"
        )


def _lead(names: Collection[str], foreign: Collection[str]) -> int:
    """By how many hosts this machine's key is ahead."""
    return sum(-1 if name in foreign else 1 for name in names)


def _rings_that_answer(cluster: Cluster, hosts: Hosts, names: Collection[str]) -> dict[str, Ring]:
    found: dict[str, Ring] = {}
    for name in names:
        # A gateway that is down says nothing of the key; the plan's own hosts have answered already.
        with suppress(Unreachable):
            found[name] = _ring_of(cluster, hosts, name)
    return found


def ring_paths() -> set[str]:
    return {membership.ring_path(path) for path in (gateway.AGENT_CONFIG, serf.CONFIG)}


def fingerprints(ring: Ring) -> Ring:
    """What the keys of a ring are known by: they are random, so that no guess comes near them."""
    return tuple(hashlib.sha256(key.encode()).hexdigest() for key in ring)


def rings_of(cluster: Cluster, hosts: Hosts, names: Collection[str] | None = None) -> dict[str, Ring]:
    """Fingerprints of the keys that each host's agent starts with, the one it speaks with first; none without agent."""
    members = (*cluster.gateways, *cluster.app_hosts)
    asked = [name for name in members if names is None or name in names]
    return hosts.on_all(lambda name: _ring_of(cluster, hosts, name), asked)


def _ring_of(cluster: Cluster, hosts: Hosts, name: str) -> Ring:
    config = gateway.AGENT_CONFIG if name in cluster.gateways else serf.CONFIG
    ok, output, error = hosts.script(name, _RING_SCRIPT, [config, membership.ring_path(config)])
    if not ok:
        raise FiefdomError(f"{name}: {config} cannot be read: {' '.join(error.split())[:200]}")
    return tuple(output.split())
