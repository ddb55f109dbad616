"""The ledger: its real script in folders that stand for gateways, and what is made of answers, good and hostile."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fiefdom import wording
from fiefdom.cli import show
from fiefdom.cluster import audit, ledger, locking
from fiefdom.cluster.audit import Act, Entry
from fiefdom.cluster.lock import APPLY, CANARY, SILENT_S, Kind, Lock, parse_answer, refusal
from fiefdom.desired.account import UID
from fiefdom.errors import FiefdomError
from helpers.ledgers import APPS, GATEWAYS, Gateways, hold, no_warning

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))

from fiefdom_gateway import ledger as gateways_ledger


@pytest.fixture
def hosts(tmp_path: Path) -> Gateways:
    return Gateways(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to another group")
def test_an_audit_of_the_release_before_is_readable_after_the_next_line(hosts: Gateways) -> None:
    folder = hosts.folder("gw1")
    folder.mkdir(parents=True, mode=0o700)
    (folder / "audit.jsonl").touch(mode=0o600)
    ledger.append(hosts, ["gw1"], Entry("1", "ann@desk", "apply", "begin"), no_warning)
    about = (folder / "audit.jsonl").stat()
    assert (about.st_mode & 0o777, about.st_gid) == (0o640, UID)


def test_looking_leaves_no_trace(hosts: Gateways) -> None:
    assert ledger.read(hosts, GATEWAYS) == ledger.Ledger((), (), {})
    assert list(hosts.root.iterdir()) == []


def entry(n: int, event: str = "end", outcome: str = "ok", what: str = "rollout", **about: Any) -> Entry:
    at = f"2026-01-02T03:{n:02}:00Z"
    return replace(Entry(f"run{n}", "ann@desk", what, event, outcome if event == "end" else "", at=at), **about)


def test_a_gateway_that_was_down_misses_lines_without_harm(hosts: Gateways) -> None:
    warnings: list[str] = []
    for number, down in enumerate(["", "gw1", "gw2", ""]):
        hosts.down = {down}
        ledger.append(hosts, GATEWAYS, entry(number), warnings.append)
    assert warnings == [f"the audit misses a line: {name}: the connection broke off: gone" for name in ("gw1", "gw2")]
    assert [len(hosts.audit(name)) for name in GATEWAYS] == [3, 3]
    hosts.down = set()
    assert {e.run for e in ledger.read(hosts, GATEWAYS).entries} == {"run0", "run1", "run2", "run3"}
    hosts.down = {"gw1"}
    found = ledger.read(hosts, GATEWAYS)
    assert [e.run for e in found.entries] == ["run0", "run1", "run3"]
    assert found.silent == {"gw1": "the connection broke off: gone"}


def test_lines_of_many_writers_stay_whole(hosts: Gateways) -> None:
    names = tuple(f"app{n}.a-rather-long-name-of-a-host" for n in range(400))  # some 14 kB, more than a pipe's page
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: ledger.append(hosts, ["gw1"], entry(n, hosts=names), no_warning), range(40)))
    assert sorted(e["run"] for e in hosts.audit("gw1")) == sorted(f"run{n}" for n in range(40))


def test_a_torn_line_spoils_neither_its_neighbours_nor_the_reader(hosts: Gateways) -> None:
    ledger.append(hosts, ["gw1"], entry(0), no_warning)
    path = hosts.folder("gw1") / "audit.jsonl"
    whole = path.stat().st_size
    hosts.limit_file = whole + 40  # as on a full disk
    warnings: list[str] = []
    ledger.append(hosts, ["gw1"], entry(1), warnings.append)
    assert path.stat().st_size == whole + 40
    assert len(warnings) == 1 and "audit.jsonl cannot be written" in warnings[0]
    hosts.limit_file = resource.RLIM_INFINITY
    with path.open("ab") as file:
        file.write(b"\x00\xff\xfe\x1b]0;x")
    ledger.append(hosts, ["gw1"], entry(2), no_warning)
    assert [e.run for e in ledger.read(hosts, ["gw1"]).entries] == ["run0", "run2"]


def test_reading_gives_the_last_of_a_long_audit(hosts: Gateways) -> None:
    hosts.folder("gw1").mkdir(parents=True)
    entries = [ledger.asdict(entry(n)) for n in range(60)]
    lines = (json.dumps({**entries[n % 60], "run": f"run{n}"}) + "\n" for n in range(30_000))
    (hosts.folder("gw1") / "audit.jsonl").write_text("".join(lines))
    found = ledger.read(hosts, ["gw1"], last=5).entries
    assert sorted(e.run for e in found) == [f"run{n}" for n in range(29_990, 30_000)]


def test_audits_merge_in_time_order_and_once() -> None:
    one = [entry(1, "begin"), entry(1), entry(3)]
    two = [replace(e, at=e.at.replace(":00Z", ":07Z")) for e in (entry(1, "begin"), entry(1), entry(2))]
    merged = audit.merge([one, two])
    assert [(e.run, e.event, e.at[-3:]) for e in merged] == [
        ("run1", "begin", "00Z"),
        ("run1", "end", "00Z"),
        ("run2", "end", "07Z"),
        ("run3", "end", "00Z"),
    ]


def test_nothing_ends_before_it_began_though_clocks_differ() -> None:
    begin, end = entry(5, "begin"), replace(entry(5), at="2026-01-02T03:01:00Z")
    merged = audit.merge([[begin], [end]])
    assert [e.event for e in merged] == ["begin", "end"]
    [act] = audit.acts(merged)
    assert (act.outcome, act.took_s) == ("ok", 0)


def test_an_act_without_an_end_died_unless_its_run_is_alive() -> None:
    entries = [entry(1, "begin"), entry(2, "begin"), entry(2, outcome="failed"), entry(3, "begin")]
    assert [act.outcome for act in audit.acts(entries, live={"run3"})] == ["died", "failed", "running"]


PREDICTOR = "predictor"


def step(n: int, old: str, new: str, outcome: str = "ok", what: str = "rollout", event: str = "end") -> Entry:
    return entry(n, event, outcome, what, services={PREDICTOR: (old, new)})


@pytest.mark.parametrize(
    ("entries", "running", "expected"),
    [
        ([], "1.0", None),
        ([step(1, "", "1.0", what="apply")], "1.0", None),
        ([step(1, "1.0", "1.1")], "1.1", "1.0"),
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2")], "1.2", "1.1"),
        # a release that failed, was interrupted or died; the old version runs, or the new one was kept
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2", "failed")], "1.1", "1.0"),
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2", "failed")], "1.2", "1.1"),
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2", "interrupted")], "1.2", "1.1"),
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2", event="begin")], "1.1", "1.0"),
        ([step(1, "1.0", "1.1", "failed")], "1.1", None),
        # good once, but its newest release failed
        ([step(1, "1.0", "1.1"), step(2, "1.1", "1.2"), step(3, "1.2", "1.1", "failed")], "1.2", "1.0"),
        # failed first, then mended
        ([step(1, "1.0", "1.1", "failed"), step(2, "1.0", "1.1"), step(3, "1.1", "1.2")], "1.2", "1.1"),
        # what was rolled back is not where a second rollback goes
        (
            [step(1, "1.0", "1.1"), step(2, "1.1", "1.2"), step(3, "1.2", "1.1", what="rollback")],
            "1.1",
            "1.0",
        ),
        ([entry(1, services={"web": ("7", "8")})], "1.0", None),
    ],
)
def test_the_last_healthy_version(entries: list[Entry], running: str, expected: str | None) -> None:
    assert audit.last_healthy(entries, PREDICTOR, running) == expected


def released(outcome: str, new: str, without: Iterable[str]) -> Entry:
    return replace(step(1, "1.0", new), outcome=outcome, without=tuple(without))


@pytest.mark.parametrize(
    ("entries", "missed"),
    [
        ([released("ok", "1.1", ["app2"])], {"app2": frozenset({PREDICTOR})}),
        ([released("ok", "1.1", [])], {}),
        ([released("failed", "1.1", ["app2"])], {}),
        # The inventory has moved on, so that the next release is everybody's.
        ([released("ok", "1.2", ["app2"])], {}),
        # It took part in a later one, or that one failed.
        ([released("ok", "1.1", ["app2"]), released("ok", "1.1", [])], {}),
        ([released("ok", "1.1", ["app2"]), released("failed", "1.1", [])], {}),
    ],
)
def test_a_host_is_behind_with_the_last_release_alone(entries: list[Entry], missed: dict[str, frozenset[str]]) -> None:
    assert audit.behind(entries, {PREDICTOR: "1.1", "api": "2"}) == missed


def lock(person: bool = False, age_s: float = 725, silence_s: float = 4) -> Lock:
    kind: Kind = "person" if person else "run"
    return Lock("gw1", "r", "ann@desk", "w", kind, "2026-01-02T03:04:05Z", age_s, silence_s, "0" * 64, "1.0")


def answer(seen: float, uptime_s: int = 10**6, now: int = 1_767_323_045, **more: object) -> Lock:
    about = {"since": "2026-01-02T03:04:05Z", "run": "r", "who": "a", "why": "w", "person": False}
    text = json.dumps(about | more)
    found = parse_answer("gw1", f"now\t{now}\t{uptime_s}\nlock\t{'0' * 64}\t{seen:.9f}\t{text}").lock
    assert found
    return found


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        *(({"kind": kind}, kind) for kind in ("run", "apply", "person", "canary")),
        # No prose, whoever wrote it, and no other word makes it another one.
        ({"kind": "run", "why": f"{APPLY}app1"}, "run"),
        ({"kind": "person", "person": True, "why": f"{CANARY}predictor 1 -> 2 on app1"}, "person"),
        ({"kind": "person", "person": True, "why": f"{APPLY}the brakes"}, "person"),
        ({"kind": "apply", "person": True}, "apply"),
        # The release before wrote none.
        ({}, "run"),
        ({"why": f"{APPLY}app1, app2"}, "apply"),
        ({"why": f"{CANARY}predictor 1 -> 2 on app1"}, "run"),
        ({"person": True}, "person"),
        ({"person": True, "why": f"{CANARY}predictor 1 -> 2 on app1"}, "canary"),
        ({"person": True, "why": f"{APPLY}the brakes"}, "person"),
        # One that nobody knows is none.
        *(({"kind": kind, "person": True}, "person") for kind in ("", "Canary", "people", None, 1, [], {}, ["run"])),
        ({"kind": "people", "person": 1}, "run"),
    ],
)
def test_a_lock_says_of_what_kind_it_is_or_is_known_by_its_reason(about: dict[str, object], kind: Kind) -> None:
    found = answer(1_767_323_045, **about)
    assert found.kind == kind
    assert (found.person, found.applies, found.waits) == (
        kind in ("person", "canary"),
        kind == "apply",
        kind == "canary",
    )
    assert list(found.as_data()) == ["gateway", "run", "who", "why", "person", "since", "age_s", "silence_s", "alive"]


@pytest.mark.parametrize(
    ("seen_ago_s", "uptime_s", "silence_s", "alive"),
    [
        (14, 10**6, 14, True),
        (15, 10**6, 15, False),
        (3600, 10**6, 3600, False),
        (-3600, 10**6, 3600, False),  # the clock was put back
        (3600, 12, 12, True),  # it has just booted
    ],
)
def test_silence_is_what_the_gateway_could_have_heard(
    seen_ago_s: int, uptime_s: int, silence_s: int, alive: bool
) -> None:
    found = answer(1_767_323_045 - seen_ago_s, uptime_s)
    assert (found.silence_s, found.alive) == (silence_s, alive)


def test_ages_are_words() -> None:
    found = {wording.duration(s) for s in (-1, 0.9, 59, 60, 119, 3599, 3600, 7200, 172_799, 172_800)}
    assert found == {"0 s", "59 s", "1 minute", "59 minutes", "1 hour", "2 hours", "47 hours", "2 days"}
    assert refusal(lock()) == (
        "locked by ann@desk 12 minutes ago: w; last sign of life 4 s ago, so it is at work: wait for it; "
        "--take-over works after 15 s of silence"
    )


def test_an_answer_that_broke_off_is_one_line() -> None:
    with pytest.raises(FiefdomError, match=r"^gw1: its answer about the ledger broke off$"):
        parse_answer("gw1", "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
GOOD = json.dumps({**ledger.asdict(entry(1)), "services": {"predictor": ["1.0", "1.1"]}})


@pytest.mark.long
@given(st.text() | JSON.map(json.dumps))
def test_no_line_breaks_the_reader(line: str) -> None:
    assert audit.parse_entry(line) is None


@given(st.sampled_from(sorted(audit.Entry.__dataclass_fields__)), JSON)
def test_no_field_breaks_the_reader(key: str, value: object) -> None:
    found = audit.parse_entry(json.dumps({**json.loads(GOOD), key: value}))
    if found:
        assert all(word.isprintable() for word in (found.run, found.who, found.note, found.plan, *found.hosts))
        shown(*audit.acts([found]))
        audit.last_healthy([found], "predictor", "")


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"at":' * 50_000,
        GOOD.replace('"1.1"', '"1.1; reboot"'),
        GOOD.replace('"1.1"', '"1.1", "1.2"'),
        GOOD.replace("2026-01-02", "2026-1-2"),
        GOOD.replace("2026-01-02", "2026-13-02"),
        GOOD.replace("2026", "٢٠٢٦"),
        GOOD.replace('"end"', '"END"'),
        GOOD[:-1],
        GOOD + GOOD,
    ],
)
def test_what_fiefdom_did_not_write_is_passed_over(line: str) -> None:
    assert audit.parse_entry(GOOD)
    assert audit.parse_entry(line) is None


@given(
    st.lists(
        st.text()
        | st.text().map("entry\t".__add__)
        | st.builds("now\t{}\t{}".format, st.integers(), st.integers())
        | JSON.map(lambda value: f"lock\t{'a' * 64}\t1.5\t{json.dumps(value)}")
    ).map("\n".join)
)
def test_no_answer_breaks_the_reader(text: str) -> None:
    try:
        found = parse_answer("gw1", text)
    except FiefdomError:
        return
    if found.lock:
        assert (refusal(found.lock) or "").isprintable()
        list(show.lock_lines(found.lock))


def shown(*acts: Act) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(show.audit_table(acts))
    return out.getvalue()


def test_the_audit_is_a_table() -> None:
    begin = step(1, "1.0", "1.1", event="begin")
    end = replace(step(2, "1.0", "1.1"), run="run1", plan="abc", hosts=("app1", "app2"), note="[red]x")
    died = replace(begin, run="run9", at="2026-01-02T04:00:00Z")
    lines = [" ".join(line.split()) for line in shown(*audit.acts([begin, end, died])).splitlines()]
    assert lines == [
        "at took who what services hosts plan outcome note",
        "2026-01-02 03:01:00 1 minute ann@desk rollout predictor 1.0 -> 1.1 app1, app2 abc ok [red]x",
        "2026-01-02 04:00:00 ann@desk rollout predictor 1.0 -> 1.1 died",
    ]


def test_a_lock_is_lines() -> None:
    assert [line.plain for line in show.lock_lines(lock())] == [
        "gw1: locked by ann@desk 12 minutes ago: w",
        "  at work: last sign of life 4 s ago",
    ]
    assert [line.plain for line in show.lock_lines(lock(silence_s=90))][1:] == [
        "  silent, perhaps dead: last sign of life 1 minute ago"
    ]
    assert len(list(show.lock_lines(lock(person=True)))) == 1


# --- As the gateway's program reads it, which cannot import the library


def names_of(kind: type[Any]) -> set[str]:
    return {found.name for found in fields(kind)}


def read_by_gateway(hosts: Gateways) -> gateways_ledger.Ledger:
    return gateways_ledger.Reader(hosts.folder("gw1")).read(time.time())


@pytest.mark.parametrize("silent_s", [0, SILENT_S + 1])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_gateway_reads_a_lock_as_the_library_does(hosts: Gateways, kind: Kind, silent_s: float) -> None:
    locking.lock(hosts, GATEWAYS, "ann@desk", "the disk is changed", no_warning, kind)
    hosts.silence(silent_s)
    own, there = ledger.read(hosts, GATEWAYS).locks[0], read_by_gateway(hosts).lock
    assert there is not None
    same = names_of(gateways_ledger.Lock) - {"silent_s"}
    # Whose lock it is, and what a command compares it by, nobody looks at on a page.
    assert same == names_of(Lock) - {"gateway", "age_s", "silence_s", "token", "seen"}
    assert {name: getattr(there, name) for name in same} == {name: getattr(own, name) for name in same}
    assert there.alive is own.alive
    assert there.silent_s == pytest.approx(own.silence_s, abs=5)


def test_a_gateway_reads_what_was_done_as_the_library_does(hosts: Gateways) -> None:
    with hold(hosts) as held:
        with held.recorded("rollout", plan="a1", names=APPS, services={"predictor": ("1.0.0", "1.1.0")}, note="why"):
            pass
        with suppress(FiefdomError), held.recorded("reboot", names=APPS):
            raise FiefdomError("app1 does not come back")
        with suppress(KeyboardInterrupt), held.recorded("apply"):
            raise KeyboardInterrupt
        ledger.append(hosts, GATEWAYS, Entry(held.run, held.who, "upgrade", "begin"), no_warning)
    own = {act.what: act for act in audit.acts(ledger.read(hosts, GATEWAYS).entries)}
    there = {act.what: act for act in read_by_gateway(hosts).acts}
    assert {what: act.outcome for what, act in own.items()} == {
        **{"rollout": "ok", "reboot": "failed", "apply": "interrupted", "upgrade": "died"},
    }
    # Who is at work tells the page whether an act goes on.
    assert {act.what: act.outcome.replace("died", "") for act in own.values()} == {
        what: act.outcome for what, act in there.items()
    }
    same = names_of(gateways_ledger.Act) - {"hosts_more", "outcome"}
    assert same == names_of(Act) - {"plan", "without", "outcome"}
    for what, act in own.items():
        assert {name: getattr(there[what], name) for name in same} == {name: getattr(act, name) for name in same}
