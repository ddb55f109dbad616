"""What a person reads of a run under way: on a terminal and in a log, of few hosts and of many."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from fiefdom.cli.progress import Progress
from fiefdom.converge.carry_out import LEFT
from fiefdom.converge.steps import PHASES

LARGE = 100
NAMES = [f"h{number}" for number in range(LARGE)]


def test_progress_of_turns_counts_those_that_are_done() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, width=100), turns=2) as tell:
        tell("app1", "drain")
        tell("app1", "done")
        tell("app2", "drain")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "1/2" in plain and "2/2" not in plain


def progress(terminal: bool) -> str:
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=terminal, width=100)) as tell:
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
    with pytest.raises(KeyboardInterrupt), Progress(Console(file=out, force_terminal=True)) as tell:
        tell("app1", "files")
        raise KeyboardInterrupt
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


# --- Of many hosts


def told(
    work: Callable[[Progress], None],
    terminal: bool = False,
    crowd: int | None = LARGE,
    turns: int | None = None,
) -> list[str]:
    out = io.StringIO()
    try:
        with Progress(Console(file=out, force_terminal=terminal, width=200), turns, crowd) as progress:
            work(progress)
    except RuntimeError:
        pass
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    return [re.sub(r"^ +\d+\.\d s +", "", line).rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def go_through(progress: Progress) -> None:
    for phase in PHASES:
        for name in NAMES:
            progress(name, phase)
    for name in NAMES:
        progress(name, "done")


def test_a_log_of_a_hundred_hosts_has_a_line_for_each_phase_and_one_for_each_host() -> None:
    lines = told(go_through)
    assert lines[: len(PHASES)] == [f"hosts    {phase}" for phase in PHASES]
    assert lines[len(PHASES) :] == [f"{name:<8} done, {at} of 100" for at, name in enumerate(NAMES, 1)]
    assert len(told(go_through, crowd=None)) == LARGE * (len(PHASES) + 1)


def test_what_is_no_phase_is_told_of_each_host_and_an_error_tells_who_was_at_what() -> None:
    def fail(progress: Progress) -> None:
        for name in ("h1", "h2", "h3"):
            progress(name, "files")
        progress("h1", "web.service does not come up: exit 1")
        progress("here", "image team/web:7 is built")
        progress("h3", "done")
        progress("h3", "removal")
        progress("h3", "done")
        raise RuntimeError

    assert told(fail) == [
        "hosts    files",
        "h1       web.service does not come up: exit 1",
        "here     image team/web:7 is built",
        "h3       done, 1 of 100",
        "hosts    removal",
        "h3       done, 1 of 100",
        "h2       not done, last at files",
    ]


@pytest.mark.parametrize("crowd", [LARGE, None])
def test_hosts_that_an_error_kept_from_their_end_are_told_in_a_line_where_they_are_many(crowd: int | None) -> None:
    def fail(progress: Progress) -> None:
        progress("h1", "files")
        for name in ("h1", "h2", "h3"):
            progress(name, LEFT)
        raise RuntimeError

    many = ["hosts    files", "h1       not done, last at files", "2 hosts: h2, h3 not finished"]
    few = ["h1       files", *(f"{name}       not finished" for name in ("h1", "h2", "h3"))]
    assert told(fail, crowd=crowd) == (many if crowd else few)


def test_a_terminal_counts_hosts_at_the_same_phase_and_those_that_are_done() -> None:
    def work(progress: Progress) -> None:
        for name in NAMES[:50]:
            progress(name, "files")
        progress("h0", "done")
        progress("h1", "containers")

    live = [line for line in told(work, terminal=True) if "/100" in line]
    assert live[-1].endswith("1/100 h1: containers, 48 hosts: files")
    assert all(len(line) < 120 for line in live)


@pytest.mark.parametrize("crowd", [None, LARGE])
def test_the_live_line_forgets_what_this_machine_was_at_when_a_host_goes_on(crowd: int | None) -> None:
    def work(progress: Progress) -> None:
        progress("here", "building mine/iris:1.2.0")
        progress("h0", "image")
        progress("h0", "drain")

    live = [line for line in told(work, terminal=True, crowd=crowd, turns=LARGE) if "/100" in line]
    assert live[-1].endswith("0/100 h0: drain")


def release(progress: Progress) -> None:
    progress("hook", "before")
    for name in NAMES:
        progress(name, "image")
    for name in NAMES[:3]:
        progress(name, "redis pauses: its one instance stops before the next one starts")
        for stage in ("drain predictor", "replace predictor", "join predictor", "drain web", "join web", "soak"):
            progress(name, stage)
        progress(name, "done")
    for name in NAMES:
        progress(name, "old images")


def test_a_log_of_a_hundred_turns_has_who_is_at_his_and_who_is_done() -> None:
    turns = [
        line
        for at, name in enumerate(NAMES[:3], 1)
        for line in (
            f"{name:<8} redis pauses: its one instance stops before the next one starts",
            f"{name:<8} drain predictor",
            f"{name:<8} done, {at} of 100",
        )
    ]
    assert told(release, turns=LARGE) == ["hook     before", "hosts    image", *turns, "hosts    old images"]


def test_a_terminal_has_a_line_for_each_turn_and_its_stage_beside_the_bar_alone() -> None:
    lines = told(release, terminal=True, turns=LARGE)
    assert [line for line in lines if " done, " in line] == [
        f"{name:<8} done, {at} of 100" for at, name in enumerate(NAMES[:3], 1)
    ]
    live = [line for line in lines if "/100" in line]
    assert not [line for line in lines if line not in live and re.search("drain|replace|join|soak", line)]
    assert live[-1].endswith("3/100 100 hosts: old images")
    assert all(len(line) < 120 for line in live)


def test_the_live_line_of_a_turn_forgets_what_all_hosts_were_at_before() -> None:
    def work(progress: Progress) -> None:
        for name in NAMES:
            progress(name, "image")
        progress("h0", "drain")
        progress("h1", "drain")

    live = [line for line in told(work, terminal=True, turns=LARGE) if "/100" in line]
    assert live[-1].endswith("0/100 2 hosts: drain")


def test_a_turn_that_ends_badly_is_told_with_its_stage_and_one_that_goes_back_begins_again() -> None:
    def fail(progress: Progress) -> None:
        for stage in ("drain", "done"):
            progress("h0", stage)
        for stage in ("drain", "replace", "restore"):
            progress("h1", stage)
        progress("h0", "restore")
        progress("h0", "put back")
        raise RuntimeError

    assert told(fail, turns=LARGE) == [
        *("h0       drain", "h0       done, 1 of 100", "h1       drain", "h0       restore", "h0       put back"),
        "h1       not done, last at restore",
    ]


def test_few_turns_are_told_stage_by_stage() -> None:
    def work(progress: Progress) -> None:
        for stage in ("image", "drain", "join", "done"):
            progress("h0", stage)

    assert told(work, crowd=None, turns=3) == [f"h0       {stage}" for stage in ("image", "drain", "join", "done")]
