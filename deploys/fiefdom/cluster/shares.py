"""Shares of a service's requests that one of its versions gets, as gateways keep them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fiefdom.cluster.told import others, tell
from fiefdom.cluster.views import Share, Views, views_of
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.wording import Tell


def require_shareable(cluster: Cluster, service: str, version: str) -> None:
    """Raise FiefdomError for a service or version that gateways could give no share."""
    if not cluster.is_routed(service):
        raise FiefdomError(f"services.{service}: no gateway has it, so that none could share out its requests")
    try:
        cluster.with_version(service, version)
    except ValueError:
        raise FiefdomError(f"{version} cannot be a version; write the tag of an image, such as 1.4.2") from None


def notices(cluster: Cluster, views: Views) -> Iterator[str]:
    """A sentence for each share that gateways keep, and for those that do not keep the same."""
    for name in cluster.services:
        by_share: dict[Share, list[str]] = {}
        for gateway, view in views.items():
            for share in view.shares:
                if share.service == name:
                    by_share.setdefault(share, []).append(gateway)
        for share, gateways in by_share.items():
            where = f"{', '.join(gateways)}{others(views, gateways)}"
            says = f"{name} {share.version} gets {share.percent} % of the requests at {where}"
            yield f"{says}; `fiefdom weight INVENTORY {name} off` ends that, and so does its rollout or rollback"


def end(hosts: Hosts, gateways: Collection[str], services: Collection[str], warn: Tell) -> None:
    """Take the shares of ``services`` away where there are any; ``warn`` hears of gateways that keep theirs."""
    for gateway, view in views_of(hosts, gateways).items():
        for service in sorted({share.service for share in view.shares} & set(services)):
            for name, why in tell(hosts, [gateway], "weight", service, "off").items():
                warn(f"{name}: the share of a version of {service} stays: {why}")
