"""Whether what is written takes effect: others write files that are read with Fiefdom's, and one has the last word."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from fiefdom.converge.snapshot import Snapshot, sysctl_path
from fiefdom.desired import sshd
from fiefdom.desired.state import File, HostState
from fiefdom.errors import FiefdomError


def of_file(file: File, now: Snapshot) -> Iterator[str]:
    """What the host's sshd would not have of its drop-in, whose login or tunnels end by it; of others nothing."""
    if file.path != sshd.CONFIG:
        return
    if now.loses:
        yield f"ends the login of {', '.join(f'{user} (by {ways})' for user, ways in sorted(now.loses.items()))}"
    for left, what in (("no", "tunnels"), ("local", "tunnels to the operator (ssh -R)")):
        if users := [user for user, forwards in sorted(now.unforwarded.items()) if forwards == left]:
            yield f"ends {what} of {', '.join(users)}, unless ssh.tcp_forwarding keeps them"
    if now.sshd:
        yield f"without effect: {'; '.join(now.sshd)}"


def of_sysctl(key: str, now: Snapshot) -> str:
    """Which file sets a kernel setting again at each boot, to follow the words of its change; empty where none does."""
    path = sysctl_path(key)
    for pattern, file in now.sysctls_by.items():
        if fnmatchcase(path, sysctl_path(pattern)):
            return f"; at the next boot {file} sets it again"
    return ""


def require(host: str, state: HostState, now: Snapshot) -> None:
    """Raise FiefdomError where the sshd of ``host`` would not hold to what is wanted, whatever is written there."""
    if now.sshd and any(file.path == sshd.CONFIG for file in state.files):
        raise FiefdomError(
            f"{host}: {sshd.CONFIG} has no effect there: {'; '.join(now.sshd)}; take that out on the host, or ask for "
            "it in the inventory"
        )
