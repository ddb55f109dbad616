"""`fiefdom status`, `lock`, `unlock` and `audit`."""

from __future__ import annotations

import json

import click

from fiefdom.cli import frame, show
from fiefdom.cli.frame import inventory_argument, json_option, limit_option, warn
from fiefdom.cluster import audit as audit_module
from fiefdom.cluster import ledger
from fiefdom.cluster.status import read


@click.command()
@inventory_argument
@limit_option
@json_option
def status(inventory: str, limit: tuple[str, ...], as_json: bool) -> None:
    """Show hosts, members, instances, versions and their state in HAProxy."""
    with frame.connected(inventory, limit) as run:
        found = read(run.known.cluster, run.known.secrets, run.session)
        if as_json:
            click.echo(json.dumps(found.as_data(), indent=2))
        else:
            for part in show.status_tables(found):
                run.out.print(part)


@click.command()
@inventory_argument
@click.option("--why", required=True, metavar="TEXT", help="What whoever finds it locked should know.")
def lock(inventory: str, why: str) -> None:
    """Keep releases, reboots and retirements from this cluster until `fiefdom unlock`."""
    with frame.connected(inventory, ("gateways",)) as run:
        ledger.lock(run.session, run.known.cluster.gateways, ledger.operator(), why, warn)
    click.echo(f"Locked. When it is over: fiefdom unlock {inventory}")


@click.command()
@inventory_argument
@click.option("--take-over", is_flag=True, help="Remove the lock of a run that died as well.")
def unlock(inventory: str, take_over: bool) -> None:
    """Remove the lock that a person set, or that a run left which died."""
    with frame.connected(inventory, ("gateways",)) as run:
        gateways = run.known.cluster.gateways
        found = ledger.unlock(run.session, gateways, ledger.operator(), warn, take_over=take_over)
    click.echo(f"Unlocked: {found[0].who} held it for: {found[0].why}" if found else "It was not locked.")


@click.command()
@inventory_argument
@click.option("--last", default=20, show_default=True, type=click.IntRange(1, 10000), help="How many acts.")
@json_option
def audit(inventory: str, last: int, as_json: bool) -> None:
    """Show who did what to this cluster, when and how it ended, and who holds its lock."""
    with frame.connected(inventory, ("gateways",)) as run:
        found = ledger.read(run.session, run.known.cluster.gateways, last)
        acts = audit_module.acts(found.entries, found.live)[-last:]
        for warning in found.warnings:
            warn(warning)
        if as_json:
            data = {"locks": [lock.as_data() for lock in found.locks], "acts": [act.as_data() for act in acts]}
            click.echo(json.dumps(data, indent=2))
            return
        run.out.print(show.audit_table(acts))
        for held in found.locks:
            for line in show.lock_lines(held):
                run.out.print(line)
