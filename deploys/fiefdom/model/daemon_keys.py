"""Keys of Docker's daemon.json that an inventory may give. Source: dockerd's reference, of 20.10 and of 26.

A key that dockerd does not know keeps it from starting, so there is a list, and it has only what both Debians' know.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Kind:
    """What a key's value is, in words, and how to tell."""

    words: str
    fits: Callable[[object], bool]


_MOST = 2**31 - 1  # dockerd's own integers are at least that wide
_MTU_LEAST, _MTU_MOST = 68, 65535  # RFC 791; Linux's most
# What systemd empties at boot, what is no disk, and what is Fiefdom's or the system's own.
_NO_ROOTS = re.compile(r"/(proc|sys|dev|run|tmp|etc|boot|usr|var/run|var/tmp|var/lib/fiefdom)(/.*)?|/var(/lib)?|/home")
_REGISTRY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?|[0-9A-Fa-f.:]+/[0-9]{1,3}")


def is_plain(value: object) -> bool:
    """Whether JSON can say ``value``, and dockerd can read it: no dates, no NaN, no halves of characters."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(key) and is_plain(one) for key, one in value.items())
    if isinstance(value, list):
        return all(is_plain(one) for one in value)
    if isinstance(value, str):
        return not re.search("[\x00-\x1f\x7f\ud800-\udfff]", value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and -_MOST <= value <= _MOST)


def _texts(words: str, fits: Callable[[str], object] = bool) -> Kind:
    """A list of texts that are each one of ``words``."""
    return Kind(
        f"a list of {words}",
        lambda value: isinstance(value, list) and all(isinstance(one, str) and one and fits(one) for one in value),
    )


def _number(least: int, most: int, words: str) -> Kind:
    return Kind(words, lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most)


def _is_folder(value: object) -> bool:
    return (
        isinstance(value, str)
        and re.fullmatch(r"(/[A-Za-z0-9._-]+)+", value) is not None
        and not {".", ".."} & set(value.split("/"))
        and not _NO_ROOTS.fullmatch(value)
    )


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_mirror(value: str) -> bool:
    try:
        url = urlsplit(value)
        return url.scheme in ("http", "https") and bool(url.hostname) and " " not in value and url.port != 0
    except ValueError:
        return False


_TEXTS = _texts("texts")
_COUNT = _number(0, _MOST, f"a whole number, at most {_MOST}")
_TEXT = Kind("a text", lambda value: isinstance(value, str) and bool(value))
_SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
_MAP = Kind("a map", lambda value: isinstance(value, dict))
_TEXT_BY_NAME = Kind(
    "a map of http-proxy, https-proxy and no-proxy to texts",
    lambda value: (
        isinstance(value, dict)
        and set(value) <= {"http-proxy", "https-proxy", "no-proxy"}
        and all(isinstance(one, str) for one in value.values())
    ),
)

DAEMON_KEYS: dict[str, Kind] = {
    "data-root": Kind("the absolute path of a folder that is Docker's alone and stays", _is_folder),
    "registry-mirrors": _texts("addresses such as https://mirror.example.org", _is_mirror),
    "insecure-registries": _texts("registries such as r.example.org:5000, or networks", _REGISTRY.fullmatch),
    "dns": _texts("addresses such as 9.9.9.9", _is_address),
    "dns-opts": _TEXTS,
    "dns-search": _TEXTS,
    "mtu": _number(_MTU_LEAST, _MTU_MOST, f"a whole number from {_MTU_LEAST} to {_MTU_MOST}"),
    "max-concurrent-downloads": _COUNT,
    "max-concurrent-uploads": _COUNT,
    "max-download-attempts": _COUNT,
    "shutdown-timeout": _COUNT,
    "labels": _texts("texts such as rack=b2", lambda label: "=" in label[1:]),
    "storage-driver": _TEXT,
    "storage-opts": _TEXTS,
    "exec-opts": _TEXTS,
    "default-runtime": _TEXT,
    "runtimes": _MAP,
    "default-shm-size": Kind(
        "a size such as 64m",
        lambda value: isinstance(value, str) and bool(re.fullmatch("[1-9][0-9]{0,9}[bkmg]?", value)),
    ),
    "seccomp-profile": _TEXT,
    "cgroup-parent": _TEXT,
    "metrics-addr": _TEXT,
    "features": _MAP,
    "experimental": _SWITCH,
    "debug": _SWITCH,
    "proxies": _TEXT_BY_NAME,
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
