"""What a run does where a host still waits for the confirmation of an earlier change."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from fiefdom.cli import apply, frame, group
from fiefdom.converge import guest, look, plan
from fiefdom.converge.snapshot import FoundFile, Snapshot
from fiefdom.converge.steps import phases
from fiefdom.desired import docker
from fiefdom.desired.concerns import ALL, states_of
from fiefdom.desired.state import CODENAMES, Codename, File, HostState, Package
from fiefdom.errors import FiefdomError
from helpers import forked
from helpers.clock import stopped
from helpers.released import known
from helpers.simulated import answer, converged

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


def planned(codename: str = "trixie", client: str = "", **changes: object) -> plan.HostPlan:
    return look.plan_of(known(**changes), "app1", answer(Snapshot(0, "debian", codename, client=client)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("client", "firewall", "says"),
    [
        ("10.9.0.3", True, None),
        ("192.0.2.7", True, None),
        ("192.0.2.8", True, "comes from 192.0.2.8, which is in none of network.admin_cidrs"),
        ("2001:db8::1", True, "comes from 2001:db8::1, which is in none"),
        ("192.0.2.8", False, None),
        ("172.31.255.9", False, "comes from 172.31.255.9, which docker.bridge_address 172.31.255.1/24 would take"),
        ("172.31.4.9", False, "comes from 172.31.4.9, which docker.address_pool 172.31.0.0/17 would take"),
        ("", True, None),  # by a way that tells none
        ("UNKNOWN", True, None),
    ],
)
def test_an_operator_keeps_a_way_back(client: str, firewall: bool, says: str | None) -> None:
    """The firewall lets in where the host sees the operator come from, and no network of Docker's takes the answers."""
    network = {"network": {"firewall": firewall}}
    if says is None:
        assert planned(client=client, **network).changes
    else:
        with pytest.raises(FiefdomError, match=f"^app1: your connection {re.escape(says)}"):
            planned(client=client, **network)


@pytest.mark.parametrize("codename", CODENAMES)
def test_a_host_is_planned_as_the_debian_that_it_runs(codename: Codename) -> None:
    cluster = known().cluster
    wanted = planned(codename).state
    assert wanted == guest.adapted(states_of(cluster, "app1", known().secrets)[codename], (), guest.Guest())
    assert (Package("docker-cli") in wanted.packages) == (codename == "trixie")


def own_daemon(**keys: object) -> list[str]:
    """What a host says of the daemon.json that it had before Fiefdom."""
    return [f"guest\town-daemon\t{base64.b64encode(json.dumps(keys).encode()).decode()}\t644"]


def test_a_hosts_own_keys_of_docker_are_in_what_is_wanted_and_the_second_run_finds_them_there() -> None:
    own = own_daemon(**{"registry-mirrors": ["https://ann:hush@m.example.org"], "mtu": 1400})
    first = look.plan_of(known(), "app1", [*answer(SETTLED), *own])
    file = first.state.file(docker.CONFIG)
    assert json.loads(file.content)["mtu"] == 1400
    assert b"hush" in file.content and "hush" not in json.dumps(plan.merge([first]).as_data()) + repr(first)
    (steps,) = ([s for s in phase.steps if s[:2] == ("stage", docker.CONFIG)] for phase in phases(first)[:1])
    assert base64.b64decode(steps[0][-1]) == file.content and steps[0][2] == "0600"

    def later(digest: str) -> list[tuple[str, str]]:
        found = {docker.CONFIG: FoundFile("regular file", 0o600, 0, 0, digest)}
        now = replace(SETTLED, files=found, made=frozenset({("file", docker.CONFIG)}))
        wanted = look.plan_of(known(), "app1", [*answer(now), *own])
        return [(c.sign, c.why) for c in wanted.of("file") if c.name == docker.CONFIG]

    assert later(file.digest) == []
    # What somebody writes there by hand is drift, and none of the host's own.
    assert later("0" * 64) == [("~", "content")]


def test_plans_of_one_look_are_made_of_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a host should hold is worked out twice."""
    hosts = converged(known(), tmp_path)
    hosts.hosts["app1"].now = replace(hosts.hosts["app1"].now, files={})
    seen = look.see(hosts.known, hosts.names, hosts)

    def again(*_: object) -> HostState:
        raise AssertionError

    monkeypatch.setattr(look, "state_of", again)
    wanted = seen.plan()
    assert wanted == seen.plan(hold=set(hosts.known.cluster.services))
    assert [host.host for host in wanted.hosts] == list(hosts.names)
    assert [host.host for host in wanted.hosts if host.changes] == ["app1"]


def test_a_plan_is_of_what_the_host_goes_back_to(looks: list[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a state that will be taken back would say that nothing is to be changed, or the wrong things."""

    @contextmanager
    def run(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(
            known=SimpleNamespace(behind={}, without=(), spared=frozenset()), names=("app1",), session=None
        )

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


@pytest.mark.parametrize(("seconds", "waits"), [(7, True), (67, True), (70, False)])
def test_a_host_has_a_minute_more_than_it_says_to_be_as_before(
    monkeypatch: pytest.MonkeyPatch, seconds: int, waits: bool
) -> None:
    clock = stopped(monkeypatch)
    monkeypatch.setattr(look, "make_plan", lambda *_: waiting(7 if clock.passed_s < seconds else None))
    with nullcontext() if waits else pytest.raises(FiefdomError, match="neither confirmed nor taken back"):
        found = look.settled_plan(None, ("app1",), None, lambda _: None)  # type: ignore[arg-type]
        assert (found, clock.passed_s) == (waiting(None), seconds)
    assert clock.passed_s < 71


def test_a_concern_alone_removes_nothing_that_others_made() -> None:
    """pyinfra can run each for itself; only all of them know what nobody wants any more."""
    found = Snapshot(0, "debian", "trixie", made=frozenset({("file", "/etc/old.conf")}))

    def removed(*concerns: str) -> list[str]:
        return [c.name for c in look.plan_of(known(), "app1", answer(found), concerns).changes if c.sign == "-"]

    assert removed("firewall") == []
    assert removed(*ALL) == ["/etc/old.conf"]


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

state = State(config=SimpleNamespace(FAIL_PERCENT=None), failed_hosts=[], inventory=None)
engine._runs[state] = SimpleNamespace(known=lambda *_: known)
engine.context = SimpleNamespace(host=host, state=state)
try:
    engine.converge()
except engine.DeployError as error:
    print(error)
"""


def test_pyinfras_own_deploy_refuses() -> None:
    done = forked.run(DEPLOY, cwd=Path(__file__).parents[2])
    says = "app2: an earlier change waits for its confirmation; it takes itself back within 7 s: try again then\n"
    assert (done.stdout, done.stderr) == (says, "")
