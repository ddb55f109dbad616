"""What a gateway answers a member that asks about itself: may it leave, is it in rotation.

`status` is the gateway's own document. Where HAProxy did not answer, nobody knows, so the answer is neither.
"""

import re
from collections.abc import Mapping
from typing import Any

DRAINED = "drained"
SERVING = "serving"
_OUT_OF_ROTATION = frozenset({"drain", "maint"})


def drained(member: str, status: Mapping[str, Any]) -> str:
    """Return "drained" when none of the member's servers takes requests or has one open; else what is left."""
    if status["haproxy"].get("error"):
        return "HAProxy does not answer"
    servers = _servers_of(member, status)
    rotating = [server for server in servers if server["state"] not in _OUT_OF_ROTATION]
    sessions = sum(server["sessions"] for server in servers)
    if not rotating and not sessions:
        return DRAINED
    return f"{len(rotating)} servers in rotation, {sessions} requests open"


def serving(member: str, status: Mapping[str, Any]) -> str:
    """Return "serving" when every server that the member offers is in rotation; else how many are, in words.

    One that is down but has answered was in rotation: it answers with errors, and waiting would not better it.
    """
    name, service, least = _parts(member)
    offers = [
        offer
        for known in status["members"]
        if known["name"] == name
        for offer in known["offers"]
        if service in ("", offer["service"])
    ]
    offered = sum(offer["last_port"] - offer["first_port"] + 1 for offer in offers)
    up = sum(server["state"] == "up" or server["requests"] > 0 for server in _servers_of(member, status))
    return SERVING if offered > 0 and up >= min(offered, least or offered) else f"{up} of {offered} servers up"


def _servers_of(asked: str, status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    member, service, _ = _parts(asked)
    own = re.compile(re.escape(member) + r"-[0-9]+")
    return [
        server for server in status["servers"] if own.fullmatch(server["name"]) and service in ("", server["service"])
    ]


def _parts(asked: str) -> tuple[str, str, int | None]:
    words = [*asked.split(" "), "", ""]
    return words[0], words[1], int(words[2]) if words[2].isdecimal() else None
