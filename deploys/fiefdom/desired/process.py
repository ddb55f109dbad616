"""What an instance's process is given wherever it runs, on a host or on a laptop."""

from __future__ import annotations

from collections.abc import Mapping

from fiefdom.model import Service
from fiefdom.model.passthrough import may_run, tmpfs_path

# A file system in memory counts as the instance's memory: a quarter of it leaves room for the process.
TMPFS_SHARE = 4
TMPFS_LEAST_MIB = 16
IN_MEMORY = "rw,noexec,nosuid,nodev"
"""How a folder in memory is mounted."""
RUNNABLE = "rw,exec,nosuid,nodev"
"""As `IN_MEMORY`, where programs in it may be run."""
NO_NEW_PRIVILEGES = "no-new-privileges"


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
    """Options of each writable folder."""
    size_mib = max(TMPFS_LEAST_MIB, service.limits.memory_mib // TMPFS_SHARE)
    return {
        tmpfs_path(folder): f"{RUNNABLE if may_run(folder) else IN_MEMORY},size={size_mib}m,mode=1777"
        for folder in service.tmpfs
    }


def privileges(service: Service) -> str:
    """The security option of a service.

    A process that is not root's has a capability only by the file that it runs, which is a privilege that it gains.
    """
    return "no-new-privileges=false" if service.capabilities else NO_NEW_PRIVILEGES
