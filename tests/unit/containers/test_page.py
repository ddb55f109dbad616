"""What the page shows, by values: figures and rates, the ledger, troubles, and what is left out of a large cluster."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.page_world import RECORDED, World, example, large, stat_row

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import figures, ledger, live, page  # noqa: E402
from fiefdom_gateway.edges import Sockets  # noqa: E402
from fiefdom_gateway.ledger import Ledger, Reader, parse_acts, parse_lock  # noqa: E402
from fiefdom_gateway.members import Rejection  # noqa: E402
from fiefdom_gateway.page import Known  # noqa: E402


def known(world: World, after_s: float = 0.0, **about: Any) -> Known:
    """What a gateway knows of a world, with rates over ten seconds."""
    rates = figures.Rates()
    now_s = time.monotonic()
    before = figures.parse(world.answer("show stat"))
    rates.taken(now_s - 10, before)
    window_s, found = rates.taken(now_s, before)
    return replace(
        Known(
            cluster="lab",
            look=world.look(),
            inventory=world.settings().inventory,
            at_s=time.time(),
            now_s=now_s,
            figures=before,
            rates=found,
            window_s=window_s,
            certificates=world.served(),
            ledger=Reader(world.ledger).read(time.time() + after_s),
        ),
        **about,
    )


def document(known: Known, of: str = "") -> dict[str, Any]:
    return json.loads(json.dumps(page.base(known).of(of)))


def problems(known: Known) -> dict[tuple[str, str], str]:
    return {(found["level"], found["about"]): found["words"] for found in document(known)["problems"]}


# --- Figures


def test_haproxys_recorded_table_is_read() -> None:
    found = figures.parse((RECORDED / "show_stat.txt").read_text())
    assert found["predictor", "app2-8011"][:4] == ("drain", 1, 0, 64)
    assert (found["predictor", "app3-8000"].state, found["predictor", "app3-8000"].total_ms) == ("maint", None)
    assert found["predictor", "BACKEND"].requests == 217
    assert not [name for _, name in found if name == "FRONTEND"]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        *(("UP", "up"), ("UP 1/3", "up"), ("no check", "up"), ("DOWN", "down"), ("DOWN 1/2", "down")),
        *(("DRAIN", "drain"), ("NOLB", "drain"), ("MAINT", "maint"), ("MAINT (via a/b)", "maint"), ("", "down")),
    ],
)
def test_a_state_is_one_of_four_words(status: str, state: str) -> None:
    header = (RECORDED / "show_stat.txt").read_text().splitlines()[0]
    found = figures.parse(f"{header}\n{stat_row('a', 'b', status=status)}\n")
    assert found["a", "b"].state == state


@pytest.mark.parametrize(
    ("before", "now", "rate"),
    [
        (100, 150, 5.0),
        (100, 100, 0.0),
        # HAProxy was reloaded: it counts anew, and what came before that is not known.
        (100, 30, 3.0),
        (None, 30, 3.0),
    ],
)
def test_a_rate_is_of_the_time_between_two_looks(before: int | None, now: int, rate: float) -> None:
    bare = figures.Figures("up", 0, 0, 0, 0, 0, 0, 0, None, None, "")
    rates = figures.Rates()
    assert rates.taken(50.0, {} if before is None else {("a", "b"): bare._replace(requests=before)}) == (None, {})
    assert rates.taken(60.0, {("a", "b"): bare._replace(requests=now)})[1]["a", "b"].requests == rate


def test_looks_that_are_kept_are_few_and_young() -> None:
    rates = figures.Rates()
    windows = [rates.taken(float(second), {})[0] for second in range(1, 30)]
    assert windows[0] is None and max(filter(None, windows)) <= 12
    assert len(rates._kept) == 3
    # After a pause nothing is said of it.
    assert rates.taken(1000.0, {}) == (None, {})


# --- The ledger


def test_acts_are_the_newest_first_with_how_they_ended(tmp_path: Path) -> None:
    acts = Reader(example(tmp_path).ledger).read(time.time()).acts
    assert [(act.what, act.outcome) for act in acts] == [
        *(("rollout", ""), ("maintenance", "failed"), ("rollout", "ok"), ("apply", "ok")),
    ]
    assert acts[2].took_s == 220 and acts[2].services == {"search": ("2024.10", "2024.11")}


def test_an_audit_that_grew_is_read_again_and_a_torn_line_tells_nothing(tmp_path: Path) -> None:
    world = example(tmp_path)
    reader = Reader(world.ledger)
    before = reader.read(time.time()).acts
    with (world.ledger / "audit.jsonl").open("a") as file:
        file.write('{"at":"2026-01-02T0')
    assert reader.read(time.time()).acts == before
    world.audit("e5", "lock", "end", 1, outcome="ok")
    world.audit("f6", "lock", "end", 1, outcome="ok")
    assert [act.run for act in reader.read(time.time()).acts][:1] == ["f6"]


def test_a_ledger_that_is_not_there_or_may_not_be_read(tmp_path: Path) -> None:
    assert Reader(tmp_path / "none").read(0.0) == Ledger()
    (tmp_path / "file").touch()
    assert "cannot be read" in (Reader(tmp_path / "file").read(0.0).error or "")


@pytest.mark.parametrize(
    ("kind", "silent_s", "alive"),
    [
        ("run", 3.0, True),
        ("run", 16.0, False),
        ("apply", 16.0, False),
        ("person", 9999.0, True),
        ("canary", 99.0, True),
    ],
)
def test_a_lock_lives_as_operators_commands_judge_it(kind: str, silent_s: float, alive: bool) -> None:
    from fiefdom.cluster import lock

    assert ledger.SILENT_S == lock.SILENT_S
    assert parse_lock(json.dumps({"kind": kind, "who": "a", "why": "b"}).encode(), silent_s).alive is alive


@given(st.lists(st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr).map(str.encode)))
def test_no_text_in_the_ledger_breaks_the_page(lines: list[bytes]) -> None:
    assert parse_acts(lines) == ()
    assert {parse_lock(line, 1.0).who for line in lines} <= {"somebody"}


@given(
    st.fixed_dictionaries(
        {
            "at": st.sampled_from(["2026-01-02T03:04:05Z", "2026", 5]),
            "what": st.sampled_from(["apply", "<b>", None, 3]),
            "event": st.sampled_from(["begin", "end", "x", []]),
            "outcome": st.sampled_from(["", "ok", "bad", [], None]),
            "hosts": st.sampled_from([[], ["a", 3], {}, "abc", None]),
            "services": st.sampled_from([{}, {"a": ["1", "2"]}, {"a": [1, None]}, {"a": "bc"}, [], None]),
        }
    ),
)
def test_an_entry_is_read_or_left_out(entry: Mapping[str, object]) -> None:
    for act in parse_acts([json.dumps(entry).encode()]):
        assert act.what == "apply" and act.at == "2026-01-02T03:04:05Z"


# --- The document


def test_services_have_their_versions_and_rates(tmp_path: Path) -> None:
    world = example(tmp_path)
    services = {row["name"]: row for row in document(known(world))["services"]}
    predictor = services["predictor"]
    assert (predictor["instances"], predictor["up"], predictor["drain"]) == (12, 9, 3)
    assert [(v["version"], v["up"]) for v in predictor["versions"]] == [("1.4.2", 3), ("1.5.0", 6)]
    assert services["queue"]["kind"] == "tcp"


def test_hosts_that_are_not_well_come_first(tmp_path: Path) -> None:
    assert [row["name"] for row in document(known(example(tmp_path)))["hosts"]] == [
        "app3",
        "app4",
        "app1",
        "app2",
        "app5",
    ]


def test_a_release_is_told_by_where_its_hosts_are(tmp_path: Path) -> None:
    world = example(tmp_path)
    work = document(known(world))["at_work"]
    assert work["why"].startswith("rollout predictor") and work["alive"]
    assert work["acts"][0]["services"] == [
        {
            **{"service": "predictor", "from": "1.4.2", "to": "1.5.0"},
            "hosts": {"done": ["app1", "app2"], "turn": ["app3"], "waits": ["app4"]},
        }
    ]
    assert document(known(world))["audit"][0]["outcome"] == "running"
    world.unlock()
    assert document(known(world))["at_work"] is None
    assert document(known(world))["audit"][0]["outcome"] == "unknown"


def test_troubles_come_worst_first(tmp_path: Path) -> None:
    world = example(tmp_path)
    assert problems(known(world)) == {
        ("warning", "search"): "1 of 8 instances are down: app4:9001",
        ("warning", "intruder"): f"is refused: {world.rejected[0].reason}",
        ("warning", "certificate shop.example.org"): f"ends in 12 days, {world.certificates['shop.example.org']}",
        ("notice", "app3"): "does not offer predictor",
    }
    for server in world.servers:
        if server.service == "queue":
            server.state = "DOWN"
    world.config_error = "line 9: unknown keyword"
    found = problems(known(world))
    assert list(found)[:2] == [("critical", "queue"), ("warning", "configuration")]
    assert found["critical", "queue"] == "no instance serves; requests are answered 503"


def test_a_service_that_is_closed_wakes_nobody(tmp_path: Path) -> None:
    world = example(tmp_path)
    for server in world.servers:
        if server.service == "search":
            server.state = "DOWN"
    assert problems(known(world))["critical", "search"]
    closed = replace(world.look(), closed=frozenset({"search"}))
    assert problems(known(world, look=closed))["notice", "search"] == "is closed for maintenance"


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (lambda m: replace(m, status="failed"), ("warning", "app5")),
        (lambda m: replace(m, status="failed", failed_leaving=True), ("warning", "app5")),
        (lambda _: None, ("notice", "app5")),  # a run is at work, which may have taken it out
    ],
)
def test_a_host_that_is_no_member_is_a_trouble(tmp_path: Path, change: Any, trouble: tuple[str, str]) -> None:
    world = example(tmp_path)
    changed = change(world.members.pop("app5"))
    if changed is not None:
        world.members["app5"] = changed
    assert trouble in problems(known(world))
    if changed is None:
        world.unlock()
        assert problems(known(world))["warning", "app5"] == "is in the inventory and no member of the cluster"


def test_a_run_that_died_is_a_trouble(tmp_path: Path) -> None:
    assert "silent for 6" in problems(known(example(tmp_path), after_s=60))["warning", "lock"]


def test_haproxy_that_does_not_answer_is_one_trouble_and_no_services_are(tmp_path: Path) -> None:
    world = example(tmp_path)
    world.rejected, world.certificates = (), {}
    found = problems(known(world, figures={}, rates={}, haproxy_error="no answer within 2 s"))
    assert found["critical", "HAProxy"] == "does not answer the gateway: no answer within 2 s"
    assert [about for level, about in found if level == "critical"] == ["HAProxy"]


def test_a_large_cluster_stays_small(tmp_path: Path) -> None:
    world = large(tmp_path)
    world.servers[4321].state = "DOWN"
    world.rejected = tuple(Rejection(f"x{number}", "is nobody") for number in range(5000))
    base = page.base(known(world))
    shown = base.of()
    assert len(json.dumps(shown)) < 200_000
    assert (shown["instances_more"], shown["hosts_more"], shown["refused_more"]) == (5800, 300, 4900)
    first = shown["instances"][0]  # type: ignore[index]
    assert f"{first['host']}-{first['port']}" == f"{world.servers[4321].host}-{world.servers[4321].port}"
    one = base.of("APP0007")
    assert (len(one["instances"]), len(one["hosts"]), one["instances_more"]) == (12, 1, 0)  # type: ignore[arg-type]


# --- Live


def test_ten_pages_cost_one_look(tmp_path: Path) -> None:
    world = example(tmp_path)
    sources = live.Sources(world.look, world.settings, tuple, world.served, Sockets(tmp_path))

    async def ask() -> list[bytes]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(world.answer((await reader.readline()).decode().strip()).encode())
            writer.close()

        server = await asyncio.start_unix_server(answer, Sockets(tmp_path).admin)
        asked = live.Live(sources, "f")
        answers = await asyncio.gather(*(asked.answer({"of": "app1"} if n % 2 else {}) for n in range(10)))
        server.close()
        return [one.body for one in answers]

    documents = [json.loads(body) for body in asyncio.run(ask())]
    assert world.asked == 1
    # It tells no version of HAProxy, as nothing does that answers at this port.
    assert not [found for found in documents if '"3.0.11' in json.dumps(found)]
    assert {len(found["hosts"]) for found in documents} == {1, 5} and {found["files"] for found in documents} == {"f"}


def test_ten_pages_cost_one_document_and_what_strangers_ask_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = example(tmp_path)
    written: list[object] = []
    monkeypatch.setattr(live, "AGE_S", 1000.0)
    monkeypatch.setattr(live, "written", lambda document: written.append(document["of"]) or "{}")
    asked = live.Live(live.Sources(world.look, world.settings, tuple, world.served, Sockets(tmp_path)))

    async def ask() -> None:
        await asyncio.gather(*(asked.answer({"of": "app1"} if n % 2 else {}) for n in range(10)))
        assert sorted(written) == ["", "app1"]  # type: ignore[type-var]
        for number in range(100):
            await asked.answer({"of": f"x{number}"})

    asyncio.run(ask())
    assert len(written) == 102 and len(asked._answers) <= live._ANSWERS_MAX


def test_a_document_is_written_as_json(tmp_path: Path) -> None:
    shown = page.base(known(example(tmp_path))).of('"')
    odd = {"none": [], "text": "[\u20ac", "rows": ({"a": [1, None]}, "x"), 'a"b': {"c": True}}
    for document in (shown, odd, {}):
        assert json.loads(live.written(document)) == json.loads(json.dumps(document))


def test_without_haproxy_the_page_still_answers(tmp_path: Path) -> None:
    world = example(tmp_path)
    asked = live.Live(live.Sources(world.look, world.settings, tuple, world.served, Sockets(tmp_path)))
    found = json.loads(asyncio.run(asked.answer({})).body)
    assert "admin.sock failed" in found["haproxy"]["error"] and found["well"] is False
    assert len(found["hosts"]) == 5 and found["audit"]


def test_an_haproxy_that_did_not_answer_is_asked_again_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = example(tmp_path)
    monkeypatch.setattr(live, "_TIMEOUT_S", 0.05)
    monkeypatch.setattr(live, "AGE_S", 0.0)
    # However long that took, in shares of it: were it counted, the next look would be the last one.
    monkeypatch.setattr(live, "_SHARE", 1_000_000)
    asked = live.Live(live.Sources(world.look, world.settings, tuple, world.served, Sockets(tmp_path)))

    async def twice() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1)
            await asyncio.Event().wait()

        server = await asyncio.start_unix_server(silent, Sockets(tmp_path).admin)
        for _ in range(2):
            assert "no answer within" in json.loads((await asked.answer({})).body)["haproxy"]["error"]
        server.close()

    asyncio.run(twice())
    assert asked.looks.taken == 2


def test_no_file_of_the_page_names_another_place() -> None:
    """No external resource, nothing inline: the policy would keep a browser from it, and so it is not there."""
    for file in live.FILES.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text and " style=" not in text and "innerHTML" not in text, file
        assert not [line for line in text.splitlines() if "<script" in line and "src=" not in line], file
    assert {file.name for file in live.FILES.iterdir()} == set(live._TYPES)
