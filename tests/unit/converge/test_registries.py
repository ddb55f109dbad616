"""What a host has of registries' images, and what is done about it: names, digests, logins that change."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from fiefdom.converge import plan, steps
from fiefdom.converge.snapshot import FoundImage, Snapshot
from fiefdom.desired import concerns, docker
from fiefdom.desired.context import Context
from fiefdom.desired.state import HostState
from fiefdom.model import Cluster, Secrets
from helpers.example import GOSSIP_KEY, INVENTORY, merged
from helpers.simulated import SimulatedHost

D, E = "sha256:" + "0a" * 32, "sha256:" + "0b" * 32
LOGIN = docker.CLIENT_CONFIG
TOKEN = {"command": ["print-token"]}
GHCR = {"server": "ghcr.io", "user": "ann", "password": TOKEN}
ONE_SERVICE: dict[str, Any] = {
    "services": {"web": None},
    "hosts": {"app2": {"groups": ["app_hosts"], "services": None}, "app1": {"services": None}},
}


def cluster(image: str, **changes: Any) -> Cluster:
    """The example with the service `predictor` alone, from another image."""
    service = {"services": {"predictor": {"image": image, "instances": 1}}}
    return Cluster.model_validate(merged(merged(merged(INVENTORY, ONE_SERVICE), service), changes))


def state_of(cluster: Cluster, given: str = "one") -> HostState:
    values = {source: given for _, source in cluster.secret_sources()}
    return concerns.state_of(Context("app1", cluster, "trixie", Secrets(GOSSIP_KEY, values)))


def converged(state: HostState) -> SimulatedHost:
    """A host that took all that it was to take."""
    host = SimulatedHost(state, {}, Snapshot(0, "debian", "trixie", docker="up"))
    for phase in steps.phases(plan.of_host("app1", state, host.now, {})):
        host.take(phase)
    assert differences(state, host.now) == []
    return host


def differences(state: HostState, now: Snapshot) -> list[str]:
    found = plan.of_host("app1", state, now, {}).changes
    return [f"{c.sign} {c.kind} {c.name}: {c.why}" for c in found if c.kind != "container"]


def image_steps(state: HostState, now: Snapshot) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Steps that bring a host its images, without contents; and the images that are sent to it."""
    phase = steps.images_phase(plan.of_host("app1", state, now, {}))
    return [step[:3] if step[0] == "pull" else step[:2] for step in phase.steps], phase.images


@pytest.mark.parametrize(
    ("image", "changes", "printed"),
    [
        ("docker.io/team/web", {}, "team/web:1.2.0"),
        ("docker.io/library/nginx", {}, "nginx:1.2.0"),
        ("index.docker.io/nginx", {"registries": {"hub": {"server": "docker.io"}}}, "nginx:1.2.0"),
        ("nginx", {"registry": {"server": "docker.io"}}, "nginx:1.2.0"),
        ("web", {"registry": {"server": "docker.io/team"}}, "team/web:1.2.0"),
        ("ghcr.io/team/web", {}, "ghcr.io/team/web:1.2.0"),
    ],
)
def test_what_docker_prints_is_found_however_the_inventory_writes_it(
    image: str, changes: dict[str, Any], printed: str
) -> None:
    state = state_of(cluster(image, **changes))
    host = converged(state)
    assert printed in host.now.images
    del host.now.images[printed]
    ref = next(i.ref for i in state.images if "serf" not in i.ref)
    assert f"+ image {ref}: not on the host" in differences(state, host.now)


def test_another_digest_is_another_image_and_the_same_container_from_it() -> None:
    gh = {"registries": {"gh": GHCR}}
    old, new = state_of(cluster(f"ghcr.io/web@{D}", **gh)), state_of(cluster(f"ghcr.io/web@{E}", **gh))
    host = converged(old)
    assert host.now.images["ghcr.io/web:1.2.0"].digests == {D}
    assert differences(new, host.now) == [f"~ image ghcr.io/web:1.2.0: {D[7:19]} -> {E[7:19]}"]
    (change,) = plan.of_host("app1", new, host.now, {}).of("container")
    assert (change.sign, change.name, change.why) == ("-/+", "predictor-8000", "new image")
    login = [("directory", "/etc/fiefdom"), ("directory", docker.CLIENT_DIR), ("stage", LOGIN), ("place", LOGIN)]
    pull = ("pull", "ghcr.io/web:1.2.0", f"ghcr.io/web@{E}")
    assert image_steps(new, host.now) == ([*login, pull], ())


