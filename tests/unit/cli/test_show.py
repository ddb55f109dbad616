"""What a person reads: plans as lines, the tables of a status."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from fiefdom.cli import show
from fiefdom.cluster.status import CertificateStatus, HostStatus, InstanceStatus, OfferStatus, Status
from fiefdom.converge import plan
from fiefdom.converge.change import Change
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.converge.snapshot import Disk, FoundContainer, Snapshot
from fiefdom.desired.state import Container, HostState
from fiefdom.procedures.batches import RolloutError
from fiefdom.procedures.release import Order, Release
from fiefdom.procedures.rollout import Report, Wish
from fiefdom.procedures.turn import Failure


def host_plan(name: str, *changes: Change) -> HostPlan:
    return HostPlan(name, changes, HostState(), Snapshot(0, "debian", "trixie"))


def lines_of(shown: Plan) -> list[str]:
    return [line.plain.rstrip() for line in show.plan_tree(shown, "inv.yaml")]


def printed(*things: object, terminal: bool = False, width: int = 200) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width)
    for thing in things:
        console.print(thing)
    return out.getvalue()


MIXED = Plan(
    (
        host_plan(
            "app1",
            Change("package", "+", "curl", "not installed"),
            Change("file", "~", "/etc/x.conf", "content"),
            Change("container", "-/+", "predictor-8000", "1.0 -> 1.1"),
        ),
        host_plan("app2"),
        host_plan("gw1", Change("file", "-", "/etc/old", "no longer in the inventory")),
    )
)


def test_a_volume_that_stays_is_told_below_a_plan_and_is_no_change() -> None:
    volume = "/var/lib/fiefdom/volumes/web/data"
    left = Plan((replace(host_plan("app1"), left_volumes=(volume,)), host_plan("app2")))
    assert left.clean and lines_of(left)[-1] == f"volume: app1: {volume} stays, though no service has it any more"


def test_a_plan_is_hosts_with_their_changes_and_a_footer() -> None:
    assert lines_of(MIXED) == [
        "app1",
        "  +   package curl              not installed",
        "  ~   file /etc/x.conf          content",
        "  -/+ container predictor-8000  1.0 -> 1.1",
        "app2",
        "  = no change",
        "gw1",
        "  -   file /etc/old  no longer in the inventory",
        f"1 to create, 1 to change, 1 to replace, 1 to remove on 2 of 3 hosts. plan {MIXED.hash}",
    ]


def test_a_clean_plan_says_so() -> None:
    clean = plan.merge([host_plan("app1"), host_plan("app2")])
    assert lines_of(clean)[-1] == f"no changes on 2 hosts. plan {clean.hash}"


def test_a_footer_leaves_out_what_does_not_occur() -> None:
    one = Plan((host_plan("app1", Change("package", "+", "curl", "not installed")),))
    assert lines_of(one)[-1] == f"1 to create on 1 of 1 host. plan {one.hash}"


def pending_plan() -> Plan:
    """app1 and app2 would be released, app2 also gets a file."""
    container = Container("web-8000", "fiefdom-web@8000.service", "instance", "w:2", (), version="2", service="web")
    found = {"web-8000": FoundContainer(True, "sha256:1", "s", "instance", "1", True, "f")}
    now = Snapshot(0, "debian", "trixie", containers=found)
    release = Change("container", "-/+", "web-8000", "1 -> 2", container, release="web")
    due = Change("file", "~", "/etc/x", "content")
    changes = {"app1": (release,), "app2": (due, release)}
    return Plan(tuple(HostPlan(name, found, HostState(), now) for name, found in changes.items()))


def test_a_pending_release_is_shown_but_not_counted_and_says_what_to_type() -> None:
    shown = pending_plan()
    assert lines_of(shown) == [
        "app1",
        "  -/+ container web-8000  1 -> 2, with its rollout",
        "app2",
        "  ~   file /etc/x         content",
        "  -/+ container web-8000  1 -> 2, with its rollout",
        f"1 to change on 1 of 2 hosts; a release is pending. plan {shown.hash}",
        "release pending: web 1 -> 2 on app1, app2. Do it with: fiefdom rollout inv.yaml web",
    ]


def test_where_a_release_is_all_there_is_the_footer_says_that_apply_has_nothing_to_do() -> None:
    one = Plan(pending_plan().hosts[:1])
    assert lines_of(one)[-2:] == [
        f"nothing for apply on 1 host; a release is pending. plan {one.hash}",
        "release pending: web 1 -> 2 on app1. Do it with: fiefdom rollout inv.yaml web",
    ]


def a_release(left: tuple[str, ...] = ()) -> Release:
    turns = {h.host: h for h in pending_plan().hosts}
    return Release({"web": ("1", "2")}, turns, (("app1",), ("app2",)), left)


def text_of(lines: Iterable[Text]) -> list[str]:
    return [line.plain for line in lines]


def test_a_release_is_shown_batch_by_batch() -> None:
    assert text_of(show.release_plan(a_release(("app3",)))) == [
        "1. app1",
        "   -/+ web x 1  1 -> 2",
        "2. app2",
        "   -/+ web x 1  1 -> 2",
        "then it waits for --continue: app3",
    ]


def test_a_release_that_went_well_says_where_and_how_long() -> None:
    assert text_of(show.release_report(Report(a_release(), seconds=12.34), "inv.yaml")) == [
        "Released web 1 -> 2 on app1, app2 in 12.3 seconds."
    ]
    canary = text_of(show.release_report(Report(a_release(("app3",)), seconds=1), "inv.yaml"))
    assert canary[1:] == [
        "app3 keep the old version. Go on with `fiefdom rollout inv.yaml --continue`, or back with "
        "`fiefdom rollback inv.yaml web`."
    ]


BAD = [
    Failure(
        "app2", "fiefdom-web@8000.service", "did not [red]start[/red]", ("line 1", "line 2"), True, ("web-8000.failed",)
    ),
    Failure("app3", "its turn", "ended early"),
]


def failed(
    *failures: Failure, undone: Iterable[str] = (), released: Iterable[str] = (), begun: bool = True, **wish: Any
) -> list[str]:
    """The report of a release after app5 had the new version already."""
    release = replace(a_release(), already=("app5",))
    error = RolloutError(failures, undone, released)
    return text_of(
        show.release_report(Report(release, Wish(service="web", **wish), error=error, begun=begun), "inv.yaml")
    )


def test_a_release_that_failed_says_why_where_everything_is_now_and_what_to_type() -> None:
    assert failed(*BAD, undone=["app2", "app1"], released=["app4"]) == [
        "app2: fiefdom-web@8000.service: did not [red]start[/red]",
        "    line 1",
        "    line 2",
        "app3: its turn: ended early",
        "put back: app2, app1",
        "on the new version: app5, app4",
        "app2 keeps what failed until the next run: docker logs web-8000.failed",
        "app3 was not put back; see `fiefdom status inv.yaml`",
        "To bring app5, app4 back: fiefdom rollback inv.yaml web 1",
        "Mend the version in inv.yaml, then: fiefdom rollout inv.yaml web",
    ]


NOT_BEGUN = Failure("app2", "the gateways", "the turn was not begun: gw1 has web up nowhere else", begun=False)


@pytest.mark.parametrize(
    ("failure", "wish", "begun", "last"),
    [
        (BAD[0], {"order": Order(canary="app2")}, True, "Mend the version in inv.yaml, then: {} --canary app2"),
        (BAD[0], {"resume": True}, True, "Mend the version in inv.yaml, then: {}"),
        (NOT_BEGUN, {}, True, "Mend that, then: {}"),
        # The canary's lock is back.
        (NOT_BEGUN, {"resume": True}, False, "Mend that, then: {} --continue"),
        (BAD[0], {"what": "rollback"}, True, "Mend that, then: fiefdom rollback inv.yaml web 2"),
    ],
)
def test_what_to_type_next_is_right_for_each_kind_of_release(
    failure: Failure, wish: dict[str, Any], begun: bool, last: str
) -> None:
    lines = failed(failure, undone=["app2"] * failure.begun, begun=begun, **wish)
    assert lines[-1] == last.format("fiefdom rollout inv.yaml web")
    assert any("keeps what failed" in line for line in lines) == (failure is BAD[0])
    assert not any("was not put back" in line for line in lines)
    if wish.get("what") == "rollback":
        assert "back already: app5" in lines and not any(line.startswith("To bring") for line in lines)


@pytest.mark.parametrize("name", ["/etc/[red]x[/red]", "/etc/[/]", "/etc/:warning:"])
def test_names_are_not_markup(name: str) -> None:
    shown = printed(
        *show.plan_tree(Plan((host_plan("app1", Change("file", "+", name, "[bold]why[/bold]")),)), "inv.yaml")
    )
    assert f"file {name}  [bold]why[/bold]" in shown


def test_a_plan_is_coloured_on_a_terminal_only() -> None:
    assert "\x1b[" in printed(*show.plan_tree(MIXED, "inv.yaml"), terminal=True)
    assert "\x1b" not in printed(*show.plan_tree(MIXED, "inv.yaml"))


_FREE = ["8.0", "GiB", "of", "10.0", "GiB"]
STATUS = Status(
    gateways=("gw1",),
    hosts=(HostStatus("app1", "10.1.0.21", "trixie", "app host", "alive", 1, 2, "-", disk=Disk(10 << 20, 8 << 20)),),
    offers=(
        OfferStatus("predictor", "app1", "1.0.0", "offered", "1 of 2 instances are healthy"),
        OfferStatus("web", "app1", "-", "waiting", "none of its 2 instances is healthy"),
    ),
    instances=(
        InstanceStatus("predictor", "app1", 8000, "1.0.0", "running", ("up",)),
        InstanceStatus("predictor", "app1", 8001, "-", "missing", ("out",)),
    ),
    problems=("gw1: refuses member evil: [red]offers[/red] nothing",),
    notices=("app9 is a member",),
    certificates=(CertificateStatus("gw1", "www", ("www.example.org", "api.example.org"), "2026-03-01T12:00:00Z", 20),),
)


def test_a_status_is_tables_and_problems() -> None:
    rows = [line.split() for line in printed(*show.status_tables(STATUS)).splitlines()]
    assert ["app1", "10.1.0.21", "trixie", "app", "host", "alive", "1/2", "-", *_FREE] in rows
    assert ["service", "host", "version", "offer"] in rows
    assert ["predictor", "app1", "1.0.0", "offered", *["1", "of", "2", "instances", "are", "healthy"]] in rows
    assert ["web", "app1", "-", "waiting", *["none", "of", "its", "2", "instances", "is", "healthy"]] in rows
    assert ["service", "instance", "version", "container", "gw1"] in rows
    assert ["predictor", "app1:8000", "1.0.0", "running", "up"] in rows
    assert ["predictor", "app1:8001", "-", "missing", "out"] in rows
    assert ["www", "gw1", "2026-03-01", "20", "www.example.org,", "api.example.org"] in rows
    assert rows[-2] == ["!", "gw1:", "refuses", "member", "evil:", "[red]offers[/red]", "nothing"]
    assert rows[-1] == ["!", "app9", "is", "a", "member"]


def test_a_diff_keeps_its_text() -> None:
    text = "--- a\n+++ b\n@@ -1 +1 @@\n-[old]\n+[new]\n"
    assert show.diff("app1", "/etc/x", text).plain == f"\napp1: /etc/x\n{text}"
