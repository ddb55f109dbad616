"""Releases as values: whose turn it is, what forbids it, and what the gateways' counts say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fiefdom.cluster import status
from fiefdom.cluster.status import InstanceStatus, OfferStatus, Status
from fiefdom.cluster.views import (
    Count,
    Missing,
    Silent,
    View,
    alone,
    counts,
    erring,
    missing,
    not_up,
    parse_view,
    verdict,
)
from fiefdom.converge import plan, turn_steps
from fiefdom.converge.change import Change
from fiefdom.converge.plan import HostPlan
from fiefdom.converge.snapshot import FoundContainer, FoundUnit, Snapshot
from fiefdom.converge.turn_steps import turn_back
from fiefdom.desired.state import Container, File, HostState, Image, Offer
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.procedures import release
from fiefdom.procedures.release import Order
from helpers.example import context

APPS = ("app1", "app2", "app3", "app4", "app5")


def cluster(apps: Iterable[str] = APPS, **changes: object) -> Cluster:
    """Hosts that all run `predictor`; `web` runs on app2 and app5 where they are there."""
    hosts: dict[str, Any] = {
        name: {
            "address": f"10.1.0.{30 + i}",
            "groups": ["app_hosts", "web_hosts"] if name in ("app2", "app5") else ["app_hosts"],
            "services": {},
        }
        for i, name in enumerate(apps)
    }
    gone = {name: None for name in ("app1", "app2") if name not in hosts}
    raw: dict[str, Any] = {"hosts": {**hosts, **gone}, **changes}
    if not {"app2", "app5"} & set(hosts):
        raw["services"] = {"web": None}
    return context("gw1", **raw).cluster


def turn(host: str, *services: str, before: str = "1", after: str = "2") -> HostPlan:
    """A plan that replaces an instance of each service."""
    containers = [
        Container(f"{s}-8000", f"fiefdom-{s}@8000.service", "instance", f"team/{s}:2", (), version=after, service=s)
        for s in services
    ]
    found = {c.name: FoundContainer(True, "sha256:1", "old", "instance", before, True, "f") for c in containers}
    changes = tuple(Change("container", "-/+", c.name, "", c) for c in containers)
    return HostPlan(
        host, changes, HostState(containers=tuple(containers)), Snapshot(0, "debian", "trixie", containers=found)
    )


ONE_BY_ONE = Order()


def released(
    order: Order = ONE_BY_ONE, pending: Iterable[str] = APPS, services: Iterable[str] = ("predictor",), **changes: Any
) -> release.Release:
    """The release of services on a cluster where these hosts have another version."""
    wanted = plan.merge(turn(name, *services) for name in pending)
    return release.of_plan(cluster(**changes), wanted, list(services), order)


def refusal(order: Order = ONE_BY_ONE, **arguments: Any) -> str:
    with pytest.raises(FiefdomError) as caught:
        released(order, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Whose turn it is


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        ("1", [1, 1, 1, 1, 1]),
        ("2", [2, 2, 1]),
        ("4", [4, 1]),
        ("25%", [1, 1, 1, 1, 1]),
        ("1%", [1, 1, 1, 1, 1]),
        ("40%", [2, 2, 1]),
        ("99%", [4, 1]),
    ],
)
def test_a_batch_is_a_number_or_a_share_rounded_down_to_one_at_least(batch: str, sizes: list[int]) -> None:
    found = released(Order(batch))
    assert [len(b) for b in found.batches] == sizes
    assert found.hosts == APPS


@pytest.mark.parametrize("batch", ["100%", "5", "9999"])
def test_all_at_once_must_be_said(batch: str) -> None:
    assert refusal(Order(batch)).startswith("predictor runs on app1, app2, app3, app4, app5 only, so that this batch")
    assert released(Order(batch, all_at_once=True)).batches == (APPS,)


@pytest.mark.parametrize(
    "batch", ["0", "-1", "x", "", "101%", "0%", "%", "1.5", " 2", "2\n", "٣", "10000", "25 %", "1e2", "\x1b[31m"]
)
def test_what_is_no_batch_is_told_in_one_printable_line(batch: str) -> None:
    words = refusal(Order(batch))
    assert words.startswith("--batch ") and "25%" in words
    assert words.isprintable()


def test_hosts_named_first_go_first_and_the_others_in_the_inventorys_order() -> None:
    assert released(Order(first=("app4", "app2"))).hosts == ("app4", "app2", "app1", "app3", "app5")
    assert released(Order(first=("app4", "app4"))).hosts == ("app4", "app1", "app2", "app3", "app5")
    # One that is named and has nothing to do takes no turn.
    assert released(Order(first=("app4", "app2")), pending=("app1", "app2")).hosts == ("app2", "app1")


@pytest.mark.parametrize("order", [Order(first=("gw1",)), Order(first=("app9",)), Order(canary="gw1")])
def test_hosts_that_do_not_run_the_service_are_refused(order: Order) -> None:
    assert refusal(order).endswith("runs no predictor; these hosts do: app1, app2, app3, app4, app5")


def test_a_canary_must_run_the_service_that_is_released() -> None:
    assert released(Order(canary="app2"), services=("web",), pending=("app2", "app5")).batches == (("app2",),)
    assert refusal(Order(canary="app1"), services=("web",), pending=("app2", "app5")) == (
        "--canary 'app1': runs no web; these hosts do: app2, app5"
    )


def test_a_canary_goes_alone_and_the_others_are_left() -> None:
    found = released(Order("2", canary="app3"))
    assert (found.batches, found.left) == ((("app3",),), ("app1", "app2", "app4", "app5"))


def test_a_canary_that_runs_the_version_already_has_no_turn() -> None:
    found = released(Order(canary="app1"), pending=("app2", "app3"))
    assert (found.batches, found.hosts, found.left) == ((), (), ("app2", "app3"))


def test_nothing_to_release_is_an_empty_release() -> None:
    found = released(pending=())
    assert (found.batches, found.left, dict(found.services)) == ((), (), {})


# --- What forbids it


def test_the_only_host_of_a_service_is_refused() -> None:
    assert refusal(apps=("app1",), pending=("app1",)).startswith("predictor runs on app1 only, ")
    assert released(Order(all_at_once=True), apps=("app1",), pending=("app1",)).batches == (("app1",),)


def test_a_host_without_instances_of_a_service_does_not_count() -> None:
    """app1 has none of it, so app2 alone carries it."""
    hosts = {"app1": {"services": {"predictor": {"instances": 0}}, "groups": ["app_hosts", "web_hosts"]}}
    two = context("gw1", hosts=hosts, services={"web": {"groups": ["web_hosts"]}}).cluster
    wanted = plan.merge([turn("app2", "predictor")])
    with pytest.raises(FiefdomError, match=r"^predictor runs on app2 only, "):
        release.of_plan(two, wanted, ["predictor"], Order())


def test_a_batch_may_hold_all_hosts_that_have_something_to_do_while_others_serve() -> None:
    assert released(Order("100%"), pending=("app1", "app2")).batches == (("app1", "app2"),)


def test_what_a_release_leaves_alone_may_run_on_one_host_only() -> None:
    """A release of predictor takes nothing else out of rotation: web runs on app2 alone, and goes on."""
    apps = ("app1", "app2")
    assert released(apps=apps, pending=("app1", "app2")).batches == (("app1",), ("app2",))


def test_a_service_that_the_inventory_lacks_is_named() -> None:
    assert release.chosen_services(cluster(), None) == {"predictor", "web"}
    assert release.chosen_services(cluster(), "web") == {"web"}
    with pytest.raises(FiefdomError, match=r"^w\\x1bb is no service of this inventory; it has predictor, web$"):
        release.chosen_services(cluster(), "w\x1bb")


@pytest.mark.parametrize(
    ("service", "order", "says"),
    [
        ("nope", Order(), "nope is no service of this inventory"),
        (None, Order(first=("app9",)), "--order 'app9': runs no predictor or web"),
        ("web", Order(canary="app1"), "--canary 'app1': runs no web; these hosts do: app2, app5"),
        (None, Order(batch="x"), "--batch 'x': say a number"),
    ],
)
def test_a_release_that_cannot_be_is_refused_before_any_host_is_asked(
    service: str | None, order: Order, says: str
) -> None:
    with pytest.raises(FiefdomError, match=f"^{re.escape(says)}"):
        release.check(cluster(), service, order)
    release.check(cluster(), service if service == "web" else None, Order("25%", first=("app5",), canary="app2"))


def test_versions_are_told_by_service() -> None:
    wanted = plan.merge([turn("app1", "predictor"), turn("app2", "predictor", before="0.9"), turn("app3", "predictor")])
    found = release.of_plan(cluster(), wanted, ["predictor"], Order())
    assert found.services == {"predictor": (("1", "0.9"), "2")}
    assert str(found) == "predictor 1, 0.9 -> 2"
    same = release.of_plan(cluster(), plan.merge([turn("app1", "predictor", before="2")]), ["predictor"], Order())
    assert str(same) == "predictor 2 with other settings"


def test_other_services_stay_out_of_a_release() -> None:
    wanted = plan.merge([turn("app1", "predictor"), turn("app2", "predictor", "web"), turn("app5", "web")])
    found = release.of_plan(cluster(), wanted, ["web"], Order())
    assert found.hosts == ("app2", "app5")
    assert [c.name for c in found.turns["app2"].changes] == ["web-8000"]
    assert set(found.services) == {"web"}


UP = InstanceStatus("predictor", "app1", 8000, "1", "running", ("up", "up"))


@pytest.mark.parametrize(
    ("instances", "problems", "reasons"),
    [
        ([UP], (), []),
        ([UP], ("gw1: HAProxy is down",), ["gw1: HAProxy is down"]),
        (
            [replace(UP, servers=("up", "down"))],
            (),
            ["predictor at app1:8000 is running, up at gw1, down at gw2"],
        ),
        (
            [replace(UP, container="missing")],
            (),
            ["predictor at app1:8000 is missing, up at gw1, up at gw2"],
        ),
        (
            [replace(UP, port=8000 + i, servers=("out", "out")) for i in range(5)],
            (),
            [
                *(f"predictor at app1:{8000 + i} is running, out at gw1, out at gw2" for i in range(3)),
                "2 more instances are not up",
            ],
        ),
    ],
)
def test_a_cluster_that_is_not_whole_says_why(
    instances: list[InstanceStatus], problems: tuple[str, ...], reasons: list[str]
) -> None:
    assert status.degraded(Status(("gw1", "gw2"), (), (), tuple(instances), problems)) == reasons


def test_an_offer_that_is_not_made_or_not_heard_leaves_the_cluster_not_whole() -> None:
    waiting = OfferStatus("web", "app1", "-", "waiting", "none of its 2 instances is healthy")
    found = Status(("gw1",), (), (waiting, OfferStatus("predictor", "app1", "1", "offered")), (UP,), ())
    assert status.degraded(found) == ["web at app1 is waiting: none of its 2 instances is healthy"]
    assert not found.serving


def test_without_a_gateway_that_answers_nothing_is_known_to_be_up() -> None:
    assert status.degraded(Status((), (), (), (replace(UP, servers=()),), ()))


def test_what_apply_would_do_comes_first_but_not_what_a_failed_release_left() -> None:
    def host(*changes: Change) -> plan.Plan:
        return plan.merge([HostPlan("app1", changes, HostState(), Snapshot(0, "debian", "trixie"))])

    aside = Change("container", "-", "predictor-8000.failed", "a failed release, kept aside")
    pending = Change("container", "-/+", "predictor-8000", "", release="predictor")
    due = Change("file", "~", "/etc/x", "content")
    assert release.unapplied(host(aside, pending), {}) == []
    assert release.unapplied(host(due, aside), {}) == [
        "app1: another change is pending, file /etc/x; `fiefdom apply` makes it"
    ]
    assert "file /etc/x and 1 more;" in release.unapplied(host(due, replace(due, name="/etc/y")), {})[0]
    # What the turn itself makes need not come before it.
    assert release.unapplied(host(due), {h.host: h for h in host(due).hosts}) == []


# --- A turn's own changes


def test_a_release_is_instances_their_files_and_images_the_hosts_word_and_what_was_left_aside() -> None:
    instance = Container("p-8000", "fiefdom-p@8000.service", "instance", "p:2", (), config=("/e/p.env",), service="p")
    other = Container("w-9000", "fiefdom-w@9000.service", "instance", "w:2", (), config=("/e/w.env",), service="w")
    agent = Container("serf-agent", "fiefdom-serf-agent.service", "agent", "serf:1", (), config=("/e/agent.json",))
    offer = Offer("p", "fiefdom-offer-p.service", "2;8000-8000", (instance.unit,))
    belongs = [
        Change("file", "~", "/e/p.env", "content", File("/e/p.env", b"")),
        Change("file", "~", "/etc/fiefdom/containers/p-8000.conf", "content"),
        Change("file", "~", "/etc/fiefdom/offers/p.conf", "content"),
        Change("file", "~", "/etc/systemd/system/fiefdom-offer-p.service", "content"),
        Change("image", "+", "p:2", "", "p:2"),
        Change("container", "-/+", "p-8000", "1 -> 2", instance),
        Change("offer", "~", "p", "1 on 8000-8000 -> 2 on 8000-8000", offer),
        Change("container", "-", "p-8001.failed", "", "p-8001.failed"),
    ]
    others = [
        Change("file", "~", "/etc/ssh/sshd_config.d/x", "content"),
        Change("file", "~", "/e/w.env", "content"),
        Change("file", "~", "/e/agent.json", "content"),
        Change("file", "~", "/etc/fiefdom/offers/w.conf", "content"),
        Change("offer", "~", "w", "not made"),
        Change("image", "+", "w:2", "", "w:2"),
        Change("container", "-/+", "w-9000", "1 -> 2", other),
        Change("container", "-/+", "serf-agent", "specification", agent),
        Change("container", "-", "p-8009", "no longer in the inventory", "p-8009"),
        Change("unit", "~", "fiefdom-p@8000.service", "enable"),
    ]
    state = HostState(images=(Image("p:2"), Image("w:2")), containers=(instance, other, agent))
    found = release.release_of(
        HostPlan("app1", (*belongs, *others), state, Snapshot(0, "debian", "trixie")), frozenset({"p"})
    )
    assert found.changes == tuple(belongs)
    assert (
        release.release_of(HostPlan("app1", tuple(others), state, Snapshot(0, "debian", "trixie")), {"p"}).changes == ()
    )


def test_the_steps_of_a_turn() -> None:
    """Everything that can fail early comes before the host leaves; it is back in before the turn is settled."""
    host = turn("app1", "predictor")
    unit = "fiefdom-offer-predictor.service"
    offer = Offer("predictor", unit, "2;8000-8000", ("fiefdom-predictor@8000.service",))
    serving = File("/etc/fiefdom/containers/predictor-8000.conf", b"x", mode=0o600, check=("true", "{}"), serves=True)
    state = replace(host.state, files=(serving,), offers=(offer,))
    aside = Change("container", "-", "predictor-8000.failed", "", "predictor-8000.failed")
    made = frozenset({("container", "predictor-8000"), ("file", serving.path)})
    changes = (*host.changes, Change("file", "~", serving.path, "", serving), aside)
    host = replace(host, state=state, changes=changes, snapshot=replace(host.snapshot, made=made))
    steps = [" ".join(step[:3]).strip() for step in turn_steps.turn(host)]
    begin = next(i for i, s in enumerate(steps) if s.startswith("keep begin"))
    steps[begin] = "keep begin"
    assert steps == [
        "remove-container predictor-8000.failed",
        f"stage {serving.path} 0600",
        f"check {serving.path} true",
        "keep begin",
        f"keep file {serving.path}",
        "keep container predictor-8000",
        f"keep offer {unit}",
        "keep done",
        "say drain",
        f"containers stop {unit}",
        "say replace",
        f"place {serving.path}",
        "daemon-reload",
        "containers restart fiefdom-predictor@8000.service",
        "say join",
        f"containers start {unit}",
        "settled",
    ]


def test_services_of_one_host_are_replaced_one_after_the_other() -> None:
    """While one of them is out, the host serves the others: each is back in before the next one leaves."""
    names = ("predictor", "web")
    host = turn("app1", *names)
    offers = tuple(Offer(s, f"fiefdom-offer-{s}.service", "2;8000-8000", (f"fiefdom-{s}@8000.service",)) for s in names)
    files = tuple(File(f"/etc/fiefdom/containers/{s}-8000.conf", b"x", serves=True) for s in names)
    changed = tuple(Change("file", "~", f.path, "", f) for f in files)
    host = replace(host, state=replace(host.state, files=files, offers=offers), changes=(*host.changes, *changed))
    steps = [" ".join(step[:3]).strip() for step in turn_steps.turn(host)]
    assert steps[steps.index("keep done") + 1 :] == [
        *(
            step
            for s in names
            for step in (
                f"say drain {s}",
                f"containers stop fiefdom-offer-{s}.service",
                f"say replace {s}",
                f"place /etc/fiefdom/containers/{s}-8000.conf",
                "daemon-reload",
                f"containers restart fiefdom-{s}@8000.service",
                f"say join {s}",
                f"containers start fiefdom-offer-{s}.service",
            )
        ),
        "settled",
    ]


def test_a_host_without_an_agent_asks_systemd_for_nothing() -> None:
    """systemctl refuses an empty list of units."""
    for taken in (turn_steps.turn(turn("box1", "predictor")), turn_back(turn("box1", "predictor"), aside=True)):
        assert all(len(step) > 2 for step in taken if step[0] == "containers")


# --- What the gateways count


def view(*rows: dict[str, Any]) -> View:
    return parse_view(json.dumps({"servers": rows}))


def row(name: str, requests: object = 0, errors: object = 0, failures: object = 0, **more: object) -> dict[str, Any]:
    port = name.rpartition("-")[2]
    return {
        "service": "predictor",
        "name": name,
        "port": int(port),
        "state": "up",
        "requests": requests,
        "errors_5xx": errors,
        "failures": failures,
    } | more


def test_counts_are_by_gateway_and_server_of_the_hosts_and_services_asked_for() -> None:
    views = {
        "gw1": view(row("app1-8000", 10, 1, 2), row("app2-8000", 5), row("app1-9000", 7, service="web")),
        "gw2": view(row("app1-8000", 20)),
        "gw3": Silent("no answer"),
    }
    assert counts(views, ["app1"], {"predictor": ("1", "2")}) == {
        ("gw1", "app1-8000"): Count(10, 3),
        ("gw2", "app1-8000"): Count(20, 0),
    }


KEY, OTHER = ("gw1", "app1-8000"), ("gw2", "app1-8000")


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({KEY: Count()}, {KEY: Count(1000, 0)}, None),
        ({KEY: Count()}, {KEY: Count(1000, 10)}, None),  # the share itself may go wrong
        ({KEY: Count()}, {KEY: Count(1000, 11)}, "11 of 1000 requests"),
        ({KEY: Count()}, {KEY: Count(2, 2)}, None),  # may be anybody's
        ({KEY: Count()}, {KEY: Count(3, 3)}, "3 of 3 requests"),
        ({KEY: Count()}, {KEY: Count(0, 3)}, "3 of 0 requests"),  # refused connections are no requests
        ({KEY: Count(5000, 50)}, {KEY: Count(5100, 50)}, None),
        ({KEY: Count(5000, 50)}, {KEY: Count(5100, 60)}, "10 of 100 requests"),
        # Counting began anew, as after a reload.
        ({KEY: Count(5000, 50)}, {KEY: Count(10, 5)}, "5 of 10 requests"),
        ({KEY: Count(5000, 0)}, {KEY: Count(4000, 4)}, None),
        # Two gateways' words together.
        ({KEY: Count(), OTHER: Count()}, {KEY: Count(50, 2), OTHER: Count(50, 2)}, "4 of 100 requests"),
        # One that stopped answering counts nothing, and one that never answered has nothing to compare with.
        ({KEY: Count(), OTHER: Count(9, 9)}, {KEY: Count(50, 0)}, None),
        ({KEY: Count()}, {KEY: Count(50, 0), OTHER: Count(90_000, 9_000)}, None),
        ({}, {}, None),
    ],
)
def test_a_verdict_is_by_what_was_counted_since(
    before: dict[tuple[str, str], Count], now: dict[tuple[str, str], Count], words: str | None
) -> None:
    found = verdict(before, now, 0.01)
    assert found is None if words is None else found is not None and found.startswith(words)


def test_every_error_may_be_allowed_and_none() -> None:
    assert verdict({KEY: Count()}, {KEY: Count(10, 10)}, 1.0) is None
    assert verdict({KEY: Count()}, {KEY: Count(10**9, 3)}, 0.0)


def test_a_host_is_up_when_every_gateway_has_every_instance_up() -> None:
    two = cluster(("app1", "app2", "app3"), services={"predictor": {"instances": 2}})
    rows = [row("app2-8000"), row("app2-8001"), row("app2-9000", service="web"), row("app1-8000", state="down")]
    whole = view(*rows)
    assert not_up({"gw1": whole, "gw2": whole}, two, "app2") is None
    assert not_up({"gw1": whole, "gw2": Silent("out of order")}, two, "app2") == "gw2 does not answer: out of order"
    draining = view(*(r | {"state": "drain"} if r["port"] == 8001 else r for r in rows))
    assert not_up({"gw1": whole, "gw2": draining}, two, "app2") == "gw2 has predictor at app2:8001 drain"
    missing = view(*rows[:2])
    assert not_up({"gw1": missing}, two, "app2") == "gw1 has web at app2:9000 out of rotation"
    # Another service on the same port is not it.
    assert not_up({"gw1": view(row("app2-8000"), row("app2-8001"), row("app2-9000"))}, two, "app2")


def test_what_is_missing_names_the_unit_that_is_not_up() -> None:
    one = cluster(("app1",), services={"predictor": {"instances": 1}, "web": None})
    down = {"gw1": view(row("app1-8000", state="down"))}
    assert missing(down, one, "app1") == Missing(
        "fiefdom-predictor@8000.service", "gw1 has predictor at app1:8000 down"
    )
    assert missing({"gw1": Silent("gone")}, one, "app1") == Missing("the gateways", "gw1 does not answer: gone")


@pytest.mark.parametrize(
    ("out", "up", "words"),
    [
        (["app1"], ["app1", "app3"], None),
        (["app1"], ["app1"], "gw1 has predictor up nowhere else"),
        # All of a batch are out together, so that one of them is no stand-in for the other.
        (["app1", "app2"], ["app1", "app2"], "gw1 has predictor up nowhere else"),
        (["app1", "app2"], ["app1", "app3"], None),
        (["app1"], [], "gw1 has predictor up nowhere else"),
    ],
)
def test_hosts_are_alone_where_no_other_has_a_service_up(out: list[str], up: list[str], words: str | None) -> None:
    seen = {"gw1": view(*(row(f"{name}-8000", state="up" if name in up else "down") for name in APPS))}
    assert alone(seen, cluster(services={"web": None}), out) == words


def test_who_serves_nothing_leaves_nobody_alone() -> None:
    """What is down everywhere is not taken down, so that its way back stays open; a gateway's silence is no yes."""
    two = cluster(("app1", "app3"), services={"predictor": {"instances": 1}, "web": None})
    seen = {"gw1": view(row("app1-8000", state="down"), row("app3-8000", state="down"))}
    assert alone(seen, two, ["app1"], if_up=True) is None
    assert alone({"gw1": view(row("app1-8000"))}, two, ["app1"], if_up=True)
    assert alone({"gw1": Silent("gone")}, two, ["app1"], if_up=True) == "gw1 does not answer: gone"


