"""`fiefdom compose` and `fiefdom dev`: a cluster's services on a developer's laptop."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from fiefdom import files
from fiefdom.cli.frame import Document, Local, begin, inventory_argument, json_option, loaded, out
from fiefdom.cli.group import Family
from fiefdom.cli.progress import Progress
from fiefdom.converge.run import HERE
from fiefdom.desired import compose as desired
from fiefdom.errors import FiefdomError
from fiefdom.inventory import secret
from fiefdom.model import Cluster
from fiefdom.procedures import laptop
from fiefdom.wording import printable

services_argument = click.argument("service", nargs=-1)


@click.command(cls=Local)
@inventory_argument
@services_argument
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it there, whole or not at all.")
def compose(inventory: str, service: tuple[str, ...], output: Path | None) -> Document:
    """Print a file for `docker compose` that runs the services on a laptop: all, or those named with what they link to.

    It holds no secret: where one is wanted it refers to a variable, which `fiefdom dev up` sets.
    """
    composed = desired.compose(loaded(inventory), service)
    if output is None:
        return Document(table=[composed.text.removesuffix("\n")])
    files.write(output, composed.text.encode())
    return Document(words=[f"{output} has {', '.join(container.name for container in composed.containers)}."])


@click.group(cls=Family)
def dev() -> None:
    """The cluster's services on this machine, with the middleware of the inventory's `development`."""


@dev.command("up", cls=Local)
@inventory_argument
@services_argument
@json_option
def dev_up(inventory: str, service: tuple[str, ...], **_: bool) -> Document:
    """Start the services, or those named with what they link to, and wait until each answers its health check.

    What has a build folder is built first, and other images that are not here are pulled.
    """
    cluster = loaded(inventory)
    composed = desired.compose(cluster, service)
    if not composed.containers:
        raise FiefdomError("nothing is left to run; give a service of development.overrides more instances than 0")
    begin({"project": composed.project})
    values = secret.values_of(cluster, composed.secrets)
    with Progress(out()) as progress:
        rows = laptop.up(composed, values, all_of_it=not service, say=lambda words: progress(HERE, words))
    data = {"outcome": "ok", "project": composed.project, "seconds": round(progress.elapsed_s, 3)}
    return Document(
        {**data, "services": [asdict(row) for row in rows]}, table=[_table(rows)], words=_left_to_you(cluster, rows)
    )


def _left_to_you(cluster: Cluster, rows: Sequence[laptop.Running]) -> Iterator[str]:
    """What a rollout does on hosts, and nobody here."""
    for name in dict.fromkeys(row.service for row in rows):
        if name in cluster.services and (command := cluster.services[name].release):
            words = printable(shlex.join(command))
            yield f"{name}: its release command is not run here; run it in its container where you want it: {words}"
        if name in cluster.services and (jobs := cluster.services[name].jobs):
            yield f"{name}: no clock runs its jobs here ({', '.join(jobs)}); run one in its container where you want it"


def _table(rows: Sequence[laptop.Running]) -> Table:
    table = Table("service", "container", "image", "at", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.service, row.name, row.image, row.url)
    return table


@dev.command("down", cls=Local)
@inventory_argument
@click.option("--volumes", is_flag=True, help="Remove all volumes as well: the data of services and of middleware.")
@json_option
def dev_down(inventory: str, volumes: bool, **_: bool) -> Document:
    """Stop and remove what `dev up` started. Volumes stay, unless --volumes says otherwise; images stay."""
    composed = desired.compose(loaded(inventory), strict=False)
    left = laptop.down(composed, volumes=volumes)
    words = [f"{composed.project} is down."]
    if left:
        words.append(f"Kept: {', '.join(left)}; `fiefdom dev down --volumes {inventory}` removes them.")
    return Document({"outcome": "ok", "project": composed.project, "volumes": list(left)}, words=words)


@dev.command("logs", cls=Local)
@inventory_argument
@click.argument("service", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is said from now on.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N lines of each container.")
def dev_logs(inventory: str, service: str | None, follow: bool, last: int | None) -> Document:
    """Print what the containers said: of all, of a service's instances, or of one such as predictor-8000."""
    composed = desired.compose(loaded(inventory), strict=False)
    names = composed.named(service) if service else ()
    if service and not names:
        known = ", ".join(dict.fromkeys(container.of for container in composed.containers))
        raise FiefdomError(printable(f"{service}: no such service; known are {known}"))
    sys.stdout.flush()
    try:
        laptop.logs(composed, names, follow=follow, last=last)
    except KeyboardInterrupt:
        if not follow:
            raise
    return Document()
