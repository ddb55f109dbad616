"""What a gateway answers a host that asks about itself: may it stop a service, is it in rotation.

A question is a Serf query `fiefdom-drained` or `fiefdom-serving` about `HOST`, as a whole, or `HOST SERVICE`; where it
asks for serving, `HOST SERVICE LEAST` says how many servers must, and a fourth word which version, where the host's
tags have only its code. The answer is the word that was asked for, or what there is instead, in words. A question is a
stranger's text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from fiefdom_gateway.members import Member, is_host_name, is_version
from fiefdom_gateway.replies import State
from fiefdom_gateway.settings import is_name
from fiefdom_gateway.status import Look
from fiefdom_gateway.view import Busy, Row, View

T = TypeVar("T", Row, Busy)

DRAINED = "drained"
SERVING = "serving"
QUERIES = {f"fiefdom-{word}": word for word in (DRAINED, SERVING)}
NOT_UNDERSTOOD = "not understood: HOST, HOST SERVICE or HOST SERVICE LEAST [VERSION]"
_WHOLE = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True)
class Question:
    """About a host's servers of one service, or of all; `least` of them are to serve, or all that it offers."""

    word: str
    host: str
    service: str | None = None
    least: int | None = None
    version: str | None = None


def understood(query: str, payload: str) -> Question | None:
    """Return the question that a query asks; None when it is none."""
    word, parts = QUERIES.get(query), payload.split(" ")
    if word is None or len(parts) > 4 or not is_host_name(parts[0]):
        return None
    host, service, least, version = (*parts, None, None, None)[:4]
    if not (service is None or is_name(service)) or not (least is None or _WHOLE.fullmatch(least)):
        return None
    if not (version is None or is_version(version)):
        return None
    return Question(word, str(host), service, None if least is None else int(least), version)


def answer(question: Question, look: Look, view: View) -> str:
    """Return the answer, where the last look at the members is not older than the question, nor `view` than it."""
    return drained(question, look, view) if question.word == DRAINED else serving(question, look, view)


def drained(question: Question, look: Look, view: View) -> str:
    """Return "drained" when none of the servers takes requests, or has one open; else what is left of them.

    Requests open in replaced workers count as well. A service that is routed no more takes none.
    """
    if question.host in look.read and _offers(question, look.read[question.host]):
        return f"{question.host} still offers {question.service or 'services'}"
    ours = {service.backend for service in look.services.values()}
    current = _asked_for(question, look, view.current.get(question.host, ()))
    replaced = _asked_for(question, look, view.replaced.get(question.host, ()))
    rotating = {(row.backend, row.name) for row in current if row.state is State.READY and row.backend in ours}
    # One that HAProxy is about to get is in rotation soon.
    rotating |= {
        (look.services[server.service].backend, server.name)
        for server in look.wanted_of(question.host)
        if not server.drain and question.service in (None, server.service)
    }
    sessions = sum(row.sessions for row in current) + sum(row.sessions for row in replaced)
    if not rotating and not sessions:
        return DRAINED
    return f"{len(rotating)} servers in rotation, {sessions} requests open"


def serving(question: Question, look: Look, view: View) -> str:
    """Return "serving" when enough servers that the member offers are in rotation; else how many are, in words.

    One that is down but has answered was in rotation: it answers with errors, and waiting would not better it.
    """
    offers = [offer for offer in look.offers_of(question.host) if question.service in (None, offer.service)]
    offered = {
        (look.services[offer.service].backend, f"{question.host}-{port}")
        for offer in offers
        if offer.service in look.services
        for port in range(offer.first_port, offer.last_port + 1)
    }
    up = sum(
        row.state is State.READY and (row.up or row.requests > 0)
        for row in view.current.get(question.host, ())
        if (row.backend, row.name) in offered
    )
    least = len(offered) if question.least is None else question.least
    return SERVING if offered and up >= least else f"{up} of {len(offered)} servers up"


def _offers(question: Question, member: Member) -> bool:
    """Whether a member offers what the question is about, as it says itself."""
    offers = () if member.drains or member.status == "left" else member.offers
    return any(question.service in (None, offer.service) for offer in offers)


def _asked_for(question: Question, look: Look, rows: Iterable[T]) -> list[T]:
    if question.service is None:
        return list(rows)
    service = look.services.get(question.service)
    backend = question.service if service is None else service.backend
    return [row for row in rows if row.backend == backend]
