"""`fiefdom weight`."""

from __future__ import annotations

import click

from fiefdom.cli import frame, told
from fiefdom.cli.frame import Command, Document, inventory_argument, json_option, warn
from fiefdom.cluster.shares import effects, require_shareable
from fiefdom.cluster.views import Share, views_of
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.procedures.release import chosen_services
from fiefdom.procedures.weight import share_out

OFF = "off"


@click.command(cls=Command)
@inventory_argument
@click.argument("service")
@click.argument("version")
@click.argument("percent", type=click.IntRange(1, 99), required=False)
@json_option
def weight(inventory: str, service: str, version: str, percent: int | None, **_: bool) -> Document:
    """Give VERSION of SERVICE, which a canary brought, PERCENT of the requests, however many servers have it.

    It holds at all gateways, over reloads and restarts, until the rollout goes on, until a rollback, or until
    `fiefdom weight INVENTORY SERVICE off`.
    """

    def check(cluster: Cluster) -> None:
        chosen_services(cluster, service)
        if version != OFF:
            require_shareable(cluster, service, version)

    if (version == OFF) is not (percent is None):
        raise FiefdomError("write VERSION and PERCENT, such as `1.4.2 10`, or `off` and nothing else")
    words = (OFF,) if percent is None else (version, str(percent))
    with frame.connected(inventory, ("gateways",), check, looks=True, certified=False) as run:
        gateways = run.known.gateways
        missed = share_out(run.known, run.session, service, words, warn)
        done = [name for name in gateways if name not in missed]
        says = [f"each server of {service} gets as many at {', '.join(done)}"]
        if percent is not None:
            says = list(effects(views_of(run.session, done), Share(service, version, percent), done))
    data = {"service": service, "version": version if percent else None, "percent": percent}
    return told.document([f"{each}." for each in says], done, missed, data)
