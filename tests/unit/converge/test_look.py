"""What a run does where a host still waits for the confirmation of an earlier change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from fiefdom.cli import apply, frame, group
from fiefdom.converge import look, plan
from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired.state import File, HostState
from fiefdom.errors import FiefdomError
from helpers.clock import stopped

CONF = File("/etc/x.conf", b"x\n")
STATE = HostState(files=(CONF,))
SETTLED = Snapshot(0, "debian", "trixie")


def waiting(seconds: int | None) -> plan.Plan:
    return plan.merge([plan.of_host("app1", STATE, replace(SETTLED, unconfirmed_s=seconds), {})])


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Seconds that the host says are left, look by look."""
    left: list[int | None] = []
    monkeypatch.setattr(look, "make_plan", lambda *_: waiting(left.pop(0) if left[1:] else left[0]))
    stopped(monkeypatch)
    return left


def test_a_plan_is_of_what_the_host_goes_back_to(looks: list[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a state that will be taken back would say that nothing is to be changed, or the wrong things."""

    @contextmanager
    def run(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(known=None, names=("app1",), session=None)

    monkeypatch.setattr(frame, "connected", run)
    looks += [7, 6, None]
    done = CliRunner().invoke(apply.plan, ["x.yaml", "--json"])
    assert done.exit_code == group.PENDING
    assert done.stderr == "app1: an earlier change waits for its confirmation; for at most 7 s\n"
    assert CONF.path in done.stdout
    assert looks == [None]


def test_one_that_is_never_taken_back_is_told(looks: list[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "SETTLED_WITHIN_S", -8)
    looks += [7]
    with pytest.raises(FiefdomError, match=r"^app1: an earlier change was neither confirmed nor taken back in time"):
        look.settled_plan(None, ("app1",), None, lambda _: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("left_s", "said"), [(7, "7 s"), (-3, "0 s")])
def test_who_cannot_wait_refuses(left_s: int, said: str) -> None:
    (host,) = waiting(left_s).hosts
    words = rf"^app1: an earlier change waits for its confirmation; it takes itself back within {said}: try again then$"
    with pytest.raises(FiefdomError, match=words):
        look.require_settled(host)
    look.require_settled(waiting(None).hosts[0])


# In a program of its own, for the engine lets gevent patch the standard library.
DEPLOY = """
from types import SimpleNamespace
import fiefdom.engine
from fiefdom.engine import deploys as engine
from fiefdom.converge.run import Known
from helpers.example import context
known = Known(context().cluster, context().secrets, {})
lines = ["snapshot\\t1", "uid\\t0", "os\\tdebian\\ttrixie", "guard\\t7", "end"]
host = SimpleNamespace(name="app2", get_fact=lambda *_, **__: lines)
class State(SimpleNamespace):
    __hash__ = object.__hash__

state = State(config=SimpleNamespace(FAIL_PERCENT=None), failed_hosts=[])
engine._runs[state] = engine._Run(known)
engine.context = SimpleNamespace(host=host, state=state)
try:
    engine.deploy()
except engine.DeployError as error:
    print(error)
"""


def test_pyinfras_own_deploy_refuses() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    says = "app2: an earlier change waits for its confirmation; it takes itself back within 7 s: try again then\n"
    assert (done.stdout, done.stderr) == (says, "")
