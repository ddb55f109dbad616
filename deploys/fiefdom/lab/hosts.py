"""The lab as values: which hosts, with what arguments, and what is written for ssh."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fiefdom.desired.state import CODENAMES, Codename
from fiefdom.errors import FiefdomError
from fiefdom.resources import checkout, images_dir

State = Literal["running", "frozen", "stopped", "missing"]

NETWORK = "fiefdom-lab"
SUBNET = ipaddress.IPv4Network("10.99.0.0/24")
OPERATOR_ADDRESS = "10.99.0.1"
MAX_APP_HOSTS = 9
HOST_IMAGE = "fiefdom/lab-host"

HOST_LABEL = "fiefdom.lab"
ROOT_LABEL = "fiefdom.lab.root"
IMAGE_LABEL = "fiefdom.lab.image"
BOOT_TIMEOUT_S = 90.0
REGISTRY_TIMEOUT_S = 20.0
PULL_TIMEOUT_S = 900.0

# linux/capability.h, by bit number. Docker 20.10 knows none above 37.
_CAPABILITIES = (  # noqa: SIM905 - a table, not forty lines
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ"
).split()
# What these reach (modules, hardware, clock, kernel log) belongs to the machine, on which a host is only a guest.
_THE_MACHINES_OWN = frozenset(
    "SYS_MODULE SYS_RAWIO SYS_TIME SYSLOG MAC_OVERRIDE MAC_ADMIN WAKE_ALARM BLOCK_SUSPEND".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class LabHost:
    name: str
    address: str
    codename: Codename

    @property
    def container(self) -> str:
        return f"fiefdom-lab-{self.name}"

    @property
    def volume(self) -> str:
        """Docker's storage inside the host: overlay2 cannot stack on the overlay2 of the container itself."""
        return f"{self.container}-docker"


@dataclass(frozen=True)
class LabStatus:
    """`systemd` is what `systemctl is-system-running` says, or "-" where nothing runs that could say it. `release` is
    Debian's codename, under the name that the JSON document has for it."""

    name: str
    address: str
    release: str
    state: State
    systemd: str


@dataclass(frozen=True)
class Lab:
    """The operator's side of a lab: its folder, and every host in it (also hosts of an earlier, larger `up`)."""

    root: Path
    hosts: tuple[LabHost, ...]

    @property
    def key(self) -> Path:
        return self.root / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.root / "ssh_config"


# --- what a lab is ---------------------------------------------------------------------------------------------------


def hosts_of(app_hosts: int) -> tuple[LabHost, ...]:
    """One gateway and `app_hosts` (1 to 9) app hosts, Debian 12 and 13 in turn."""
    if not 1 <= app_hosts <= MAX_APP_HOSTS:
        raise FiefdomError(f"A lab of {app_hosts} app hosts cannot be made: --app-hosts takes 1 to {MAX_APP_HOSTS}.")
    return (LabHost("gw1", "10.99.0.11", "trixie"), *(_app_host(i) for i in range(1, app_hosts + 1)))


def _app_host(i: int) -> LabHost:
    return LabHost(f"app{i}", f"10.99.0.{20 + i}", CODENAMES[(i - 1) % 2])


def host(name: str) -> LabHost:
    for candidate in hosts_of(MAX_APP_HOSTS):
        if candidate.name == name:
            return candidate
    raise FiefdomError(f"The lab has no host '{name}': its hosts are gw1 and app1 to app{MAX_APP_HOSTS}.")


def lab_root() -> Path:
    """The folder of this checkout's lab: FIEFDOM_LAB_DIR, else `.lab` in the checkout (without one: here)."""
    override = os.environ.get("FIEFDOM_LAB_DIR")
    return Path(override).resolve() if override else (checkout() or Path.cwd()) / ".lab"


def image_context() -> Path:
    return images_dir() / "lab-host"


def ssh_argv(name: str, command: Sequence[str], root: Path | None = None) -> list[str]:
    """The ssh call for a host. As with ssh, one word is a line for the host's shell; several are one program and
    its arguments; none is a login."""
    config = str((root or lab_root()) / "ssh_config")
    remote = [command[0] if len(command) == 1 else shlex.join(command)] if command else []
    return ["ssh", "-F", config, host(name).name, *(["--", *remote] if remote else [])]


def ssh_config_text(lab: Lab) -> str:
    entries = [f"Host {h.name}\n  HostName {h.address}\n" for h in lab.hosts]
    common = [
        "User root",
        f'IdentityFile "{lab.key}"',
        "IdentitiesOnly yes",
        f'UserKnownHostsFile "{lab.known_hosts}"',
        "GlobalKnownHostsFile /dev/null",
        "StrictHostKeyChecking yes",
        "BatchMode yes",
        "ConnectTimeout 10",
    ]
    names = " ".join(h.name for h in lab.hosts)
    return "\n".join([*entries, f"Host {names}", *(f"  {line}" for line in common)]) + "\n"


def known_hosts_text(keys: Mapping[LabHost, Sequence[str]]) -> str:
    """`keys`: the lines of each host's own /etc/ssh/ssh_host_*_key.pub ("type base64 [comment]")."""
    return "".join(
        f"{h.name},{h.address} {' '.join(line.split()[:2])}\n"
        for h in sorted(keys, key=lambda h: h.name)
        for line in keys[h]
    )


def capabilities(bounding_set: int) -> list[str]:
    """What a host is given: all that Docker knows and this machine has, except what reaches past the host."""
    return [name for bit, name in enumerate(_CAPABILITIES) if bounding_set >> bit & 1 and name not in _THE_MACHINES_OWN]


def run_argv(h: LabHost, root: Path, bounding_set: int, nameservers: Sequence[str]) -> list[str]:
    """The docker arguments that make and boot a host. Not `--privileged`: that fails where the machine itself lacks
    a capability."""
    return [
        "run",
        "--detach",
        f"--name={h.container}",
        f"--hostname={h.name}",
        f"--label={HOST_LABEL}=1",
        f"--label={ROOT_LABEL}={root}",
        f"--network={NETWORK}",
        f"--ip={h.address}",
        "--restart=always",
        "--stop-signal=SIGRTMIN+3",
        "--stop-timeout=60",
        "--cgroupns=private",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        *(f"--cap-add={name}" for name in capabilities(bounding_set)),
        f"--volume={h.volume}:/var/lib/docker",
        f"--env=LAB_NAMESERVERS={' '.join(nameservers)}",
        host_image(h.codename),
    ]


def nameservers(resolv_conf: str) -> list[str]:
    """The name servers of a resolv.conf that a host in its own network can reach: none on loopback, IPv4 only."""
    found = re.findall(r"^\s*nameserver\s+(\S+)", resolv_conf, re.MULTILINE)
    return [a for a in found if _is_ipv4(a) and not ipaddress.IPv4Address(a).is_loopback]


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def foreign_route(proc_net_route: str, ours: str) -> tuple[str, str] | None:
    """(network, interface) of a route in /proc/net/route that lies in the lab's network but leads elsewhere."""
    for line in proc_net_route.splitlines()[1:]:
        interface, destination, _, _, _, _, _, mask, *_ = line.split()
        prefix = int(mask, 16).bit_count()
        network = ipaddress.IPv4Network((int.from_bytes(bytes.fromhex(destination), "little"), prefix))
        if prefix > 0 and network.overlaps(SUBNET) and interface != ours:
            return str(network), interface
    return None


def host_image(codename: str) -> str:
    return f"{HOST_IMAGE}:{codename}"
