"""Fiefdom's namespace in another repository's inventory: the clusters that it describes, and one host alone.

There, whatever Fiefdom is to know stands under the one key `fiefdom` of data, and it is blind to all else but how
pyinfra logs in. Layers are data_defaults, the data of `all`, that of a host's groups in their order, the host's own,
and `--data`. pyinfra itself takes the uppermost value of a key whole; Fiefdom merges the mappings of all layers at
every depth, and everything else replaces.

A layer that names the `cluster` speaks for the whole of it, as those of `all`, data_defaults and `--data` always do:
its `ssh` and `services` are the cluster's. Those of other groups and of a host are the host's own. A host whose data
has `groups` is a member.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fiefdom.errors import FiefdomError
from fiefdom.inventory.complaint import mistakes_of, unknown_key
from fiefdom.inventory.read import CLUSTER_KEYS, DATA_KEY, HOST_KEYS, beneath, validated
from fiefdom.inventory.source import written
from fiefdom.inventory.written import Mistake, Mistakes, Origin, Written
from fiefdom.model import Cluster, rules
from fiefdom.model.draft import Draft
from fiefdom.model.hosts import HostSsh
from fiefdom.model.text import Problem
from fiefdom.wording import printable, shown

ALONE: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "sshd": (frozenset({"ssh", "network"}), frozenset({"ssh"})),
    "docker": (frozenset({"docker"}), frozenset()),
    "network": (frozenset({"ssh", "packages", "time_servers"}), frozenset({"address", "ssh", "static", "sysctls"})),
    "firewall": (frozenset({"network", "ssh"}), frozenset({"address", "ssh"})),
}
"""Concerns that need no cluster, with the keys that each has a say in: a cluster's, and a host's own."""

_NAME = re.compile("[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_IPV4 = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
# Of RFC 5737, which is nobody's: stands where the model wants an address that the concern does not read.
_NOBODY = "192.0.2.1"
_STAND_IN = "alone"


@dataclass(frozen=True)
class Own:
    """One host of an inventory: its groups in pyinfra's order, its own namespace, and how pyinfra logs in to it.

    ``login`` has what is known of `address`, `user`, `port`, `key` and `known_hosts`.
    """

    groups: tuple[str, ...] = ()
    data: Any = None
    login: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Foreign:
    """An inventory of somebody else's, as far as Fiefdom sees it: values of `fiefdom` by layer, None where none is."""

    hosts: Mapping[str, Own]
    groups: Mapping[str, Any] = field(default_factory=dict)
    everywhere: Any = None
    defaults: Any = None
    override: Any = None

    @property
    def says_something(self) -> bool:
        """Whether there is a namespace anywhere."""
        own = (host.data for host in self.hosts.values())
        layers = (self.everywhere, self.defaults, self.override, *self.groups.values(), *own)
        return any(layer is not None for layer in layers)


@dataclass(frozen=True)
class _Merged:
    """What a host's layers say together: of its cluster, and of itself."""

    cluster: Written
    host: Written

    @property
    def is_member(self) -> bool:
        return bool(self.host.value.get("groups"))


def is_member(foreign: Foreign, name: str) -> bool:
    """Whether a host is in a cluster. Raises FiefdomError where a layer is no mapping or has unknown keys."""
    return name in foreign.hosts and _merged(foreign, name).is_member


def cluster_name(foreign: Foreign, name: str) -> str | None:
    """What a member's cluster is called; None where its data does not say so."""
    found = _merged(foreign, name).cluster.value.get("cluster")
    return found if isinstance(found, str) else None


def cluster_of(foreign: Foreign, name: str) -> Cluster:
    """The whole cluster that a member belongs to: all members whose data names the same one.

    Raises:
        FiefdomError: it is not valid, or ``name`` is no member; names the layer, the key and the mend.
    """
    own = _merged(foreign, name)
    if not own.is_member:
        raise FiefdomError(outside(name))
    wanted = own.cluster.value.get("cluster")
    everybody = {other: _merged(foreign, other) for other in foreign.hosts}
    members = {n: m for n, m in everybody.items() if m.is_member and m.cluster.value.get("cluster") == wanted}
    for other in members:
        _require_plain(other)
    content = own.cluster
    for other, found in members.items():
        content = _agreed(content, name, found.cluster, other)
        content = _member(foreign.hosts[other].login, content, found).at("hosts", other).over(content)
    content = Written(content.value, {(): Origin(f"the data of {name}"), **content.origins}, content.mistakes)
    return validated(_with_known_hosts(content, foreign.hosts[name].login), None)[0]


