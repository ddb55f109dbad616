"""Offers: what of a host is in the gateways' rotation, service by service, each made and withdrawn by a unit."""

from __future__ import annotations

from fiefdom.desired.containers import MARGIN_S
from fiefdom.desired.context import Context
from fiefdom.desired.programs import program
from fiefdom.desired.render import render
from fiefdom.desired.state import Directory, File, HostState, Offer, Unit
from fiefdom.grouping import grouped
from fiefdom.model import Instance, unit_names

CONF_DIR = "/etc/fiefdom/offers"

_OFFER = "offer-"

# Beside the instances' own time and the gateways' word: the agent may be about to start again, see offer.sh.
AGENT_S = 15


def conf_path(service: str) -> str:
    """Path of what `offer` reads about a service."""
    return f"{CONF_DIR}/{service}.conf"


def unit_of(service: str) -> str:
    """Name of the unit of a service's offer."""
    return unit_names.unit_of(f"{_OFFER}{service}")


def is_offer(unit: str) -> bool:
    """Whether a unit is that of an offer; an instance of a service whose name begins so is none."""
    return unit.startswith(f"{unit_names.PREFIX}{_OFFER}") and unit.endswith(".service") and "@" not in unit


def desired(context: Context) -> HostState:
    """What the host offers; nothing where it is no app host.

    What gateways have no port for is in nobody's rotation, so that there is nothing to be made or withdrawn.
    A service's instances are its own: one of another service that is sick, replaced or gone changes nothing here.
    """
    if not context.is_app_host:
        return HostState()
    state = HostState(
        directories=(Directory("/etc/fiefdom"), Directory(CONF_DIR)), files=(program("offer", serves=True),)
    )
    for service, instances in grouped((i.service, i) for i in context.cluster.routed(context.name)).items():
        state += _offer(context, service, instances)
    return state


def _word(context: Context, name: str, ports: list[int]) -> str:
    """What the host says of a service: `1.0.0;8000-8003`, its version and ports.

    A third field is the first port of checks, where these have ports of their own: `1.0.0;8000-8003;9000`. Gateways
    learn it here, host by host, for an instance has such a port only once its host had its turn.
    """
    service = context.cluster.services[name]
    version, first, last = context.running.get(name, service.version), min(ports), max(ports)
    checks = service.health.base_port
    if name in context.running:
        checks = first + context.checks[name] if name in context.checks else None
    return f"{version};{first}-{last}" + ("" if checks is None else f";{checks}")


def _offer(context: Context, service: str, instances: list[Instance]) -> HostState:
    cluster, wanted = context.cluster, context.cluster.services[service]
    ports = [instance.port for instance in instances]
    offer = Offer(
        service=service,
        unit=unit_of(service),
        word=_word(context, service, ports),
        instances=tuple(instance.unit for instance in instances),
    )
    start_s = wanted.health.start_timeout_s
    drain_s = cluster.drain_timeout_s(service)
    conf = render(
        "offer.conf.j2",
        word=offer.word,
        start_timeout_s=start_s,
        drain_timeout_s=drain_s,
        containers=[instance.container for instance in instances],
    )
    unit = render(
        "offer.service.j2",
        service=service,
        units=offer.instances,
        start_limit_s=start_s + cluster.serf.join_timeout_s + AGENT_S + MARGIN_S,
        stop_limit_s=drain_s + AGENT_S + MARGIN_S,
    )
    return HostState(
        files=(
            File(conf_path(service), conf.encode(), serves=True),
            File(f"/etc/systemd/system/{offer.unit}", unit.encode(), serves=True),
        ),
        units=(Unit(offer.unit),),
        offers=(offer,),
    )
