"""Shares of a service's requests that one of its versions gets, as gateways keep them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from fiefdom.cluster.told import others, tell
from fiefdom.cluster.views import SUMMARY, Share, View, Views, views_of
from fiefdom.converge.run import Hosts
from fiefdom.errors import FiefdomError
from fiefdom.grouping import grouped
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
        kept = ((share, gateway) for gateway, view in views.items() for share in view.shares if share.service == name)
        for share, gateways in grouped(kept).items():
            for says in effects(views, share, gateways):
                mend = f"`fiefdom weight INVENTORY {name} off` ends that, and so does its rollout or rollback"
                yield f"{says}{others(views, gateways)}; {mend}"


def effects(views: Views, share: Share, gateways: Iterable[str]) -> Iterator[str]:
    """What comes of a share at ``gateways`` that keep it: there is something to share out where two versions are up."""
    about = f"{share.service} {share.version}"
    for end, names in grouped((_end(views[gateway], share), gateway) for gateway in gateways).items():
        verb = "is to get" if end else "gets"
        yield f"{about} {verb} {share.percent} % of the requests at {', '.join(names)}{end}"


def _end(view: View, share: Share) -> str:
    """Why a share is none; empty where it is one."""
    if view.silence is not None:
        return ", which does not tell what comes of it"
    has = [s.version == share.version for s in view.servers if s.service == share.service and s.state == "up"]
    if not any(has):
        return ", where no server of that version is up"
    return "" if not all(has) else ", where every server that is up has that version and they get all of them"


def end(hosts: Hosts, gateways: Collection[str], services: Collection[str], warn: Tell) -> None:
    """Take the shares of ``services`` away where there are any; ``warn`` hears of gateways that keep theirs."""
    for gateway, view in views_of(hosts, gateways, SUMMARY).items():
        for service in sorted({share.service for share in (*view.shares, *view.asked_shares)} & set(services)):
            for name, why in tell(hosts, [gateway], "weight", service, "off").items():
                warn(f"{name}: the share of a version of {service} stays: {why}")
