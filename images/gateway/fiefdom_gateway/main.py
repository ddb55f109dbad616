"""fiefdom-gateway: `run` is the container; the other words ask it from a second process."""

import sys
from pathlib import Path

SETTINGS_FILE = Path("/etc/fiefdom/gateway/reconciler.json")
USAGE = (
    "usage: fiefdom-gateway run|status [summary|host NAME...|service NAME...]|healthy|lends|renew|"
    "maintenance on|off SERVICE|"
    "weight SERVICE off|VERSION PERCENT\n"
)


def main(arguments: list[str]) -> int:
    alone = {"run": _run, "healthy": _healthy, "lends": _lends, "renew": _renew}
    match arguments:
        case [word] if word in alone:
            return alone[word]()
        case ["status"] | ["status", "summary"] | ["status", "host" | "service", _, *_]:
            return _status(" ".join(arguments[1:]))
        case ["maintenance" | "weight", *_]:
            return _told(arguments)
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


def _document(part: str) -> str | None:
    """Return the document of this container's gateway."""
    from fiefdom_gateway.client import STATUS_SOCKET, fetch

    try:
        return fetch(STATUS_SOCKET, part)
    except OSError as error:
        sys.stderr.write(f"the gateway does not answer on {STATUS_SOCKET}: {error}\n")
        return None


def _document_of_the_host(part: str) -> str | None:
    """Return the document of the gateway whose turn it is, be it this container's or one before or after it."""
    import json

    from fiefdom_gateway.client import fetch, shared_socket

    try:
        return fetch(shared_socket(json.loads(SETTINGS_FILE.read_text())["state_dir"]), part)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"no gateway answers: {error}\n")
        return None


def _status(part: str) -> int:
    document = _document_of_the_host(part)
    sys.stdout.write(document or "")
    return 0 if document else 1


def _healthy() -> int:
    import json

    document = _document("summary")
    return 0 if document and json.loads(document)["healthy"] else 1


def _lends() -> int:
    """Whether the gateway would lend its listening sockets to a successor; images without this word exit with 2."""
    from fiefdom_gateway import edges, handover
    from fiefdom_gateway.settings import parse_settings

    settings = parse_settings(edges.read_text(SETTINGS_FILE))
    return 0 if handover.would_lend(handover.control_socket(settings.state_dir)) else 1


def _renew() -> int:
    """Have the gateway get all its certificates anew, whatever is left of them, within its limit of tries."""
    import json

    from fiefdom_gateway.obtainer import renew_file

    try:
        renew_file(Path(json.loads(SETTINGS_FILE.read_text())["state_dir"])).touch(mode=0o600)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"the gateway cannot be told: {error}\n")
        return 1
    return 0


def _told(words: list[str]) -> int:
    """Keep what an operator says until he says otherwise; 0 once HAProxy does so. Images without this exit with 2."""
    from fiefdom_gateway import told

    code = told.told(words, SETTINGS_FILE)
    if code is None:
        sys.stderr.write(USAGE)
    return 2 if code is None else code
