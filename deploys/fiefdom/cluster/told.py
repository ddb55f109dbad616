"""What gateways are told by a command and keep until they are told otherwise: no inventory has it."""

from __future__ import annotations

from collections.abc import Iterable

from fiefdom.cluster.views import GATEWAY_STATUS
from fiefdom.converge.run import Hosts, ask_each
from fiefdom.errors import HostError
from fiefdom.wording import printable

_PROGRAM = GATEWAY_STATUS[:-1]
# fiefdom-gateway's own answer to a word that it does not know.
UNKNOWN = "usage: "
_WORDS_MAX = 300


def tell(hosts: Hosts, gateways: Iterable[str], *words: str) -> dict[str, str]:
    """Say ``words`` to the program of each gateway, which ends once HAProxy does so.

    Returns those that did not, and why: what one of them does not do keeps nobody from what the others do.
    """

    def one(name: str) -> None:
        ok, _, error = hosts.shell(name, (*_PROGRAM, *words))
        if not ok:
            why = printable(error.strip())[:_WORDS_MAX] or "no answer"
            raise HostError(name, "its gateway is older; `fiefdom apply` first" if why.startswith(UNKNOWN) else why)

    return ask_each(hosts, one, gateways)[1]
