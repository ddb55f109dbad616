"""How commands are listed and end: exit codes, errors that a person can cause as one line. Light: each start has it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from fiefdom.cli.left_out import VARIABLE
from fiefdom.errors import FiefdomError

CLEAN, FAILED, PENDING, SILENT = 0, 1, 2, 3
"""How a command exits; SILENT: some host could not be looked at, and what was shown is the others'."""


class Group(click.Group):
    """Turns the errors that a person can cause into one line and exit 1, everywhere."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FiefdomError as error:
            _fail(*((str(each), each.log) for each in error.each))
        except KeyboardInterrupt:
            _fail(("interrupted; what was done stays, and the next run finishes the rest", ()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # click exits 2 for a wrong option, which would read as "changes pending" here.
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            return FAILED
        except click.exceptions.Abort:
            _fail(("interrupted", ()))
        except click.MissingParameter as error:
            is_inventory = error.param is not None and error.param.name == "inventory"
            _fail((error.format_message() + f" Name it, or set {VARIABLE}." * is_inventory, ()))
        except click.ClickException as error:
            _fail((error.format_message(), ()))


class Family(click.Group):
    """Commands of one word, such as `dev`: listed with their whole first sentence, which click would cut off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, first_sentence(self.commands[name])) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return completions(self, ctx, incomplete)


def completions(group: click.Group, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """What completes the name of one of ``group``'s commands, each with its first sentence, and its options."""
    names = [name for name in group.commands if name.startswith(incomplete)]
    found = [CompletionItem(name, help=first_sentence(group.commands[name])) for name in names]
    return [*found, *click.Command.shell_complete(group, ctx, incomplete)]


def about(command: click.Command) -> str:
    """What a command's help says, a line for each paragraph."""
    text = inspect.cleandoc(command.help or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def first_sentence(command: click.Command) -> str:
    """What a command is for, in a line."""
    paragraph = about(command).partition("\n\n")[0]
    sentence = re.match(r".*?[.:](?= [A-Z]|$)", paragraph)
    return sentence[0] if sentence else paragraph


def one_line(words: object) -> str:
    """Words without line breaks."""
    return " ".join(str(words).split())


def _fail(*errors: tuple[str, Iterable[str]]) -> NoReturn:
    """End with a sentence for each error, and below it its last words."""
    for message, log in errors:
        click.echo(f"error: {one_line(message)}", err=True)
        for line in log:
            click.echo(f"    {line}", err=True)
    raise SystemExit(FAILED)
