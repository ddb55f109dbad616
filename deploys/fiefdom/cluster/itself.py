"""What a host itself tells of its part in a cluster: its instances and its membership, without any inventory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from fiefdom.errors import FiefdomError
from fiefdom.grouping import grouped
from fiefdom.wording import printable

SCRIPT = (Path(__file__).parent / "itself.sh").read_text()
INSTANCES, MEMBER = "instances", "member"

_CONTAINER = re.compile(r"([a-z][a-z0-9-]*)-([0-9]{1,5})", re.ASCII)
_OFFER = re.compile(r"([A-Za-z0-9_.+-]{1,128});([0-9]{1,5})-([0-9]{1,5})(?:;[0-9]{1,5})?", re.ASCII)
_OFFER_TAG = "svc:"
_PACKED_TAG = "o"
"""All offers in one, of a host that has more than Serf carries as a tag for each; it has no names, the host does."""
_WORDS_MAX = 200


class Instance(TypedDict):
    """One instance of a service on a host."""

    service: str
    """The service's name in the inventory."""
    port: int
    """The host port that it listens on, 1 to 65535."""
    version: str
    """The version that it runs, in the inventory's word; empty where there is no container."""
    state: str
    """Docker's word on its container: `running`, `restarting`, `exited`, `created`, `paused`, `removing` or `dead`.

    `missing` where the host is to have it and Docker does not, `unknown` where Docker does not answer.
    """
    offered: bool
    """Whether the host offers it to the gateways. Whether they take it up is theirs to say: see `fiefdom status`."""


class Membership(TypedDict):
    """How a host stands in its cluster, in the word of the Serf agent that it runs."""

    member: bool
    """Whether it is a member: its agent answers and is `alive`."""
    state: str
    """`alive`, `leaving`, `left` or `failed`; `silent` where its agent does not answer, `absent` where it has none."""
    name: str
    """What the cluster calls it; empty where no agent answers."""
    role: str
    """`gateway` or `app`; empty where no agent answers."""
    offers: dict[str, str]
    """What it tells the gateways that it serves: by service, the version."""
    gateways: list[str]
    """Gateways that its agent has as `alive`, by name; with none of them, nobody hears its offers."""


def instances(lines: Iterable[str]) -> list[Instance]:
    """The instances in what `itself.sh` prints, by service and port.

    Raises:
        FiefdomError: the user who asked may not use Docker, or the answer is none.
    """
    told = _told(lines)
    found: dict[tuple[str, int], Instance] = {}
    offers = {name: match for name, word in _pairs(told, "offer") if (match := _OFFER.fullmatch(word))}

    def add(container: str, state: str, version: str) -> None:
        match = _CONTAINER.fullmatch(container)
        if match is None:
            return
        service, port = match[1], int(match[2])
        offer = offers.get(service)
        offered = offer is not None and int(offer[2]) <= port <= int(offer[3])
        found[service, port] = Instance(service=service, port=port, version=version, state=state, offered=offered)

    lacks = "unknown" if told["docker"] == [["down"]] else "missing"
    for fields in told.get("wanted", ()):
        add(fields[0], lacks, "")
    for fields in told.get("instance", ()):
        add(fields[0], *(printable(word)[:_WORDS_MAX] for word in (*fields[1:], "", "")[:2]))
    return [found[key] for key in sorted(found)]


def membership(lines: Iterable[str]) -> Membership:
    """What `itself.sh` prints of the host's agent.

    Raises:
        FiefdomError: the user who asked may not use Docker, or the answer is none.
    """
    told = _told(lines)
    nobody = Membership(member=False, state="absent", name="", role="", offers={}, gateways=[])
    if "agent" not in told:
        return nobody
    said, listed = (_json(told, kind) for kind in ("info", "members"))
    tags, own = _mapping(said.get("tags")), _mapping(said.get("agent"))
    rows = listed.get("members")
    others = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    name = _word(own.get("name"))
    status = next((_word(row.get("status")) for row in others if row.get("name") == own.get("name")), "")
    if not name or not status:
        return {**nobody, "state": "silent"}
    state = "leaving" if status == "alive" and tags.get("state") == "leaving" else status
    if _PACKED_TAG in tags:
        words = list(_pairs(told, "offer"))
    else:
        words = [(tag.removeprefix(_OFFER_TAG), word) for tag, word in tags.items() if tag.startswith(_OFFER_TAG)]
    offers = {
        _word(service): match[1]
        for service, word in sorted(words, key=lambda each: each[0])
        if isinstance(word, str) and (match := _OFFER.fullmatch(word))
    }
    gateways = sorted(
        _word(row.get("name"))
        for row in others
        if row.get("status") == "alive" and _mapping(row.get("tags")).get("role") == "gateway"
    )
    return Membership(
        member=state == "alive",
        state=state,
        name=name,
        role=_word(tags.get("role")),
        offers=offers,
        gateways=gateways,
    )


def _told(lines: Iterable[str]) -> dict[str, list[list[str]]]:
    """By kind, the fields of each line."""
    told = grouped((kind, fields) for kind, *fields in (line.split("\t") for line in lines) if fields)
    if "docker" not in told:
        raise FiefdomError("the host's answer is none")
    if told["docker"] == [["closed"]]:
        raise FiefdomError(
            "the login user may not use Docker; let it use sudo without a password, or join the group docker"
        )
    return told


def _pairs(told: dict[str, list[list[str]]], kind: str) -> Iterable[tuple[str, str]]:
    return ((fields[0], fields[1]) for fields in told.get(kind, ()) if len(fields) > 1)


def _json(told: dict[str, list[list[str]]], kind: str) -> dict[str, Any]:
    # A tab within JSON would be an escape.
    text = "\t".join(told.get(kind, [[""]])[0])
    try:
        return _mapping(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(value: object) -> str:
    return printable(value)[:_WORDS_MAX] if isinstance(value, str) else ""
