"""The page for `man`, made from the commands themselves: in the macros of man(7), which every `man` reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import click

from fiefdom import __version__
from fiefdom.cli.commands_page import commands_of
from fiefdom.cli.group import about
from fiefdom.cli.help_texts import examples, exit_codes, path_of
from fiefdom.cli.left_out import VARIABLE

_ENVIRONMENT = {
    VARIABLE: "The inventory, where a command is given none. A first word that ends in .yaml, .yml or .py is one.",
    "FIEFDOM_GOSSIP_KEY": "The gossip key, in place of the one that the inventory names.",
    "FIEFDOM_NEXT_GOSSIP_KEY": "The key that rotate-key brings, where the present one comes from no file.",
    "FIEFDOM_IDENTITY": "The file with the key that opens the inventory's encrypted secrets.",
}
_EXIT_CODES = {
    "0": "Done.",
    "1": "An error, told in one line on standard error.",
    "2": "Of plan: changes are pending; of status --check and --wait: not all is in rotation; of doctor: warnings.",
    "3": "Some host does not answer; what is shown is the others'.",
}


def man_page(group: click.Group) -> str:
    """All commands of ``group``, and of the groups in it, as a page for `man`."""
    top = click.Context(group, info_name="fiefdom")
    lines = [
        f'.TH FIEFDOM 1 "" "fiefdom {_text(__version__)}" "Fiefdom"',
        *(".SH NAME", r"fiefdom \- containerised services on your own Debian hosts, behind a gateway"),
        *(".SH SYNOPSIS", r".B fiefdom", r"[OPTIONS] COMMAND [ARGS]..."),
        *(".SH DESCRIPTION", *_paragraphs(about(group))),
        ".SH COMMANDS",
    ]
    for command, context in commands_of(group, top):
        inner = list(commands_of(command, context)) if isinstance(command, click.Group) else [(command, context)]
        for each, below in inner:
            lines += _command(each, below)
    lines += [".SH ENVIRONMENT", *_tagged(_ENVIRONMENT.items()), ".SH EXIT STATUS", *_tagged(_EXIT_CODES.items())]
    return "\n".join(lines) + "\n"


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    path = path_of(context)
    yield f".SS {_text(path)}"
    yield f".B {_text(f'fiefdom {path}')}"
    yield _text(" ".join(command.collect_usage_pieces(context)))
    yield from (line for text in about(command).split("\n\n") for line in (".PP", *_paragraphs(text)))
    options = (param for param in command.params if isinstance(param, click.Option))
    records = (record for option in options if (record := option.get_help_record(context)) is not None)
    yield from _tagged((re.sub(r" INTEGER( RANGE)?$", " N", names), words) for names, words in records)
    yield from (".PP", _text(f"Exit code: {exit_codes(path)}"), ".PP", ".nf")
    yield from (f"    {_text(line)}" for line in examples(path))
    yield ".fi"


def _tagged(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, words in rows:
        yield from (".TP", f".B {_text(name)}", _text(" ".join(words.split())))


def _paragraphs(text: str) -> list[str]:
    found: list[str] = []
    for paragraph in text.split("\n\n"):
        found += [*([".PP"] if found else []), _text(paragraph)]
    return found


def _text(words: str) -> str:
    """Words that roff takes as they are: no escape, no dash that is typeset, no line that begins like a request."""
    plain = words.replace("\\", r"\e").replace("-", r"\-").replace("`", "")
    return rf"\&{plain}" if plain.startswith((".", "'")) else plain
