"""fiefdom-gateway: `run` is the container; `status`, `healthy` and `drained` ask it from a second process."""

import sys
from pathlib import Path

SETTINGS_FILE = Path("/etc/fiefdom/gateway/reconciler.json")
USAGE = "usage: fiefdom-gateway run|status|healthy|drained\n"


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run"]:
            return _run()
        case ["status"]:
            return _status()
        case ["healthy"]:
            return _healthy()
        case ["drained"]:
            return _drained()
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
    from fiefdom_gateway.client import STATUS_SOCKET, fetch

    try:
        return fetch(STATUS_SOCKET)
    except OSError as error:
        sys.stderr.write(f"the gateway does not answer on {STATUS_SOCKET}: {error}\n")
        return None


def _status() -> int:
    document = _document()
    sys.stdout.write(document or "")
    return 0 if document else 1


def _healthy() -> int:
    import json

    document = _document()
    return 0 if document and json.loads(document)["healthy"] else 1


def _drained() -> int:
    """Answer the Serf query of a member that wants to leave; its name comes on standard input."""
    import json

    from fiefdom_gateway.drained import answer

    member = sys.stdin.readline().strip()
    document = _document()
    sys.stdout.write(answer(member, json.loads(document)) if document else "the gateway does not answer")
    return 0
