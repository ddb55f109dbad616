"""`fiefdom maintenance`."""

from __future__ import annotations

import click

from fiefdom.cli import frame
from fiefdom.cli.frame import Command, Document, inventory_argument, json_option, warn
from fiefdom.cli.group import CLEAN, SILENT
from fiefdom.cluster.maintenance import require_switchable
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
    Exit 0: done, 3: done, but for a gateway that did not answer or did not do it, 1: error.
    """

    def check(cluster: Cluster) -> None:
        chosen_services(cluster, service)
        require_switchable(cluster, service)

    with frame.connected(inventory, ("gateways",), check, looks=True, certified=False) as run:
        gateways = run.known.gateways
        missed = switch(run.known, run.session, service, close=word == "on", warn=warn)
    done = [name for name in gateways if name not in missed]
    state = "is closed for maintenance" if word == "on" else "is open again"
    words = [f"{service} {state} at {', '.join(done)}."]
    words += [f"{name}: {why}; as it is until it answers: say this again then" for name, why in missed.items()]
    data = {"outcome": "ok", "service": service, "maintenance": word, "gateways": done, "silent": missed}
    return Document(data, words=words, code=SILENT if missed else CLEAN)