def test_a_service_without_another_host_leaves_nobody_alone() -> None:
    one = cluster(("app1",), services={"predictor": {"instances": 1}, "web": None})
    assert alone({"gw1": view(row("app1-8000"))}, one, ["app1"]) is None


def test_who_erred_is_known_by_server() -> None:
    before, now = {KEY: Count(10, 1), OTHER: Count(10, 1)}, {KEY: Count(20, 1), OTHER: Count(20, 2)}
    assert erring(before, now) == {"app1-8000"}
    assert erring(before, before) == set()


def test_hosts_that_run_the_new_version_already_are_known() -> None:
    """A canary, or what an earlier run did: a failure of this one leaves them where they are."""
    done = replace(turn("app2", "predictor", before="2"), changes=())
    down = turn("app4", "predictor", before="2")
    stopped = {name: replace(found, running=False) for name, found in down.snapshot.containers.items()}
    down = replace(down, changes=(), snapshot=replace(down.snapshot, containers=stopped))
    both = turn("app5", "predictor", "web")
    half = replace(
        both,
        changes=both.changes[:1],
        snapshot=replace(
            both.snapshot,
            containers=both.snapshot.containers | turn("app5", "web", before="2").snapshot.containers,
        ),
    )
    pending = turn("app1", "predictor", "web")
    found = release.of_plan(cluster(), plan.merge([pending, done, down, half]), ["predictor", "web"], Order())
    assert found.already == ("app2", "app5")
    # Another service that is as it shall be says nothing of the one that is released.
    alone = release.of_plan(cluster(), plan.merge([pending, half]), ["predictor"], Order())
    assert (alone.already, alone.asked, found.asked) == ((), {"predictor"}, {"predictor", "web"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["service", "name", "port", "state", "requests", "errors_5xx", "failures", "version"])
likely = st.sampled_from(["app1-8000", "app1-", "-", "app1", "predictor", "up", 8000, -1, True, None, [], {}])
spoilt = st.dictionaries(keys, likely | json_values, max_size=2)
rows = st.builds(lambda whole, some: {**whole, **some}, st.sampled_from([row("app1-8000"), {}]), spoilt)
views = st.dictionaries(
    st.sampled_from(["gw1", "gw2"]),
    st.one_of(
        json_values, st.fixed_dictionaries({"servers": st.lists(rows | json_values, max_size=3) | json_values})
    ).map(lambda sent: parse_view(json.dumps(sent))),
)
CLUSTER = cluster()


@given(before=views, now=views)
@example(before={}, now={"gw1": view(row("app1-8000", service=[]))})
@example(before={}, now={"gw1": view(row("app1-8000", port={}))})
def test_whatever_gateways_say_is_a_verdict_or_a_reason_never_a_traceback(
    before: dict[str, View], now: dict[str, View]
) -> None:
    services = {"predictor": ("1", "2")}
    first, then = (counts(found, APPS, services) for found in (before, now))
    words = verdict(first, then, 0.01)
    assert words is None or words.endswith("as the gateways count")
    missing = not_up(now, CLUSTER, "app1")
    assert missing is None if not now else isinstance(missing, str)


@given(st.lists(st.sampled_from(APPS), unique=True), st.integers(1, 9999), st.lists(st.sampled_from(APPS), max_size=3))
def test_every_host_with_something_to_do_has_one_turn(hosts: list[str], size: int, first: list[str]) -> None:
    wanted = plan.merge(turn(name, "predictor") for name in hosts)
    found = release.of_plan(CLUSTER, wanted, ["predictor"], Order(str(size), tuple(first), all_at_once=True))
    assert sorted(found.hosts) == sorted(hosts)
    assert all(0 < len(batch) <= size for batch in found.batches)
    assert set(found.turns) == set(hosts)


def test_a_unit_that_is_only_starting_is_not_healthy() -> None:
    """Only running, healthy instances make their replacement a release."""
    container = turn("app1", "predictor").state.containers[0]
    state = HostState(units=(), containers=(container,))
    now = turn("app1", "predictor").snapshot
    for active, held in (("active", True), ("activating", False), ("failed", False), ("reloading", True)):
        units = {container.unit: FoundUnit("loaded", active, "", "enabled")}
        found = plan.of_host("app1", state, replace(now, units=units), {}, hold={"predictor"})
        assert [c.release for c in found.of("container")] == (["predictor"] if held else [""])
