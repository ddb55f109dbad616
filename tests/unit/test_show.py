"""What a person reads: plans as lines, progress on a terminal and in a log, the tables of a status."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from fiefdom import plan, show
from fiefdom.desired import HostState
from fiefdom.plan import Change, HostPlan, Plan
from fiefdom.snapshot import Snapshot
from fiefdom.status import HostStatus, InstanceStatus, Status


def host_plan(name: str, *changes: Change) -> HostPlan:
    return HostPlan(name, changes, HostState(), Snapshot(0, "debian", "trixie"))


def lines_of(shown: Plan) -> list[str]:
    return [line.plain.rstrip() for line in show.plan_tree(shown)]


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
    assert lines_of(clean)[-1] == f"no changes on 0 of 2 hosts. plan {clean.hash}"


def test_a_footer_leaves_out_what_does_not_occur() -> None:
    one = Plan((host_plan("app1", Change("package", "+", "curl", "not installed")),))
    assert lines_of(one)[-1] == f"1 to create on 1 of 1 hosts. plan {one.hash}"


@pytest.mark.parametrize("name", ["/etc/[red]x[/red]", "/etc/[/]", "/etc/:warning:"])
def test_names_are_not_markup(name: str) -> None:
    shown = printed(*show.plan_tree(Plan((host_plan("app1", Change("file", "+", name, "[bold]why[/bold]")),))))
    assert f"file {name}  [bold]why[/bold]" in shown


def test_a_plan_is_coloured_on_a_terminal_only() -> None:
    assert "\x1b[" in printed(*show.plan_tree(MIXED), terminal=True)
    assert "\x1b" not in printed(*show.plan_tree(MIXED))


def progress(terminal: bool) -> str:
    out = io.StringIO()
    with show.Progress(Console(file=out, force_terminal=terminal, width=100)) as tell:
        tell("app1", "files")
        tell("gw1", "images [bold]of[/bold] [/]")
    return out.getvalue()


def test_progress_in_a_log_is_plain_lines() -> None:
    text = progress(terminal=False)
    assert "\x1b" not in text and "\r" not in text
    assert [re.sub(r"^ +\d+\.\d s", "T", line) for line in text.splitlines()] == [
        "T  app1     files",
        "T  gw1      images [bold]of[/bold] [/]",
    ]


def test_progress_on_a_terminal_also_keeps_a_live_line_and_gives_the_cursor_back() -> None:
    text = progress(terminal=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "app1     files" in plain and "gw1      images [bold]of[/bold] [/]" in plain
    assert "\x1b[?25l" in text  # hidden while it lives
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_progress_gives_the_cursor_back_after_an_error() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), show.Progress(Console(file=out, force_terminal=True)) as tell:
        tell("app1", "files")
        raise KeyboardInterrupt
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


STATUS = Status(
    gateways=("gw1",),
    hosts=(HostStatus("app1", "10.1.0.21", "trixie", "app host", "alive", 1, 2, "-"),),
    instances=(
        InstanceStatus("predictor", "app1", 8000, "1.0.0", "running", ("up",)),
        InstanceStatus("predictor", "app1", 8001, "-", "missing", ("out",)),
    ),
    problems=("gw1: refuses member evil: [red]offers[/red] nothing",),
)


def test_a_status_is_tables_and_problems() -> None:
    rows = [line.split() for line in printed(*show.status_tables(STATUS)).splitlines()]
    assert ["app1", "10.1.0.21", "trixie", "app", "host", "alive", "1/2", "-"] in rows
    assert ["service", "instance", "version", "container", "gw1"] in rows
    assert ["predictor", "app1:8000", "1.0.0", "running", "up"] in rows
    assert ["predictor", "app1:8001", "-", "missing", "out"] in rows
    assert rows[-1] == ["!", "gw1:", "refuses", "member", "evil:", "[red]offers[/red]", "nothing"]


def test_a_diff_keeps_its_text() -> None:
    text = "--- a\n+++ b\n@@ -1 +1 @@\n-[old]\n+[new]\n"
    assert show.diff("app1", "/etc/x", text).plain == f"\napp1: /etc/x\n{text}"
