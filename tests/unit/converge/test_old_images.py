"""Which images of a host go: Fiefdom's, beyond the last few releases, and nobody else's business."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fiefdom.converge import old_images, steps
from fiefdom.converge.plan import HostPlan, Plan, of_host
from fiefdom.converge.snapshot import FoundContainer, FoundImage, FoundUnit, Snapshot, StoredImage
from fiefdom.desired.state import Container, HostState, Image

WEB, SERF = "team/web", "fiefdom/serf"


def state(version: int = 5, serf: str = "2") -> HostState:
    """One service and an agent, as an inventory wants them."""
    instance = Container("web-8000", "fiefdom-web@8000.service", "instance", f"{WEB}:{version}", (), service="web")
    agent = Container("serf-agent", "fiefdom-serf-agent.service", "agent", f"{SERF}:{serf}", ())
    return HostState(images=(Image(instance.image), Image(agent.image)), containers=(instance, agent))


def host(*refs: str, brought: bool = True, context: str = "", **more: object) -> Snapshot:
    """A host with images, the first of them the one that came last; none of them runs."""
    ids = {ref: f"sha256:{ref}" for ref in refs}
    made = frozenset((old_images.BROUGHT, ref) for ref in refs) if brought else frozenset()
    stored = {ids[ref]: StoredImage(context, f"2026-11-29T16:00:{59 - number:02}.0") for number, ref in enumerate(refs)}
    now = Snapshot(0, "debian", "trixie", docker="up", made=made, stored=stored)
    now = replace(now, images={ref: FoundImage(ids[ref], context) for ref in refs})
    return replace(now, **more)  # type: ignore[arg-type]


def container(ref: str, *, ours: bool = True, running: bool = True) -> FoundContainer:
    return FoundContainer(running, f"sha256:{ref}", "spec", "instance", "1", ours, "facts")


def gone(
    now: Snapshot, wanted: HostState | None = None, keep: int = 3, spared: set[str] | None = frozenset()
) -> list[str]:  # type: ignore[assignment]
    """Names of the images that go."""
    plan = HostPlan("app1", (), wanted if wanted is not None else state(), now)
    return [c.name for c in old_images.with_old(plan, keep, spared).changes]


RELEASES = tuple(f"{WEB}:{version}" for version in (5, 4, 3, 2, 1))


def test_the_last_releases_stay() -> None:
    assert gone(host(*RELEASES)) == [f"{WEB}:1", f"{WEB}:2"]
    assert gone(host(*RELEASES), keep=5) == []
    assert gone(host(*RELEASES), keep=1) == [f"{WEB}:{version}" for version in (1, 2, 3, 4)]


def test_what_comes_counts_as_one_of_them() -> None:
    assert gone(host(*RELEASES[1:])) == [f"{WEB}:1", f"{WEB}:2"]


def test_they_go_by_when_they_came_and_not_by_what_they_are_called() -> None:
    assert gone(host(f"{WEB}:9", f"{WEB}:10", f"{WEB}:11", f"{WEB}:5")) == [f"{WEB}:11"]


def test_a_plan_says_how_many_are_kept() -> None:
    (change,) = old_images.with_old(HostPlan("app1", (), state(), host(*RELEASES[:4])), 3, ()).changes
    assert (change.kind, change.sign, change.name, change.why) == ("image", "-", f"{WEB}:2", "3 newer are kept")
    assert old_images.is_removal(change)


@pytest.mark.parametrize("found", [container(f"{WEB}:1"), container(f"{WEB}:1", ours=False, running=False)])
def test_what_a_container_has_stays_whoever_made_it(found: FoundContainer) -> None:
    assert gone(host(*RELEASES, containers={"any": found})) == [f"{WEB}:2"]


def test_what_somebody_elses_container_has_stays() -> None:
    assert gone(host(*RELEASES, used=frozenset({f"sha256:{WEB}:1"}))) == [f"{WEB}:2"]


def test_what_the_host_would_put_back_stays() -> None:
    assert gone(host(*RELEASES, kept_images=frozenset({f"sha256:{WEB}:2"}))) == [f"{WEB}:1"]


def same(*refs: str) -> dict[str, FoundImage]:
    return {ref: FoundImage("sha256:same") for ref in refs}


def test_of_several_names_of_one_image_a_container_keeps_its_versions() -> None:
    """With that its supervisor makes it anew."""
    runs = replace(container("any"), image_id="sha256:same", version="2")
    now = host(*RELEASES, images=same(*RELEASES), containers={"web-8000": runs})
    assert gone(now, keep=2) == [f"{WEB}:1", f"{WEB}:3"]
    assert gone(replace(now, containers={"web-8000": replace(runs, version="nightly")})) == []
    assert gone(replace(now, containers={}, used=frozenset({"sha256:same"}))) == []


def test_of_several_names_of_one_image_the_way_back_needs_one() -> None:
    now = host(*RELEASES, images=same(*RELEASES), kept_images=frozenset({"sha256:same"}))
    assert gone(now, keep=1) == [f"{WEB}:{version}" for version in (1, 2, 3, 4)]
    assert gone(replace(now, images=same(*RELEASES[3:])), keep=1) == [f"{WEB}:1"]


def test_what_a_rollback_could_want_stays() -> None:
    assert gone(host(*RELEASES), spared={f"{WEB}:1"}) == [f"{WEB}:2"]


def test_where_nobody_asked_the_audit_all_of_a_service_stays() -> None:
    now = host(*RELEASES, f"{SERF}:1")
    assert gone(now, spared=None) == [f"{SERF}:1"]
    plan = Plan((HostPlan("app1", (), state(), now),))
    assert old_images.unasked(plan, 3) and not old_images.unasked(plan, 5)


def test_what_fiefdom_neither_brought_nor_built_stays() -> None:
    assert gone(host(*RELEASES, "postgres:15", brought=False)) == []


def test_what_it_built_goes_although_an_older_fiefdom_brought_it() -> None:
    """It kept no record of that, but its builds have a label. Under a name of no service here, it is another's."""
    assert gone(host(*RELEASES, "other/web:1", brought=False, context="abc")) == [f"{WEB}:1", f"{WEB}:2"]


