"""What happens to real hosts: power cuts, hangs, partitions, and being gone for good."""

from __future__ import annotations

from pathlib import Path

from fiefdom.lab.hosts import NETWORK, LabHost, host, host_image
from fiefdom.lab.machine import content_of, docker


def boot_of(name: str) -> str:
    """A stamp of the host's current boot (`uptime` and /proc/stat are the machine's, not the host's)."""
    return docker("inspect", "--format={{.State.StartedAt}}", host(name).container)


def power_cut(name: str) -> None:
    """Off at once, nothing is written or said any more; stays off until `power_on`."""
    docker("kill", host(name).container)


def power_on(name: str) -> None:
    """Start a host that is off. Does not wait: see `await_booted`."""
    docker("start", host(name).container)


def remove(name: str) -> None:
    """Take one host out of the lab, with its disk. The others and their keys stay as they are."""
    h = host(name)
    docker("rm", "--force", "--volumes", h.container)
    docker("volume", "rm", "--force", h.volume)


def freeze(name: str) -> None:
    """A hang: the host holds its connections and answers nothing until `thaw`."""
    docker("pause", host(name).container)


def thaw(name: str) -> None:
    docker("unpause", host(name).container)


def disconnect(name: str) -> None:
    """A partition: the network drops whatever the host sends or should get, and the host sees no link go down. Ends
    with `reconnect` or a reboot."""
    _set_switch_port(host(name), "0")


def reconnect(name: str) -> None:
    _set_switch_port(host(name), "3")


# Not `docker network disconnect`: that takes the interface away, and gives it back under another name (eth1).
_SET_SWITCH_PORT = """
for port in /sys/class/net/*; do
  if [ "$(cat "$port/ifindex")" = "$1" ]; then exec bridge link set dev "${port##*/}" state "$2"; fi
done
echo "no switch port $1" >&2
exit 1
"""


def _set_switch_port(h: LabHost, state: str) -> None:
    """Set the state (linux/if_bridge.h: 0 disabled, 3 forwarding) of a host's port in the lab's bridge. That takes
    NET_ADMIN on the machine, which whoever may use Docker can have from Docker."""
    port = docker("exec", h.container, "cat", "/sys/class/net/eth0/iflink")
    machine = ["run", "--rm", "--network=host", "--cap-add=NET_ADMIN", "--entrypoint=/bin/sh"]
    docker(*machine, host_image(h.codename), "-euc", _SET_SWITCH_PORT, "port", port, state)


def has_partition() -> bool:
    ports = Path(f"/sys/class/net/{NETWORK}/brif").glob("*/state")
    return any(content_of(port).strip() == "0" for port in ports)
