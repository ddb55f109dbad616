"""A gateway in which there is something of everything that it tells Prometheus."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "images" / "gateway"))

from fiefdom_gateway import metrics
from fiefdom_gateway.acme import Facts, Told
from fiefdom_gateway.members import Member, Offer, Rejection
from fiefdom_gateway.replies import Actual, State
from fiefdom_gateway.rounds import Rounds
from fiefdom_gateway.settings import Service
from fiefdom_gateway.shares import Share
from fiefdom_gateway.status import Look
from fiefdom_gateway.wanted import Server

NOW_S = 1000.0


def _actual(backend: str, name: str, state: State, *, up: bool) -> Actual:
    return Actual(backend, name, "10.99.0.21", 8000, state, up, checked=True, busy=False)


LOOK = Look(
    "gw1",
    {name: Service(name, name, 8000, 100, "check") for name in ("echo", "db")},
    members=(
        Member("app1", "10.99.0.21", "alive", "app", (Offer("echo", "1.0", 8000, 8001),)),
        Member("app2", "10.99.0.22", "failed", "app", (Offer("db", "16", 8100, 8100), Offer("gone", "1", 8200, 8200))),
        Member("gw1", "10.99.0.11", "alive", "gateway"),
        Member("x", "10.99.0.31", "alive", "stranger"),
    ),
    rejected=(Rejection("x", "says what it likes"), Rejection("y", "as well")),
    wanted=(
        Server("echo", "app1-8000", "10.99.0.21", 8000, drain=False, version="1.0"),
        Server("echo", "app1-8001", "10.99.0.21", 8001, drain=False, version="1.0"),
        Server("echo", "app3-8000", "10.99.0.23", 8000, drain=True, version="1.0"),
    ),
    actual=(
        _actual("echo", "app1-8000", State.READY, up=True),
        _actual("echo", "app1-8001", State.DRAIN, up=True),
        _actual("db", "app3-8100", State.READY, up=False),
        _actual("fiefdom-web", "web", State.READY, up=True),
    ),
    closed=frozenset({"db"}),
    shares=(Share("echo", "1.0", 5), Share("none", "1", 5)),
    serf_error=None,
    reconciled_at_s=NOW_S - 2.5,
    looked=True,
    ready=True,
)

ROUNDS = Rounds()
ROUNDS.failed = 1
for _took_s in (0.004, 0.25, 42.0):
    ROUNDS.add(_took_s)

TOLD = (Told("old.example", Facts(0.0, 1893456000.0)), Told("new.example", None, "refused", 3, 60.0))
SERVED: tuple[dict[str, Any], ...] = (
    {"name": "example", "names": ["example.org"], "ends": "2030-01-01T00:00:00Z"},
    {"name": "new.example", "names": ["new.example"], "ends": "2031-01-01T00:00:00Z"},
)


def exposition() -> str:
    """What this gateway tells."""
    return metrics.exposition(LOOK, ROUNDS, TOLD, SERVED, NOW_S)
