"""What runs under a unit of an older Fiefdom, whose names had no prefix, runs on under the one of now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fiefdom.converge import plan, steps, steps_script, turn_steps, waves
from fiefdom.converge.plan import HostPlan
from fiefdom.converge.snapshot import FoundUnit, Snapshot
from fiefdom.desired.state import Container, File, HostState, Image, Offer, Unit
from fiefdom.model.unit_names import former_of
from helpers.simulated import SimulatedHost

IMAGE = "fiefdom/predictor:1.0.0"
UNITS = "/etc/systemd/system/"
ONE, TWO = (
    Container(
        f"predictor-{port}",
        f"fiefdom-predictor@{port}.service",
        "instance",
        IMAGE,
        (),
        version="1.0.0",
        service="predictor",
    )
    for port in (8000, 8001)
)
AGENT = Container("serf-agent", "fiefdom-serf-agent.service", "agent", "fiefdom/serf:1", (), version="1")
GATEWAY = Container("gateway", "fiefdom-gateway.service", "gateway", "fiefdom/gateway:1", (), version="1")
OFFER = Offer("predictor", "fiefdom-offer-predictor.service", "1.0.0;8000-8001", (ONE.unit, TWO.unit))


def holds(*containers: Container, offers: tuple[Offer, ...] = (), former: bool = False) -> HostState:
    """A host with containers under the names of today, or those of an older Fiefdom."""
    if former:
        containers = tuple(replace(c, unit=former_of(c.unit)) for c in containers)
    files = dict.fromkeys(f"{c.unit.partition('@')[0]}{'@.service' if '@' in c.unit else ''}" for c in containers)
    return HostState(
        files=tuple(File(f"{UNITS}{name}", b"[Unit]", serves=True) for name in files),
        units=tuple(Unit(unit) for unit in (*(c.unit for c in containers), *(o.unit for o in offers))),
        images=tuple(Image(ref) for ref in dict.fromkeys(c.image for c in containers)),
        containers=containers,
        offers=offers,
    )


APP = holds(ONE, TWO, AGENT, offers=(OFFER,))
BEFORE = holds(ONE, TWO, AGENT, offers=(OFFER,), former=True)


def plan_of(state: HostState, now: Snapshot, **options: bool | frozenset[str]) -> HostPlan:
    return plan.of_host("app1", state, now, {}, **options)  # type: ignore[arg-type]


def applied(
    state: HostState, now: Snapshot, until: int | None = None, **options: bool | frozenset[str]
) -> SimulatedHost:
    """The host after an apply, or after so many of its steps."""
    host = SimulatedHost(state, {}, now)
    taken = [(phase, step) for phase in steps.phases(plan_of(state, now, **options).due) for step in phase.steps]
    for phase in steps.phases(plan_of(state, now, **options).due):
        host.take(replace(phase, steps=()))
    for _, step in taken[:until]:
        host.take_step(step)
    return host


def before(state: HostState = BEFORE) -> Snapshot:
    """A host that an older Fiefdom converged; its units of before are asked for, as those of now."""
    now = applied(state, Snapshot(0, "debian", "trixie", docker="up")).now
    return copied(now)


def copied(now: Snapshot) -> Snapshot:
    return replace(
        now,
        files=dict(now.files),
        units=dict(now.units),
        containers=dict(now.containers),
        offers=dict(now.offers),
        stamps=dict(now.stamps),
        container_stamps=dict(now.container_stamps),
        live=dict(now.live),
        images=dict(now.images),
    )


def said(found: HostPlan) -> list[str]:
    return [f"{c.sign} {c.kind} {c.name}: {c.why}" for c in found.changes if c.kind != "record"]


def turned(host: SimulatedHost) -> list[steps_script.Step]:
    others = ("stage", "place", "record", "forget", "daemon-reload", "unit", "remove-file", "directory", "renamed")
    return [step for step in host.log if step[0] not in others]


def test_the_plan_names_the_units_that_get_another_name_and_no_container() -> None:
    assert said(plan_of(APP, before())) == [
        f"+ file {UNITS}fiefdom-predictor@.service: mode 0644",
        f"+ file {UNITS}fiefdom-serf-agent.service: mode 0644",
        f"- file {UNITS}predictor@.service: is {UNITS}fiefdom-predictor@.service now",
        f"- file {UNITS}serf-agent.service: is {UNITS}fiefdom-serf-agent.service now",
        "+ unit fiefdom-predictor@8000.service: enable",
        "+ unit fiefdom-predictor@8001.service: enable",
        "+ unit fiefdom-serf-agent.service: enable",
        "- unit predictor@8000.service: is fiefdom-predictor@8000.service now",
        "- unit predictor@8001.service: is fiefdom-predictor@8001.service now",
        "- unit serf-agent.service: is fiefdom-serf-agent.service now",
    ]


def test_what_runs_is_let_go_and_taken_up_and_the_offer_stays() -> None:
    host = applied(APP, before())
    assert turned(host) == [
        ("let-go", "predictor@8000.service", "predictor@8001.service", "serf-agent.service"),
        ("containers", "start", AGENT.unit),
        ("instances", ONE.unit, TWO.unit),
    ]
    assert said(plan_of(APP, host.now)) == []
    assert not {("unit", "serf-agent.service"), ("file", f"{UNITS}predictor@.service")} & host.now.made


def test_hosts_take_turns_for_it_under_the_clusters_lock() -> None:
    wanted = plan_of(APP, before())
    assert [p.name for p in steps.phases(wanted) if p.interrupts] == ["containers"]
    assert waves.takes_turns(plan.merge([wanted]))


def test_a_service_whose_release_is_pending_is_drained_before_it_may_become_another() -> None:
    changed = holds(*(replace(c, args=("--memory=1g",)) for c in (ONE, TWO)), AGENT, offers=(OFFER,))
    hold = frozenset({"predictor"})
    assert plan_of(changed, before(), hold=hold).pending == {"predictor": ("1.0.0", "1.0.0")}
    assert turned(applied(changed, before(), hold=hold)) == [
        ("rest", OFFER.unit),
        ("containers", "stop", OFFER.unit),
        ("let-go", "predictor@8000.service", "predictor@8001.service", "serf-agent.service"),
        ("containers", "start", AGENT.unit),
        ("instances", ONE.unit, TWO.unit),
        ("offer", "start", OFFER.unit, ONE.unit, TWO.unit),
    ]


def test_an_agent_that_becomes_another_one_leaves_as_its_own_unit_has_it() -> None:
    changed = holds(ONE, TWO, replace(AGENT, args=("--memory=1g",)), offers=(OFFER,))
    assert turned(applied(changed, before())) == [
        ("remove-unit", "serf-agent.service"),
        ("let-go", "predictor@8000.service", "predictor@8001.service"),
        ("instances", ONE.unit, TWO.unit),
        ("rest", AGENT.unit),
        ("containers", "restart", AGENT.unit),
    ]


def test_an_instance_that_is_not_to_run_on_is_drained_and_stopped_as_ever() -> None:
    host = applied(holds(ONE, AGENT, offers=(OFFER,)), before())
    assert turned(host)[:2] == [("rest", OFFER.unit), ("containers", "stop", OFFER.unit)]
    assert ("remove-unit", "predictor@8001.service") in host.log and TWO.name not in host.now.containers


@pytest.mark.parametrize("args", [(), ("--memory=1g",)], ids=["as it is", "becomes another one"])
def test_a_gateway_is_taken_up_and_another_one_takes_over_from_it(args: tuple[str, ...]) -> None:
    wanted = holds(replace(GATEWAY, args=args))
    assert turned(applied(wanted, before(holds(GATEWAY, former=True)))) == [
        ("let-go", "gateway.service"),
        ("containers", "start", GATEWAY.unit),
        *([("containers", "reload", GATEWAY.unit)] if args else []),
    ]


def test_one_whose_unit_is_down_is_none_to_let_go() -> None:
    now = before()
    now.units["predictor@8001.service"] = FoundUnit("loaded", "failed", "failed", "enabled")
    host = applied(APP, now)
    assert turned(host)[:2] == [("rest", OFFER.unit), ("containers", "stop", OFFER.unit)]
    assert ("let-go", "predictor@8000.service", "serf-agent.service") in host.log
    assert ("remove-unit", "predictor@8001.service") in host.log
    assert ("instances", TWO.unit) in host.log
    assert said(plan_of(APP, host.now)) == []


def test_one_that_both_run_after_a_boot_in_between_is_not_started_again() -> None:
    now = before()
    now.units[ONE.unit] = FoundUnit("loaded", "active", "running", "enabled")
    host = applied(APP, now)
    assert ("let-go", "predictor@8000.service", "predictor@8001.service", "serf-agent.service") in host.log
    assert ("instances", TWO.unit) in host.log


def test_somebody_elses_unit_of_that_name_is_left_alone() -> None:
    now = applied(APP, Snapshot(0, "debian", "trixie", docker="up")).now
    now.units["predictor@8000.service"] = FoundUnit("loaded", "active", "running", "enabled")
    assert said(plan_of(APP, now)) == []


def test_a_plan_of_one_concern_passes_on_what_is_its_own() -> None:
    services = holds(ONE, TWO)
    host = applied(services, before(), complete=False)
    assert turned(host) == [
        ("let-go", "predictor@8000.service", "predictor@8001.service"),
        ("instances", ONE.unit, TWO.unit),
    ]
    assert ("unit", "serf-agent.service") in host.now.made and AGENT.name in host.now.containers


def test_nothing_is_let_go_while_nobody_knows_what_runs() -> None:
    now = replace(before(), docker="down", containers={})
    now.units["docker.service"] = FoundUnit("loaded", "failed", "failed", "enabled")
    assert not plan_of(APP, now).of("unit", "-")


def test_a_run_that_dies_at_any_step_is_finished_by_the_next() -> None:
    whole = applied(APP, before())
    for count in range(len(whole.log) + 1):
        cut = applied(APP, before(), until=count)
        host = applied(APP, copied(cut.now))
        assert said(plan_of(APP, host.now)) == [], count
        assert set(host.now.units) == {u.name for u in APP.units}, count
        assert all(c.running for c in host.now.containers.values()), count


def test_what_an_unfinished_release_kept_goes_back_by_the_name_of_now() -> None:
    host = SimulatedHost(BEFORE, {}, before())
    for step in (("keep", "begin", "turn"), ("keep", "container", ONE.name, former_of(ONE.unit)), ("keep", "done")):
        host.take_step(step)
    host.take_step(("renamed", former_of(ONE.unit), ONE.unit))
    host.take_step(("restore", "replace"))
    assert host.now.units[ONE.unit].active == "active"


def test_a_host_of_an_older_fiefdom_that_leaves_stops_its_agent_by_the_name_that_it_has() -> None:
    gone = plan_of(HostState(), before())
    assert ("containers", "stop", "serf-agent.service") in turn_steps.farewell(gone, ())
    now = applied(APP, before()).now
    assert ("containers", "stop", AGENT.unit) in turn_steps.farewell(plan_of(HostState(), now), ())
