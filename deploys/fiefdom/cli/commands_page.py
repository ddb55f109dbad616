"""docs/commands.md, made from the commands themselves: what each is for, its arguments, options and exit codes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import click

from fiefdom.cli.group import about, first_sentence
from fiefdom.cli.help_texts import examples, exit_codes, path_of

_HEAD = """\
# Commands

<!-- Made from the commands by `make reference`; changes by hand are lost. -->

{about}

Every command and group knows `--help`, or `-h`, which ends with exit codes and examples; `{name} --version` tells the
version. `python -m fiefdom` is the same command, where its script is not on the path. `{name} completion SHELL` prints
what a shell completes commands, options and files by, `{name} man` a page for `man`.

Where the variable `FIEFDOM_INVENTORY` names the inventory, it may be left out: `{name} rollout predictor` is
enough where it says `mine.yaml`. A first word that ends in `.yaml`, `.yml` or `.py` is an inventory
all the same, and goes before the variable.

| exit code | what it means |
|---|---|
| 0 | done; of `{name} plan`: nothing to change |
| 1 | an error, told in one line on standard error |
| 2 | of `plan`: changes are pending; of `status --check` and `--wait`: not all is in rotation; of `doctor`: warnings |
| 3 | of what looks, such as `{name} plan` and `logs`, and of `maintenance` and `weight`: a host does not answer |
"""

# click gives arguments no words of their own.
_ARGUMENTS: Mapping[str, str] = {
    "INVENTORY": "The file that describes the cluster: `.yaml`, `.yml`, or the `.py` that pyinfra takes.",
    "FOLDER": "A folder, which is made where it is missing; the working directory when left out.",
    "SERVICE": "A service by its name in the inventory.",
    "VERSION": "A version, which is the tag of an image.",
    "HOST": "A host by its name.",
    "HOSTS": "Hosts or groups by name, as --limit takes them.",
    "NAME": "The secret's name.",
    "COMMAND": "A command with its arguments.",
    "INSTANCE": "A service, and where of it: on which host, in the instance at which port.",
    "PERCENT": "A whole number from 1 to 99; none with `off` in the version's place.",
    "SHELL": "`bash`, `zsh` or `fish`.",
    "WORD": "`on` or `off`.",
    "KEY": "A key of an inventory, such as `services.SERVICE.health.path` or `health.path`.",
}
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
    commands = list(commands_of(group, top))
    parts = [_HEAD.format(about=about(group), name=top.info_name), _list(commands)]
    for command, context in commands:
        parts.append(_section(command, context, 2))
        if isinstance(command, click.Group):
            parts += [_section(inner, below, 3) for inner, below in commands_of(command, context)]
    return "\n".join(parts)


_Found = tuple[click.Command, click.Context]


def commands_of(group: click.Group, context: click.Context) -> Iterator[_Found]:
    """Each command of a group that is not hidden, with a context of its own."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield command, click.Context(command, info_name=name, parent=context)


def _list(commands: list[_Found]) -> str:
    rows = [f"| [`{c.command_path}`](#{_anchor(c)}) | {first_sentence(command)} |" for command, c in commands]
    return "\n".join(["| command | what it does |", "|---|---|", *rows]) + "\n"


def _section(command: click.Command, context: click.Context, level: int) -> str:
    path = context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"{'#' * level} {path}", f"    {usage}", about(command)]
    if isinstance(command, click.Group):
        parts.append("\n".join(f"- [`{c.command_path}`](#{_anchor(c)})" for _, c in commands_of(command, context)))
    else:
        parts.append("\n".join([*_arguments(command), *_options(command, context)]))
        typed = path_of(context)
        parts.append(f"Exit code: {exit_codes(typed)}")
        if lines := examples(typed):
            parts.append("\n".join(["```sh", *lines, "```"]))
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


def _anchor(context: click.Context) -> str:
    """The anchor that Markdown gives to the heading of a command's section."""
    return context.command_path.replace(" ", "-")
