"""What doctor says of certificates that a gateway gets itself, from the word that it left on the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fiefdom.converge import obtained
from fiefdom.converge.snapshot import Snapshot, parse
from helpers.example import context

DAY_S = 86400
TLS = {"acme": {"directory": "https://acme.example.org/directory", "account_key": "account.key"}}
SERVICES = {"web": {"route": {"port": 80, "host": "www.example.org"}}}


def found(lines: list[str]) -> Snapshot:
    return parse("gw1", ["snapshot\t1", "uid\t0", "os\tdebian\ttrixie", *lines, "end"])


def told(lines: list[str], host: str = "gw1", tls: Any = TLS) -> list[str]:
    it = context(host, "trixie", gateway={"tls": tls} if tls else {}, services=SERVICES)
    return [f"{one.level} {one}" for one in obtained.findings(it, found(lines), 60.0 * DAY_S)]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], None),
        (["obtained\twww.example.org\t0 7776000"], None),
        (["obtained\twww.example.org\tnonsense"], None),
        (["obtained\tother.example.org\t- - no"], None),
        (
            ["obtained\twww.example.org\t- - the authority says: no"],
            "there is no certificate for www.example.org yet: the authority says: no: the gateway serves one of its "
            "own making, which no client believes; ",
        ),
        (
            ["obtained\twww.example.org\t- -"],
            "there is no certificate for www.example.org yet, though it was asked for: the gateway serves one of",
        ),
        (
            ["obtained\twww.example.org\t0 7776000 no answer"],
            "the certificate for www.example.org, which expires on 1970-04-01, in 30 days, could not be renewed: no "
            "answer: clients will not talk to the gateway then; ",
        ),
        (
            ["obtained\twww.example.org\t0 864000"],
            "the certificate for www.example.org has expired on 1970-01-11, and should have been renewed by now: "
            "clients do not talk to the gateway; ",
        ),
    ],
)
def test_what_is_told(lines: list[str], says: str | None) -> None:
    if says is None:
        assert told(lines) == []
    else:
        (one,) = told(lines)
        assert one.startswith(f"warning {says}")


def test_only_of_gateways_that_get_some() -> None:
    line = ["obtained\twww.example.org\t- - no"]
    assert told(line) and not told(line, "app1") and not told(line, tls=None)


def test_a_word_that_is_broken_off_or_printed_oddly_is_none() -> None:
    snapshot = found(["obtained\ta", "obtained\ta\tb\tc", "obtained\twww.example.org\t- - \x1b[2J"])
    assert set(snapshot.obtained) == {"www.example.org"} and "\x1b" not in snapshot.obtained["www.example.org"]
    assert replace(snapshot, obtained={}) == found([])
