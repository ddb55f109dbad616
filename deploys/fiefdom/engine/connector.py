"""The way to a host's sshd: pyinfra's SSH connector, with the operator's own keys, jump hosts and known hosts.

pyinfra's own command has pyinfra's connector as it is.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from paramiko import (
    Channel,
    ChannelException,
    MissingHostKeyPolicy,
    PKey,
    ProxyCommand,
    SSHClient,
    SSHException,
    Transport,
)
from paramiko.ssh_exception import NoValidConnectionsError
from pyinfra.api import Inventory
from pyinfra.api import inventory as pyinfra_inventory
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.ssh import SSHConnector

from fiefdom.engine import host_certificate, known_hosts
from fiefdom.engine.offers import AUTH_S, MANY, Keys, Offer
from fiefdom.engine.places import Place, Places, at
from fiefdom.engine.shells import tune
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster

CONNECT_TIMEOUT_S = 10
_NOBODY = "Could not connect"
_PROHIBITED = 1
"""Why an sshd opens no channel: it is told not to forward."""


class _Judge(MissingHostKeyPolicy):
    """Asked of every host key, for paramiko itself is given none that would be known."""

    def __init__(self, place: Place, found: list[known_hosts.Known]) -> None:
        self._place, self._found = place, found

    def missing_host_key(self, client: SSHClient, hostname: str, key: PKey) -> None:  # noqa: ARG002
        """Raise ConnectError where the key is not to be trusted."""
        if reason := known_hosts.judge(self._found, self._place.known_as, key):
            raise ConnectError(reason)


@dataclass
class _Login:
    """What paramiko's client lets log in, once it trusts the host. False in ``done``: over another connection."""

    place: Place
    keys: Keys
    offers: list[Offer]
    done: bool = False
    first: bool = False
    """Whether others wait for what comes of this one."""
    waited: bool = False

    def authenticate(self, transport: Transport) -> None:
        if len(self.offers) > MANY and not self.waited:
            # Once, and not without an end: who has the turn may wait for the very jump host that this one logs in to.
            self.waited = True
            self.first = self.keys.turn.acquire(timeout=AUTH_S)
            self.offers = self.keys.ordered(self.place, self.offers)
            if not transport.is_active():  # the host did not wait as long
                return
        self.done = self.keys.log_in(self.place, self.offers, transport)

    def end(self) -> None:
        """Let the others go on."""
        if self.first:
            self.keys.turn.release()


@dataclass
class _Nobody:
    """Logs nobody in."""

    def authenticate(self, transport: Transport) -> None:
        """Only the host's key is wanted."""


