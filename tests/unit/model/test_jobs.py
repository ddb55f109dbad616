"""Jobs in an inventory: which times may stand there, and what is refused in one clear line."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from fiefdom.inventory.complaint import mistakes_of
from fiefdom.inventory.source import written
from fiefdom.model import Cluster
from fiefdom.model.schedules import last_day
from helpers.inventories import changed

JOB: dict[str, Any] = {"command": ["manage", "tidy"], "schedule": "daily"}


def says(changes: dict[str, Any]) -> list[str]:
    raw = changed(changes)
    try:
        Cluster.model_validate(raw)
    except ValueError as error:
        return [str(m).removeprefix("x.py: services.web.") for m in mistakes_of(error, written(raw, "x.py"))]  # type: ignore[arg-type]
    return []


def of_job(**keys: object) -> list[str]:
    """What is wrong with a job that has these keys."""
    return says({"services/web/jobs": {"tidy": {**JOB, **keys}}})


GOOD = (
    *("minutely", "hourly", "Daily", "weekly", "monthly", "quarterly", "semiannually", "yearly", "annually"),
    *("daily UTC", "Mon", "mon..fri", "Sat,Sun 03:00", "Monday..Wednesday,Fri 08:30 Europe/Berlin"),
    *("03:00", "3:5:07", "*:0/15", "*:*:0/5", "8..17:0/30", "0,12:00", "*-*-* 03:00", "*-*-1,15", "*-01/3-01 00:10"),
    *("12-25", "2027-01-01 03:00:00 UTC", "*-*~1", "*-02~03 23:59", "Mon *-*-1..7 06:00 America/Argentina/Ushuaia"),
)


@pytest.mark.parametrize("schedule", GOOD)
def test_a_time_that_comes_again(schedule: str) -> None:
    assert of_job(schedule=schedule) == []


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        ("0 3 * * *", "these are cron's words; write systemd's, such as \"*-*-* 03:00\", "),
        ("*/5 * * * *", "these are cron's words; "),
        ("@daily", "these are cron's words; "),
        ("*:*/5", "'*/5' is cron's; write 0/5"),
        ("*-*/2-01", "'*/2' is cron's; write 1/2"),
        ("", "write one such as "),
        ("*-*-*  03:00", "write one such as "),
        ("24:00", "24 is no hour: it is 0 to 23"),
        ("*-13-01", "13 is no month: it is 1 to 12"),
        ("*-*-0", "0 is no day: it is 1 to 31"),
        ("*-02-30 03:00", "month 2 has no day 30, so that it would never run"),
        ("04-31", "month 4 has no day 31, so that it would never run"),
        ("27-01-01", "27 is no year: it is 1970 to 2199"),
        ("Fri..Mon", "'Fri..Mon' does not end after it begins; a week begins with Mon"),
        ("22..2:00", "'22..2' does not end after it begins"),
        ("5..5:00", "'5..5' does not end after it begins"),
        ("*:0/0", "'0/0' has a step that leads nowhere; up to 59 it is 1 to 59"),
        ("*:0/60", "'0/60' has a step that leads nowhere; up to 59 it is 1 to 59"),
        ("2027-02-29", "there is no such day, so that it would never run"),
        ("*-02-30..31", "there is no such day, so that it would never run"),
        ("Mon 2027-01-05 03:00", "there is no such day, so that it would never run"),
        ("Tue 2027-02~1", "there is no such day, so that it would never run"),
        ("*-*~30", "'30' is no day from a month's end; write ~1 for its last one"),
        ("3", "'3' is no date, such as *-*-01, and no time, such as 03:00"),
        ("1:2:3:4", "'1:2:3:4' is no time, such as 03:00 or 03:00:30"),
        ("03:00 Mon", "'Mon' is one word too many; weekdays, date, time and zone come in this order"),
        ("someday", "'someday' is no weekday, such as Mon, nor a zone, such as UTC or Europe/Berlin"),
        ("daily 03:00", "'daily' is no weekday, such as Mon, nor a zone, such as UTC or Europe/Berlin"),
        ("UTC", "'UTC' is no weekday, "),
        ("03:0x", "'0x' is no minute; write a number, a range (1..5), a step (0/5), or *"),
        ("*-*-* 03:00\nUnit=ssh.service", "'00\\nUnit=ssh.service'"),
        ("1," * 150 + "1:00", "it has more than 200 letters"),
    ],
)
def test_no_time(schedule: str, line: str) -> None:
    (found,) = of_job(schedule=schedule)
    assert found.startswith("jobs.tidy.schedule: ") and line in found


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        ("2027-01-01 03:00:00 UTC", "2027-01-01"),
        ("2027,2025-03,01-05 03:00", "2027-03-05"),
        ("2020..2030/4-02-29", "2028-02-29"),
        ("2180/5-*-*", "2195-12-31"),
        ("2027-*~2", "2027-12-30"),
        ("2027-02~1", "2027-02-28"),
        ("Sun 2027-01-*", "2027-01-31"),
        ("Mon..Tue,Fri 2027-01-*", "2027-01-29"),
        *((each, None) for each in ("daily", "Mon", "03:00", "*-02-29", "12-25", "*-*~1", "Fri *-*-13 Europe/Berlin")),
    ],
)
def test_the_last_day_of_a_time(schedule: str, last: str | None) -> None:
    assert of_job(schedule=schedule) == []
    assert last_day(schedule) == (None if last is None else date.fromisoformat(last))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"command": []}, "jobs.tidy.command: "),
        ({"command": "manage tidy"}, "jobs.tidy.command: "),
        ({"command": ["", "x"]}, "jobs.tidy.command: begins with an empty word; write the program first"),
        ({"command": ["a\nb"]}, "jobs.tidy.command[0]: "),
        ({"command": ["x", "${HOME}"]}, "jobs.tidy.command[1]: ${HOME} would be taken as it stands"),
        ({"timeout_s": 0}, "jobs.tidy.timeout_s: must be at least 1, not 0"),
        ({"schedule": None}, "jobs.tidy.schedule: "),
        ({"every": "day"}, "jobs.tidy.every: "),
    ],
)
def test_what_is_no_job(keys: dict[str, object], line: str) -> None:
    (found,) = of_job(**keys)
    assert found.startswith(line)


def test_what_a_shell_fills_in_and_what_is_said_to_be_the_programs_is_taken() -> None:
    assert of_job(command=["sh", "-c", "echo ${HOME}"]) == []
    assert (
        says({"services/web/jobs": {"tidy": {**JOB, "command": ["x", "${HOME}"]}}, "services/web/verbatim": True}) == []
    )


def test_a_name_is_one_of_a_unit() -> None:
    assert len(says({"services/web/jobs": {"a.b": JOB}})) == 1
    assert len(says({"services/web/jobs": {"Tidy": JOB}})) == 1


def test_hosts_that_could_not_agree_run_none() -> None:
    pinned = {
        "hosts/db1": {"address": "10.0.0.31", "groups": ["middleware"]},
        "services/db": {"image": "db", "version": "1", "kind": "tcp", "base_port": 9100, "groups": ["middleware"]},
        "services/db/jobs": {"dump": JOB},
    }
    assert says(pinned) == [], "one host alone asks nobody"
    (found,) = says({**pinned, "hosts/db2": {"address": "10.0.0.32", "groups": ["middleware"]}})
    assert found == (
        "x.py: services.db.jobs: app hosts alone can agree which of them runs a job, and db1, which runs db, is none; "
        "add app_hosts to hosts.db1.groups, or let db run on one host"
    )


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd"
)


def refused_by_systemd(schedules: list[str]) -> list[str]:
    done = subprocess.run(["systemd-analyze", "calendar", *schedules], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Failed to parse")]


def made_up(chance: random.Random) -> Iterator[str]:
    """Times as somebody could write them, most of them none."""

    def values(least: int, most: int) -> str:
        if chance.random() < 0.4:
            return "*"
        first = chance.randint(least, most)
        last, step = chance.randint(first, most), chance.randint(1, most)
        kinds = (f"{first}", f"{first:02d}", f"{first}..{last}", f"{first}/{step}", f"{first}..{last}/{step}")
        return ",".join(chance.choices(kinds, k=chance.choice((1, 1, 2))))

    while True:
        words = [chance.choice(("", "", "Mon", "tue..sun", "Sat,Sun", "Mon..Mon"))]
        words.append(chance.choice(("", f"{values(1, 12)}{chance.choice('--~')}{values(1, 31)}")))
        if words[-1] and chance.random() < 0.5:
            words[-1] = f"{values(1970, 2199)}-{words[-1]}"
        words.append(
            chance.choice(("", ":".join((values(0, 23), values(0, 59), values(0, 59))[: chance.choice((2, 3))])))
        )
        words.append(chance.choice(("", "", "UTC", "Europe/Berlin")))
        if any(words[:3]):
            yield " ".join(filter(None, words))


@needs_systemd
def test_what_passes_is_a_time_to_systemd() -> None:
    assert refused_by_systemd([*GOOD]) == []
    assert len(refused_by_systemd(["24:00", "*:*/5"])) == 2, "it would tell"
    times = made_up(random.Random(7))  # noqa: S311
    passed = [t for t in (next(times) for _ in range(600)) if not of_job(schedule=t)]
    assert len(passed) > 100
    assert refused_by_systemd(passed) == []
