"""The page of commands is made from the commands, whether they are there already or loaded when they are asked for."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from fiefdom.cli.commands_page import commands_page
from fiefdom.cli.main import main

ROOT = Path(__file__).parents[3]


class Late(click.Group):
    """A group that makes a command only when it is asked for it by name, and lists them in an order of its own."""

    def __init__(self, name: str, commands: dict[str, click.Command]) -> None:
        super().__init__(name, help=f"All of {name}.\n\nA second paragraph\nof two lines.")
        self.late = commands

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.late)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return self.late.get(cmd_name)


@click.command()
@click.argument("inventory")
@click.argument("version", required=False)
@click.option("--last", "-n", default=20, show_default=True, type=click.IntRange(1, 99), help="How many.")
@click.option("--limit", multiple=True, metavar="PATTERN", help="Only [these].")
@click.option("--why", required=True, help="A reason.")
@click.option("--secretly", is_flag=True, hidden=True, help="Not for everybody.")
def plan() -> None:
    """Look only. It changes nothing.

    More of it.
    """


@click.command(hidden=True)
def unseen() -> None:
    """Not for everybody."""


def made() -> str:
    inner = Late("inner", {"plan": plan})
    return commands_page(Late("fiefdom", {"zeta": plan, "plan": plan, "inner": inner, "unseen": unseen}))


def section(page: str, heading: str) -> str:
    return page.partition(f"\n{heading}\n")[2].partition("\n#")[0]


def test_a_command_is_told_with_usage_words_arguments_options_and_exit_code() -> None:
    assert section(made(), "## fiefdom zeta").strip("\n") == "\n".join(
        [
            "    fiefdom zeta [OPTIONS] INVENTORY [VERSION]",
            "",
            "Look only. It changes nothing.",
            "",
            "More of it.",
            "",
            "- `INVENTORY`: The file that describes the cluster: `.yaml`, `.yml`, or the `.py` that pyinfra takes.",
            "- `VERSION`: A version, which is the tag of an image. May be left out.",
            "- `-n, --last N`: How many. Default: `20`. From 1 to 99.",
            "- `--limit PATTERN`: Only [these]. May be given several times.",
            "- `--why TEXT`: A reason. Required.",
            "",
            "Exit code: 0 when it is done, 1 after an error.",
        ]
    )


def test_plan_alone_has_three_exit_codes() -> None:
    page = made()
    assert "2 where changes are pending" in section(page, "## fiefdom plan")
    assert "Exit code: 0 when it is done" in section(page, "### fiefdom inner plan")


def test_commands_keep_their_groups_order_and_hidden_ones_stay_out() -> None:
    page = made()
    assert re.findall(r"^##+ (.*)$", page, re.MULTILINE) == [
        "fiefdom zeta",
        "fiefdom plan",
        "fiefdom inner",
        "fiefdom inner plan",
    ]
    assert "unseen" not in page and "secretly" not in page
    assert page.startswith("# Commands\n") and "All of fiefdom.\n\nA second paragraph of two lines.\n" in page


def test_the_list_links_to_each_section() -> None:
    page = made()
    assert "| [`fiefdom zeta`](#fiefdom-zeta) | Look only. |" in page
    assert "- [`fiefdom inner plan`](#fiefdom-inner-plan)" in section(page, "## fiefdom inner")


def test_an_argument_without_words_is_not_forgotten() -> None:
    @click.command(params=[click.Argument(["colour"])])
    def paint() -> None:
        """Paint."""

    with pytest.raises(KeyError, match="COLOUR"):
        commands_page(Late("fiefdom", {"paint": paint}))


def test_the_page_in_the_repository_is_current() -> None:
    assert (ROOT / "docs/commands.md").read_text() == commands_page(main), "`make reference` writes it anew"


def test_every_command_is_on_the_page_with_words_for_each_option() -> None:
    page = commands_page(main)
    for command in ("plan", "rollout", "rotate-key", "secret set", "lab up"):
        assert re.search(rf"^##+ fiefdom {command}$", page, re.MULTILINE)
    assert not re.search(r"^- `[^`]*`:\s*$", page, re.MULTILINE)
