"""The order of a run as a table: what is wanted and found, and the waves that follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fiefdom.converge import plan
from fiefdom.converge.change import Change
from fiefdom.converge.snapshot import FoundContainer, Snapshot
from fiefdom.converge.waves import Wave, takes_turns, waves
from fiefdom.desired.state import Container, File, HostState, Image, Package
from helpers.example import context

BARE = Snapshot(0, "debian", "trixie", docker="up")
SERVING = replace(BARE, containers={"old": FoundContainer(True, "sha256:1", "s", "instance", "1", True, "f")})
RULES = HostState(files=(File("/etc/fiefdom/firewall.nft", b"rules\n"),))
DOCKER = HostState(packages=(Package("docker.io"),))


def of_role(role: str) -> HostState:
    container = Container(role, f"{role}.service", role, "team/web:7", ())
    return HostState(files=(File("/etc/x.conf", b"x\n"),), images=(Image("team/web:7"),), containers=(container,))


APP, GATEWAY = of_role("instance"), of_role("gateway")
GOING = HostState()
FILES = HostState(files=(File("/etc/x.conf", b"x\n"),))


def shown(wave: Wave) -> str:
    """`turn after app1: app2 containers+removal, done: app2`, less hosts that do nothing."""
    what = [f"{name} {'+'.join(p.name for p in own)}" for name, own in wave.phases.items() if own]
    done = f", done: {' '.join(n for n in wave.phases if n in wave.done)}" if wave.done else ""
    return f"{wave.kind}{f' after {wave.after}' if wave.after else ''}: {', '.join(what)}{done}"


TABLE: list[tuple[str, dict[str, tuple[HostState, Snapshot]], list[str]]] = [
    ("nothing to do", {"app1": (GOING, BARE)}, ["together: ", "together: "]),
    (
        "bare hosts go side by side, gateways before those that join them",
        {"app1": (APP, BARE), "gw1": (GATEWAY, BARE)},
        [
            "together: app1 files+images, gw1 files+images",
            "together: gw1 containers, done: gw1",
            "together: app1 containers, done: app1",
        ],
    ),
    (
        "what could lock out goes ahead on the first host of each group, behind everybody's packages",
        {"gw1": (RULES + DOCKER, BARE), "gw2": (RULES + DOCKER, BARE)},
        [
            "together: gw1 packages, gw2 packages",
            "ahead: gw1 access",
            "together: gw1 files, gw2 access+files",
            "together: , done: gw1 gw2",
        ],
    ),
    (
        "hosts that serve take turns, each when the one before it serves again",
        {"app1": (APP, SERVING), "app2": (APP, SERVING), "gw1": (GATEWAY, SERVING)},
        [
            "together: app1 files+images, app2 files+images, gw1 files+images",
            "turn: gw1 containers, done: gw1",
            "turn: app1 containers, done: app1",
            "turn after app1: app2 containers, done: app2",
        ],
    ),
    (
        "who is to run a service comes before who was, and who serves nothing before both",
        {"app1": (GOING, SERVING), "app2": (APP, SERVING), "app3": (FILES, BARE)},
        [
            "together: app2 files+images, app3 files",
            "together: , done: app3",
            "turn: app2 containers, done: app2",
            "turn after app2: app1 containers, done: app1",
        ],
    ),
]

LEAVING = frozenset({("file", "/etc/fiefdom/old.conf")})
"""What nobody wants any more: it may be in use until the host's containers are others."""
TABLE += [
    (
        "what is no longer wanted goes last, in its host's turn or beside what disturbs nobody",
        {"app1": (APP, replace(SERVING, made=LEAVING)), "app2": (GOING, replace(BARE, made=LEAVING))},
        [
            "together: app1 files+images",
            "together: app2 removal, done: app2",
            "turn: app1 containers+removal, done: app1",
        ],
    )
]


@pytest.mark.parametrize(("wanted", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_waves(wanted: dict[str, tuple[HostState, Snapshot]], expected: list[str]) -> None:
    merged = plan.merge(plan.of_host(name, state, now, {}) for name, (state, now) in wanted.items())
    found = [shown(wave) for wave in waves(merged, context().cluster)]
    assert [line for line in found if line != "together: "] == [line for line in expected if line != "together: "]


def test_without_turns_only_those_are_through_that_have_none() -> None:
    wanted = {"app1": (APP, SERVING), "app2": (FILES, BARE)}
    merged = plan.merge(plan.of_host(name, state, now, {}) for name, (state, now) in wanted.items())
    assert [shown(wave) for wave in waves(merged, context().cluster, turns=False)] == [
        "together: app1 files+images, app2 files, done: app2"
    ]


DOWN = replace(BARE, docker="down")
THEIRS = replace(BARE, containers={"theirs": FoundContainer(True, "sha256:1", "", "", "", False, "f")})


@pytest.mark.parametrize(
    ("state", "now", "turns"),
    [
        (APP, SERVING, True),
        (GOING, SERVING, True),  # what runs there goes
        (APP, BARE, False),  # nobody notices what a host begins to run
        (FILES, THEIRS, False),
        (FILES, DOWN, True),  # what runs there may be up by the time that its dockerd is
        (APP, DOWN, True),
        (HostState(), DOWN, False),
        (HostState(), BARE, False),
    ],
)
def test_hosts_take_turns_where_one_may_serve_less_meanwhile(state: HostState, now: Snapshot, turns: bool) -> None:
    """Then a run wants the cluster's lock; any host of several decides it."""
    calm = plan.of_host("calm", FILES, BARE, {})
    assert takes_turns(plan.merge([plan.of_host("app1", state, now, {})])) == turns
    assert takes_turns(plan.merge([calm, plan.of_host("app1", state, now, {}), calm])) == turns


def test_a_release_that_waits_for_its_rollout_has_no_host_take_a_turn() -> None:
    release = Change("container", "-/+", "web", "1 -> 2", release="web")
    host = plan.HostPlan("app1", (release,), APP, SERVING)
    assert not takes_turns(plan.merge([host]))
    assert takes_turns(plan.merge([replace(host, changes=(replace(release, release=""),))]))
