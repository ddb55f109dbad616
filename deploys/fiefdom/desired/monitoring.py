"""What a host tells Prometheus: Debian's node exporter, and beside it what Fiefdom knows of instances."""

from __future__ import annotations

from dataclasses import replace

from fiefdom.desired.context import Context
from fiefdom.desired.programs import DIR, program
from fiefdom.desired.render import render
from fiefdom.desired.state import Directory, File, HostState, Package, Unit

PACKAGE = "prometheus-node-exporter"
UNIT = f"{PACKAGE}.service"
# In the place of Debian's own unit: that one would begin as soon as it is installed, at every address of the host.
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
METRICS = "fiefdom-metrics"
# In memory: it is written anew each time, and none of it outlives a boot.
# Not below /run/fiefdom, which may be closed to all but root.
_RUN_DIR = "fiefdom-metrics"
TEXTFILES = f"/run/{_RUN_DIR}"
INTERVAL_S = 30

COLLECTORS = (
    *("conntrack", "cpu", "diskstats", "filefd", "filesystem", "loadavg", "meminfo", "netdev", "netstat", "os"),
    *("pressure", "sockstat", "stat", "textfile", "time", "uname", "vmstat"),
)
"""What the exporter looks at. Versions of Debian 12 and 13 both have these; what they have by default is more."""


def desired(context: Context) -> HostState:
    """The exporter, and the timer that tells it of instances; nothing where the inventory does not ask for it."""
    monitoring = context.cluster.monitoring
    if not monitoring.node_exporter:
        return HostState()
    script = program("metrics")
    exporter = File(
        UNIT_FILE,
        render(
            "prometheus-node-exporter.service.j2",
            address=context.host.address,
            port=monitoring.port,
            collectors=COLLECTORS,
            textfiles=TEXTFILES,
        ).encode(),
    )
    service = File(
        f"/etc/systemd/system/{METRICS}.service",
        render("fiefdom-metrics.service.j2", program=script.path, directory=_RUN_DIR).encode(),
    )
    timer = File(
        f"/etc/systemd/system/{METRICS}.timer", render("fiefdom-metrics.timer.j2", interval_s=INTERVAL_S).encode()
    )
    return HostState(
        packages=(Package(PACKAGE),),
        directories=(Directory(DIR),),
        # Its unit before the package, which starts it.
        files=(replace(exporter, precedes=PACKAGE), script, service, timer),
        units=(
            Unit(UNIT, config=(UNIT_FILE,)),
            # Its timer alone starts it.
            Unit(f"{METRICS}.service", enabled=False, active=False),
            Unit(f"{METRICS}.timer", config=(timer.path,)),
        ),
    )
