"""`fiefdom monitoring`."""

from __future__ import annotations

import click
import yaml

from fiefdom.cli.frame import Document, Local, inventory_argument, loaded
from fiefdom.cluster.scraping import scrape_config
from fiefdom.errors import FiefdomError
from fiefdom.resources import monitoring_dir


@click.command(cls=Local)
@inventory_argument
@click.option("--alerts", is_flag=True, help="Print alert rules for Prometheus instead.")
@click.option("--dashboard", is_flag=True, help="Print a dashboard for Grafana instead.")
def monitoring(inventory: str, alerts: bool, dashboard: bool) -> Document:
    """Print what Prometheus is to ask of this cluster, as its scrape configuration; no host is asked."""
    if alerts and dashboard:
        raise FiefdomError("--alerts and --dashboard: say one of them, for each is a file of its own")
    cluster = loaded(inventory)
    if alerts or dashboard:
        part = "alerts.yml" if alerts else "dashboard.json"
        return Document(words=[(monitoring_dir() / part).read_text().removesuffix("\n")])
    return Document(words=[yaml.safe_dump(scrape_config(cluster), sort_keys=False).removesuffix("\n")])
