"""Where hardening gives way: what each key may be, and what is refused in one clear line."""

from __future__ import annotations

from typing import Any

import pytest

from fiefdom.inventory.complaint import mistakes_of
from fiefdom.inventory.source import written
from fiefdom.model import Cluster
from helpers.inventories import changed


def says(**service: object) -> list[str]:
    """What is wrong with a service that has these keys."""
    raw = changed({f"services/web/{name}": value for name, value in service.items()})
    try:
        Cluster.model_validate(raw)
    except ValueError as error:
        return [str(m).removeprefix("x.py: services.web.") for m in mistakes_of(error, written(raw, "x.py"))]  # type: ignore[arg-type]
    return []


@pytest.mark.parametrize(
    "service",
    [
        {"capabilities": ["NET_BIND_SERVICE", "IPC_LOCK"]},
        {"writable_root": True},
        {"shm_size": "256m"},
        {"shm_size": "262144k"},
        {"shm_size": "2g", "limits": {"memory_mib": 2048}},
        {"devices": ["/dev/ttyUSB0", "/dev/snd", "/dev/dri/card0:/dev/card:rw", "/dev/fuse:/dev/fuse"]},
        {"gpus": "all"},
        {"gpus": 2},
        {"tmpfs": ["/run", {"path": "/tmp", "exec": True}, {"path": "/var/tmp"}]},
        {"extra_hosts": {"db.example.org": "10.9.0.1", "db": "10.9.0.1"}},
    ],
)
def test_what_may_be_given(service: dict[str, Any]) -> None:
    assert says(**service) == []


DEVICE = "it must be an absolute path of a device such as /dev/ttyUSB0; :PATH in the container and :rw may follow"


@pytest.mark.parametrize(
    ("service", "line"),
    [
        ({"capabilities": ["CAP_NET_RAW"]}, "capabilities[0]: 'CAP_NET_RAW' is written NET_RAW here"),
        ({"capabilities": ["net_raw"]}, "capabilities[0]: 'net_raw' is written NET_RAW here"),
        (
            {"capabilities": ["ALL"]},
            "capabilities[0]: ALL would take every bound away; name the capabilities that the service needs",
        ),
        (
            {"capabilities": ["NET_BND"]},
            "capabilities[0]: 'NET_BND' is no capability of Linux; write one such as NET_BIND_SERVICE",
        ),
        ({"capabilities": ["CHOWN", "KILL", "CHOWN"]}, "capabilities: CHOWN stands there twice; once is enough"),
        (
            {"shm_size": "256"},
            "shm_size: '256' is not possible here; it must be a size in KiB, MiB or GiB, such as 256m",
        ),
        ({"shm_size": "0m"}, "shm_size: '0m' is not possible here; it must be a size in KiB, MiB or GiB, such as 256m"),
        (
            {"shm_size": "257m"},
            "shm_size: 257m counts as an instance's memory, which is 256 MiB on app1; lower it, or raise "
            "limits.memory_mib",
        ),
        *(
            ({"devices": [device]}, f"devices[0]: '{device}' is not possible here; {DEVICE}")
            for device in ("dev/x", "/dev", "/dev/x:", "/dev/../x", "/srv/x", "/dev/x:/dev/y:z", "/dev/x:rw")
        ),
        (
            {"devices": ["/dev/mem"]},
            "devices[0]: /dev/mem is the host's memory, which no container may have; take it out",
        ),
        ({"devices": ["/dev/x", "/dev/x"]}, "devices: /dev/x stands there twice; once is enough"),
        (
            {"release": ["", "x"]},
            "release: begins with an empty word; write the program first, such as [manage, migrate]",
        ),
        ({"release_timeout_s": 0}, "release_timeout_s: must be at least 1, not 0"),
        ({"gpus": 0}, "gpus: '0' is not possible here; it must be `all`, or how many, such as 1"),
        ({"gpus": "some"}, "gpus: 'some' is not possible here; it must be `all`, or how many, such as 1"),
        ({"tmpfs": [{"path": "/tmp", "exe": True}]}, "tmpfs[0].exe: unknown key; did you mean exec?"),
        (
            {"tmpfs": [{"path": "tmp"}]},
            "tmpfs[0].path: 'tmp' is not possible here; it must be an absolute folder such as /tmp",
        ),
        ({"tmpfs": ["tmp"]}, "tmpfs[0]: 'tmp' is not possible here; it must be an absolute folder such as /tmp"),
        (
            {"tmpfs": ["/tmp", {"path": "/tmp/", "exec": True}]},
            "tmpfs[1]: /tmp is a folder of tmpfs already; choose another path for one of the two",
        ),
        (
            {"extra_hosts": {"a b": "10.0.0.1"}},
            "extra_hosts.a b: 'a b' is not possible here; it must be a host name or address, of at most 253 letters, "
            "63 between two dots",
        ),
        (
            {"extra_hosts": {"db": "10.0.0"}},
            "extra_hosts.db: '10.0.0' is not an IPv4 address; write one like 10.0.0.11",
        ),
    ],
)
def test_what_is_refused(service: dict[str, Any], line: str) -> None:
    assert says(**service) == [line]


def test_what_a_host_limits_itself_bounds_its_shared_memory() -> None:
    raw = changed({"services/web/shm_size": "256m", "hosts/app2/services": {"web": {"limits": {"memory_mib": 128}}}})
    with pytest.raises(ValueError, match=r"services\.web\.shm_size: 256m counts .* which is 128 MiB on app2"):
        Cluster.model_validate(raw)


def test_another_version_keeps_them() -> None:
    given = {"gpus": 1, "tmpfs": [{"path": "/tmp", "exec": True}], "extra_hosts": {"db": "10.9.0.1"}}
    cluster = Cluster.model_validate(changed({f"services/web/{name}": value for name, value in given.items()}))
    service = cluster.with_version("web", "2.0").services["web"]
    assert service == cluster.services["web"].model_copy(update={"version": "2.0"})
