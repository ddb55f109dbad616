"""fiefdom-gateway: `run` is the container; the other words ask it from a second process."""

import sys
from pathlib import Path

SETTINGS_FILE = Path("/etc/fiefdom/gateway/reconciler.json")
USAGE = "usage: fiefdom-gateway run|status|healthy|lends|maintenance on|off SERVICE\n"
# Longer than the reconciler may sleep, where its signal got lost in a hand-over.
SWITCH_LIMIT_S = 15.0


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run"]:
            return _run()
        case ["status"]:
            return _status()
        case ["healthy"]:
            return _healthy()
        case ["lends"]:
            return _lends()
        case ["maintenance", ("on" | "off") as word, service]:
            return _switch(service, close=word == "on")
    sys.stderr.write(USAGE)
    return 2


def _run() -> int:
    import asyncio

    from fiefdom_gateway import edges
    from fiefdom_gateway.log import say
    from fiefdom_gateway.members import Unreadable
    from fiefdom_gateway.settings import BadSettings, parse_settings
    from fiefdom_gateway.supervise import supervise

    try:
        settings = parse_settings(edges.read_text(SETTINGS_FILE))
        return asyncio.run(supervise(settings, SETTINGS_FILE))
    except (BadSettings, Unreadable) as error:
        say(f"{SETTINGS_FILE}: {error}")
    except (edges.Failed, OSError) as error:
        say(f"the gateway cannot run: {error}")
    return 1


def _document() -> str | None:
    """Return the document of this container's gateway."""
    from fiefdom_gateway.client import STATUS_SOCKET, fetch

    try:
        return fetch(STATUS_SOCKET)
    except OSError as error:
        sys.stderr.write(f"the gateway does not answer on {STATUS_SOCKET}: {error}\n")
        return None


def _document_of_the_host() -> str | None:
    """Return the document of the gateway whose turn it is, be it this container's or one before or after it."""
    import json

    from fiefdom_gateway.client import fetch, shared_socket

    try:
        return fetch(shared_socket(json.loads(SETTINGS_FILE.read_text())["state_dir"]))
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"no gateway answers: {error}\n")
        return None


def _status() -> int:
    document = _document_of_the_host()
    sys.stdout.write(document or "")
    return 0 if document else 1


def _healthy() -> int:
    import json

    document = _document()
    return 0 if document and json.loads(document)["healthy"] else 1


def _lends() -> int:
    """Whether the gateway would lend its listening sockets to a successor; images without this word exit with 2."""
    from fiefdom_gateway import edges, handover
    from fiefdom_gateway.settings import parse_settings

    settings = parse_settings(edges.read_text(SETTINGS_FILE))
    return 0 if handover.would_lend(handover.control_socket(settings.state_dir)) else 1


def _switch(service: str, *, close: bool) -> int:
    """Close a service for maintenance, or open it; 0 once HAProxy does so. Images without this word exit with 2."""
    import json
    import os
    import signal
    import time
    from contextlib import suppress

    from fiefdom_gateway import closed, edges
    from fiefdom_gateway.client import fetch, shared_socket
    from fiefdom_gateway.settings import parse_settings

    settings = parse_settings(edges.read_text(SETTINGS_FILE))
    if close and service not in settings.services:
        sys.stderr.write(f"this gateway has no service {service}\n")
        return 1
    try:
        closed.change(closed.file_of(settings.state_dir), service, close=close)
    except edges.Failed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    os.kill(1, signal.SIGHUP)
    late_s = time.monotonic() + SWITCH_LIMIT_S
    while time.monotonic() < late_s:
        with suppress(OSError, ValueError, KeyError, TypeError):
            rows = json.loads(fetch(shared_socket(str(settings.state_dir))))["maintenance"]
            if any(row["service"] == service for row in rows) == close:
                return 0
        time.sleep(0.1)
    sys.stderr.write(f"HAProxy did not take it up within {SWITCH_LIMIT_S:g} s; `docker logs gateway` says why\n")
    return 1
