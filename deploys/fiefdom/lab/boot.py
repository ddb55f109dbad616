"""The lab: real Debian hosts on this machine, each a container that boots systemd and answers on SSH."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from fiefdom.desired.state import CODENAMES
from fiefdom.errors import FiefdomError
from fiefdom.lab.bases import ensure_base_images, ensure_host_image
from fiefdom.lab.faults import has_partition, power_on, reconnect, thaw
from fiefdom.lab.hosts import (
    BOOT_TIMEOUT_S,
    HOST_LABEL,
    IMAGE_LABEL,
    MAX_APP_HOSTS,
    NETWORK,
    OPERATOR_ADDRESS,
    ROOT_LABEL,
    SUBNET,
    Lab,
    LabHost,
    LabStatus,
    State,
    foreign_route,
    host,
    hosts_of,
    known_hosts_text,
    lab_root,
    nameservers,
    run_argv,
    ssh_config_text,
)
from fiefdom.lab.machine import (
    apt_install,
    await_true,
    content_of,
    daemon_problem,
    docker,
    ensure_docker,
    is_debian_like,
    one_at_a_time,
    parallel,
    run,
)
from fiefdom.resources import checkout
from fiefdom.waiting import now_s
from fiefdom.wording import Tell

# --- up and down -----------------------------------------------------------------------------------------------------


def up(app_hosts: int = 2, say: Tell = lambda _: None) -> Lab:
    """Bring the lab up: missing hosts are made, stopped ones started, good ones left alone, none removed.

    Returns when every wanted host answers on SSH and its systemd has finished booting.
    """
    wanted = hosts_of(app_hosts)
    root = lab_root()
    say = one_at_a_time(say)
    ensure_docker(say)
    _refuse_foreign_lab(root)
    with _exclusive(root):
        ensure_base_images(say)
        parallel(lambda codename: ensure_host_image(codename, say), CODENAMES)
        _ensure_network(root)
        public_key = _ensure_key(root)
        _ensure_gossip_key(root)
        found = _found()
        parallel(lambda h: _ensure_running(h, found.get(h, "missing"), root, say), wanted)
        if has_partition():
            say("ending the partition")
            parallel(lambda h: reconnect(h.name), wanted)
        await_booted([h.name for h in wanted])
        # Hosts beyond the wanted ones stay as they are; those that run stay reachable.
        running = [h for h in hosts_of(MAX_APP_HOSTS) if h in wanted or found.get(h) == "running"]
        keys = dict(zip(running, parallel(lambda h: _admit(h, public_key), running), strict=True))
        lab = Lab(root, tuple(running))
        _write(lab.known_hosts, known_hosts_text(keys))
        _write(lab.ssh_config, ssh_config_text(lab))
    return lab


def down(say: Tell = lambda _: None, images: bool = False) -> None:
    """Remove the lab: hosts, their volumes, the network and the folder; with `images` also the host images.

    Removes a lab whose folder is gone, too. A lab that belongs to another checkout is left alone.
    """
    root = lab_root()
    owner = None
    if problem := daemon_problem():
        if root.exists():
            raise FiefdomError(f"The lab cannot be removed while Docker does not answer ({problem}): start it first.")
    else:
        owner = _owner()
        if owner and owner != str(root) and Path(owner).is_dir():
            say(f"nothing of this checkout is up; the lab of {owner} is left alone")
        else:
            _remove_from_docker(say, images)
    if _is_lab_folder(root):
        shutil.rmtree(root)


def _remove_from_docker(say: Tell, images: bool) -> None:
    label = f"--filter=label={HOST_LABEL}=1"
    if containers := docker("ps", "--all", "--quiet", label).split():
        say(f"removing {len(containers)} lab hosts")
        docker("rm", "--force", "--volumes", *containers, timeout_s=120)
    if volumes := docker("volume", "ls", "--quiet", label).split():
        docker("volume", "rm", *volumes)
    if networks := docker("network", "ls", "--quiet", label).split():
        docker("network", "rm", *networks)
    if images:
        for image in sorted(set(docker("image", "ls", "--quiet", f"--filter=label={IMAGE_LABEL}").split())):
            _remove_image(image, say)


def _remove_image(image: str, say: Tell) -> None:
    """Not by force: a container that is not the lab's may stand on a host image, and keeps it."""
    try:
        docker("image", "rm", image)
    except FiefdomError as error:
        say(f"left the image {image}: {error}")


