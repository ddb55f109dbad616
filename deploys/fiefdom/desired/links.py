"""Links on one host: what instances are told, and the way from a container of the host to another one.

Docker keeps containers of one bridge from each other, at published ports as well, and no accept of another table undoes
that. Its chain DOCKER-USER is there for others' rules, and comes before its own.
"""

from __future__ import annotations

from fiefdom.desired.context import Context
from fiefdom.desired.programs import program
from fiefdom.desired.render import render
from fiefdom.desired.state import Directory, File, HostState, Unit
from fiefdom.model import links

CONF = "/etc/fiefdom/links.conf"
UNIT = "fiefdom-links.service"
_PROGRAM = "links"


def state_of(context: Context) -> HostState:
    """What lets this host's containers reach its instances that others here link to; nothing where none does."""
    ports = links.ports_within(context.cluster, context.name)
    if not ports:
        return HostState()
    script = program(_PROGRAM)
    conf = render("links.conf.j2", network=links.bridge(context.cluster), address=context.host.address, ports=ports)
    return HostState(
        directories=(Directory("/etc/fiefdom"),),
        files=(
            script,
            File(CONF, conf.encode()),
            File(f"/etc/systemd/system/{UNIT}", render("fiefdom-links.service.j2", program=script.path).encode()),
        ),
        units=(Unit(UNIT, config=(CONF, script.path), on_change=("reload",), live=(script.path, "show")),),
    )
