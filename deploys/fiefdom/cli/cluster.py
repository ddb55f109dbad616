"""`fiefdom status`, `lock`, `unlock` and `audit`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import click

from fiefdom.cli import frame, show
from fiefdom.cli.frame import (
    Command,
    Document,
    Run,
    every_option,
    inventory_argument,
    json_option,
    limit_option,
    warn,
    without_option,
)
from fiefdom.cli.group import CLEAN, PENDING, SILENT
from fiefdom.cli.outlet import is_terminal
from fiefdom.cluster import audit as audit_module
from fiefdom.cluster import ledger, locking
from fiefdom.cluster.lock import quorum
from fiefdom.cluster.status import Status, await_well, read
from fiefdom.errors import FiefdomError
from fiefdom.waiting import pause

WATCH_S = 2


@click.command(cls=Command)
@inventory_argument
@limit_option
@click.option("--check", is_flag=True, help="Exit with 2 where anything is not in rotation as the inventory says.")
@click.option(
    "--wait",
    metavar="S",
    type=click.IntRange(1, 86400),
    help="As --check, once all is in rotation or S seconds are over.",
)
@click.option("--watch", is_flag=True, help="Draw it again and again on the terminal, until you interrupt it.")
@every_option
@json_option
def status(
    inventory: str, limit: tuple[str, ...], check: bool, wait: int | None, watch: bool, every: bool, as_json: bool
) -> Document:
    """Show hosts, members, offers, instances, versions and their state in HAProxy."""
    if watch and (as_json or check or wait):
        raise FiefdomError("--watch is for a person's eyes: leave --json, --check and --wait out")
    if watch and not is_terminal(sys.stdout):
        raise FiefdomError("--watch draws on a terminal, and there is none; --wait S waits for a script")
    with frame.connected(inventory, limit, looks=True, certified=False) as run:

        def look() -> Status:
            return read(run.known.cluster, run.known.secrets, run.session)

        if watch:
            _watch(run, look, every)
        found = await_well(look, wait or 0, lambda seen: _connect_anew(run, seen)) if wait else look()
    unwell = PENDING if (check or wait) and not found.serving else CLEAN
    return Document(found.as_data(), show.status_tables(found, every), code=SILENT if found.silent else unwell)


def _connect_anew(run: Run, seen: Status) -> None:
    """A host that did not answer may be back by now."""
    run.session.on_all(run.session.connect_anew, seen.silent)


def _watch(run: Run, look: Callable[[], Status], every: bool) -> NoReturn:
    # Deferred: only who watches needs it.
    from rich.console import Group
    from rich.live import Live

    with suppress(KeyboardInterrupt), Live(console=run.out, screen=True, auto_refresh=False) as live:
        while True:
            found = look()
            live.update(Group(*show.status_tables(found, every)), refresh=True)
            pause(WATCH_S)
            _connect_anew(run, found)
    raise SystemExit(CLEAN)


@click.command(cls=Command)
@inventory_argument
@click.option("--why", metavar="TEXT", help="Lock it; who finds it locked is told TEXT.")
@without_option
@json_option
def lock(inventory: str, why: str | None, without: tuple[str, ...], **_: bool) -> Document:
    """Show who holds the cluster's lock; with --why keep releases, reboots and retirements off until `fiefdom
    unlock`.
    """
    if why is None:
        with frame.connected(inventory, ("gateways",), without=without, looks=True, certified=False) as run:
            found = ledger.read(run.session, run.known.gateways, 0)
        return Document(
            {"locks": [held.as_data() for held in found.locks], "silent": dict(found.silent)},
            show.holders(run.known.gateways, found.locks, found.silent),
            code=SILENT if found.silent else CLEAN,
        )
    with frame.connected(inventory, ("gateways",), without=without, everybody=bool(without), certified=False) as run:
        gateways, witnesses = quorum(run.known.cluster, run.known.without)
        locking.lock(run.session, gateways, ledger.operator(), why, warn, witnesses=witnesses)
    return Document({"outcome": "ok"}, words=[f"Locked. When it is over: fiefdom unlock {inventory}"])


@click.command(cls=Command)
@inventory_argument
@click.option("--take-over", is_flag=True, help="Remove one of a run that died as well.")
@without_option
@json_option
def unlock(inventory: str, take_over: bool, without: tuple[str, ...], **_: bool) -> Document:
    """Remove the lock that a person set, or with --take-over the one that a dead run left."""
    with frame.connected(inventory, ("gateways",), without=without, everybody=True, certified=False) as run:
        gateways = run.known.gateways
        others = [name for name in run.known.cluster.hosts if name not in {*gateways, *run.known.without}]
        found = locking.unlock(run.session, gateways, ledger.operator(), warn, take_over=take_over, witnesses=others)
    words = f"Unlocked: {found[0].who} held it for: {found[0].why}" if found else "It was not locked."
    return Document({"outcome": "ok", "locks": [held.as_data() for held in found]}, words=[words])


@click.command(cls=Command)
@inventory_argument
@click.option(
    "--last", default=20, show_default=True, type=click.IntRange(1, 10000), metavar="N", help="The last N acts."
)
@json_option
def audit(inventory: str, last: int, **_: bool) -> Document:
    """Show who did what to this cluster, when and how it ended, and who holds its lock."""
    with frame.connected(inventory, ("gateways",), looks=True, certified=False) as run:
        found = ledger.read(run.session, run.known.gateways, last)
        acts = audit_module.acts(found.entries, found.live)[-last:]
    data = {
        "locks": [held.as_data() for held in found.locks],
        "acts": [act.as_data() for act in acts],
        "silent": dict(found.silent),
    }
    table = [
        show.audit_table(acts),
        *(line for held in found.locks for line in show.lock_lines(held)),
        *show.silence(found.silent),
    ]
    return Document(data, table, code=SILENT if found.silent else CLEAN)
