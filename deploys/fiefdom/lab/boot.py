"""The lab: real Debian hosts on this machine, each a container that boots systemd and answers on SSH."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import os
import queue
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from fiefdom.errors import FiefdomError
from fiefdom.images import bases
from fiefdom.inventory import secret
from fiefdom.resources import checkout, images_dir
from fiefdom.waiting import looks, now_s

Say = Callable[[str], None]
State = Literal["running", "frozen", "stopped", "missing"]
T = TypeVar("T")
R = TypeVar("R")

NETWORK = "fiefdom-lab"
SUBNET = ipaddress.IPv4Network("10.99.0.0/24")
OPERATOR_ADDRESS = "10.99.0.1"
RELEASES = ("bookworm", "trixie")
MAX_APP_HOSTS = 9
HOST_IMAGE = "fiefdom/lab-host"

_HOST_LABEL = "fiefdom.lab"
_ROOT_LABEL = "fiefdom.lab.root"
_IMAGE_LABEL = "fiefdom.lab.image"
_BOOT_TIMEOUT_S = 90.0
_REGISTRY_TIMEOUT_S = 20.0
_PULL_TIMEOUT_S = 900.0
_DAEMON_TIMEOUT_S = 60.0
_POLL_S = 0.1

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
    release: str

    @property
    def container(self) -> str:
        return f"fiefdom-lab-{self.name}"

    @property
    def volume(self) -> str:
        """Docker's storage inside the host: overlay2 cannot stack on the overlay2 of the container itself."""
        return f"{self.container}-docker"


@dataclass(frozen=True)
class HostStatus:
    """`systemd` is what `systemctl is-system-running` says, or "-" where nothing runs that could say it."""

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


def hosts(app_hosts: int) -> tuple[LabHost, ...]:
    """One gateway and `app_hosts` (1 to 9) app hosts, Debian 12 and 13 in turn."""
    if not 1 <= app_hosts <= MAX_APP_HOSTS:
        raise FiefdomError(f"A lab of {app_hosts} app hosts cannot be made: --app-hosts takes 1 to {MAX_APP_HOSTS}.")
    return (LabHost("gw1", "10.99.0.11", "trixie"), *(_app_host(i) for i in range(1, app_hosts + 1)))


def _app_host(i: int) -> LabHost:
    return LabHost(f"app{i}", f"10.99.0.{20 + i}", RELEASES[(i - 1) % 2])


def host(name: str) -> LabHost:
    for candidate in hosts(MAX_APP_HOSTS):
        if candidate.name == name:
            return candidate
    raise FiefdomError(f"The lab has no host '{name}': its hosts are gw1 and app1 to app{MAX_APP_HOSTS}.")


def lab_root() -> Path:
    """The folder of this checkout's lab: FIEFDOM_LAB_DIR, else `.lab` in the checkout (without one: here)."""
    override = os.environ.get("FIEFDOM_LAB_DIR")
    return Path(override).resolve() if override else (checkout() or Path.cwd()) / ".lab"


def _context() -> Path:
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
        f"--label={_HOST_LABEL}=1",
        f"--label={_ROOT_LABEL}={root}",
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
        _host_image(h.release),
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


# --- Docker on this machine ------------------------------------------------------------------------------------------


def ensure_docker(say: Say) -> None:
    """Use the Docker daemon that answers; else, as root on Debian or Ubuntu, install docker.io and start it."""
    problem = _daemon_problem()
    if problem is None:
        return
    if os.environ.get("DOCKER_HOST"):
        raise FiefdomError(
            f"Docker does not answer at DOCKER_HOST={os.environ['DOCKER_HOST']}: start it there, or unset it."
        )
    if "permission denied" in problem.lower():
        raise FiefdomError(
            "This user may not talk to the Docker daemon: run as root, or `sudo usermod -aG docker $USER` and log in "
            "again."
        )
    installed = shutil.which("dockerd") and shutil.which("docker") and shutil.which("iptables")
    if os.geteuid() != 0 or not (installed or _is_debian_like()):
        raise FiefdomError(
            "No Docker daemon answers: install and start it (Debian, Ubuntu: `sudo apt-get install docker.io`; "
            "others: https://docs.docker.com/engine/install/), then try again."
        )
    if not installed:
        say("installing docker.io (no Docker daemon answers on this machine)")
        _apt_install(["docker.io", "iptables"], where_known=["docker-cli"])  # Debian 13's client
    _start_daemon(say)


