"""What an operator tells the running gateway by a second process: a service is closed, a version has its share."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fiefdom_gateway import closed, edges, kept, shares
from fiefdom_gateway.client import fetch, shared_socket
from fiefdom_gateway.settings import Settings, parse_settings

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

    return _change(settings_file, service, closed.file_of, service if close else None, done)


def _share(settings_file: Path, service: str, share: shares.Share | None) -> int:
    def done(document: Document) -> bool:
        found = [shares.Share(**row) for row in document["shares"] if row["service"] == service]  # type: ignore[arg-type]
        return found == ([] if share is None else [share])

    return _change(settings_file, service, shares.file_of, None if share is None else str(share), done)


def _change(
    settings_file: Path,
    service: str,
    file_of: Callable[[Path], Path],
    line: str | None,
    done: Callable[[Document], bool],
) -> int:
    """Let a service have this line, or none, and wait until the gateway's document says that HAProxy does so.

    Where it does not within the limit, what was there before is put back: a failure takes no effect later.
    """
    settings = parse_settings(edges.read_text(settings_file))
    if line is not None and service not in settings.services:
        sys.stderr.write(f"this gateway has no service {service}\n")
        return 1
    path = file_of(settings.state_dir)
    try:
        before = kept.put(path, service, line)
    except edges.Failed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    os.kill(1, signal.SIGHUP)
    if _is_done(settings, done):
        return 0
    late = f"HAProxy did not take it up within {LIMIT_S:g} s"
    try:
        kept.take_back(path, service, line, before)
    except edges.Failed as error:
        sys.stderr.write(f"{late}; it does so as soon as it can, for {error}\n")
        return 1
    os.kill(1, signal.SIGHUP)
    sys.stderr.write(f"{late}, so it was taken back; `docker logs gateway` says why\n")
    return 1


def _is_done(settings: Settings, done: Callable[[Document], bool]) -> bool:
    late_s = time.monotonic() + LIMIT_S
    while time.monotonic() < late_s:
        with suppress(OSError, ValueError, KeyError, TypeError):
            if done(json.loads(fetch(shared_socket(str(settings.state_dir))))):
                return True
        time.sleep(0.1)
    return False
