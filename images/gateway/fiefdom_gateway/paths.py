"""What the gateway answers over HTTP at which path: one table of it all."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from fiefdom_gateway import live, metrics, web
from fiefdom_gateway.acme import Told
from fiefdom_gateway.edges import Sockets
from fiefdom_gateway.rounds import Rounds
from fiefdom_gateway.settings import Settings
from fiefdom_gateway.status import Look


def table(
    look: Callable[[], Look],
    sockets: Sockets,
    told: Callable[[], tuple[Told, ...]],
    rounds: Rounds,
    served: Callable[[], tuple[Mapping[str, Any], ...]],
    settings: Callable[[], Settings],
) -> web.Table:
    """Return what answers each path, from the reconciler's last look and what is known of certificates."""

    def told_of_now() -> web.Answer:
        text = metrics.exposition(look(), rounds, told(), served(), time.monotonic())
        return web.Answer(metrics.CONTENT_TYPE, text.encode())

    page = live.table(live.Sources(look, settings, told, served, sockets))
    return {**page, "/fiefdom/metrics": told_of_now}