def test_an_image_that_a_registry_knows_by_several_digests_is_right_by_any() -> None:
    state = state_of(cluster(f"ghcr.io/web@{D}", registries={"gh": GHCR}))
    now = converged(state).now
    found = now.images["ghcr.io/web:1.2.0"]
    now.images["ghcr.io/web:1.2.0"] = replace(found, digests=frozenset({E, D}))
    assert differences(state, now) == []
    now.images["ghcr.io/web:1.2.0"] = FoundImage(found.id)
    assert differences(state, now) == [f"~ image ghcr.io/web:1.2.0: {found.id[7:19]} -> {D[7:19]}"]


def test_some_images_are_pulled_and_others_sent() -> None:
    state = state_of(cluster("ghcr.io/team/web", registries={"gh": {"server": "ghcr.io"}}))
    pulled, sent = image_steps(state, Snapshot(0, "debian", "trixie", docker="up"))
    assert pulled == [("pull", "ghcr.io/team/web:1.2.0")]
    assert [ref.partition(":")[0] for ref in sent] == ["fiefdom/serf"]
    state = state_of(cluster("web", registry={"server": "r.org"}))
    pulled, sent = image_steps(state, Snapshot(0, "debian", "trixie", docker="up"))
    assert ([step[0] for step in pulled], sent) == (["pull", "pull"], ())


def test_a_token_that_is_another_at_each_call_is_no_drift_and_arrives_with_the_next_pull() -> None:
    first, later = (state_of(cluster("ghcr.io/web", registries={"gh": GHCR}), token) for token in ("one", "two"))
    host = converged(first)
    assert base64.b64encode(b"ann:one") in host.contents[LOGIN]
    assert differences(later, host.now) == []
    assert plan.of_host("app1", first, host.now, {}).changes == plan.of_host("app1", later, host.now, {}).changes
    del host.now.images["ghcr.io/web:1.2.0"]
    host.take(steps.images_phase(plan.of_host("app1", later, host.now, {})))
    assert base64.b64encode(b"ann:two") in host.contents[LOGIN]
    assert differences(later, host.now) == []


def test_a_login_file_is_drift_in_all_but_what_it_shows() -> None:
    state = state_of(cluster("ghcr.io/web", registries={"gh": GHCR}))
    now = converged(state).now
    found = now.files[LOGIN]
    other = state_of(cluster("ghcr.io/web", registries={"gh": GHCR}, registry={**GHCR, "server": "r.org"}))
    assert f"~ file {LOGIN}: content" in differences(other, now)
    now.files[LOGIN] = replace(found, mode=0o644)
    assert differences(state, now) == [f"~ file {LOGIN}: mode 0644 -> 0600"]
    now.files[LOGIN] = replace(found, digest="somebody's")
    assert differences(state, now) == [f"~ file {LOGIN}: content"]
    del now.files[LOGIN]
    assert differences(state, now) == [f"+ file {LOGIN}: mode 0600"]


def test_a_login_that_a_host_never_had_is_written_down_as_fiefdoms_before_it_is_made() -> None:
    now = converged(state_of(cluster("team/web"))).now
    pulled, _ = image_steps(state_of(cluster("ghcr.io/web", registries={"gh": GHCR})), now)
    assert pulled == [
        ("record", "directory"),
        ("record", "file"),
        ("directory", "/etc/fiefdom"),
        ("directory", docker.CLIENT_DIR),
        ("stage", LOGIN),
        ("place", LOGIN),
        ("pull", "ghcr.io/web:1.2.0"),
    ]
