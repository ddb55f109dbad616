"""Upgraded connections among HAProxy's sessions, from its recorded words: a WebSocket, and what is none."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import haproxy, upgraded  # noqa: E402
from fiefdom_gateway.replies import Actual, State  # noqa: E402
from fiefdom_gateway.settings import Service  # noqa: E402
from fiefdom_gateway.wanted import Server  # noqa: E402

RECORDED = Path(__file__).parent / "data" / "haproxy-3.0"
SERVER = ("predictor", "app1-8000")
# Each is a session of the list.
CLOSING, WAITING, WEBSOCKET, EVENTS = "0x7f5dd6c83400", "0x7f5dd6c83800", "0x7f5dd6e91400", "0x7f5dd6e91800"


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text()


SESSIONS = {
    f"show sess {CLOSING}": recorded("show_sess_closing"),
    f"show sess {WAITING}": recorded("show_sess_waiting"),
    f"show sess {WEBSOCKET}": recorded("show_sess_websocket"),
    f"show sess {EVENTS}": recorded("show_sess_events"),
}


class HAProxy:
    """Answers as recorded, and keeps what was closed."""

    def __init__(self, **changed: str) -> None:
        self.replies = {"show sess": recorded("show_sess"), **SESSIONS, **changed}
        self.closed: list[str] = []

    async def ask(self, command: str) -> str:
        if command.startswith("shutdown session "):
            self.closed.append(command.removeprefix("shutdown session "))
            return "\n"
        return self.replies[command]


def test_the_recorded_sessions_on_a_server() -> None:
    found = upgraded.sessions_of(recorded("show_sess"), {SERVER})
    assert found == [(session, SERVER) for session in (CLOSING, WAITING, WEBSOCKET, EVENTS)]
    assert upgraded.sessions_of(recorded("show_sess"), {("predictor", "app1-8001"), ("other", "app1-8000")}) == []
    assert upgraded.sessions_of("", {SERVER}) == []


def test_only_the_websocket_is_upgraded() -> None:
    """A response that ends with its connection is in the tunnel's state as well."""
    assert "rsp.st=MSG_TUNNEL" in recorded("show_sess_closing")
    told = {command: upgraded.is_upgraded(reply, SERVER) for command, reply in SESSIONS.items()}
    assert [command for command, yes in told.items() if yes] == [f"show sess {WEBSOCKET}"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("status=101", "status=200"),
        ("req.st=MSG_TUNNEL", "req.st=MSG_DONE"),
        ("rsp.st=MSG_TUNNEL", "rsp.st=MSG_DATA"),
        ("server=app1-8000", "server=app1-8001"),
        ("backend=predictor", "backend=web"),
        ("  txn=", "  nothing="),
    ],
)
def test_what_differs_from_it_is_not(before: str, after: str) -> None:
    session = recorded("show_sess_websocket")
    assert upgraded.is_upgraded(session, SERVER) and before in session
    assert not upgraded.is_upgraded(session.replace(before, after), SERVER)


def test_upgraded_connections_are_closed_and_nothing_else() -> None:
    running = HAProxy()
    assert asyncio.run(upgraded.close(running.ask, {SERVER})) == 1
    assert running.closed == [WEBSOCKET]
    assert asyncio.run(upgraded.close(running.ask, {("predictor", "app1-8001")})) == 0


def test_of_kind_tcp_every_connection_is_closed() -> None:
    session = recorded("show_sess_waiting")
    assert not upgraded.is_upgraded(session, SERVER) and upgraded.is_upgraded(session, SERVER, is_tcp=True)
    assert not upgraded.is_upgraded(session, ("predictor", "app1-8001"), is_tcp=True)
    running = HAProxy()
    listed = [session for session, _ in upgraded.sessions_of(recorded("show_sess"), {SERVER})]
    assert asyncio.run(upgraded.close(running.ask, {SERVER}, {"predictor"})) == len(listed) > 1
    assert running.closed == listed
    other = HAProxy()
    assert asyncio.run(upgraded.close(other.ask, {SERVER}, {"web"})) == 1


def test_a_session_that_is_another_one_by_now_is_left_alone() -> None:
    """HAProxy gives a session's place in memory to the next one."""
    for other in (recorded("show_sess_waiting"), "No such session (use 'show sess').\n"):
        running = HAProxy(**{f"show sess {WEBSOCKET}": other})
        assert asyncio.run(upgraded.close(running.ask, {SERVER})) == 0
        assert running.closed == []


def test_many_are_closed_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgraded, "AT_ONCE", 2)
    websocket = recorded("show_sess_websocket")
    running = HAProxy(**dict.fromkeys(SESSIONS, websocket))
    assert asyncio.run(upgraded.close(running.ask, {SERVER})) == 2
    assert running.closed == [CLOSING, WAITING]


# --- Whose


def actual(port: int, *, state: State = State.DRAIN, busy: bool = True, backend: str = "predictor") -> Actual:
    return Actual(backend, f"app1-{port}", "10.99.0.21", port, state, True, True, busy)


def test_connections_are_closed_to_busy_servers_that_are_not_to_serve() -> None:
    wait = Service("predictor", "predictor", 8000, 100, "check")
    services = {"predictor": Service("predictor", "predictor", 8000, 100, "check", closes_upgraded=True)}
    found = [actual(8000), actual(8001), actual(8002), actual(8003, busy=False), actual(8000, backend="web")]
    wanted = [
        Server("predictor", "app1-8001", "10.99.0.21", 8001, False, "1"),
        Server("predictor", "app1-8002", "10.99.0.21", 8002, True, "1"),
    ]
    assert haproxy.to_close(wanted, found, services) == {SERVER, ("predictor", "app1-8002")}
    assert haproxy.to_close(wanted, found, {"predictor": wait}) == frozenset()
