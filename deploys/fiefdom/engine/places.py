"""Where an sshd is found and as whom, from the inventory and from the operator's ~/.ssh/config."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyinfra.connectors.sshuserclient.config import SSHConfig

from fiefdom.engine.known_hosts import SYSTEM, known_as
from fiefdom.errors import FiefdomError
from fiefdom.inventory import groups
from fiefdom.model import Cluster
from fiefdom.model.jumps import parts_of

NEW_HOSTS_PORT = 22
"""Where an sshd listens that was not told otherwise yet."""
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa", "~/.ssh/id_ed25519_sk", "~/.ssh/id_ecdsa_sk")


def at(address: str, port: int | str) -> str:
    """Address and port in one word; an IPv6 address has brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True)
class Place:
    """An sshd, how it is known, who logs in there by which keys, and what lies on the way to it."""

    address: str
    port: int
    user: str
    known_as: str
    known_hosts: tuple[Path, ...]
    keys: tuple[str, ...] = ()
    only_keys: bool = False
    """Whether no other key than ``keys`` is offered."""
    agent: str | None = None
    """The agent's socket; None for that of SSH_AUTH_SOCK, "none" for none."""
    jumps: tuple[str, ...] = ()
    command: str | None = None
    """What is run to reach it, in place of a connection."""

    @property
    def where(self) -> str:
        """In words."""
        way = f" through {','.join(self.jumps)}" if self.jumps else ""
        return f"{at(self.address, self.port)}{way}"


def second_try(port: int, *, given: bool) -> int | None:
    """Where to look again for a host that does not answer at ``port``: it may be a new one.

    Nowhere where somebody said for this run where it answers, which is ``given`` then.
    """
    return None if given or port == NEW_HOSTS_PORT else NEW_HOSTS_PORT


@dataclass(frozen=True)
class Places:
    """The hosts of a cluster, and what lies on the way to them.

    The inventory has the first word, then ~/.ssh/config, then the defaults. Its `Host` and `Match` lines are asked for
    what the inventory has as the host's SSH address.
    """

    cluster: Cluster

    @cached_property
    def _config(self) -> SSHConfig:
        path, config = Path("~/.ssh/config").expanduser(), SSHConfig()
        if path.exists():
            try:
                with path.open(encoding="utf-8") as file:
                    config.parse(file)
            except Exception as error:  # pyinfra's and paramiko's readers raise what they like
                raise FiefdomError(f"{path}: cannot be read: {error}") from error
        return config

    def data(self, name: str, address: str | None = None, port: int | None = None) -> dict[str, Any]:
        """What pyinfra's connector is told of a host, which answers at another address or port where these are given.

        As `groups.connection` has it, but user and port are those of ~/.ssh/config where nobody wrote any in the
        inventory.
        """
        data = groups.connection(self.cluster, name)
        data["ssh_hostname"] = address or data["ssh_hostname"]
        said = self._config.lookup(data["ssh_hostname"])
        if "user" in said and not self.cluster.ssh_says(name, "user"):
            data["ssh_user"] = said["user"]
        if port is not None:
            data["ssh_port"] = port
        elif "port" in said and not self.cluster.ssh_says(name, "port"):
            data["ssh_port"] = int(said["port"])
        return data

    def of_host(self, name: str, data: Mapping[str, Any]) -> Place:
        """Where a host of the cluster is, as the data of its connection have it."""
        key, known = data.get("ssh_key"), data.get("ssh_known_hosts_file")
        said = self._config.lookup(data["ssh_hostname"])
        jumps = self.cluster.jumps_of(name) if self._has_jump(name) else _jumps(said, data["ssh_hostname"])
        return self._place(said, data["ssh_hostname"], int(data["ssh_port"]), data["ssh_user"], key, known, jumps)

    def of_jump(self, hop: str, before: tuple[str, ...]) -> Place:
        """Where a jump host is, which is reached through those ``before`` it."""
        if hop in self.cluster.hosts:
            return self.of_host(hop, self.data(hop))
        user, name, port = parts_of(hop)
        said = self._config.lookup(name)
        return self._place(
            said,
            name,
            int(port or said.get("port", "22")),
            user or said.get("user") or getpass.getuser(),
            None,
            str(self.cluster.path(self.cluster.ssh.known_hosts)) if self.cluster.ssh.known_hosts else None,
            before or _jumps(said, name),
        )

    def _has_jump(self, name: str) -> bool:
        return bool(self.cluster.hosts[name].ssh.jump or self.cluster.ssh.jump)

    def _place(
        self,
        said: Mapping[str, Any],
        name: str,
        port: int,
        user: str,
        key: str | None,
        known: str | None,
        jumps: tuple[str, ...],
    ) -> Place:
        address = said.get("hostname", name)
        named = said.get("identityfile", [])
        files = [key] if key else [named] if isinstance(named, str) else list(named)
        only = key is not None or said.get("identitiesonly") == "yes"
        if only and not files:
            files = [file for file in DEFAULT_KEYS if Path(file).expanduser().exists()]
        known_to_user = said.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2").split()
        command = None if jumps else said.get("proxycommand")
        if command and port != int(said.get("port", 22)):
            raise FiefdomError(
                f"{name}: the ProxyCommand of ~/.ssh/config leads to port {said.get('port', 22)}, and {port} is "
                f"wanted; write `Port {port}` beside it"
            )
        return Place(
            address,
            port,
            user,
            known_as(said["hostkeyalias"], 22) if "hostkeyalias" in said else known_as(address, port),
            (Path(known),) if known else (*(Path(file).expanduser() for file in known_to_user), SYSTEM),
            tuple(files),
            only,
            said.get("identityagent"),
            jumps,
            command,
        )


def _jumps(said: Mapping[str, Any], name: str) -> tuple[str, ...]:
    words = said.get("proxyjump", "none")
    hops = () if words.lower() == "none" else tuple(hop.removeprefix("ssh://") for hop in words.split(","))
    # `Host *` with a ProxyJump goes for the jump host as well, which is no jump from itself.
    last = parts_of(hops[-1])[1] if hops else ""
    return () if last in (name, said.get("hostname")) else hops
