"""`fiefdom reboot`, `retire` and `rotate-key`."""

from __future__ import annotations

import click

from fiefdom.cli import frame, gathered, show
from fiefdom.cli.frame import (
    Command,
    Document,
    done,
    dry_option,
    every_option,
    force_option,
    inventory_argument,
    json_option,
    limit_option,
    take_over_option,
    yes_option,
)
from fiefdom.cli.progress import Progress
from fiefdom.inventory.groups import limit_hosts
from fiefdom.model import Cluster
from fiefdom.procedures import reboot as reboot_module
from fiefdom.procedures import retire as retire_module
from fiefdom.procedures.rotate_key import ROUNDS, rotate, rounds_left


@click.command(cls=Command)
@inventory_argument
@limit_option
@click.option("--upgrade", is_flag=True, help="Install Debian's upgrades first, while the host is out of rotation.")
@dry_option
@force_option
@take_over_option
@every_option
@json_option
def reboot(
    inventory: str,
    limit: tuple[str, ...],
    upgrade: bool,
    dry: bool,
    force: bool,
    take_over: bool,
    every: bool,
    **_: bool,
) -> Document:
    """Reboot the app hosts one after the other, with no request failed. A gateway only when --limit names it."""
    with frame.connected(inventory, ()) as run:
        cluster = run.known.cluster
        names = limit_hosts(cluster, limit) if limit else cluster.app_hosts
        if dry:
            if not force:
                reboot_module.require_fit(run.known, run.session, names)
            each = "with Debian's upgrades first" if upgrade else "the next one when the one before serves again"
            pauses = [
                f"{service} pauses while {name} is away: its one instance is there."
                for name in names
                for service in reboot_module.pausing(cluster, name)
            ]
            return frame.dry(names, [f"Would reboot {', '.join(names)}, one after the other, {each}.", *pauses])
        with Progress(run.out, len(names), gathered.crowd(len(names), every)) as progress:
            reboot_module.reboot(
                run.known, run.session, names, upgrade=upgrade, force=force, take_over=take_over, say=progress
            )
    words = f"Rebooted {', '.join(names)} in {progress.elapsed_s:.1f} seconds."
    return done(names, progress.elapsed_s, show.good(words))


@click.command(cls=Command)
@inventory_argument
@click.argument("host")
@dry_option
@click.option("--volumes", is_flag=True, help="Remove the host's volumes as well, with all that is in them.")
@click.option("--force", is_flag=True, help="Go on although a service runs nowhere else.")
@take_over_option
@yes_option
@json_option
def retire(
    inventory: str, host: str, dry: bool, volumes: bool, force: bool, take_over: bool, yes: bool, **_: bool
) -> Document:
    """Take HOST out of the cluster for good: drained, without what Fiefdom made there, forgotten by all members.

    Volumes stay there, unless --volumes says otherwise.
    """

    def check(cluster: Cluster) -> None:
        retire_module.require_host(cluster, host)
        frame.require_terminal(yes or dry)

    with frame.connected(inventory, (), check) as run:
        if dry:
            gone, told = retire_module.foresee(run.known, run.session, host, force=force, volumes=volumes)
            goes = [
                *show.host_lines(gone),
                *told,
                f"Would drain {host}, take this away, and let all members forget it.",
            ]
            return frame.dry([host], goes, changes=[change.as_data() for change in gone.changes], told=told)
        going = retire_module.volumes_of(run.session, host) if volumes else ()
        data = f", and the volumes {', '.join(going)} with all that is in them" if going else ""
        frame.ask(f"Retire {host} for good, and remove what Fiefdom made there{data}?", yes)
        with Progress(run.out, 1) as progress:
            retire_module.retire(
                run.known, run.session, host, force=force, take_over=take_over, say=progress, volumes=going
            )
    words = f"Retired {host}. Take it out of {inventory} now, or the next apply sets it up again."
    return done([host], progress.elapsed_s, show.good(words))


@click.command(cls=Command)
@inventory_argument
@dry_option
@force_option
@take_over_option
@every_option
@yes_option
@json_option
def rotate_key(inventory: str, dry: bool, force: bool, take_over: bool, every: bool, yes: bool, **_: bool) -> Document:
    """Give all members another gossip key, host by host, with no request failed; the old one opens nothing any more."""
    with frame.connected(inventory, (), lambda _: frame.require_terminal(yes or dry)) as run:
        if dry:
            rounds = rounds_left(run.known, run.session, force=force)
            turns = [f"{number}. each of {', '.join(run.names)} {what}" for number, what in enumerate(rounds, 1)]
            return frame.dry(run.names, turns, rounds=list(rounds))
        frame.ask(f"Give {', '.join(run.names)} another gossip key? The old one opens nothing then.", yes)
        crowd = gathered.crowd(len(run.names), every)
        with Progress(run.out, len(ROUNDS) * len(run.names), crowd) as progress:
            left = rotate(run.known, run.session, force=force, take_over=take_over, say=progress)
    words = f"All members have another gossip key, after {progress.elapsed_s:.1f} seconds."
    return done(run.names, progress.elapsed_s, show.good(words), *left)
