"""`fiefdom logs`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Literal

import click

from fiefdom.cli import frame, outlet
from fiefdom.cli.frame import Command, Document, inventory_argument, warn
from fiefdom.cli.group import CLEAN, SILENT
from fiefdom.cli.log_lines import Prefixed, Print, as_json
from fiefdom.cli.outlet import is_terminal
from fiefdom.cluster import access
from fiefdom.cluster.logs import SCRIPT, Line, Wanted, followed, merged
from fiefdom.cluster.since import docker_since
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.procedures.one_off import hosts_of
from fiefdom.procedures.release import chosen_services
from fiefdom.wording import printable

TAIL = 10
"""Lines of each instance that -f begins with, where nobody says since when."""
_WHOLE_BYTES = 1 << 15


@click.command(cls=Command)
@inventory_argument
@click.argument("service", required=False)
@click.option("--host", metavar="HOST", help="Only of this host.")
@click.option("--instance", metavar="PORT", type=click.IntRange(1, 65535), help="Only of the instances at this port.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until you interrupt it.")
@click.option(
    "--since",
    metavar="TIME",
    help="Only what is newer: `2h ago`, `-30min`, `today`, `09:30`, `2026-01-31 09:30`, as systemd takes it. Absent: "
    "all that hosts keep, and with -f the last ten lines of each instance.",
)
@click.option("--grep", metavar="REGEX", help="Only lines in which this is found, in the way of Python's `re`.")
@click.option(
    "--gateway",
    is_flag=True,
    help="What gateways say, and with `gateway.access_log: true` each request; of SERVICE its requests alone.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    help="Text with who said it in front, or a JSON object in each line. Absent: text on a terminal, JSON elsewhere.",
)
def logs(
    inventory: str,
    service: str | None,
    host: str | None,
    instance: int | None,
    follow: bool,
    since: str | None,
    grep: str | None,
    gateway: bool,
    form: Literal["text", "json"] | None,
) -> Document:
    """Show what all instances say, or those of SERVICE, merged by time.

    A host that does not answer, or is gone meanwhile, is a line; the others go on.
    """
    if gateway and instance is not None:
        raise FiefdomError("--instance is for services; leave it or --gateway out")
    wanted = Wanted(
        role="gateway" if gateway else "instance",
        service="" if gateway else service or "",
        port=instance,
        since="" if since is None else docker_since(since, datetime.now()),
        tail=TAIL if follow and since is None else None,
        follow=follow,
    )
    keeps = _kept(grep, service if gateway else None)
    on_terminal = is_terminal(sys.stdout)
    as_text = Prefixed(colours=on_terminal and not os.environ.get("NO_COLOR"))
    shown: Print = as_json if (form or ("text" if on_terminal else "json")) == "json" else as_text
    silent: dict[str, str] = {}
    whom = partial(_hosts, service=service, host=host, port=instance, gateway=gateway)
    try:
        with frame.reached(inventory, whom) as reached:
            names = whom(reached.cluster)
            if gateway and not reached.cluster.gateway.access_log:
                warn("gateways write no line for a request; `gateway.access_log: true` in the inventory turns that on")
            with reached.session.listen(SCRIPT, dict.fromkeys(names, wanted.arguments)) as streams:
                tell = silent.__setitem__
                lines = followed(streams, tell, wanted.token) if follow else merged(streams, tell)
                _print_all(lines, keeps, shown)
    except BrokenPipeError:
        outlet.let_go(sys.stdout)
        return Document(code=outlet.CLOSED)
    except KeyboardInterrupt:
        if not follow:
            raise
        return Document(code=CLEAN)
    return Document(code=SILENT if silent else CLEAN)


def _print_all(lines: Iterable[Line | None], keeps: Callable[[Line], bool], shown: Print) -> None:
    waiting = bytearray()

    def flush() -> None:
        outlet.write(sys.stdout, bytes(waiting))
        waiting.clear()

    for line in lines:
        if line is not None and keeps(line):
            waiting += f"{shown(line)}\n".encode()
        if waiting and (line is None or len(waiting) >= _WHOLE_BYTES):
            flush()
    flush()


def _kept(grep: str | None, of_gateways: str | None) -> Callable[[Line], bool]:
    """Which lines are shown; always that a host tells no more. Raises FiefdomError for what is no expression."""
    try:
        found = re.compile(grep or "")
    except (re.error, RecursionError, OverflowError) as error:
        raise FiefdomError(f"--grep {printable(repr(grep))}: {error}; it is an expression of Python's `re`") from None

    def keeps(line: Line) -> bool:
        if not line.container:
            return True
        if of_gateways is not None:
            request = access.entry(line.container, line.text)
            if request is None or request["service"] != of_gateways:
                return False
        return found.search(line.text) is not None

    return keeps


def _hosts(
    cluster: Cluster, service: str | None, host: str | None, port: int | None, *, gateway: bool
) -> tuple[str, ...]:
    """Hosts on which what is wanted runs. Raises FiefdomError where there is none."""
    if gateway:
        if service is not None:
            chosen_services(cluster, service)
        names, kind = cluster.gateways, "is no gateway; gateways are"
    elif service is not None:
        names, kind = hosts_of(cluster, service, host), ""
    else:
        names = tuple(name for name in cluster.hosts if cluster.instances(name))
        kind = "runs no service; these hosts do:"
    if host is not None and host not in cluster.hosts:
        raise FiefdomError(f"--host {printable(host)}: no such host; hosts are {', '.join(cluster.hosts)}")
    if host is not None and host not in names:
        raise FiefdomError(f"--host {host}: {kind} {', '.join(names)}")
    names = names if host is None else (host,)
    ports = cluster.ports_on(names, service)
    if port is not None and port not in ports:
        raise FiefdomError(f"--instance {port}: no instance there; ports are {', '.join(map(str, ports))}")
    return names
