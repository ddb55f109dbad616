"""What gateways are told by a command and keep until they are told otherwise: no inventory has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fiefdom.cluster import locking
from fiefdom.cluster.views import GATEWAY_STATUS, Views
from fiefdom.converge.run import Hosts, ask_each
from fiefdom.errors import FiefdomError, HostError, Unreachable
from fiefdom.wording import Tell, printable

_PROGRAM = GATEWAY_STATUS[:-1]
# fiefdom-gateway's own answer to a word that it does not know.
UNKNOWN = "usage: "
_WORDS_MAX = 300
LIMIT_S = 25
"""Longer than the gateway's program may take, which takes back what HAProxy does not do in time: only a program that
came to its end has said what is so. A container's command goes on, whatever becomes of who asked for it.
"""
_UNHEARD = "whether it has heard this, `fiefdom status` tells when it answers: say it again then"
_ASK = 'exec timeout -k 1 "$@"'


def tell(hosts: Hosts, gateways: Iterable[str], *words: str) -> dict[str, str]:
    """Say ``words`` to the program of each gateway, which ends once HAProxy does so.

    Returns those that did not, and why: what one of them does not do keeps nobody from what the others do.
    """
    argv = (str(LIMIT_S - 2), *_PROGRAM, *words)

    def one(name: str) -> None:
        try:
            ok, _, error = hosts.script(name, _ASK, argv, timeout_s=LIMIT_S)
        except Unreachable as unheard:
            raise HostError(name, f"{unheard.reason}; {_UNHEARD}") from unheard
        if not ok:
            why = printable(error.strip())[:_WORDS_MAX] or f"no answer; {_UNHEARD}"
            raise HostError(name, "its gateway is older; `fiefdom apply` first" if why.startswith(UNKNOWN) else why)

    return ask_each(hosts, one, gateways)[1]


def tell_recorded(
    hosts: Hosts, gateways: tuple[str, ...], word: str, about: tuple[str, ...], note: str, warn: Tell
) -> dict[str, str]:
    """As `tell` of ``word`` and what it is ``about``, with ``note`` in the audit and whom it did not come to.

    Raises FiefdomError where it came to nobody.
    """
    with locking.recorded(hosts, gateways, word, warn, names=gateways, note=note) as act:
        missed = tell(hosts, gateways, word, *about)
        if len(missed) == len(gateways):
            raise FiefdomError("; ".join(f"{name}: {why}" for name, why in missed.items()))
        if missed:
            act.note = f"{note}; not at {', '.join(missed)}"
    return missed


def others(views: Views, gateways: Collection[str]) -> str:
    """The gateways that speak and are not among ``gateways``, to follow a sentence on these; empty for none."""
    open_at = [gateway for gateway, view in views.items() if view.silence is None and gateway not in gateways]
    return f", and not at {', '.join(open_at)}" if open_at else ""
