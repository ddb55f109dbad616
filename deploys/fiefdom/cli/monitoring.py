"""`fiefdom monitoring`."""

from __future__ import annotations

import click
import yaml

from fiefdom.cli.frame import Command, Document, inventory_argument, loaded
from fiefdom.cluster.scraping import scrape_config
from fiefdom.resources import monitoring_dir


@click.command(cls=Command)
@inventory_argument
@click.option("--alerts", "part", flag_value="alerts.yml", help="Print alert rules for Prometheus instead.")
@click.option("--dashboard", "part", flag_value="dashboard.json", help="Print a dashboard for Grafana instead.")
def monitoring(inventory: str, part: str | None) -> Document:
    """Print what Prometheus is to ask of this cluster, as its scrape configuration; no host is asked."""
    cluster = loaded(inventory)
    if part is not None:
        return Document(words=[(monitoring_dir() / part).read_text().removesuffix("\n")])
    return Document(words=[yaml.safe_dump(scrape_config(cluster), sort_keys=False).removesuffix("\n")])
