"""Keys of Docker's daemon.json that an inventory may give. Source: dockerd's reference, of 20.10 and of 26.

A key that dockerd does not know keeps it from starting, so there is a list, and it has only what both Debians' know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a key's value is, in words, and how to tell."""

    words: str
    fits: Callable[[object], bool]


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one for one in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_folder(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(/[A-Za-z0-9._-]+)+", value) is not None and "/.." not in value


_TEXTS = Kind("a list of texts", _is_list_of_text)
_COUNT = Kind("a whole number", _is_count)
_TEXT = Kind("a text", lambda value: isinstance(value, str) and bool(value))
_SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
_MAP = Kind("a map", lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value))

DAEMON_KEYS: dict[str, Kind] = {
    "data-root": Kind("an absolute path", _is_folder),
    "registry-mirrors": _TEXTS,
    "insecure-registries": _TEXTS,
    "dns": _TEXTS,
    "dns-opts": _TEXTS,
    "dns-search": _TEXTS,
    "mtu": _COUNT,
    "max-concurrent-downloads": _COUNT,
    "max-concurrent-uploads": _COUNT,
    "max-download-attempts": _COUNT,
    "shutdown-timeout": _COUNT,
    "labels": _TEXTS,
    "storage-driver": _TEXT,
    "storage-opts": _TEXTS,
    "exec-opts": _TEXTS,
    "default-runtime": _TEXT,
    "runtimes": _MAP,
    "default-shm-size": _TEXT,
    "seccomp-profile": _TEXT,
    "cgroup-parent": _TEXT,
    "metrics-addr": _TEXT,
    "features": _MAP,
    "experimental": _SWITCH,
    "debug": _SWITCH,
    "proxies": _MAP,
}
"""What may be given, and of which kind it is."""

NEWER_KEYS = frozenset({"proxies"})
"""Of these, what 20.10 of Debian 12 does not know."""

DAEMON_OWN: dict[str, str] = {
    "bip": "see docker.bridge_address",
    "default-address-pools": "see docker.address_pool",
    "default-ulimits": "see docker.nofile",
    "icc": "",
    "live-restore": "a restart of dockerd would stop every container without it",
    "log-driver": "`docker logs` and `fiefdom` read it",
    "log-level": "",
    "log-opts": "see docker.log_max_size and docker.log_max_file",
    "no-new-privileges": "",
    "userland-proxy": "",
}
"""What Fiefdom sets itself, and what else there is to say to who wants another value."""
