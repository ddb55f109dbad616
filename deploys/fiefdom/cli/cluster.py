"""`fiefdom status`, `lock`, `unlock` and `audit`."""

from __future__ import annotations

import click

from fiefdom.cli import frame, show
from fiefdom.cli.frame import Command, Document, inventory_argument, json_option, limit_option, warn
from fiefdom.cli.group import CLEAN, PENDING
from fiefdom.cluster import audit as audit_module
from fiefdom.cluster import ledger
from fiefdom.cluster.status import read


@click.command(cls=Command)
@inventory_argument
@limit_option
@click.option("--check", is_flag=True, help="Exit with 2 where anything is not in rotation as the inventory says.")
@json_option
def status(inventory: str, limit: tuple[str, ...], check: bool, **_: bool) -> Document:
    """Show hosts, members, offers, instances, versions and their state in HAProxy."""
    with frame.connected(inventory, limit) as run:
        found = read(run.known.cluster, run.known.secrets, run.session)
    return Document(found.as_data(), show.status_tables(found), code=PENDING if check and not found.serving else CLEAN)


@click.command(cls=Command)
@inventory_argument
@click.option("--why", required=True, metavar="TEXT", help="What whoever finds it locked should know.")
def lock(inventory: str, why: str) -> Document:
    """Keep releases, reboots and retirements from this cluster until `fiefdom unlock`."""
    with frame.connected(inventory, ("gateways",)) as run:
        ledger.lock(run.session, run.known.cluster.gateways, ledger.operator(), why, warn)
    return Document(words=[f"Locked. When it is over: fiefdom unlock {inventory}"])


@click.command(cls=Command)
@inventory_argument
@click.option("--take-over", is_flag=True, help="Remove the lock of a run that died as well.")
def unlock(inventory: str, take_over: bool) -> Document:
    """Remove the lock that a person set, or that a run left which died."""
    with frame.connected(inventory, ("gateways",)) as run:
        gateways = run.known.cluster.gateways
        found = ledger.unlock(run.session, gateways, ledger.operator(), warn, take_over=take_over)
    return Document(words=[f"Unlocked: {found[0].who} held it for: {found[0].why}" if found else "It was not locked."])


@click.command(cls=Command)
@inventory_argument
@click.option("--last", default=20, show_default=True, type=click.IntRange(1, 10000), help="How many acts.")
@json_option
def audit(inventory: str, last: int, **_: bool) -> Document:
    """Show who did what to this cluster, when and how it ended, and who holds its lock."""
    with frame.connected(inventory, ("gateways",)) as run:
        found = ledger.read(run.session, run.known.cluster.gateways, last)
        acts = audit_module.acts(found.entries, found.live)[-last:]
    for warning in found.warnings:
        warn(warning)
    data = {"locks": [lock.as_data() for lock in found.locks], "acts": [act.as_data() for act in acts]}
    return Document(data, [show.audit_table(acts), *(line for held in found.locks for line in show.lock_lines(held))])
