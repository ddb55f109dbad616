"""docs/commands.md, made from the commands themselves: what each is for, its arguments, options and exit codes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

import click

_HEAD = """\
# Commands

<!-- Made from the commands by `make reference`; changes by hand are lost. -->

{about}

Every command and group knows `--help`, or `-h`. `{name} --version` tells the version.

| exit code | what it means |
|---|---|
| 0 | done; of `{name} plan`: nothing to change |
| 1 | an error, told in one line on standard error |
| 2 | of `plan`: changes are pending; of `status --check` and `--wait`: not all is in rotation; of `doctor`: warnings |
| 3 | of `{name} plan`, `status`, `doctor`, `trust`, `audit`, `lock`, `maintenance`, `weight`: a host does not answer |
"""

# click gives arguments no words of their own.
_ARGUMENTS: Mapping[str, str] = {
    "INVENTORY": "The file that describes the cluster: `.yaml`, `.yml`, or the `.py` that pyinfra takes.",
    "SERVICE": "A service by its name in the inventory.",
    "VERSION": "A version, which is the tag of an image.",
    "HOST": "A host by its name.",
    "HOSTS": "Hosts or groups by name, as --limit takes them.",
    "NAME": "The secret's name.",
    "COMMAND": "A command with its arguments.",
    "PERCENT": "A whole number from 1 to 99; none with `off` in the version's place.",
    "WORD": "`on` or `off`.",
    "KEY": "A key of an inventory, such as `services.SERVICE.health.path` or `health.path`.",
}
# By what follows the name of the program.
_EXIT_CODES: Mapping[str, str] = {
    "trust": "0 where all keys are known now, 1 where one was not taken, 3 where some host does not answer.",
    "doctor": "0 where nothing is in the way, 2 for warnings, 3 where some host does not answer, 1 where apply would "
    "refuse.",
    "check": "0 where the inventory is fine, 1 where it is not.",
    "plan": "0 where nothing is to be changed, 2 where changes are pending, 3 where some host does not answer, "
    "whatever the others need, 1 after an error.",
    "status": "0 where it is shown, with `--check` or `--wait` only where every instance is in rotation, 2 where one "
    "is not, 3 where some host does not answer, 1 after an error.",
    "audit": "0 where it is shown, 3 where it is shown but for a gateway that does not answer, 1 after an error.",
    "lock": "0 where it is shown or the cluster is locked, 3 where it is shown but for a gateway that does not answer, "
    "1 after an error.",
    "weight": "0 where all gateways have done it, 3 where some have and others did not answer, 1 after an error.",
    "maintenance": "0 where all gateways have done it, 3 where some have and others did not answer, 1 after an error.",
    "apply": "0 only where the hosts are as the inventory says, but for releases that are pending; 1 otherwise.",
    "dev up": "0 only where every container answers, 1 otherwise.",
    "run": "that of the command; 1 where nothing began, or where it was interrupted.",
    "lab ssh": "that of `ssh`, which is that of the command; 1 where there is no such host.",
}
_DONE = "0 when it is done, 1 after an error."

# What click puts behind an option's help, such as "  [default: 2; 1<=x<=9]".
_EXTRA = re.compile(r"\s*\[((?:default: |required|x[<>]|[0-9]+<)[^\]]*)\]$")


def commands_page(group: click.Group) -> str:
    """All commands of a group, and of the groups in it, as a page in Markdown.

    Commands are asked for by name, one by one, so that a group which loads them late is read as it is used.

    Raises:
        KeyError: an argument has no description here yet.
    """
    name = group.name or "fiefdom"
    top = click.Context(group, info_name="fiefdom" if name == "main" else name)
    commands = list(_commands(group, top))
    parts = [_HEAD.format(about=_about(group), name=top.info_name), _list(commands)]
    for command, context in commands:
        parts.append(_section(command, context, 2))
        if isinstance(command, click.Group):
            parts += [_section(inner, below, 3) for inner, below in _commands(command, context)]
    return "\n".join(parts)


_Found = tuple[click.Command, click.Context]


def _commands(group: click.Group, context: click.Context) -> Iterator[_Found]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield command, click.Context(command, info_name=name, parent=context)


def _list(commands: list[_Found]) -> str:
    rows = [f"| [`{c.command_path}`](#{_anchor(c)}) | {_first_sentence(command)} |" for command, c in commands]
    return "\n".join(["| command | what it does |", "|---|---|", *rows]) + "\n"


def _section(command: click.Command, context: click.Context, level: int) -> str:
    path = context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"{'#' * level} {path}", f"    {usage}", _about(command)]
    if isinstance(command, click.Group):
        parts.append("\n".join(f"- [`{c.command_path}`](#{_anchor(c)})" for _, c in _commands(command, context)))
    else:
        parts.append("\n".join([*_arguments(command), *_options(command, context)]))
        parts.append(f"Exit code: {_EXIT_CODES.get(path.partition(' ')[2], _DONE)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _arguments(command: click.Command) -> Iterator[str]:
    for param in command.params:
        if isinstance(param, click.Argument):
            name = (param.name or "").upper()
            yield f"- `{name}`: {_ARGUMENTS[name]}{'' if param.required else ' May be left out.'}"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for param in command.params:
        record = param.get_help_record(context) if isinstance(param, click.Option) else None
        if record is not None:
            names, words = record
            extra = _EXTRA.search(words)
            names = re.sub(r" INTEGER( RANGE)?$", " N", names)
            many = " May be given several times." if param.multiple else ""
            told = f" {_extra(extra[1])}" if extra else ""
            yield f"- `{names}`: {_EXTRA.sub('', words)}{told}{many}"


def _extra(words: str) -> str:
    """Click's words such as "default: 2; 1<=x<=9" as sentences."""
    parts = []
    for part in words.split("; "):
        kind, _, value = part.partition(": ")
        bounds = re.fullmatch(r"(-?[0-9]+)<=x<=(-?[0-9]+)", part)
        if bounds:
            parts.append(f"From {bounds[1]} to {bounds[2]}.")
        elif kind == "default":
            parts.append(f"Default: `{value}`.")
        else:
            parts.append(f"{part.capitalize()}.")
    return " ".join(parts)


def _about(command: click.Command) -> str:
    """What a command's help says, a line for each paragraph."""
    text = inspect.cleandoc(command.help or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _first_sentence(command: click.Command) -> str:
    paragraph = _about(command).partition("\n\n")[0]
    sentence = re.match(r".*?[.:](?= [A-Z]|$)", paragraph)
    return sentence[0] if sentence else paragraph


def _anchor(context: click.Context) -> str:
    """The anchor that Markdown gives to the heading of a command's section."""
    return context.command_path.replace(" ", "-")
