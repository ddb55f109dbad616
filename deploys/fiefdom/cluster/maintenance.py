"""Services in whose place clients get a page, as the gateways say and as the inventory says."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.cluster.told import others
from fiefdom.cluster.views import Views
from fiefdom.converge.doctor import Finding
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster


def require_switchable(cluster: Cluster, service: str) -> None:
    """Raise FiefdomError for a service that gateways could show no page for."""
    if cluster.services[service].kind == "tcp":
        raise FiefdomError(f"services.{service}: is of kind tcp, to which no page can be shown; stop what uses it")


def kept_closed(cluster: Cluster, service: str) -> str | None:
    """The key by which the inventory closes a service, whatever an operator says; None where it does not."""
    closed = cluster.services[service].route.maintenance.active
    return f"services.{service}.route.maintenance.active" if closed else None


def notices(cluster: Cluster, views: Views) -> Iterator[str]:
    """A sentence for each word that closes a service anywhere, whatever its instances do: either is enough."""
    for name in cluster.services:
        key = kept_closed(cluster, name)
        if key is not None:
            yield f"{name} is looked after: clients get 503, until {key} is false"
        if at := closed_at(views, name):
            but = others(views, at)
            mend = f"`fiefdom maintenance off INVENTORY {name}` opens it" + ", and `on` closes it there too" * bool(but)
            if key is not None:
                mend = f"it stays so when {key} is false, until `fiefdom maintenance off INVENTORY {name}`"
            yield f"{name} is switched to maintenance at {', '.join(at)}{but}: clients get 503; {mend}"


def closed_at(views: Views, service: str) -> list[str]:
    """The gateways that say that ``service`` is switched to maintenance."""
    return [gateway for gateway, view in views.items() if service in view.maintenance]


def findings(views: Views) -> dict[str, tuple[Finding, ...]]:
    """What `doctor` tells of each gateway."""
    return {
        gateway: tuple(
            Finding(
                "warning",
                "maintenance",
                f"{service} is switched to maintenance",
                "its clients get 503 and a page",
                f"`fiefdom maintenance off INVENTORY {service}`, when that is over",
            )
            for service in view.maintenance
        )
        for gateway, view in views.items()
    }
