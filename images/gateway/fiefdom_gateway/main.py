"""fiefdom-gateway: `run` is the container; the other words ask it from a second process."""

import sys
from pathlib import Path

SETTINGS_FILE = Path("/etc/fiefdom/gateway/reconciler.json")
USAGE = "usage: fiefdom-gateway run|status|healthy|drained|serving\n"


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run"]:
            return _run()
        case ["status"]:
            return _status()
        case ["healthy"]:
            return _healthy()
        case ["drained" | "serving" as verb]:
            return _answer(verb)
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


def _answer(verb: str) -> int:
    """Answer the Serf query of a member about itself; its name comes on standard input."""
    import json

    from fiefdom_gateway import rotation

    member = sys.stdin.readline().strip()
    document = _document()
    answer = {"drained": rotation.drained, "serving": rotation.serving}[verb]
    sys.stdout.write(answer(member, json.loads(document)) if document else "the gateway does not answer")
    return 0
