"""One address for all gateways, which keepalived moves among them by VRRP.

Its packets go from gateway to gateway (unicast), and only from who is one of them: no other cluster or router of the
network hears them, so that none has to have another number; and a password, which VRRP has in clear words in its old
version and not at all in the new one, would keep out nobody more. The address has a prefix of 32 bits: it brings no
route, and no connection of the host's own ever comes from it. Nothing here can cut the operator's line, for he comes
to a host's own address; `doctor` refuses an address that the host has for a router.

A gateway that stops is to break no connection. Those that it has cannot move: to whom the address moves resets them.
So who holds it keeps it until the last of them has ended, and sends all others to the gateway that is next (`yield` in
address.sh): the address stands on the loopback of every gateway, so that this one answers from it. Then the address
moves, and nobody talks to the old one any more. Measured with two gateways in network namespaces, HAProxy 2.6 and
keepalived 2.2.7, 600 requests a second of 20 clients:

    way                                                failed of about 7,000
    keepalived stops, and HAProxy after it             20: the request of each client that meets the move
    this                                               0
    power cut: 1.4 s until the other one has it        20
"""

from __future__ import annotations

from dataclasses import replace

from fiefdom.desired.context import Context
from fiefdom.desired.programs import program
from fiefdom.desired.render import render
from fiefdom.desired.state import Directory, File, HostState, Package, Unit
from fiefdom.model.unit_names import unit_of

KEEPALIVED = "/etc/keepalived/keepalived.conf"
CONF = "/etc/fiefdom/address.conf"
"""What the script is told, and `snapshot.sh`."""
UNIT = "keepalived.service"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/10-fiefdom.conf"
GATEWAY = unit_of("gateway")
GATEWAY_DROP_IN = f"/etc/systemd/system/{GATEWAY}.d/10-address.conf"
RUN = "/run/fiefdom-address"

FIRST_PRIORITY = 250
"""Of the first gateway; each next one has one less. Who holds the address keeps it, whatever others have."""

# Of an advertisement to the next; after three and a little, the holder is taken for dead. A holder that only stumbles
# for so long loses every connection that it has, so less is not better.
ADVERT_S = 0.5


def desired(context: Context) -> HostState:
    """What moves the address on a gateway; nothing where there is none, or where the host is no gateway."""
    cluster, address, script = context.cluster, context.cluster.gateway.address, program("address")
    if not context.is_gateway or address is None:
        return HostState()
    others = [(name, cluster.hosts[name].address) for name in cluster.gateways if name != context.name]
    conf = render(
        "address.conf.j2",
        address=address,
        own=context.host.address,
        port=cluster.gateway.stats_port,
        others=[other for _, other in others],
    )
    keepalived = render(
        "keepalived.conf.j2",
        name=context.name,
        address=address,
        own=context.host.address,
        others=others,
        router_id=int(address.rpartition(".")[2]) or 255,
        priority=FIRST_PRIORITY - cluster.gateways.index(context.name),
        advert_s=ADVERT_S,
        run=RUN,
        program=script.path,
    )
    units = {DROP_IN: "keepalived.service.conf.j2", GATEWAY_DROP_IN: "fiefdom-gateway.service.conf.j2"}
    return HostState(
        # Of nftables for who takes its leave, also where the firewall is somebody else's.
        packages=(Package("keepalived"), Package("nftables")),
        directories=(
            Directory("/etc/fiefdom"),
            Directory("/etc/keepalived"),
            *(Directory(path.rpartition("/")[0]) for path in units),
        ),
        # All before the package, which starts its unit: systemd would take one without a configuration for one that is
        # not for this host, and so would the next run. The unit checks that one, before it starts and before it is told
        # to read it: until the host's own network is up, nobody knows the interface.
        files=tuple(
            replace(file, precedes="keepalived")
            for file in (
                script,
                File(CONF, conf.encode()),
                File(KEEPALIVED, keepalived.encode()),
                *(
                    File(path, render(template, program=script.path, config=KEEPALIVED, gateway=GATEWAY).encode())
                    for path, template in units.items()
                ),
            )
        ),
        # Left alone without its configuration, it would hold the address for ever.
        units=(Unit(UNIT, config=(KEEPALIVED,), on_change=("reload",), goes=True),),
    )
