"""Real hosts on this machine: systemd, sshd and, after a converge, dockerd in each.

This page of it is what tests, benches and `make clean` call; all of it needs the standard library alone.
"""

from fiefdom.desired.state import CODENAMES
from fiefdom.lab.bases import ensure_base_images, make_base_images
from fiefdom.lab.boot import await_booted, down, status, up
from fiefdom.lab.faults import boot_of, disconnect, freeze, power_cut, power_on, reconnect, remove, thaw
from fiefdom.lab.hosts import (
    NETWORK,
    OPERATOR_ADDRESS,
    SUBNET,
    Lab,
    capabilities,
    host,
    hosts_of,
    lab_root,
    ssh_argv,
)
from fiefdom.lab.machine import ensure_docker

__all__ = [
    "CODENAMES",
    "NETWORK",
    "OPERATOR_ADDRESS",
    "SUBNET",
    "Lab",
    "await_booted",
    "boot_of",
    "capabilities",
    "disconnect",
    "down",
    "ensure_base_images",
    "ensure_docker",
    "freeze",
    "host",
    "hosts_of",
    "lab_root",
    "make_base_images",
    "power_cut",
    "power_on",
    "reconnect",
    "remove",
    "ssh_argv",
    "status",
    "thaw",
    "up",
]
