"""What a host is told that asks about itself: by values."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import rotation, view  # noqa: E402
from fiefdom_gateway.members import Member, Offer  # noqa: E402
from fiefdom_gateway.replies import State  # noqa: E402
from fiefdom_gateway.rotation import Question, answer, understood  # noqa: E402
from fiefdom_gateway.settings import Service  # noqa: E402
from fiefdom_gateway.status import Look  # noqa: E402
from fiefdom_gateway.view import Busy, Row, View  # noqa: E402
from fiefdom_gateway.wanted import Server  # noqa: E402

SERVICES = {
    "predictor": Service("predictor", "predictor", 8000, 100, "check"),
    "echo": Service("echo", "echo-backend", 9000, 10, "check"),
}
RECORDED = Path(__file__).parent / "data" / "haproxy-3.0"


def row(
    name: str,
    state: State = State.READY,
    sessions: int = 0,
    requests: int = 0,
    *,
    up: bool = True,
    backend: str = "predictor",
) -> Row:
    return Row(backend, name, state, up, sessions, requests)


def busy(name: str, sessions: int, backend: str = "predictor") -> Busy:
    return Busy(backend, name, sessions)


def seen(*current: Row, replaced: tuple[Busy, ...] = ()) -> View:
    return View(view.by_host(current), view.by_host(replaced))


def look(*members: Member, wanted: tuple[Server, ...] = ()) -> Look:
    return Look(
        node="gw1", services=SERVICES, read={m.name: m for m in members}, members=members, wanted=wanted, looked=True
    )


def app(*offers: Offer, name: str = "app1", status: str = "alive") -> Member:
    return Member(name, "10.99.0.21", status, "app", offers)


PREDICTOR = Offer("predictor", "1", 8000, 8003)
ECHO = Offer("echo", "1", 9000, 9000)
DRAIN, MAINT = State.DRAIN, State.MAINT


# --- Questions


@pytest.mark.parametrize(
    ("payload", "asked"),
    [
        ("app1", ("app1", None, None)),
        ("app1 predictor", ("app1", "predictor", None)),
        ("app1 predictor 3", ("app1", "predictor", 3)),
        ("app-1.example predictor_2 0", ("app-1.example", "predictor_2", 0)),
    ],
)
def test_a_question_is_about_a_host_or_one_service_of_it(payload: str, asked: tuple[object, ...]) -> None:
    for word in ("drained", "serving"):
        assert understood(f"fiefdom-{word}", payload) == Question(word, *asked)


@pytest.mark.parametrize(
    "payload",
    [
        *(
            "",
            " ",
            "app1 ",
            " app1",
            "app1  predictor",
            "app1 predictor 1 2 3",
            "app1\n",
            "app1 predictor\n",
            "app1\tx",
        ),
        *("app1 predictor -1", "app1 predictor 1.5", "app1 predictor x", "app1 predictor 123456", "app1 predictor ٣"),
        *("-app1", "é", "app1 é", "app1 ;x", "a" * 64, "app1 " + "b" * 64, "\ufffd", "app1 predictor +1"),
        *("app1 predictor 1 ~abc", "app1 predictor 1 ", "app1 predictor 1 " + "v" * 129),
    ],
)
def test_what_is_no_question_is_not_understood(payload: str) -> None:
    assert understood("fiefdom-drained", payload) is None
    assert understood("fiefdom-serving", payload) is None


def test_no_other_query_is_a_question() -> None:
    assert understood("fiefdom-stop", "app1") is None
    assert understood("", "app1") is None


@given(st.text(), st.sampled_from([*rotation.QUERIES, "x"]))
def test_any_payload_is_understood_or_not(payload: str, query: str) -> None:
    question = understood(query, payload)
    assert question is None or answer(question, look(), seen())


# --- May it stop


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        (seen(), "drained"),
        (seen(row("app1-8000", DRAIN), row("app1-8001", MAINT)), "drained"),
        (seen(row("app10-8000"), row("app1-x-8000", sessions=3)), "drained"),
        (seen(row("app1-8000"), row("app1-8001", DRAIN)), "1 servers in rotation, 0 requests open"),
        (seen(row("app1-8000", up=False)), "1 servers in rotation, 0 requests open"),
        (seen(row("app1-8000", DRAIN, 2)), "0 servers in rotation, 2 requests open"),
        # Another service of the host, which goes on.
        (seen(row("app1-9000", sessions=5, backend="echo-backend")), "drained"),
        (seen(replaced=(busy("app1-8000", 1),)), "0 servers in rotation, 1 requests open"),
        (seen(replaced=(busy("app1-8000", 1), busy("app1-8000", 2))), "0 servers in rotation, 3 requests open"),
        (seen(replaced=(busy("app2-8000", 1), busy("app1-9000", 2, "echo-backend"))), "drained"),
    ],
)
def test_a_service_is_drained_when_no_server_of_it_has_or_takes_a_request(servers: View, expected: str) -> None:
    for found in (look(), look(app()), look(app(PREDICTOR, status="leaving"))):
        assert answer(Question("drained", "app1", "predictor"), found, servers) == expected


def test_a_host_as_a_whole_is_drained_when_all_of_its_services_are() -> None:
    question = Question("drained", "app1")
    servers = seen(row("app1-8000", DRAIN), row("app1-9000", DRAIN, 5, backend="echo-backend"))
    leaving = look(app(PREDICTOR, ECHO, status="leaving"))
    assert answer(question, leaving, servers) == "0 servers in rotation, 5 requests open"
    assert answer(question, leaving, seen(row("app1-8000", DRAIN))) == "drained"


def test_what_is_still_offered_is_not_drained() -> None:
    """Also where HAProxy has no server of it yet: the question may be faster than the word that it answers for."""
    found = look(app(PREDICTOR))
    assert answer(Question("drained", "app1", "predictor"), found, seen()) == "app1 still offers predictor"
    assert answer(Question("drained", "app1"), found, seen()) == "app1 still offers services"
    assert answer(Question("drained", "app1", "echo"), found, seen()) == "drained"
    dead = replace(app(PREDICTOR, status="failed"), failed_leaving=True)
    for gone in (app(PREDICTOR, status="left"), dead):
        assert answer(Question("drained", "app1", "predictor"), look(gone), seen()) == "drained"


def test_what_haproxy_is_about_to_get_is_not_drained() -> None:
    """As when the gateway holds a member that it lost sight of."""
    server = Server("predictor", "app1-8000", "10.99.0.21", 8000, False, "1")
    held = look(wanted=(server,))
    assert answer(Question("drained", "app1", "predictor"), held, seen()) == "1 servers in rotation, 0 requests open"
    assert answer(Question("drained", "app1"), held, seen()) == "1 servers in rotation, 0 requests open"
    assert answer(Question("drained", "app1", "echo"), held, seen()) == "drained"
    draining = look(wanted=(replace(server, drain=True),))
    assert answer(Question("drained", "app1", "predictor"), draining, seen()) == "drained"


def test_a_service_that_is_routed_no_more_is_drained_when_it_has_no_request_open() -> None:
    question = Question("drained", "app1", "old")
    assert answer(question, look(), seen(row("app1-7000", backend="old"))) == "drained"
    for open_ in (seen(row("app1-7000", sessions=1, backend="old")), seen(replaced=(busy("app1-7000", 1, "old"),))):
        for asked in (question, Question("drained", "app1")):
            assert answer(asked, look(), open_) == "0 servers in rotation, 1 requests open"


# --- Is it in rotation


def up(*ports: int, **more: object) -> list[Row]:
    return [row(f"app1-{port}", **more) for port in ports]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("servers", "least", "expected"),
    [
        (seen(), None, "0 of 4 servers up"),
        (seen(*up(8000, 8001)), None, "2 of 4 servers up"),
        (seen(*up(8000, 8001)), 3, "2 of 4 servers up"),
        (seen(*up(8000, 8001)), 2, "serving"),
        (seen(*up(8000, 8001, 8002, 8003)), None, "serving"),
        (seen(*up(8000, 8001, 8002, 8003)), 5, "4 of 4 servers up"),
        (seen(), 0, "serving"),
        # Down, but it has answered: it answers with errors, and waiting would not better it.
        (seen(*up(8000, 8001), *up(8002, 8003, up=False, requests=5)), None, "serving"),
        (seen(*up(8000, 8001, 8002), *up(8003, up=False)), None, "3 of 4 servers up"),
        # Not taken back into rotation yet.
        (seen(*up(8000, 8001, 8002), *up(8003, state=DRAIN, requests=5)), None, "3 of 4 servers up"),
        # Of an offer before, other service, other host, other worker.
        (seen(*up(8000, 8001, 8002, 8004)), None, "3 of 4 servers up"),
        (seen(*up(8000, 8001, 8002), row("app1-8003", backend="echo-backend")), None, "3 of 4 servers up"),
        (seen(*up(8000, 8001, 8002), row("app2-8003")), None, "3 of 4 servers up"),
        (seen(*up(8000, 8001, 8002), replaced=(busy("app1-8003", 1),)), None, "3 of 4 servers up"),
    ],
)
def test_a_service_serves_when_enough_of_what_is_offered_is_in_rotation(
    servers: View, least: int | None, expected: str
) -> None:
    question = Question("serving", "app1", "predictor", least)
    assert answer(question, look(app(PREDICTOR, ECHO)), servers) == expected


def test_a_service_that_is_not_offered_does_not_serve() -> None:
    everything = seen(*up(8000, 8001, 8002, 8003))
    for least in (None, 0, 2):
        for found in (look(), look(app()), look(app(ECHO)), look(app(PREDICTOR, name="app2"))):
            assert answer(Question("serving", "app1", "predictor", least), found, everything) == "0 of 0 servers up"
    assert answer(Question("serving", "app1", "nobody"), look(app(PREDICTOR)), everything) == "0 of 0 servers up"


def test_a_host_as_a_whole_serves_when_all_of_its_services_do() -> None:
    question = Question("serving", "app1")
    predictors = up(8000, 8001, 8002, 8003)
    found = look(app(PREDICTOR, ECHO))
    assert answer(question, found, seen(*predictors)) == "4 of 5 servers up"
    assert answer(question, found, seen(*predictors, row("app1-9000", backend="echo-backend"))) == "serving"


# --- HAProxy's word


def test_the_recorded_servers_of_a_worker() -> None:
    found = view.rows(*((RECORDED / f"{name}.txt").read_text() for name in ("show_servers_state", "show_stat")))
    assert found == [
        row("app1-8000", sessions=1, requests=76),
        row("app1-8001", up=False, requests=1),
        row("app2-8010", requests=77),
        row("app2-8011", DRAIN, 1, 64),
        row("app3-8000", MAINT, up=False),
    ]
    assert [server.name for server in view.by_host(found)["app2"]] == ["app2-8010", "app2-8011"]
    assert view.busy((RECORDED / "show_stat.txt").read_text()) == [
        busy("FRONTEND", 4, "port-80"),
        *(busy(name, sessions) for name, sessions in (("app1-8000", 1), ("app2-8011", 1), ("BACKEND", 2))),
    ]