def _refuse_foreign_lab(root: Path) -> None:
    owner = _owner()
    if owner is None or owner == str(root):
        return
    if not owner:
        raise FiefdomError(
            f"Docker already has a network {NETWORK} that no Fiefdom lab made: remove it (`docker network rm "
            f"{NETWORK}`), then try again."
        )
    if Path(owner).is_dir():
        raise FiefdomError(
            f"The lab on this machine belongs to {owner}: run `fiefdom lab down` in that checkout, then try again."
        )
    raise FiefdomError(
        f"The lab on this machine belongs to {owner}, which no longer exists: run `fiefdom lab down`, then try again."
    )


def _owner() -> str | None:
    """The folder of the lab that holds our names in this Docker; None if nobody does, "" if it is not a lab."""
    label = f'{{{{.Label "{ROOT_LABEL}"}}}}'
    networks = docker("network", "ls", f"--filter=name=^{NETWORK}$", f"--format=owner:{label}")
    containers = docker("ps", "--all", f"--filter=label={ROOT_LABEL}", f"--format=owner:{label}")
    owners = [line.removeprefix("owner:") for line in f"{networks}\n{containers}".split("\n") if line]
    return owners[0] if owners else None


def _ensure_network(root: Path) -> None:
    if docker("network", "ls", "--quiet", f"--filter=name=^{NETWORK}$"):
        return
    if taken := foreign_route(content_of(Path("/proc/net/route")), NETWORK):
        raise FiefdomError(
            f"The lab needs {SUBNET} for itself, but this machine routes {taken[0]} through {taken[1]}: end what "
            "uses it (`docker network ls`, a VPN), then try again."
        )
    docker(
        "network",
        "create",
        f"--subnet={SUBNET}",
        f"--gateway={OPERATOR_ADDRESS}",
        f"--opt=com.docker.network.bridge.name={NETWORK}",
        f"--label={HOST_LABEL}=1",
        f"--label={ROOT_LABEL}={root}",
        NETWORK,
    )


def _ensure_key(root: Path) -> str:
    """The operator's public key, without its comment; made if there is none."""
    key = root / "id_ed25519"
    if not key.is_file():
        if not shutil.which("ssh-keygen"):
            if os.geteuid() != 0 or not is_debian_like():
                raise FiefdomError("There is no ssh on this machine: install the OpenSSH client, then try again.")
            apt_install(["openssh-client"])
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fiefdom-lab", "-f", str(key)])
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def _ensure_gossip_key(root: Path) -> None:
    from fiefdom.inventory import secret  # with pydantic behind it, which `make clean` does without

    path = root / "gossip.key"
    if not path.exists():
        secret.generate(path)


def _found() -> dict[LabHost, State]:
    """The lab's hosts that Docker has, running or not."""
    columns = "--format={{.Names}} {{.State}}"
    rows = docker("ps", "--all", f"--filter=label={HOST_LABEL}=1", columns).splitlines()
    words: dict[str, State] = {"running": "running", "restarting": "running", "paused": "frozen"}
    states = {name: words.get(state, "stopped") for name, state in (row.split() for row in rows)}
    return {h: states[h.container] for h in hosts_of(MAX_APP_HOSTS) if h.container in states}


def _ensure_running(h: LabHost, state: State, root: Path, say: Tell) -> None:
    if state == "missing":
        say(f"booting {h.name} ({h.address}, Debian {h.codename})")
        resolv_conf = content_of(Path("/etc/resolv.conf"))
        if "127.0.0.53" in resolv_conf:
            resolv_conf = content_of(Path("/run/systemd/resolve/resolv.conf"))
        docker("volume", "create", f"--label={HOST_LABEL}=1", h.volume)
        docker(*run_argv(h, root, _bounding_set(), nameservers(resolv_conf)), timeout_s=120)
        return
    if state == "frozen":
        say(f"thawing {h.name}")
        thaw(h.name)
    elif state == "stopped":
        say(f"starting {h.name}")
        power_on(h.name)


