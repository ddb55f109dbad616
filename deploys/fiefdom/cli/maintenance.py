"""`fiefdom maintenance`."""

from __future__ import annotations

import click

from fiefdom.cli import frame, told
from fiefdom.cli.frame import Command, Document, inventory_argument, json_option, warn
from fiefdom.cluster.maintenance import kept_closed, require_switchable
from fiefdom.model import Cluster
from fiefdom.procedures.maintenance import switch
from fiefdom.procedures.release import chosen_services


@click.command(cls=Command)
@click.argument("word", type=click.Choice(["on", "off"]))
@inventory_argument
@click.argument("service")
@json_option
def maintenance(word: str, inventory: str, service: str, **_: bool) -> Document:
    """Close SERVICE at all gateways at once: clients get 503 and its page, until the same command opens it again.

    It takes no lock, so that it waits for no run, and it outlives reloads, restarts and other versions of the gateways.
    """

    def check(cluster: Cluster) -> None:
        chosen_services(cluster, service)
        if word == "on":
            require_switchable(cluster, service)

    with frame.connected(inventory, ("gateways",), check, looks=True, certified=False) as run:
        gateways = run.known.gateways
        missed = switch(run.known, run.session, word, service, warn)
    done = [name for name in gateways if name not in missed]
    key = kept_closed(run.known.cluster, service)
    state = "is closed for maintenance" if word == "on" else "is open again"
    if key is not None:
        state = (
            f"is switched {word}, and closed all the same until {key} is false and `fiefdom apply` has brought that,"
        )
    data = {"service": service, "maintenance": word}
    return told.document([f"{service} {state} at {', '.join(done)}."], done, missed, data)
