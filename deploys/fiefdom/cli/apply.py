"""`fiefdom plan` and `fiefdom apply`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from fiefdom.cli import frame, show
from fiefdom.cli.frame import (
    Command,
    Document,
    Run,
    at_option,
    inventory_argument,
    json_option,
    limit_option,
    tell,
    warn,
)
from fiefdom.cli.group import CLEAN, PENDING
from fiefdom.converge import diffs, look
from fiefdom.converge.plan import Plan
from fiefdom.errors import FiefdomError
from fiefdom.procedures import apply as procedure

Diffs = Mapping[tuple[str, str], str]


@click.command(cls=Command)
@inventory_argument
@limit_option
@at_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files would change; secrets stay masked.")
def plan(inventory: str, limit: tuple[str, ...], at: tuple[str, ...], diff: bool, **_: bool) -> Document:
    """Show what would change. Exit 0: nothing, 2: changes pending, 1: error."""
    with frame.connected(inventory, limit, frame.require_folders, at) as run:
        wanted = look.settled_plan(run.known, run.names, run.session, tell)
        texts = diffs.of_plan(wanted, run.session.text_of) if diff else None
    return Document(_data(wanted, texts), _lines(wanted, inventory, texts), code=CLEAN if wanted.clean else PENDING)


@click.command(cls=Command)
@inventory_argument
@limit_option
@at_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files change; secrets stay masked.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def apply(
    inventory: str, limit: tuple[str, ...], at: tuple[str, ...], as_json: bool, diff: bool, yes: bool
) -> Document:
    """Bring hosts to what the inventory says. Exit 0 only if they are there.

    A change of sshd, firewall or network stays only if a new login confirms it in time; else the host takes it back.
    """
    with frame.connected(inventory, limit, frame.require_folders, at) as run:
        wanted = look.settled_plan(run.known, run.names, run.session, tell)
        texts = diffs.of_plan(wanted, run.session.text_of) if diff else None
        document = _data(wanted, texts)
        frame.begin(document)
        if not as_json:
            _print(run, wanted, texts)
        if wanted.due.clean:
            return Document(document)
        procedure.require_same_key(run.known, run.session, wanted.due.hosts)
        if not yes:
            _ask(run, wanted, as_json)
        with show.Progress(run.out) as progress:
            procedure.apply(run.known, run.session, wanted, whatever=yes, say=progress, tell=tell, warn=warn)
        return Document(document, words=[f"Converged {len(run.names)} hosts in {progress.elapsed_s:.1f} seconds."])


def _ask(run: Run, wanted: Plan, as_json: bool) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise FiefdomError("no terminal to ask on; say --yes to apply this plan unseen")
    if as_json:
        _print(run, wanted, None)
    if not click.confirm("Apply?", err=True):
        raise FiefdomError("not applied")


def _data(wanted: Plan, texts: Diffs | None) -> dict[str, object]:
    diff = {} if texts is None else {"diffs": {f"{host}:{path}": text for (host, path), text in texts.items()}}
    return wanted.as_data() | diff


def _lines(wanted: Plan, inventory: str, texts: Diffs | None) -> list[object]:
    return [
        *show.plan_tree(wanted, inventory),
        *(show.diff(host, path, text) for (host, path), text in (texts or {}).items()),
    ]


def _print(run: Run, wanted: Plan, texts: Diffs | None) -> None:
    for line in _lines(wanted, run.inventory, texts):
        run.out.print(line)
