"""When a gateway asks an authority: by two clocks, within limits, and across containers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import acme, authority  # noqa: E402
from fiefdom_gateway.acme import Asked, BadAcme, Facts, History, Moment, wait_s  # noqa: E402

DAY_S = 86400.0
LIFE = Facts(0.0, 90 * DAY_S)
ASKED = Asked("https://ca/dir", Path("/k"), ("www.example.org",), gateways=2, digest="now")
GOT = History(obtained=Moment("a", 1000.0, 0.0), directory="https://ca/dir", asked="now")


def at(days: float, *, up_days: float | None = None, boot: str = "a") -> Moment:
    """So many days after the certificate was got, by the clock that is set, and by the other one."""
    return Moment(boot, 1000.0 + (days if up_days is None else up_days) * DAY_S, days * DAY_S)


@pytest.mark.parametrize(
    ("now", "waits_days"),
    [
        (at(0), 60),
        (at(59), 1),
        (at(60), 0),
        (at(95), 0),
        # A clock that is set back does not keep it from being renewed in time, nor one that is ahead.
        (at(-400, up_days=59), 1),
        (at(-400, up_days=60), 0),
        (at(80, up_days=40), 0),
        # One that is ahead finds each over, however new: not again before a third of its life.
        (at(80, up_days=0), 30),
        (at(4000, up_days=1), 29),
        # After a boot there is the clock that is set alone.
        (at(61, up_days=0, boot="b"), 0),
        (at(59, up_days=0, boot="b"), 1),
    ],
)
def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(now: Moment, waits_days: float) -> None:
    assert wait_s(GOT, LIFE, ASKED, now) == pytest.approx(waits_days * DAY_S)


def test_gateways_that_began_together_do_not_come_together() -> None:
    late = [wait_s(replace(GOT, chance=chance), LIFE, ASKED, at(0)) / DAY_S for chance in (0.0, 0.5, 1.0)]
    assert late == pytest.approx([60, 61.5, 63])


@pytest.mark.parametrize(
    ("facts", "directory"),
    [(None, "https://ca/dir"), (replace(LIFE, placeholder=True), "https://ca/dir"), (LIFE, "https://staging/dir")],
)
def test_what_is_none_of_that_authority_is_asked_for_at_once(facts: Facts | None, directory: str) -> None:
    assert wait_s(replace(GOT, directory=directory), facts, ASKED, at(1)) == 0


def failing(failures: int, **more: Any) -> History:
    return replace(GOT, failures=failures, tries=(at(70),), **more)


@pytest.mark.parametrize(
    ("failures", "gateways", "pause_s"),
    [(1, 1, 120), (1, 2, 120), (2, 2, 3600), (3, 2, 7200), (4, 2, 14400), (5, 2, 21600), (99, 2, 21600), (1, 3, 3600)],
)
def test_an_authority_that_fails_is_asked_ever_more_rarely(failures: int, gateways: int, pause_s: float) -> None:
    asked = replace(ASKED, gateways=gateways)
    assert wait_s(failing(failures), LIFE, asked, at(70)) == pytest.approx(pause_s)
    assert wait_s(failing(failures, chance=1.0), LIFE, asked, at(70)) == pytest.approx(1.1 * pause_s)
    # Whatever the clock says that somebody sets.
    for days in (-500, 500):
        assert wait_s(failing(failures), LIFE, asked, at(days, up_days=70)) == pytest.approx(pause_s)
    assert wait_s(failing(failures), LIFE, asked, at(71)) == 0
    assert wait_s(failing(failures), LIFE, asked, at(70), forced=True) == 0


def test_who_fails_wants_it_still_however_long_what_it_has_is_good() -> None:
    early = replace(GOT, failures=1, tries=(at(1),))
    assert wait_s(early, LIFE, ASKED, at(2)) == 0
    assert wait_s(replace(early, asked="before"), LIFE, ASKED, at(2)) == 58 * DAY_S, "that was another authority's"


def test_what_is_asked_for_in_another_way_is_tried_at_once() -> None:
    assert wait_s(failing(5, asked="before"), LIFE, ASKED, at(70)) == 0


def test_no_more_than_a_handful_of_tries_in_an_hour_whoever_asks() -> None:
    tries = tuple(Moment("a", 1000.0 + 60 * n, 60.0 * n) for n in range(acme.MOST_TRIES))
    now = Moment("a", 1300.0, 300.0)
    often = History(tries=tries, asked="before")
    for forced in (False, True):
        assert wait_s(often, None, ASKED, now, forced=forced) == pytest.approx(3300)
    assert wait_s(replace(often, tries=tries[1:]), None, ASKED, now, forced=True) == 0


def test_a_moment_of_another_boot_that_is_yet_to_come_is_now() -> None:
    """A clock that was set back would else have a gateway wait for years."""
    now = Moment("b", 50.0, 1000.0)
    assert acme.anchored(Moment("a", 7.0, 5000.0), now).up_s == 50.0
    assert acme.anchored(Moment("a", 7.0, 400.0), now).up_s == -550.0
    later = Moment("b", 60.0, 1010.0)
    for at_s, gone_s in ((5000.0, 10.0), (400.0, 610.0)):
        assert acme.elapsed_s(acme.anchored(Moment("a", 7.0, at_s), now), later) == gone_s


def test_what_was_tried_is_known_to_the_next_container() -> None:
    histories = {"www.example.org": failing(3, error="no", chance=0.25)}
    assert acme.load(acme.dump(histories), at(70)) == histories
    for text in ("", "[]", "{}", '{"www.example.org": {}}', "nonsense", '{"a": 1}'):
        assert acme.load(text, at(70)) == {}


def test_a_host_whose_clock_is_off_is_told() -> None:
    assert [acme.clock_is_off(LIFE, at(days)) for days in (-1, 0, 89, 91)] == [True, False, False, True]


SETTINGS: dict[str, Any] = {
    **{"directory": "https://ca/dir", "email": None, "names": ["www.example.org"], "account_key": "/k"},
    **{"thumbprint": "t", "ca_file": None, "ca_digest": None, "gateways": 2},
}


def test_the_settings_are_read_and_one_name_more_asks_for_no_other_again() -> None:
    found = acme.parse_asked(json.dumps(SETTINGS))
    assert replace(found, digest="now") == ASKED
    for change, same in (({"names": ["a", "b"]}, True), ({"gateways": 9}, True), ({"thumbprint": "u"}, False)):
        assert (acme.parse_asked(json.dumps(SETTINGS | change)).digest == found.digest) is same


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(SETTINGS | {"names": ["../x"]})])
def test_settings_that_cannot_be_used(text: str) -> None:
    with pytest.raises(BadAcme):
        acme.parse_asked(text)


def test_the_word_for_the_host_has_a_line_for_each_name() -> None:
    told = [acme.Told("a", LIFE), acme.Told("b", None), acme.Told("c", None, "no answer"), acme.Told("d", LIFE, "no")]
    assert acme.word(told) == "a\t0 7776000\nb\t- -\nc\t- - no answer\nd\t0 7776000 no\n"


# Recorded of uacme 1.7.6 against pebble 2.6.0.
REFUSED = """uacme: challenge https://127.0.0.1:24000/chalZ/HUHk failed with status invalid
uacme: the server reported the following error:
{
    "type": "urn:ietf:params:acme:error:connection",
    "detail": "Get \\"http://www.example.org:20080/.well-known/acme-challenge/Br3\\": connect: connection refused",
    "status": 400
}
uacme: failed to authorize order at https://127.0.0.1:24000/my-order/RuMc
"""
UNREACHED = """uacme: curl_get: GET https://127.0.0.1:24999/dir failed: Could not connect to server
uacme: curl_get: waiting 5 seconds before retrying
uacme: acme_get: curl_get failed
uacme: failed to fetch directory at https://127.0.0.1:24999/dir
"""


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (
            REFUSED,
            'the authority says: Get "http://www.example.org:20080/.well-known/acme-challenge/Br3": connect: '
            "connection refused",
        ),
        (
            UNREACHED,
            "the authority cannot be asked: GET https://127.0.0.1:24999/dir failed: Could not connect to server",
        ),
        ("uacme: key_load: invalid key\n", "key_load: invalid key"),
        ("", ""),
    ],
)
def test_what_went_wrong_is_one_sentence(output: str, says: str) -> None:
    assert authority.reason(output) == says
