"""Findings of certificates that a gateway gets itself: none yet, none any more, or an authority that gives none."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fiefdom.converge.doctor import Finding
from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired.context import Context
from fiefdom.model.acme_rules import acme_names
from fiefdom.model.obtained import SERVED_MEANWHILE, Obtained

_WORD = re.compile(r"(?:- -|([0-9]{1,11}) ([0-9]{1,11}))(?: (.*))?")
_MEND = (
    "mend what it says; the gateway tries again by itself, `docker exec gateway fiefdom-gateway renew` there at once"
)


def findings(context: Context, found: Snapshot, now_s: float) -> Iterator[Finding]:
    """What a gateway left word of. It says nothing of a name that it was not told of yet."""
    for name in acme_names(context.cluster) if context.is_gateway else ():
        one = _read(name, found.obtained.get(name, ""))
        seen = None if one is None else one.complaint(now_s)
        if one is not None and seen is not None:
            effect = "clients will not talk to the gateway then" if one.is_served(now_s) else SERVED_MEANWHILE
            if one.ends_s is not None and not one.is_served(now_s):
                effect = "clients do not talk to the gateway"
            yield Finding("warning", "certificate", seen, effect, _MEND)


def _read(name: str, word: str) -> Obtained | None:
    match = _WORD.fullmatch(word.strip())
    if match is None:
        return None
    begins_s, ends_s = (None if seconds is None else float(seconds) for seconds in match.groups()[:2])
    return Obtained(name, begins_s, ends_s, match[3] or None)
