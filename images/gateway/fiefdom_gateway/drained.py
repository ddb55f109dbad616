"""Whether a member may leave: what a gateway answers when one asks."""

import re
from collections.abc import Mapping
from typing import Any

DRAINED = "drained"
_OUT_OF_ROTATION = frozenset({"drain", "maint"})


def answer(member: str, status: Mapping[str, Any]) -> str:
    """Return "drained" when none of the member's servers takes requests or has one open; else what is left, in words.

    `status` is the gateway's own document. Where HAProxy did not answer, nobody knows, and nobody is drained.
    """
    if status["haproxy"].get("error"):
        return "HAProxy does not answer"
    own = re.compile(re.escape(member) + r"-[0-9]+")
    servers = [server for server in status["servers"] if own.fullmatch(server["name"])]
    rotating = [server for server in servers if server["state"] not in _OUT_OF_ROTATION]
    sessions = sum(server["sessions"] for server in servers)
    if not rotating and not sessions:
        return DRAINED
    return f"{len(rotating)} servers in rotation, {sessions} requests open"