def alone(foreign: Foreign, name: str, concern: str) -> Cluster:
    """A cluster of one host in no role and without services, as far as one of `ALONE` reads it.

    Its keys are the concern's own: what else the namespace holds is not looked at, so it may be wrong or missing.

    Raises:
        FiefdomError: one of them is wrong or missing; names the layer, the key and the mend.
    """
    if concern not in ALONE:
        raise FiefdomError(outside(name))
    if concern == "network":
        _require_plain(name)
    cluster_keys, host_keys = ALONE[concern]
    own, login = _merged(foreign, name), foreign.hosts[name].login
    given = own.cluster.only(*cluster_keys, "base_dir")
    host = _member(login, own.cluster, own).only(*host_keys)
    told = Written({}, {(): Origin(f"the data of {name}")})
    stands: dict[str, Any] = {"groups": [_STAND_IN]}
    if concern != "network":  # which writes it to /etc/hosts
        stands["address"] = _NOBODY
    network: dict[str, Any] = {"cidr": f"{_NOBODY}/32"}
    if concern != "firewall":
        network["admin_cidrs"] = [f"{_NOBODY}/32"]
    services = {_STAND_IN: {"image": _STAND_IN, "version": "0", "instances": 0}}
    below = {"cluster": _STAND_IN, "network": network, "services": services, "base_dir": str(Path.cwd())}
    content = host.over(Written(stands, {})).at("hosts", _STAND_IN).over(given).over(Written(below, {}))
    content = Written(content.value, {**told.origins, **content.origins}, content.mistakes)
    draft = _draft(_with_known_hosts(content, login), cluster_keys, host_keys)
    known = draft.network.model_copy(update={"firewall": draft.network.firewall and concern == "firewall"})
    if draft.network.admin_cidrs == (f"{_NOBODY}/32",):
        known = known.model_copy(update={"admin_cidrs": ()})
    changes = {"hosts": {name: draft.hosts[_STAND_IN]}, "services": {}, "network": known}
    return Cluster.model_construct(**{**dict(draft), **changes})


def outside(name: str) -> str:
    """What to say of a host that is in no cluster, to who wants of it what only a member has."""
    return printable(
        f"{name}: is in no cluster of Fiefdom's; ask `if fiefdom.is_member(host):` first, or give it "
        f"`{DATA_KEY} = {{'groups': ['app_hosts']}}` in its data"
    )


def _draft(content: Written, cluster_keys: frozenset[str], host_keys: frozenset[str]) -> Draft:
    """``content`` as a draft, of whose mistakes those are told that are about the keys of a concern."""

    def is_own(key: tuple[Any, ...]) -> bool:
        return (key[:1] == ("hosts",) and key[2:3] and key[2] in host_keys) or (bool(key) and key[0] in cluster_keys)

    def plain(key: tuple[Any, ...]) -> tuple[Any, ...]:
        return key[2:] if key[:1] == ("hosts",) else key

    try:
        draft = Draft.model_validate(content.value)
    except ValidationError as error:
        found = mistakes_of(error, content)
        own = [m for m in found if is_own(m.key)] or found
        raise Mistakes([*content.mistakes, *(Mistake(m.origin, plain(m.key), m.says) for m in own)]) from error
    problems: list[Problem] = [(key, says) for key, says in rules.problems(draft) if is_own(key)]
    # That of a host is in the cluster's network is no business of a host in none.
    problems = [(key, says) for key, says in problems if key[2:3] != ("address",)]
    mistakes = [*content.mistakes, *(Mistake(content.origin(key), plain(key), says) for key, says in problems)]
    if mistakes:
        raise Mistakes(mistakes)
    return draft


