"""Docker's daemon.json as text, and what of a host's own earlier one goes on in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fiefdom.desired.state import Codename, File
from fiefdom.model.daemon_keys import DAEMON_KEYS, NEWER_KEYS

Keys = Mapping[str, Any]
"""What a daemon.json says, key by key; values are whatever JSON has."""

LEFT_OUT: Mapping[str, str] = {
    "hosts": "Docker's socket is for root of the host alone",
    "fixed-cidr": "it has to lie in docker.bridge_address",
    "default-gateway": "it has to lie in docker.bridge_address",
}
"""Keys of a host's own that Fiefdom's file does not take over, and why."""

HARMFUL: Mapping[str, tuple[tuple[object, ...], str]] = {
    "iptables": ((None, True), "no packet would reach a container's port"),
    "bridge": ((None, ""), "Docker takes it or the bip that Fiefdom sets, not both, and dockerd would not start"),
    "ip-masq": ((None, True), "containers would reach nobody outside of the host"),
    "userns-remap": ((None, ""), "containers would run as other users than those that Fiefdom's files are for"),
}
"""Keys with which Fiefdom's containers would not serve: the values that are none the worse, and what others do."""

# Of what 20.10 knows, DAEMON_KEYS and DAEMON_OWN aside. Source: the names in the configuration type of its dockerd.
_NAMES = """
allow-nondistributable-artifacts api-cors-header authorization-plugins bridge builder containerd containerd-namespace
containerd-plugin-namespace cpu-rt-period cpu-rt-runtime default-cgroupns-mode default-gateway default-gateway-v6
default-ipc-mode exec-root fixed-cidr fixed-cidr-v6 group host-gateway-ip hosts init init-path ip ip-forward ip-masq
ip6tables iptables ipv6 network-control-plane-mtu node-generic-resources pidfile raw-logs selinux-enabled
swarm-default-advertise-addr tls tlscacert tlscert tlskey tlsverify userland-proxy-path userns-remap
"""
_OTHERS = frozenset(_NAMES.split())
_OLD_NAMES = """
cluster-advertise cluster-store cluster-store-opts cri-containerd deprecated-key-path graph network-diagnostic-port
oom-score-adjust swarm-raft-election-tick swarm-raft-heartbeat-tick
"""
_OLDER = frozenset(_OLD_NAMES.split())
_BOTH = (DAEMON_KEYS.keys() - NEWER_KEYS) | _OTHERS
KNOWN: Mapping[Codename, frozenset[str]] = {
    "bookworm": frozenset(_BOTH | _OLDER),
    "trixie": frozenset(_BOTH | NEWER_KEYS | {"cdi-spec-dirs", "default-network-opts", "log-format"}),
}
"""Keys that the dockerd of each Debian starts with, beside those that Fiefdom sets."""

_SECRET = re.compile(
    r'@|\\u0040|"[^"]*(?:passw|secret|token|credential|api-?key|[-_]key|private)[^"]*"\s*:'
    r"|(?:passw(?:or)?d|secret|token|api-?key)=",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Own:
    """The daemon.json that a host had before Fiefdom's. ``keys`` is None where it holds no JSON object.

    It is ``private`` where not everybody on the host could read it, or a password may be in it.
    """

    keys: Keys | None = field(repr=False)
    private: bool = False


def read(text: bytes, mode: int) -> Own:
    """A host's own one, from its text and the file's mode."""
    return Own(keys_in(text), not mode & 0o004 or has_secret(text.decode(errors="replace")))


def keys_in(text: bytes) -> Keys | None:
    """What a daemon.json says; nothing where it is empty, None where it is no JSON object."""
    try:
        found = json.loads(text) if text.strip() else {}
        json.dumps(found, allow_nan=False)  # what Python reads and JSON has no word for
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def has_secret(text: str) -> bool:
    """Whether a daemon.json, or a part of one, may hold a password: of a proxy, a mirror, a driver of logs."""
    return _SECRET.search(text) is not None


def said(key: str, value: object, *, private: bool = False) -> str:
    """A key's value in one short line; a secret is not shown, nor, of a ``private`` file, what could be one."""
    text = json.dumps(value)
    if has_secret(json.dumps({key: value})) or (private and not isinstance(value, bool | int | float | None)):
        return "(a secret: not shown)"
    return text if len(text) <= 60 else f"{text[:57]}..."


def text_of(keys: Keys) -> str:
    """A daemon.json that says ``keys``: the same bytes for the same keys."""
    return json.dumps(keys, indent=2, sort_keys=True) + "\n"


def kept(own: Own | None, wanted: Keys) -> Keys:
    """What of a host's own goes on beside ``wanted``, which has the last word."""
    keys = own.keys if own is not None and own.keys is not None else {}
    return {k: v for k, v in keys.items() if k not in wanted and k not in LEFT_OUT and not harm(k, v)}


def harm(key: str, value: object) -> str:
    """What a key of a host's own would do to Fiefdom's containers; empty where it does nothing."""
    harmless, effect = HARMFUL.get(key, ((value,), ""))
    return "" if any(type(value) is type(one) and value == one for one in harmless) else effect


def with_own(file: File, own: Own | None) -> File:
    """Fiefdom's daemon.json together with what is kept of the host's own.

    It is for root alone, and shown nowhere, where the host's own was or should have been.
    """
    if own is None:
        return file
    wanted = json.loads(file.content)
    going_on = kept(own, wanted)
    content = text_of({**going_on, **wanted}).encode() if going_on else file.content
    secret = file.secret or own.private
    return replace(file, content=content, secret=secret, mode=0o600 if secret else file.mode)
