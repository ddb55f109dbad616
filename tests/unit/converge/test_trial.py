"""The trial against real key exchanges, both ends paramiko's: a server whose one channel is the candidate's line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from paramiko import AUTH_SUCCESSFUL, OPEN_SUCCEEDED, Channel, ECDSAKey, PKey, RSAKey, ServerInterface, Transport

from fiefdom.converge import trial

HOST_KEY = RSAKey.generate(2048)
Candidate = Callable[[Channel], None]


class Host(ServerInterface):
    """Lets anybody in, and starts the candidate where a command is asked for."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def check_auth_none(self, username: str) -> int:  # noqa: ARG002
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: Channel, command: bytes) -> bool:  # noqa: ARG002
        threading.Thread(target=self._candidate, args=[channel], daemon=True).start()
        return True


def sshd(key: PKey = HOST_KEY, kex: str | None = None) -> Candidate:
    """An sshd in inetd mode; ``kex`` is all that it offers."""

    def serve(channel: Channel) -> None:
        server = quiet(Transport(channel))
        server.add_server_key(key)
        if kex is not None:
            server.get_security_options().kex = (kex,)
        server.start_server(event=threading.Event(), server=ServerInterface())

    return serve


def quiet(transport: Transport) -> Transport:
    transport.set_log_channel("fiefdom.trial")
    return transport


@pytest.fixture
def ask() -> Iterator[Callable[..., str | None]]:
    """What the trial says of a candidate, over a connection that was made with ``options``."""
    ends: list[Transport] = []

    def ask(candidate: Candidate, crypto: str = "compat", **options: object) -> str | None:
        near, far = socket.socketpair()
        server, client = quiet(Transport(far)), quiet(Transport(near, **options))  # type: ignore[arg-type]
        ends.extend((client, server))
        server.add_server_key(HOST_KEY)
        server.start_server(event=threading.Event(), server=Host(candidate))
        client.start_client(timeout=20)
        client.auth_none("root")
        channel = client.open_session()
        channel.exec_command("sshd")
        said = trial.negotiates(channel, crypto, timeout_s=10)
        assert channel.closed
        assert client.is_active()  # whatever became of the candidate, the line below it is the operator's
        return said

    yield ask
    # A candidate's end sees its channel close, and says so over the connection below it: that has to be there still.
    for thread in threading.enumerate():
        if isinstance(thread, Transport) and thread not in ends:
            thread.join(20)
            assert not thread.is_alive()
    for end in ends:
        end.close()


def test_a_candidate_that_this_client_can_talk_to_has_nothing_against_it(ask: Callable[..., str | None]) -> None:
    assert ask(sshd()) is None


def test_one_without_a_common_key_exchange_does(ask: Callable[..., str | None]) -> None:
    kex = "diffie-hellman-group16-sha512"
    assert ask(sshd(kex=kex)) is None
    # The operator's own settings are what counts, not all that the library knows.
    said = ask(sshd(kex=kex), disabled_algorithms={"kex": [kex]})
    assert said is not None
    assert "no algorithm in common" in said
    assert "kex" in said
    assert "ssh.crypto" not in said  # which is compat already


def test_only_algorithms_that_the_inventory_asks_for_are_mended_there(ask: Callable[..., str | None]) -> None:
    kex = "diffie-hellman-group16-sha512"
    said = ask(sshd(kex=kex), crypto="pq", disabled_algorithms={"kex": [kex]})
    assert said is not None
    assert said.endswith("; write `ssh.crypto: compat`")
    said = ask(sshd(key=RSAKey.generate(2048)), crypto="pq")
    assert said == "it shows this client another host key than the host's"


def test_one_that_shows_another_host_key_would_be_refused_by_known_hosts(ask: Callable[..., str | None]) -> None:
    assert ask(sshd(key=RSAKey.generate(2048))) == "it shows this client another host key than the host's"


def test_a_host_key_of_another_kind_may_well_be_known(ask: Callable[..., str | None]) -> None:
    # A bare host shows ECDSA to who has that in known_hosts first; the first converge takes this one away.
    assert ask(sshd(key=ECDSAKey.generate())) is None


def test_one_that_does_not_start_says_why(ask: Callable[..., str | None]) -> None:
    def dies(channel: Channel) -> None:
        channel.recv(1)
        channel.sendall_stderr(b"line 3: Bad configuration option: Foo\n")
        channel.close()

    said = ask(dies)
    assert said is not None
    assert said.startswith("it does not answer this client: ")
    assert "Bad configuration option: Foo" in said
