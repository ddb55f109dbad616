"""What the gateway answers over HTTP at which path: one table of it all."""

from collections.abc import Callable

from fiefdom_gateway import web
from fiefdom_gateway.acme import Told
from fiefdom_gateway.edges import Sockets
from fiefdom_gateway.status import Look


def table(_look: Callable[[], Look], _sockets: Sockets, _told: Callable[[], tuple[Told, ...]]) -> web.Table:
    """Return what answers each path, from the reconciler's last look and what is told of certificates."""
    return {"/": lambda: web.redirect("/stats")}
