"""The ledger of a cluster, kept on its gateways: its lock and its audit, as they are asked and written there.

What a host sends is only ever shown, compared or dropped.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fiefdom.cluster.audit import LAST, Entry, merge
from fiefdom.cluster.lock import Answer, Lock, parse_answer
from fiefdom.cluster.words import WORDS_MAX, words
from fiefdom.converge.run import Hosts, ask_each
from fiefdom.desired.gateway import LEDGER_DIR
from fiefdom.errors import FiefdomError, HostError
from fiefdom.wording import printable

SCRIPT = (Path(__file__).parent / "ledger.sh").read_text()
DIR = LEDGER_DIR
NONE = "-"
"""For ledger.sh: no token, and never seen."""


@dataclass(frozen=True)
class Ledger:
    """What the gateways that answered hold; ``silent`` are the others, and why they do not."""

    locks: tuple[Lock, ...]
    entries: tuple[Entry, ...]
    silent: Mapping[str, str]

    @property
    def live(self) -> frozenset[str]:
        """Runs that are under way."""
        return frozenset(lock.run for lock in self.locks if lock.alive)


def append(hosts: Hosts, gateways: Iterable[str], entry: Entry, warn: Callable[[str], None]) -> None:
    """Add a line to the audit of every gateway; ``warn`` hears of those that miss it."""
    about = asdict(entry)
    del about["at"]
    about["note"] = words(entry.note)
    _, trouble = ask_all(hosts, gateways, "append", stdin=line_of(**about))
    if trouble:
        warn(f"the audit misses a line: {trouble}")


def read(hosts: Hosts, gateways: Iterable[str], last: int = LAST) -> Ledger:
    """The locks, and the entries of the last ``last`` acts or a few more, of every gateway that answers."""
    answers, silent = ask_each(hosts, lambda name: ask(hosts, name, "show", str(2 * last)), gateways)
    locks = tuple(answer.lock for answer in answers.values() if answer.lock)
    return Ledger(locks, merge(answer.entries for answer in answers.values()), silent)


def operator() -> str:
    """Who runs this, as user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return printable(f"{user}@{socket.gethostname()}")


def new_run() -> str:
    """A name for one run that no other has."""
    return secrets.token_hex(8)


def ask_all(
    hosts: Hosts, gateways: Iterable[str], verb: str, token: str = NONE, seen: str = NONE, stdin: str = ""
) -> tuple[dict[str, Lock | None], str]:
    """As `ask`: the locks of those that answered, and what went wrong with the others in one line."""
    locks: dict[str, Lock | None] = {}

    def ask_one(name: str) -> None:
        locks[name] = ask(hosts, name, verb, token, seen, stdin).lock

    return locks, trouble_of(hosts, ask_one, gateways)


def trouble_of(hosts: Hosts, function: Callable[[str], None], names: Iterable[str]) -> str:
    """Call a function of every host, and tell what went wrong in one line; empty where nothing did."""
    try:
        hosts.on_all(function, names)
    except FiefdomError as error:
        return str(error)
    return ""


def ask(hosts: Hosts, name: str, verb: str, token: str = NONE, seen: str = NONE, stdin: str = "") -> Answer:
    """What a gateway's ledger.sh answers to ``verb``. Raises HostError."""
    ok, output, errors = hosts.script(name, SCRIPT, (verb, DIR, token, seen), stdin)
    if not ok:
        raise HostError(name, f"the ledger: {printable(errors)[:WORDS_MAX] or 'no answer'}")
    return parse_answer(name, output)


def line_of(**data: Any) -> str:
    """A lock, or an entry of the audit, as the gateways keep it."""
    return json.dumps(data)  # ASCII and one line, whatever it holds
