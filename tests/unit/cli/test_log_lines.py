"""Lines of logs as text and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from fiefdom.cli.log_lines import Prefixed, as_json
from fiefdom.cluster.access import FIELDS, entry, in_words
from fiefdom.cluster.logs import Line

AT = 1_769_850_001_250_000_000
REQUEST = dict(
    zip(
        FIELDS,
        ("id-1", "10.2.0.9", "GET", "a.org", "/x", 200, 78, "web", "app1-8000", 0, 1, 12, 13, 0, "----"),
        strict=True,
    )
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (Line(AT, "app1", "web-8000", "hello"), "01-31 09:00:01.250 app1 web-8000 | hello"),
        (Line(AT, "app1", "web-8000", "a\x1b[1;31mb\x1b[0m\r"), "01-31 09:00:01.250 app1 web-8000 | ab"),
        (Line(AT, "app1", "web-8000", "\x1b]0;title\x07é\t\u202e"),
         "01-31 09:00:01.250 app1 web-8000 | \\x1b]0;title\\x07é\t\\u202e"),
        (Line(AT, "app1", "", "it broke\x1b[2J off"), "01-31 09:00:01.250 app1 tells no more: it broke\\x1b[2J off"),
        (Line(0, "app1", "", "no answer"), "------------------ app1 tells no more: no answer"),
        (Line(AT, "gw1", "gateway", json.dumps(REQUEST)),
         "01-31 09:00:01.250 gw1 gateway | 200 GET a.org/x web app1-8000 13 ms id-1"),
    ],
)  # fmt: skip
def test_as_text(line: Line, text: str) -> None:
    assert Prefixed()(line) == text


def test_each_container_has_its_colour() -> None:
    shown = Prefixed(colours=True)
    one, other = Line(AT, "app1", "web-8000", "x"), Line(AT, "app2", "web-8000", "x")
    assert shown(one) == "\x1b[2m01-31 09:00:01.250\x1b[0m \x1b[36mapp1 web-8000 |\x1b[0m x"
    assert shown(other).partition("app2")[0].endswith("\x1b[33m") and shown(one).endswith(
        "\x1b[36mapp1 web-8000 |\x1b[0m x"
    )
    assert "\x1b[31mapp1 tells no more" in shown(Line(AT, "app1", "", "gone"))


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (Line(AT, "app1", "web-8000", "a\x1b[1m\ufffd"), {"instance": "web-8000", "text": "a\x1b[1m\ufffd"}),
        (Line(AT, "app1", "", "it broke off"), {"gone": "it broke off"}),
        (
            Line(AT, "app1", "gateway.retiring-1", json.dumps(REQUEST)),
            {"instance": "gateway.retiring-1", "access": REQUEST},
        ),
    ],
)
def test_as_json(line: Line, data: dict[str, object]) -> None:
    assert json.loads(as_json(line)) == {"time": "2026-01-31T09:00:01.250000000Z", "host": "app1", **data}


def test_a_time_that_nobody_told_is_none() -> None:
    assert json.loads(as_json(Line(0, "app1", "", "no answer"))) == {"time": None, "host": "app1", "gone": "no answer"}


@pytest.mark.parametrize(
    "text", ["", "hello", '{"request_id": ', '{"request_id": "1"}', '{"request_id": ' + "[" * 100_000]
)
def test_what_is_no_request(text: str) -> None:
    assert entry("gateway", text) is None


@pytest.mark.parametrize("container", ["gateway-8000", "web-8000", "gatewayx"])
def test_who_tells_of_no_request(container: str) -> None:
    assert entry(container, json.dumps(REQUEST)) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"instance": "<NOSRV>", "status": 404}, "404 GET a.org/x web - 13 ms id-1"),
        ({"retries": "+1"}, "200 GET a.org/x web app1-8000 13 ms retries +1 id-1"),
        ({"ended": "CD--", "status": -1}, "-1 GET a.org/x web app1-8000 13 ms ended CD-- id-1"),
    ],
)
def test_a_request_in_words(fields: dict[str, object], words: str) -> None:
    assert in_words(REQUEST | fields) == words
