"""What the gateway answers over HTTP at which path: one table of it all."""

from collections.abc import Callable

from fiefdom_gateway import live, web
from fiefdom_gateway.acme import Told
from fiefdom_gateway.edges import Sockets
from fiefdom_gateway.settings import Settings
from fiefdom_gateway.status import Look


def table(
    look: Callable[[], Look],
    sockets: Sockets,
    told: Callable[[], tuple[Told, ...]],
    settings: Callable[[], Settings],
) -> web.Table:
    """Return what answers each path, from the reconciler's last look and what is told of certificates."""
    return live.table(live.Sources(look, settings, told, sockets))
