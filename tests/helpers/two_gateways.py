"""The lab with a second gateway: its third app host, of the other Debian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fiefdom import lab
from helpers.faults import settle
from helpers.operator_view import Site

GW2 = lab.host("app3")


def with_gateway(data: dict[str, Any]) -> None:
    """An inventory with both."""
    data["hosts"]["gw2"] = {"address": GW2.address, "groups": ["gateways"]}


@contextmanager
def two(site: Site, name: str, change: Callable[[dict[str, Any]], None]) -> Iterator[str]:
    """The inventory ``name``, converged; afterwards the lab is as it was, with one."""
    lab.up(3)
    path = site.inventory(name, change)
    try:
        settle(site, path)
        yield path
    finally:
        lab.remove(GW2.name)
        settle(site)


def mend(site: Site, inventory: str) -> None:
    """Both as they were, after a test that left them otherwise."""
    lab.up(3)
    if site.plan(inventory)[0] != 0 or not site.status(inventory)["serving"]:
        site.converge(inventory)
        site.await_serving(inventory)


def ok(site: Site, *arguments: str) -> None:
    """A command that ends well."""
    done = site.fiefdom(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
