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
    if cluster.services[service].route.maintenance.active:
        key = f"services.{service}.route.maintenance.active"
        raise FiefdomError(f"{key}: the inventory itself keeps it closed; the word for that is `fiefdom apply`")


def notices(cluster: Cluster, views: Views) -> Iterator[str]:
    """A sentence for each service that is closed anywhere, whatever its instances do."""
    for name, service in cluster.services.items():
        if service.route.maintenance.active:
            yield f"{name} is looked after: clients get 503, until services.{name}.route.maintenance.active is false"
        elif at := closed_at(views, name):
            but = others(views, at)
            mend = f"`fiefdom maintenance off INVENTORY {name}` opens it" + ", and `on` closes it there too" * bool(but)
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
