"""What an instance's process is given wherever it runs, on a host or on a laptop."""

from __future__ import annotations

from collections.abc import Mapping

from fiefdom.model import Service

# A file system in memory counts as the instance's memory: a quarter of it leaves room for the process.
TMPFS_SHARE = 4
TMPFS_LEAST_MIB = 16


def environment(service: Service, values: Mapping[str, str], name: str, host: str, port: int) -> dict[str, str]:
    """Variables of the instance of ``name`` on ``port`` of ``host``; ``values`` are what the inventory gives it."""
    return {
        **values,
        "FIEFDOM_SERVICE": name,
        "FIEFDOM_VERSION": service.version,
        "FIEFDOM_HOST": host,
        "FIEFDOM_PORT": str(port),
    }


def tmpfs(service: Service) -> dict[str, str]:
    """Options of each writable folder beside rw,noexec,nosuid,nodev."""
    size_mib = max(TMPFS_LEAST_MIB, service.limits.memory_mib // TMPFS_SHARE)
    return dict.fromkeys(service.tmpfs, f"size={size_mib}m,mode=1777")
