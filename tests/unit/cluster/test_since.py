"""Points in time as people say them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from fiefdom.cluster.since import docker_since
from fiefdom.errors import FiefdomError

NOW = datetime(2026, 1, 31, 10, 0, 30, 500)


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An hour east of UTC, two in summer."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "docker"),
    [
        ("-2h", "7200s"),
        ("2h ago", "7200s"),
        ("1h 30min ago", "5400s"),
        ("-1h30m", "5400s"),
        ("-90", "90s"),
        ("1.5 hours ago", "5400s"),
        ("2 days ago", "172800s"),
        ("-1w", "604800s"),
        ("now", "0s"),
        ("@1769848200", "1769848200"),
        ("today", "1769814000"),
        ("yesterday", "1769727600"),
        ("yesterday 09:30", "1769761800"),
        ("9:30", "1769848200"),
        ("09:30:05", "1769848205"),
        ("2026-01-31 09:30", "1769848200"),
        ("2026-01-31T09:30:00", "1769848200"),
        ("2026-01-31 08:30:00 UTC", "1769848200"),
        ("2026-01-31T08:30:00Z", "1769848200"),
        ("2026-01-31", "1769814000"),
        ("2025-07-01 12:00", "1751364000"),
        ("  today  ", "1769814000"),
    ],
)
def test_it_is_what_docker_takes(text: str, docker: str) -> None:
    assert docker_since(text, NOW) == docker


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "ago", " ago", "2h", "-2x", "-2h foo", "tomorrow", "25:00", "09:61", "2026-02-30", "2026-1-1"),
        *("--help", "$(reboot)", "-1e9", "9999999 weeks ago", "-٣h", "@x", "today 9", "0000-01-01", "2026-01-31 9:30"),
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(FiefdomError, match=r"^--since .*: no time; say `2h ago`"):
        docker_since(text, NOW)
