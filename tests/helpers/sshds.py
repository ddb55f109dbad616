"""Real sshds on this machine, each with a configuration and keys of its own, and ended with the test."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER = getpass.getuser()
PROGRAM = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")


def missing() -> str:
    """Why no sshd can be started here; empty where one can."""
    if PROGRAM is None:
        return "no sshd on this machine: apt install openssh-server"
    if shutil.which("ssh-keygen") is None:
        return "no ssh-keygen on this machine: apt install openssh-client"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("sshd")
        except KeyError:
            return "sshd's own account is missing on this machine: apt install openssh-server"
    return ""


def missing_ipv6() -> str:
    """Why no sshd can be reached at ::1 here; empty where one can."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return ""
    except OSError as error:
        return f"this machine has no IPv6 loopback, so a jump host at [::1] was NOT tried: {error}"


@dataclass(frozen=True)
class Sshd:
    """One that runs: its port, and the folder with what belongs to it."""

    port: int
    folder: Path
    address: str = "127.0.0.1"

    @property
    def known_as(self) -> str:
        """Its name in known_hosts."""
        return f"[{self.address}]:{self.port}"

    def host_key(self, kind: str = "ed25519") -> str:
        """Type and base64 of a public host key."""
        return " ".join((self.folder / f"host_{kind}.pub").read_text().split()[:2])

    def said(self) -> str:
        """Its log."""
        return (self.folder / "log").read_text()


def keygen(path: Path, kind: str = "ed25519", passphrase: str = "", *options: str) -> Path:
    """A new key pair; the private one's path."""
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path), *options]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


@contextmanager
def sshd(
    folder: Path,
    authorized: Sequence[Path],
    lines: Sequence[str] = (),
    kinds: Sequence[str] = ("ed25519",),
    address: str = "127.0.0.1",
    others: Sequence[str] = (),
) -> Iterator[Sshd]:
    """An sshd that lets this user in by private keys ``authorized``, with host keys of ``kinds``.

    It listens at the same port of ``others`` as well, of which it takes fifteen.
    """
    assert PROGRAM is not None
    folder.mkdir()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as Debian's unit does
    for kind in kinds:
        keygen(folder / f"host_{kind}", kind)
    (folder / "authorized").write_text("".join(Path(f"{key}.pub").read_text() for key in authorized))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as free:
        port = free.getsockname()[1]
    config = [
        *lines,
        *(f"ListenAddress {each}" for each in (address, *others)),
        f"Port {port}",
        *(f"HostKey {folder}/host_{kind}" for kind in kinds),
        f"AuthorizedKeysFile {folder}/authorized",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PidFile none",
        "LogLevel VERBOSE",
        # The shell of a login reads no .bashrc then: this user's own may take longer than what he is asked.
        "SetEnv SHLVL=1",
    ]
    (folder / "config").write_text("\n".join(config) + "\n")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PROGRAM, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        for _ in range(100):
            try:
                socket.create_connection((address, port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        yield Sshd(port, folder, address)
    finally:
        process.terminate()
        process.wait()
