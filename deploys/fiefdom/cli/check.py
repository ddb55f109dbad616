"""`fiefdom check` and `config`: an inventory looked at on this machine, before any host is."""

from __future__ import annotations

import os
from typing import Any

import click

from fiefdom.cli.frame import Document, Local, inventory_argument, json_option, tell_unread
from fiefdom.cli.group import FAILED
from fiefdom.inventory import offline
from fiefdom.inventory.effective import as_data, as_yaml, effective
from fiefdom.inventory.read import load_written
from fiefdom.inventory.written import Mistake, Mistakes
from fiefdom.model import Cluster
from fiefdom.wording import dotted


@click.command(cls=Local)
@inventory_argument
@json_option
def check(inventory: str, **_: bool) -> Document:
    """Tell all mistakes of an inventory at once; no host is asked.

    A line for each, as FILE:LINE: KEY: what is wrong and how to mend it. Files that the inventory names are looked at
    where they are on this machine. No secret is asked for and no command run: the encrypted file is opened only with a
    key that has no passphrase, and what is not given here is no mistake.
    """
    tell_unread(inventory)
    try:
        cluster, written = load_written(inventory)
        if found := offline.mistakes(cluster, written, os.environ):
            raise Mistakes(found)
    except Mistakes as error:
        data = {"outcome": "failed", "mistakes": [_data(mistake) for mistake in error.all]}
        return Document(data, table=[str(mistake) for mistake in error.all], code=FAILED)
    counts = _counts(cluster)
    words = ", ".join(f"{count} {name if count == 1 else f'{name}s'}" for name, count in counts.items())
    return Document(
        {"outcome": "ok", "mistakes": [], **{f"{name}s".replace(" ", "_"): count for name, count in counts.items()}},
        table=[f"{inventory} is fine: {words}."],
    )


def _counts(cluster: Cluster) -> dict[str, int]:
    return {
        "gateway": len(cluster.gateways),
        "app host": len(cluster.app_hosts),
        "service": len(cluster.services),
        "instance": sum(len(cluster.instances(name)) for name in cluster.hosts),
    }


def _data(mistake: Mistake) -> dict[str, Any]:
    origin = mistake.origin
    return {"file": origin.file, "line": origin.line, "key": dotted(mistake.key), "says": mistake.says}


@click.command(cls=Local)
@inventory_argument
@click.argument("host", required=False)
@json_option
def config(inventory: str, host: str | None, **_: bool) -> Document:
    """Show what an inventory says, merged and with its defaults, and where each value comes from; with HOST, what is
    true there.

    YAML, with file and line behind each value. A secret is shown as ***, and so are a plain value of an environment
    that looks like one, and an address with a password in it.
    """
    tell_unread(inventory)
    cluster, written = load_written(inventory)
    tree = effective(cluster, written, host)
    return Document(as_data(tree), table=as_yaml(tree))
