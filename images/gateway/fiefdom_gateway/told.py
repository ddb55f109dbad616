"""What an operator tells the running gateway by a second process: a service is closed, a version has its share."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fiefdom_gateway import closed, edges, shares
from fiefdom_gateway.client import fetch, shared_socket
from fiefdom_gateway.settings import parse_settings

# Longer than the reconciler may sleep, where its signal got lost in a hand-over.
LIMIT_S = 15.0

Document = Mapping[str, list[dict[str, object]]]


def told(words: list[str], settings_file: Path) -> int | None:
    """Do what words say; return the exit code, or None where they say nothing that is known here."""
    match words:
        case ["maintenance", ("on" | "off") as word, service]:
            return _switch(settings_file, service, close=word == "on")
        case ["weight", service, "off"]:
            return _share(settings_file, service, None)
        case ["weight", service, version, percent]:
            share = shares.parse(f"{service} {version} {percent}")
            return None if share is None else _share(settings_file, service, share)
    return None


def _switch(settings_file: Path, service: str, *, close: bool) -> int:
    def done(document: Document) -> bool:
        return any(row["service"] == service for row in document["maintenance"]) == close

    def change(state_dir: Path) -> None:
        closed.change(closed.file_of(state_dir), service, close=close)

    return _change(settings_file, service, change, done, known=close)


def _share(settings_file: Path, service: str, share: shares.Share | None) -> int:
    def done(document: Document) -> bool:
        found = [shares.Share(**row) for row in document["shares"] if row["service"] == service]  # type: ignore[arg-type]
        return found == ([] if share is None else [share])

    def change(state_dir: Path) -> None:
        shares.change(shares.file_of(state_dir), service, share)

    return _change(settings_file, service, change, done, known=share is not None)


def _change(
    settings_file: Path,
    service: str,
    change: Callable[[Path], None],
    done: Callable[[Document], bool],
    *,
    known: bool,
) -> int:
    """Change what is kept of a service, and wait until the gateway's document says that it is done."""
    settings = parse_settings(edges.read_text(settings_file))
    if known and service not in settings.services:
        sys.stderr.write(f"this gateway has no service {service}\n")
        return 1
    try:
        change(settings.state_dir)
    except edges.Failed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    os.kill(1, signal.SIGHUP)
    late_s = time.monotonic() + LIMIT_S
    while time.monotonic() < late_s:
        with suppress(OSError, ValueError, KeyError, TypeError):
            if done(json.loads(fetch(shared_socket(str(settings.state_dir))))):
                return 0
        time.sleep(0.1)
    sys.stderr.write(f"HAProxy did not take it up within {LIMIT_S:g} s; `docker logs gateway` says why\n")
    return 1