def test_what_no_service_of_the_host_has_any_more_goes() -> None:
    assert gone(host("gone/service:2", "gone/service:1")) == ["gone/service:1", "gone/service:2"]


def test_fiefdoms_own_images_of_other_versions_go_once_nothing_runs_them() -> None:
    now = host(f"{SERF}:2", f"{SERF}:1")
    assert gone(now) == [f"{SERF}:1"]
    assert gone(replace(now, containers={"serf-agent": container(f"{SERF}:1")})) == []


def test_two_services_of_one_image_keep_theirs_each() -> None:
    other = Container("b-9000", "fiefdom-b@9000.service", "instance", f"{WEB}:4", (), service="b")
    both = replace(state(), containers=(*state().containers, other), images=(*state().images, Image(other.image)))
    assert gone(host(*RELEASES), both, keep=2) == [f"{WEB}:1"]


def test_a_build_that_another_one_replaced_goes_and_other_images_without_a_name_stay() -> None:
    stored = {
        "sha256:" + "a" * 64: StoredImage("context", named=False),
        "sha256:b": StoredImage("", named=False),
        "sha256:c": StoredImage("context", named=False),
        "sha256:d": StoredImage("context", named=True),
    }
    now = host(stored=stored, used=frozenset({"sha256:c"}))
    assert gone(now) == ["a" * 12]
    plan = old_images.with_old(HostPlan("app1", (), state(), now), 3, ())
    (phase,) = steps.phases(plan)
    assert (phase.name, phase.steps) == ("removal", (("remove-image", "sha256:" + "a" * 64),))


def test_what_comes_is_noted_before_it_does_and_what_goes_after_all_else() -> None:
    plan = old_images.with_old(of_host("app1", state(), host(*RELEASES[1:4]), {}), 2, ())
    found = {phase.name: phase for phase in steps.phases(plan)}
    assert ("record", old_images.BROUGHT, f"{WEB}:5") in found["files"].steps
    assert found["images"].images == (f"{SERF}:2", f"{WEB}:5")
    assert found["removal"].steps == (("remove-image", f"{WEB}:2"), ("remove-image", f"{WEB}:3"))
    assert list(found)[-1] == "removal"


@pytest.mark.parametrize(
    ("before", "context", "follows"),
    [("fiefdom/gateway:1", "abc", True), ("fiefdom/gateway:2", "abc", False), ("fiefdom/gateway:1", "", False)],
)
def test_a_gateway_that_hands_over_takes_its_image_with_it(before: str, context: str, follows: bool) -> None:
    """By what is known now: a new version of Fiefdom's image; the same one with other settings; somebody's own."""
    gateway = Container("gateway", "fiefdom-gateway.service", "gateway", "fiefdom/gateway:2", ())
    now = host("fiefdom/gateway:2", "fiefdom/gateway:1", context=context)
    now.containers["gateway"] = replace(container(before), role="gateway")
    now.units[gateway.unit] = FoundUnit("loaded", "active", "running", "enabled")
    plan = of_host("gw1", HostState(images=(Image(gateway.image),), containers=(gateway,)), now, {})
    (phase,) = (phase for phase in steps.phases(plan) if phase.name == "containers")
    assert ("containers", "reload", gateway.unit) in phase.steps
    assert (("image-follows", "gateway", f"sha256:{before}") in phase.steps) is follows
    assert any(step[0] == "image-follows" for step in phase.steps) is follows