def _bounding_set() -> int:
    """The capabilities that a container can have here: dockerd's own, or where it is not to be seen, ours."""
    daemons = [comm.parent for comm in Path("/proc").glob("[0-9]*/comm") if content_of(comm).strip() == "dockerd"]
    for process in [*daemons, Path("/proc/self")]:
        if found := re.search(r"^CapBnd:\s*([0-9a-f]+)", content_of(process / "status"), re.MULTILINE):
            return int(found[1], 16)
    return 0


# Appends the operator's key ($1) for both users, but only to a host where nobody holds it: after a converge the
# keys are the converge's to keep.
_ADMIT = """
if ! grep -rqsF -- "$1" /root/.ssh /home/*/.ssh /etc/ssh; then
  for user in root operator; do
    home=$(getent passwd "$user" | cut -d: -f6)
    install -d -m 0700 -o "$user" -g "$user" "$home/.ssh"
    printf '%s\\n' "$1" >> "$home/.ssh/authorized_keys"
    chown "$user:" "$home/.ssh/authorized_keys"
    chmod 0600 "$home/.ssh/authorized_keys"
  done
fi
cat /etc/ssh/ssh_host_*_key.pub
"""


def _admit(h: LabHost, public_key: str) -> list[str]:
    """Let the operator's key in, and return the host's own keys: read inside the host, so nothing is trusted."""
    return docker("exec", h.container, "sh", "-euc", _ADMIT, "admit", public_key).splitlines()


def await_booted(names: Iterable[str], timeout_s: float = BOOT_TIMEOUT_S) -> None:
    """Wait until each host's sshd sends its banner and its systemd has started everything it is going to start."""
    parallel(lambda name: _await_boot(host(name), timeout_s), list(names))


def _await_boot(h: LabHost, timeout_s: float) -> None:
    deadline_s = now_s() + timeout_s
    mend = f"look inside with `docker exec -it {h.container} journalctl -b`."
    await_true(
        lambda: _banner(h).startswith("SSH-"),
        timeout_s,
        f"{h.name} does not answer on {h.address}:22 (the lab needs Docker on this very Linux machine); {mend}",
    )
    await_true(
        lambda: _systemd(h, wait_s=deadline_s - now_s()) in ("running", "degraded"),
        deadline_s - now_s(),
        f"{h.name} does not finish booting; {mend}",
    )


def _banner(h: LabHost) -> str:
    try:
        with socket.create_connection((h.address, 22), timeout=1) as connection:
            return connection.recv(64).decode(errors="replace")
    except OSError:
        return ""


def _systemd(h: LabHost, wait_s: float = 0) -> str:
    """What `systemctl is-system-running` says, after the boot if `wait_s` allows; "-" if nobody answers."""
    wait = ["--wait"] if wait_s > 0 else []
    argv = ["docker", "exec", h.container, "systemctl", "is-system-running", *wait]
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=wait_s or 5, check=False)
    except subprocess.TimeoutExpired:
        return "-"
    return run.stdout.strip() or "-"


# --- a running lab ---------------------------------------------------------------------------------------------------


def status() -> list[LabStatus]:
    """Every host of the lab, and of the default lab the ones that are missing."""
    found = _found()
    everyone = [h for h in hosts_of(MAX_APP_HOSTS) if h in found or h in hosts_of(2)]

    def one(h: LabHost) -> LabStatus:
        state = found.get(h, "missing")
        return LabStatus(h.name, h.address, h.codename, state, _systemd(h) if state == "running" else "-")

    return parallel(one, everyone)


# --- small things ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """Make the lab's folder and let one `up` at a time work in it; the next one waits."""
    if root.is_dir() and any(root.iterdir()) and not _is_lab_folder(root):
        raise FiefdomError(f"{root} holds other files: let FIEFDOM_LAB_DIR name a new or empty folder.")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_lab_folder(root: Path) -> bool:
    """Whether a folder may be filled and deleted: FIEFDOM_LAB_DIR could name anything."""
    folder = checkout()
    return root.is_dir() and ((folder is not None and root == folder / ".lab") or (root / "lock").is_file())


def _write(path: Path, text: str) -> None:
    """Replace a file in one step: an ssh that starts meanwhile reads the old or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