def _daemon_problem() -> str | None:
    try:
        run = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except FileNotFoundError:
        return "the docker client is not installed"
    except subprocess.TimeoutExpired:
        return "the Docker daemon does not answer within 20 s"
    return None if run.returncode == 0 else _last_line(run.stderr)


def _start_daemon(say: Say) -> None:
    if Path("/run/systemd/system").is_dir():
        say("starting docker.service")
        _run(["systemctl", "start", "docker.service"], timeout_s=_DAEMON_TIMEOUT_S)
        process, log = None, "`journalctl -u docker`"
    elif _is_running("dockerd"):
        process, log = None, "dockerd's own output"
    else:
        # Left by one that was killed; a new one would take whoever has that process id by now for its predecessor.
        Path("/var/run/docker.pid").unlink(missing_ok=True)
        path = Path("/var/log/dockerd.log")
        say(f"starting dockerd (no systemd here; its output goes to {path})")
        with path.open("ab") as out:
            process = subprocess.Popen(
                ["dockerd"], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        log = str(path)

    def answered() -> bool:
        if process is not None and process.poll() is not None:
            raise FiefdomError(f"dockerd stopped at once: read {log}, mend what it names, then try again.")
        return _daemon_problem() is None

    _await(answered, _DAEMON_TIMEOUT_S, f"dockerd does not answer: read {log}")


def _is_running(program: str) -> bool:
    return any(_read(comm).strip() == program for comm in Path("/proc").glob("[0-9]*/comm"))


def _read(path: Path) -> str:
    """A file's text, or "" if it is not there (or no longer)."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _is_debian_like() -> bool:
    fields = dict(line.split("=", 1) for line in _read(Path("/etc/os-release")).splitlines() if "=" in line)
    ids = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    return "debian" in ids or "ubuntu" in ids


def _apt_install(packages: Sequence[str], where_known: Sequence[str] = ()) -> None:
    """Install packages; those in `where_known` only if this release of Debian has them."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    _run([*apt, "update"], timeout_s=300, env=env)
    known = [package for package in where_known if _run(["apt-cache", "show", package], check=False)]
    _run([*apt, "-y", "--no-install-recommends", "install", *packages, *known], timeout_s=900, env=env)


# --- base images -----------------------------------------------------------------------------------------------------


def ensure_base_images(say: Say) -> None:
    """debian:bookworm and debian:trixie: what is there, else pulled by the pinned digest, else made with mmdebstrap.
    Every image of this project stands on them."""
    missing = {release: bases.tag_of(release) for release in RELEASES if bases.here(release) is None}
    for release, tag in list(missing.items()):
        say(f"pulling {tag}")
        pin = bases.pins()[release]
        problem = _pull(pin)
        if problem is None:
            _docker("tag", pin, tag)
            del missing[release]
        else:
            say(f"no registry: {problem}")
            break
    if missing:
        make_base_images(missing, say)


def _pull(tag: str) -> str | None:
    """Pull an image. Returns None, or why the registry could not be used; a registry that stays silent for 20 s
    counts as one that is not there."""
    with subprocess.Popen(
        ["docker", "pull", tag], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - stdout is a pipe
        lines: queue.Queue[str | None] = queue.Queue()

        def read(stream: Iterable[str]) -> None:
            for line in stream:
                lines.put(line.strip())
            lines.put(None)

        threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
        # The first line comes once the registry has named the image; layers may take long on a slow link.
        deadline_s = now_s() + _REGISTRY_TIMEOUT_S
        last = ""
        try:
            while (line := lines.get(timeout=max(0.0, deadline_s - now_s()))) is not None:
                if not last and "Pulling from" in line:
                    deadline_s = now_s() + _PULL_TIMEOUT_S
                last = line or last
        except queue.Empty:
            process.kill()
            return f"no answer from the registry in time for {tag}"
        return None if process.wait() == 0 else last


def make_base_images(tags: dict[str, str], say: Say) -> None:
    """Make minimal Debian images from Debian's packages. `tags`: release -> tag to import it under."""
    if not shutil.which("mmdebstrap"):
        if os.geteuid() != 0 or not _is_debian_like():
            raise FiefdomError(
                f"No registry gives {' or '.join(tags.values())}, and mmdebstrap is not installed to make it: run "
                "`sudo apt-get install mmdebstrap debian-archive-keyring`, then try again."
            )
        say("installing mmdebstrap")
        # The keyring is what Ubuntu lacks: Debian's packages are signed with Debian's keys.
        _apt_install(["mmdebstrap", "debian-archive-keyring"])
    say(f"making {' and '.join(tags.values())} with mmdebstrap")
    _parallel(lambda release: _make_base_image(release, tags[release]), list(tags))


def _make_base_image(release: str, tag: str) -> None:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    without = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("man", "doc", "locale", "info", "lintian")]
    with tempfile.TemporaryDirectory(prefix="fiefdom-") as folder:
        tar = str(Path(folder, f"{release}.tar"))
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
        argv += [f"--keyring={keyring}", *without]
        _run([*argv, "--dpkgopt=path-include=/usr/share/doc/*/copyright", release, tar], timeout_s=900)
        label = f'--change=LABEL {bases.LABEL}="{bases.MADE_HERE}"'
        _docker("import", '--change=CMD ["bash"]', label, tar, tag, timeout_s=300)


def _host_image(release: str) -> str:
    return f"{HOST_IMAGE}:{release}"


def _ensure_host_image(release: str, say: Say) -> None:
    """Build a release's host image, unless the one that is there came from the same base and the same files."""
    tag = _host_image(release)
    base = bases.here(release) or bases.pins()[release]
    digest = _context_digest(_context(), _image_id(base))
    old = _docker("image", "ls", "--quiet", f"--filter=label={_IMAGE_LABEL}={digest}", tag)
    if old:
        return
    say(f"building {tag}")
    stale = _image_id(tag)
    label = f"--label={_IMAGE_LABEL}={digest}"
    build = ["build", "--quiet", f"--build-arg=BASE={base}", label, f"--tag={tag}", str(_context())]
    _docker(*build, timeout_s=900)
    if stale and stale != _image_id(tag):
        _docker("image", "rm", stale, check=False)


def _context_digest(context: Path, base_id: str) -> str:
    digest = hashlib.sha256(base_id.encode())
    for path in sorted(p for p in context.rglob("*") if p.is_file()):
        digest.update(f"\0{path.relative_to(context)}\0{path.stat().st_mode & 0o111:o}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _image_id(tag: str) -> str:
    """The id of a local image, or ""."""
    return _docker("image", "inspect", "--format={{.Id}}", tag, check=False)


# --- up and down -----------------------------------------------------------------------------------------------------


def up(app_hosts: int = 2, say: Say = lambda _: None) -> Lab:
    """Bring the lab up: missing hosts are made, stopped ones started, good ones left alone, none removed.

    Returns when every wanted host answers on SSH and its systemd has finished booting.
    """
    wanted = hosts(app_hosts)
    root = lab_root()
    say = _one_at_a_time(say)
    ensure_docker(say)
    _refuse_foreign_lab(root)
    with _exclusive(root):
        ensure_base_images(say)
        _parallel(lambda release: _ensure_host_image(release, say), RELEASES)
        _ensure_network(root)
        public_key = _ensure_key(root)
        _ensure_gossip_key(root)
        found = _found()
        _parallel(lambda h: _ensure_running(h, found.get(h, "missing"), root, say), wanted)
        if _has_partition():
            say("ending the partition")
            _parallel(lambda h: reconnect(h.name), wanted)
        await_booted([h.name for h in wanted])
        # Hosts beyond the wanted ones stay as they are; those that run stay reachable.
        running = [h for h in hosts(MAX_APP_HOSTS) if h in wanted or found.get(h) == "running"]
        keys = dict(zip(running, _parallel(lambda h: _admit(h, public_key), running), strict=True))
        lab = Lab(root, tuple(running))
        _write(lab.known_hosts, known_hosts_text(keys))
        _write(lab.ssh_config, ssh_config_text(lab))
    return lab


def down(say: Say = lambda _: None, images: bool = False) -> None:
    """Remove the lab: hosts, their volumes, the network and the folder; with `images` also the host images.

    Removes a lab whose folder is gone, too. A lab that belongs to another checkout is left alone.
    """
    root = lab_root()
    owner = None
    if problem := _daemon_problem():
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


def _remove_from_docker(say: Say, images: bool) -> None:
    label = f"--filter=label={_HOST_LABEL}=1"
    if containers := _docker("ps", "--all", "--quiet", label).split():
        say(f"removing {len(containers)} lab hosts")
        _docker("rm", "--force", "--volumes", *containers, timeout_s=120)
    if volumes := _docker("volume", "ls", "--quiet", label).split():
        _docker("volume", "rm", *volumes)
    if networks := _docker("network", "ls", "--quiet", label).split():
        _docker("network", "rm", *networks)
    if images:
        for image in sorted(set(_docker("image", "ls", "--quiet", f"--filter=label={_IMAGE_LABEL}").split())):
            _remove_image(image, say)


def _remove_image(image: str, say: Say) -> None:
    """Not by force: a container that is not the lab's may stand on a host image, and keeps it."""
    try:
        _docker("image", "rm", image)
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
    label = f'{{{{.Label "{_ROOT_LABEL}"}}}}'
    networks = _docker("network", "ls", f"--filter=name=^{NETWORK}$", f"--format=owner:{label}")
    containers = _docker("ps", "--all", f"--filter=label={_ROOT_LABEL}", f"--format=owner:{label}")
    owners = [line.removeprefix("owner:") for line in f"{networks}\n{containers}".split("\n") if line]
    return owners[0] if owners else None


def _ensure_network(root: Path) -> None:
    if _docker("network", "ls", "--quiet", f"--filter=name=^{NETWORK}$"):
        return
    if taken := foreign_route(_read(Path("/proc/net/route")), NETWORK):
        raise FiefdomError(
            f"The lab needs {SUBNET} for itself, but this machine routes {taken[0]} through {taken[1]}: end what "
            "uses it (`docker network ls`, a VPN), then try again."
        )
    _docker(
        "network",
        "create",
        f"--subnet={SUBNET}",
        f"--gateway={OPERATOR_ADDRESS}",
        f"--opt=com.docker.network.bridge.name={NETWORK}",
        f"--label={_HOST_LABEL}=1",
        f"--label={_ROOT_LABEL}={root}",
        NETWORK,
    )


def _ensure_key(root: Path) -> str:
    """The operator's public key, without its comment; made if there is none."""
    key = root / "id_ed25519"
    if not key.is_file():
        if not shutil.which("ssh-keygen"):
            if os.geteuid() != 0 or not _is_debian_like():
                raise FiefdomError("There is no ssh on this machine: install the OpenSSH client, then try again.")
            _apt_install(["openssh-client"])
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fiefdom-lab", "-f", str(key)])
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def _ensure_gossip_key(root: Path) -> None:
    path = root / "gossip.key"
    if not path.exists():
        secret.generate(path)


def _found() -> dict[LabHost, State]:
    """The lab's hosts that Docker has, running or not."""
    columns = "--format={{.Names}} {{.State}}"
    rows = _docker("ps", "--all", f"--filter=label={_HOST_LABEL}=1", columns).splitlines()
    words: dict[str, State] = {"running": "running", "restarting": "running", "paused": "frozen"}
    states = {name: words.get(state, "stopped") for name, state in (row.split() for row in rows)}
    return {h: states[h.container] for h in hosts(MAX_APP_HOSTS) if h.container in states}


def _ensure_running(h: LabHost, state: State, root: Path, say: Say) -> None:
    if state == "missing":
        say(f"booting {h.name} ({h.address}, Debian {h.release})")
        resolv_conf = _read(Path("/etc/resolv.conf"))
        if "127.0.0.53" in resolv_conf:
            resolv_conf = _read(Path("/run/systemd/resolve/resolv.conf"))
        _docker("volume", "create", f"--label={_HOST_LABEL}=1", h.volume)
        _docker(*run_argv(h, root, _bounding_set(), nameservers(resolv_conf)), timeout_s=120)
        return
    if state == "frozen":
        say(f"thawing {h.name}")
        thaw(h.name)
    elif state == "stopped":
        say(f"starting {h.name}")
        power_on(h.name)


def _bounding_set() -> int:
    """The capabilities that a container can have here: dockerd's own, or where it is not to be seen, ours."""
    daemons = [comm.parent for comm in Path("/proc").glob("[0-9]*/comm") if _read(comm).strip() == "dockerd"]
    for process in [*daemons, Path("/proc/self")]:
        if found := re.search(r"^CapBnd:\s*([0-9a-f]+)", _read(process / "status"), re.MULTILINE):
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
    return _docker("exec", h.container, "sh", "-euc", _ADMIT, "admit", public_key).splitlines()


def await_booted(names: Iterable[str], timeout_s: float = _BOOT_TIMEOUT_S) -> None:
    """Wait until each host's sshd sends its banner and its systemd has started everything it is going to start."""
    _parallel(lambda name: _await_boot(host(name), timeout_s), list(names))


def _await_boot(h: LabHost, timeout_s: float) -> None:
    deadline_s = now_s() + timeout_s
    mend = f"look inside with `docker exec -it {h.container} journalctl -b`."
    _await(
        lambda: _banner(h).startswith("SSH-"),
        timeout_s,
        f"{h.name} does not answer on {h.address}:22 (the lab needs Docker on this very Linux machine); {mend}",
    )
    _await(
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


def status() -> list[HostStatus]:
    """Every host of the lab, and of the default lab the ones that are missing."""
    found = _found()
    everyone = [h for h in hosts(MAX_APP_HOSTS) if h in found or h in hosts(2)]

    def one(h: LabHost) -> HostStatus:
        state = found.get(h, "missing")
        return HostStatus(h.name, h.address, h.release, state, _systemd(h) if state == "running" else "-")

    return _parallel(one, everyone)


def boot_of(name: str) -> str:
    """A stamp of the host's current boot (`uptime` and /proc/stat are the machine's, not the host's)."""
    return _docker("inspect", "--format={{.State.StartedAt}}", host(name).container)


def power_cut(name: str) -> None:
    """Off at once, nothing is written or said any more; stays off until `power_on`."""
    _docker("kill", host(name).container)


def power_on(name: str) -> None:
    """Start a host that is off. Does not wait: see `await_booted`."""
    _docker("start", host(name).container)


def remove(name: str) -> None:
    """Take one host out of the lab, with its disk. The others and their keys stay as they are."""
    h = host(name)
    _docker("rm", "--force", "--volumes", h.container)
    _docker("volume", "rm", "--force", h.volume)


def freeze(name: str) -> None:
    """A hang: the host holds its connections and answers nothing until `thaw`."""
    _docker("pause", host(name).container)


def thaw(name: str) -> None:
    _docker("unpause", host(name).container)


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
    port = _docker("exec", h.container, "cat", "/sys/class/net/eth0/iflink")
    machine = ["run", "--rm", "--network=host", "--cap-add=NET_ADMIN", "--entrypoint=/bin/sh"]
    _docker(*machine, _host_image(h.release), "-euc", _SET_SWITCH_PORT, "port", port, state)


def _has_partition() -> bool:
    ports = Path(f"/sys/class/net/{NETWORK}/brif").glob("*/state")
    return any(_read(port).strip() == "0" for port in ports)


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


def _one_at_a_time(say: Say) -> Say:
    """Hosts are worked on in parallel; their lines must not run into each other."""
    lock = threading.Lock()

    def locked(line: str) -> None:
        with lock:
            say(line)

    return locked


def _parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Results in the order of the items. All are worked to the end before the first error is raised."""
    with ThreadPoolExecutor(max_workers=max(1, len(items))) as pool:
        return list(pool.map(work, items))


def _await(condition: Callable[[], bool], timeout_s: float, failure: str) -> None:
    for late in looks(timeout_s, _POLL_S):
        if condition():
            break
        if late:
            raise FiefdomError(failure)


def _write(path: Path, text: str) -> None:
    """Replace a file in one step: an ssh that starts meanwhile reads the old or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def _docker(*arguments: str, check: bool = True, timeout_s: float = 60) -> str:
    """Standard output of a docker command, stripped. Without `check` a failure is an empty answer."""
    return _run(["docker", *arguments], check=check, timeout_s=timeout_s)


def _run(argv: Sequence[str], check: bool = True, timeout_s: float = 60, env: dict[str, str] | None = None) -> str:
    what = f"`{' '.join(argv[:3])}`"
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False, env=env)
    except FileNotFoundError:
        raise FiefdomError(f"{argv[0]} is not installed on this machine: install it, then try again.") from None
    except subprocess.TimeoutExpired:
        raise FiefdomError(f"{what} did not finish within {timeout_s:.0f} s on this machine.") from None
    if run.returncode != 0:
        if not check:
            return ""
        raise FiefdomError(f"{what} failed on this machine: {_last_line(run.stderr or run.stdout)}")
    return run.stdout.strip("\n")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"
