"""`fiefdom reboot`, `retire` and `rotate-key`."""

from __future__ import annotations

import click

from fiefdom.cli import frame, show
from fiefdom.cli.frame import (
    Command,
    Document,
    done,
    force_option,
    inventory_argument,
    json_option,
    limit_option,
    take_over_option,
    yes_option,
)
from fiefdom.inventory.groups import limit_hosts
from fiefdom.model import Cluster
from fiefdom.procedures import reboot as reboot_module
from fiefdom.procedures import retire as retire_module
from fiefdom.procedures.rotate_key import ROUNDS, rotate


@click.command(cls=Command)
@inventory_argument
@limit_option
@click.option("--upgrade", is_flag=True, help="Install Debian's upgrades first, while the host is out of rotation.")
@force_option
@take_over_option
@json_option
def reboot(inventory: str, limit: tuple[str, ...], upgrade: bool, force: bool, take_over: bool, **_: bool) -> Document:
    """Reboot the app hosts one after the other, with no request failed. A gateway only when --limit names it."""
    with frame.connected(inventory, ()) as run:
        cluster = run.known.cluster
        names = limit_hosts(cluster, limit) if limit else cluster.app_hosts
        with show.Progress(run.out, len(names)) as progress:
            reboot_module.reboot(
                run.known, run.session, names, upgrade=upgrade, force=force, take_over=take_over, say=progress
            )
    words = f"Rebooted {', '.join(names)} in {progress.elapsed_s:.1f} seconds."
    return done(names, progress.elapsed_s, show.good(words))


@click.command(cls=Command)
@inventory_argument
@click.argument("host")
@click.option("--force", is_flag=True, help="Go on although a service runs nowhere else.")
@take_over_option
@yes_option
@json_option
def retire(inventory: str, host: str, force: bool, take_over: bool, yes: bool, **_: bool) -> Document:
    """Take HOST out of the cluster for good: drained, without what Fiefdom made there, forgotten by all members."""

    def check(cluster: Cluster) -> None:
        retire_module.require_host(cluster, host)
        frame.require_terminal(yes)

    with frame.connected(inventory, (), check) as run:
        frame.ask(f"Retire {host} for good, and remove what Fiefdom made there?", yes)
        with show.Progress(run.out, 1) as progress:
            retire_module.retire(run.known, run.session, host, force=force, take_over=take_over, say=progress)
    words = f"Retired {host}. Take it out of {inventory} now, or the next apply sets it up again."
    return done([host], progress.elapsed_s, show.good(words))


@click.command(cls=Command)
@inventory_argument
@force_option
@take_over_option
@yes_option
@json_option
def rotate_key(inventory: str, force: bool, take_over: bool, yes: bool, **_: bool) -> Document:
    """Give all members another gossip key, host by host, with no request failed; the old one opens nothing any more."""
    with frame.connected(inventory, (), lambda _: frame.require_terminal(yes)) as run:
        frame.ask(f"Give {', '.join(run.names)} another gossip key? The old one opens nothing then.", yes)
        with show.Progress(run.out, len(ROUNDS) * len(run.names)) as progress:
            left = rotate(run.known, run.session, force=force, take_over=take_over, say=progress)
    words = f"All members have another gossip key, after {progress.elapsed_s:.1f} seconds."
    return done(run.names, progress.elapsed_s, show.good(words), *left)
