"""This machine: its Docker daemon, its packages, and programs run on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fiefdom.errors import FiefdomError
from fiefdom.waiting import looks
from fiefdom.wording import Tell

T = TypeVar("T")
R = TypeVar("R")
_DAEMON_TIMEOUT_S = 60.0
_POLL_S = 0.1


# --- Docker on this machine ------------------------------------------------------------------------------------------


def ensure_docker(say: Tell) -> None:
    """Use the Docker daemon that answers; else, as root on Debian or Ubuntu, install docker.io and start it."""
    problem = daemon_problem()
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
    if os.geteuid() != 0 or not (installed or is_debian_like()):
        raise FiefdomError(
            "No Docker daemon answers: install and start it (Debian, Ubuntu: `sudo apt-get install docker.io`; "
            "others: https://docs.docker.com/engine/install/), then try again."
        )
    if not installed:
        say("installing docker.io (no Docker daemon answers on this machine)")
        apt_install(["docker.io", "iptables"], where_known=["docker-cli"])  # Debian 13's client
    _start_daemon(say)


def daemon_problem() -> str | None:
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


def _start_daemon(say: Tell) -> None:
    if Path("/run/systemd/system").is_dir():
        say("starting docker.service")
        run(["systemctl", "start", "docker.service"], timeout_s=_DAEMON_TIMEOUT_S)
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
        return daemon_problem() is None

    await_true(answered, _DAEMON_TIMEOUT_S, f"dockerd does not answer: read {log}")


def _is_running(program: str) -> bool:
    return any(content_of(comm).strip() == program for comm in Path("/proc").glob("[0-9]*/comm"))


def content_of(path: Path) -> str:
    """A file's text, or "" if it is not there (or no longer)."""
    try:
        return path.read_text()
    except OSError:
        return ""


def is_debian_like() -> bool:
    fields = dict(line.split("=", 1) for line in content_of(Path("/etc/os-release")).splitlines() if "=" in line)
    ids = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    return "debian" in ids or "ubuntu" in ids


def apt_install(packages: Sequence[str], where_known: Sequence[str] = ()) -> None:
    """Install packages; those in `where_known` only if this Debian has them."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    run([*apt, "update"], timeout_s=300, env=env)
    known = [package for package in where_known if run(["apt-cache", "show", package], check=False)]
    run([*apt, "-y", "--no-install-recommends", "install", *packages, *known], timeout_s=900, env=env)


def one_at_a_time(say: Tell) -> Tell:
    """Hosts are worked on in parallel; their lines must not run into each other."""
    lock = threading.Lock()

    def locked(line: str) -> None:
        with lock:
            say(line)

    return locked


def parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Results in the order of the items. All are worked to the end before the first error is raised."""
    with ThreadPoolExecutor(max_workers=max(1, len(items))) as pool:
        return list(pool.map(work, items))


def await_true(condition: Callable[[], bool], timeout_s: float, failure: str) -> None:
    for late in looks(timeout_s, _POLL_S):
        if condition():
            break
        if late:
            raise FiefdomError(failure)


def docker(*arguments: str, check: bool = True, timeout_s: float = 60) -> str:
    """Standard output of a docker command, stripped. Without `check` a failure is an empty answer."""
    return run(["docker", *arguments], check=check, timeout_s=timeout_s)


def run(argv: Sequence[str], check: bool = True, timeout_s: float = 60, env: dict[str, str] | None = None) -> str:
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
