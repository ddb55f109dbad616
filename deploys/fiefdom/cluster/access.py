"""The access log of gateways: what haproxy.cfg.j2 has HAProxy write for each request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FIELDS: Mapping[str, str] = {
    "request_id": "The request's `X-Request-ID`: the client's own where it has one, else a new one",
    "client": "Address of the client, as `allow_from` takes it: behind `gateway.proxies` what these say of it",
    "method": "Of the request; `<BADREQ>` where it was none",
    "host": "Its Host header",
    "path": "Its path as it came, without the query",
    "status": "Of the answer, -1 where there was none",
    "bytes": "Sent to the client, headers too",
    "service": "Whose it was; `port-80` and the like where it was nobody's",
    "instance": "Who answered last, as host and port: `app1-8000`; `<NOSRV>` for the gateway itself",
    "queue_ms": "Milliseconds it waited for its turn, -1 where it had none",
    "connect_ms": "Milliseconds until an instance was connected, -1 where none was",
    "answer_ms": "Milliseconds until the instance's headers were there, -1 where they never were",
    "total_ms": "Milliseconds from the request's first byte to the answer's last",
    "retries": "Further tries; with `+` before it, the last went to another instance",
    "ended": "How it ended, in HAProxy's four letters: `--` first is well, `C` the client's end, `S` the instance's, "
    "`P` and `L` the gateway's",
}
"""By name, what each field of a line says."""


def entry(container: str, line: str) -> dict[str, Any] | None:
    """A request, from a line that a container said; None for what is another line, or said by no gateway."""
    if container.partition(".")[0] != "gateway" or not line.startswith('{"request_id": '):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.keys() >= FIELDS.keys() else None


def in_words(of: Mapping[str, Any]) -> str:
    """A request as a person reads it."""
    to = of["instance"] if of["instance"] != "<NOSRV>" else "-"
    ended = "" if str(of["ended"]).startswith("--") else f" ended {of['ended']}"
    retries = "" if str(of["retries"]) == "0" else f" retries {of['retries']}"
    return (
        f"{of['status']} {of['method']} {of['host']}{of['path']} {of['service']} {to} "
        f"{of['total_ms']} ms{retries}{ended} {of['request_id']}"
    )