def _agreed(content: Written, first: str, other: Written, second: str) -> Written:
    """``content`` with what a further member says of the cluster, which has to be the same."""
    for key in other.value:
        if key in content.value and other.value[key] != content.value[key]:
            says = f"{first} and {second} are in one cluster and differ in it; write it once, for the whole cluster"
            clash = Mistake(other.origin((key,)), (key,), says)
            return Written(content.value, content.origins, (*content.mistakes, clash))
    return other.over(content)


def _member(login: Mapping[str, Any], cluster: Written, own: _Merged) -> Written:
    """A host's own keys, on top of what is known from how pyinfra logs in to it."""
    says = {**_mapping(cluster.value.get("ssh")), **_mapping(own.host.value.get("ssh"))}
    ssh = {key: login[key] for key in ("user", "port", "key", "address") if key in login and key not in says}
    below: dict[str, Any] = {"ssh": ssh} if ssh else {}
    if _IPV4.fullmatch(str(login.get("address"))):
        below["address"] = login["address"]
    return own.host.over(Written(below, {}))


def _with_known_hosts(content: Written, login: Mapping[str, Any]) -> Written:
    """A cluster with the known_hosts of pyinfra's login, unless it says itself where they are."""
    if not login.get("known_hosts") or "known_hosts" in _mapping(content.value.get("ssh")):
        return content
    return content.over(Written({"ssh": {"known_hosts": login["known_hosts"]}}, {}))


def _require_plain(name: str) -> None:
    if not _NAME.fullmatch(name):
        first = re.sub("[^a-z0-9-]", "", name.split(".", maxsplit=1)[0].lower()) or "app1"
        raise FiefdomError(
            printable(
                f"{name}: the name of a member, or of a host whose network Fiefdom sets, is one label of lower case, "
                f"for it becomes its host name; call it {first} in the inventory, with ssh_hostname for where it is"
            )
        )


def _merged(foreign: Foreign, name: str) -> _Merged:
    nothing = Written({}, {})
    parts = [_split(layer, whole) for layer, whole in _layers(foreign, name)]
    return _Merged(
        reduce(lambda under, part: part[0].over(under), parts, nothing),
        reduce(lambda under, part: part[1].over(under), parts, nothing),
    )


def _layers(foreign: Foreign, name: str) -> Iterator[tuple[Written, bool]]:
    """What is said of a host, from the lowest layer up, and whether that is of the whole cluster."""
    own = foreign.hosts[name]
    groups = [(f"the data of group {g}", foreign.groups.get(g), False) for g in dict.fromkeys(own.groups)]
    for where, value, whole in (
        ("data_defaults", foreign.defaults, True),
        ("the data of all", foreign.everywhere, True),
        *groups,
        (f"the data of {name}", own.data, False),
        ("--data", foreign.override, True),
    ):
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise FiefdomError(printable(f"{where}: {DATA_KEY}: must be a mapping, not {shown(value)}"))
        yield written(value, f"{DATA_KEY} in {where}"), whole or "cluster" in value


def _split(layer: Written, whole: bool) -> tuple[Written, Written]:
    """A layer's say on the cluster, and on the host."""
    known = CLUSTER_KEYS | HOST_KEYS
    wrong = [
        Mistake(layer.origin((key,)), (str(key),), "a host's keys stand in its own data; see `fiefdom` there")
        if key == "hosts"
        else Mistake(layer.origin((key,)), (str(key),), unknown_key(key, sorted(known), beneath(cluster=True)))
        for key in layer.value
        if key not in known and not str(key).startswith(("x_", "x-"))
    ]
    if wrong:
        raise Mistakes(wrong)
    if whole:
        host = layer.only(*(HOST_KEYS - CLUSTER_KEYS))
        # It is said of the cluster, and would otherwise be below what a host's own data says of the same.
        ssh = {k: v for k, v in _mapping(layer.value.get("ssh")).items() if k in HostSsh.model_fields}
        if ssh and layer.origin(()).file.endswith("--data"):
            host = host.over(Written({"ssh": ssh}, {}))
        return layer.only(*CLUSTER_KEYS), host
    return layer.only(*(CLUSTER_KEYS - HOST_KEYS)), layer.only(*HOST_KEYS)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