@dataclass
class Ways:
    """The ways to the hosts of a cluster, for one run; each jump host is connected to once."""

    cluster: Cluster
    places: Places = field(init=False)
    keys: Keys = field(init=False, default_factory=Keys)
    _hops: dict[tuple[str, ...], SSHClient] = field(init=False, default_factory=dict)
    _locks: dict[tuple[str, ...], BoundedSemaphore] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.places = Places(self.cluster)

    def close(self) -> None:
        """End the connections to jump hosts."""
        for client in self._hops.values():
            with suppress(Exception):
                client.close()
        self._hops.clear()

    def log_in(self, place: Place) -> SSHClient:
        """A client that is logged in at ``place``. Raises ConnectError, which names address and port."""
        found = known_hosts.lookup(place.known_hosts, place.known_as)
        login = _Login(place, self.keys, self.keys.offers(place))
        try:
            while True:
                client = self._connected(place, found, _Judge(place, found), login)
                if login.done:
                    return client
                client.close()
        finally:
            login.end()

    def shown_key(self, place: Place, found: list[known_hosts.Known]) -> PKey:
        """The key that an sshd shows, trusted or not: of a kind in ``found``, else the best. Raises ConnectError."""

        class Anybody(MissingHostKeyPolicy):
            def missing_host_key(self, client: SSHClient, hostname: str, key: PKey) -> None:
                """Trusts everybody, for nothing is said to this host."""

        client = self._connected(place, found, Anybody(), _Nobody())
        try:
            key: PKey = client.get_transport().get_remote_server_key()  # type: ignore[union-attr] # it is connected
            return key
        finally:
            client.close()

    def _connected(
        self, place: Place, found: list[known_hosts.Known], policy: MissingHostKeyPolicy, login: Any
    ) -> SSHClient:
        wanted = known_hosts.kinds(found)

        def transport(sock: Any, **options: Any) -> Transport:
            made = Transport(sock, **options)
            security = made.get_security_options()
            # Certificates only where a CA is known: others know the host by its bare key.
            known = [kind for kind in (*host_certificate.KINDS, *security.key_types) if kind in wanted]
            security.key_types = [*known, *(kind for kind in security.key_types if kind not in known)]
            return made

        client = SSHClient()
        client.set_missing_host_key_policy(policy)
        try:
            client.connect(
                place.address,
                port=place.port,
                username=place.user,
                timeout=CONNECT_TIMEOUT_S,
                sock=self._sock(place),
                transport_factory=transport,
                auth_strategy=login,
            )
        except BaseException as error:
            client.close()
            if reason := _words(place, error):
                raise ConnectError(reason) from error
            raise
        return client

    def _sock(self, place: Place) -> Channel | ProxyCommand | None:
        if place.command:
            return ProxyCommand(place.command)
        if not place.jumps:
            return None
        *_, last = place.jumps
        transport = self._hop(place.jumps).get_transport()
        if transport is None:
            raise ConnectError(f"the connection to the jump host {last} broke off")
        try:
            return transport.open_channel(
                "direct-tcpip", (place.address, place.port), ("127.0.0.1", 0), timeout=CONNECT_TIMEOUT_S
            )
        except ChannelException as error:
            if error.code == _PROHIBITED:
                raise ConnectError(
                    f"the jump host {last} may not forward to {at(place.address, place.port)}; its sshd needs "
                    "`AllowTcpForwarding local`, which is `ssh.tcp_forwarding: local` for a host of the cluster"
                ) from error
            raise ConnectError(f"{_NOBODY} to {place.where} ({error.text or error})") from error

    def _hop(self, chain: tuple[str, ...]) -> SSHClient:
        """A client at the end of a chain of jump hosts."""
        # One connection for all hosts behind it: an sshd drops some of many that log in at once.
        with self._locks.setdefault(chain, BoundedSemaphore()):
            client = self._hops.get(chain)
            transport = client.get_transport() if client is not None else None
            if client is None or transport is None or not transport.is_active():
                *before, last = chain
                try:
                    client = self.log_in(self.places.of_jump(last, tuple(before)))
                except ConnectError as error:
                    raise ConnectError(f"the jump host {last} lets nobody through: {error}") from error
                tune(client)
                self._hops[chain] = client
            return client


class Connector(SSHConnector):
    """pyinfra's, whose connections are made by `Ways`."""

    def __init__(self, ways: Ways, state: State, host: Host) -> None:
        super().__init__(state, host)
        self.ways = ways

    @property
    def place(self) -> Place:
        """Where it connects to."""
        return self.ways.places.of_host(self.host.name, self.data)

    def connect(self) -> None:
        """Connect, or raise ConnectError with the reason, which names address and port."""
        try:
            self.client = self.ways.log_in(self.place)  # type: ignore[assignment] # paramiko's own serves as well
        except FiefdomError as error:
            raise ConnectError(str(error)) from error


def inventory_of(data: Sequence[tuple[str, dict[str, Any]]]) -> Inventory:
    """pyinfra's inventory of hosts by name, with what `Places.data` says of each."""
    # It would look for connectors in all that is installed, twice, and load each: Docker's, Vagrant's, Terraform's.
    looks = pyinfra_inventory.get_all_connectors, pyinfra_inventory.get_execution_connectors
    pyinfra_inventory.get_all_connectors = pyinfra_inventory.get_execution_connectors = lambda: {"ssh": SSHConnector}
    try:
        return Inventory((data, {}))
    finally:
        pyinfra_inventory.get_all_connectors, pyinfra_inventory.get_execution_connectors = looks


def nobody_there(error: ConnectError) -> bool:
    """Whether nobody answers where somebody was looked for."""
    return str(error).startswith(_NOBODY)


def _words(place: Place, error: BaseException) -> str | None:
    """What went wrong on the way to ``place``; None for what is no matter of the way."""
    if isinstance(error, ConnectError | gevent.GreenletExit):
        return None
    if isinstance(error, socket.gaierror):
        return f"Could not resolve {place.address} ({error.strerror})"
    if isinstance(error, OSError | EOFError):
        return f"{_NOBODY} to {place.where} ({_reason(error)})"
    return f"SSH error at {place.where} ({error})" if isinstance(error, SSHException) else None


def _reason(error: OSError | EOFError) -> str:
    if isinstance(error, NoValidConnectionsError):
        return "; ".join(
            dict.fromkeys(getattr(reason, "strerror", "") or str(reason) for reason in error.errors.values())
        )
    if isinstance(error, TimeoutError):
        return f"no answer for {CONNECT_TIMEOUT_S} s"
    return "it ended the connection" if isinstance(error, EOFError) else error.strerror or str(error)
