"""What a gateway tells Prometheus: every line of it, what strangers may put into it, and that promtool reads it."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import certificates, edges, metrics  # noqa: E402
from fiefdom_gateway.members import Member, Offer  # noqa: E402
from fiefdom_gateway.metrics import Metric, Sample  # noqa: E402
from fiefdom_gateway.rounds import BOUNDS_S, Rounds  # noqa: E402
from fiefdom_gateway.served import Served  # noqa: E402
from fiefdom_gateway.settings import Service  # noqa: E402
from fiefdom_gateway.status import Look  # noqa: E402

from helpers.promtool import promtool  # noqa: E402
from helpers.told import LOOK, NOW_S, ROUNDS, SERVED, TOLD, exposition  # noqa: E402


def values(text: str) -> dict[str, str]:
    """Return the samples of a text, by name and labels."""
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


@pytest.mark.parametrize(
    ("sample", "value"),
    [
        ('info{node="gw1"}', "1"),
        ("ready", "1"),
        ("serf_up", "1"),
        ("config_refused", "0"),
        ("reconcile_age_seconds", "2.5"),
        ("reconcile_failures_total", "1"),
        ('reconcile_duration_seconds_bucket{le="0.005"}', "1"),
        ('reconcile_duration_seconds_bucket{le="0.5"}', "2"),
        ('reconcile_duration_seconds_bucket{le="30"}', "2"),
        ('reconcile_duration_seconds_bucket{le="+Inf"}', "3"),
        ("reconcile_duration_seconds_sum", "42.254"),
        ("reconcile_duration_seconds_count", "3"),
        ('members{kind="app",status="alive"}', "1"),
        ('members{kind="app",status="failed"}', "1"),
        ('members{kind="gateway",status="alive"}', "1"),
        ('members{kind="other",status="alive"}', "1"),
        ('members{kind="other",status="left"}', "0"),
        ("claims_not_believed", "2"),
        ('offered_instances{service="echo",member="app1",version="1.0"}', "2"),
        ('offered_instances_taken_up{service="echo",member="app1",version="1.0"}', "1"),
        ('offered_instances_taken_up{service="db",member="app2",version="16"}', "0"),
        ('servers_wanted{service="echo"}', "2"),
        ('servers_wanted{service="db"}', "0"),
        ('servers{service="echo",state="up"}', "1"),
        ('servers{service="echo",state="drain"}', "1"),
        ('servers{service="echo",state="down"}', "0"),
        ('servers{service="db",state="down"}', "1"),
        ('service_closed{service="echo"}', "0"),
        ('service_closed{service="db"}', "1"),
        ('share_percent{service="echo",version="1.0"}', "5"),
        ('certificate_not_after_timestamp_seconds{name="example"}', "1893456000"),
        ('certificate_missing{name="new.example"}', "1"),
        ('certificate_missing{name="old.example"}', "0"),
        ('certificate_failures{name="new.example"}', "3"),
    ],
)
def test_what_is_told(sample: str, value: str) -> None:
    assert values(exposition())[f"fiefdom_gateway_{sample}"] == value


def test_a_placeholder_is_no_certificate() -> None:
    assert "new.example" in {row["name"] for row in SERVED}
    assert 'not_after_timestamp_seconds{name="new.example"}' not in exposition()


def test_every_metric_says_what_it_is_once() -> None:
    lines = exposition().splitlines()
    helped = [line.split(" ")[2] for line in lines if line.startswith("# HELP ")]
    typed = [line.split(" ")[2] for line in lines if line.startswith("# TYPE ")]
    assert helped == typed and len(helped) == len(set(helped)) > 15


@pytest.mark.parametrize("look", [LOOK, Look("gw1", {}), dataclasses.replace(LOOK, actual=(), wanted=(), members=())])
def test_prometheus_own_tool_reads_it_and_finds_no_fault(look: Look) -> None:
    text = metrics.exposition(look, ROUNDS, TOLD, SERVED, NOW_S)
    checked = promtool("check", "metrics", text=text)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_before_the_first_look_no_age_is_made_up() -> None:
    text = metrics.exposition(Look("gw1", {}), Rounds(), (), (), NOW_S)
    assert "reconcile_age_seconds" not in text
    assert "fiefdom_gateway_serf_up 0\n" in text and "fiefdom_gateway_ready 0\n" in text


@pytest.mark.parametrize(
    ("value", "escaped"),
    [("a", "a"), ('a"} 1', 'a\\"} 1'), ("a\\", "a\\\\"), ("a\nb 2", "a\\nb 2"), ('\\"\n', '\\\\\\"\\n'), ("ä", "ä")],
)
def test_strangers_text_stays_one_value(value: str, escaped: str) -> None:
    text = metrics.text_of([Metric("m", "gauge", "What it is.", [Sample({"name": value}, 1)])])
    assert text == f'# HELP m What it is.\n# TYPE m gauge\nm{{name="{escaped}"}} 1\n'


def test_a_help_text_stays_one_line() -> None:
    assert metrics.text_of([Metric("m", "gauge", "a\\b\nc", [Sample({}, 1)])]).startswith("# HELP m a\\\\b\\nc\n# TYPE")


@pytest.mark.parametrize(("value", "shown"), [(1, "1"), (True, "1"), (0.25, "0.25"), (1e15, "1000000000000000")])
def test_numbers(value: float, shown: str) -> None:
    assert metrics.text_of([Metric("m", "gauge", "M.", [Sample({}, value)])]).endswith(f"\nm {shown}\n")


def test_what_members_say_makes_no_metric_endless() -> None:
    many = tuple(
        Member(f"h{i}", "10.0.0.1", "alive", "app", (Offer("echo", f"v{i}", 8000, 8001),)) for i in range(5000)
    )
    text = metrics.exposition(dataclasses.replace(LOOK, members=many), ROUNDS, (), (), NOW_S)
    assert text.count("fiefdom_gateway_offered_instances{") == metrics.MOST_SAMPLES


def test_roles_of_strangers_are_one() -> None:
    odd = tuple(Member(f"h{i}", "10.0.0.1", "alive", f"role{i}") for i in range(9))
    text = metrics.exposition(Look("gw1", {}, members=odd), ROUNDS, (), (), NOW_S)
    assert 'members{kind="other",status="alive"} 9' in text and "role3" not in text


def test_no_secret_is_told_for_none_is_asked_for() -> None:
    """Server options, errors and reasons may hold anything: none of them is a label."""
    secret = "hunter2"
    service = Service("echo", "echo", 8000, 100, f"check cookie {secret}")
    look = dataclasses.replace(LOOK, services={"echo": service}, serf_error=secret, config_error=secret)
    told = tuple(dataclasses.replace(one, error=secret) for one in TOLD)
    assert secret not in metrics.exposition(look, ROUNDS, told, SERVED, NOW_S)


def test_rounds_are_counted_up_to_each_bound() -> None:
    rounds = Rounds()
    for took_s in (BOUNDS_S[0], BOUNDS_S[-1] + 1):
        rounds.add(took_s)
    assert rounds.buckets == [1] * len(BOUNDS_S) and rounds.count == 2


def test_certificates_are_kept_of_the_last_time_that_haproxy_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[Any] = [edges.Failed("not yet"), [{"name": "a"}], edges.Failed("gone"), KeyError("odd")]
    served, seen = Served(edges.Sockets(tmp_path)), list[Any]()

    async def answer(_ask: object) -> Any:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def pause(seconds: float) -> None:
        seen.append((seconds, served.rows))
        if not answers:
            raise asyncio.CancelledError

    monkeypatch.setattr(certificates, "served", answer)
    monkeypatch.setattr(asyncio, "sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(served.run())
    rows = ({"name": "a"},)
    assert seen == [(1.0, ()), (60.0, rows), (1.0, rows), (60.0, rows)]
    assert capsys.readouterr().out == "what HAProxy tells of its certificates is not understood: KeyError('odd')\n"
