"""The page of a real gateway during a release under traffic: what its document tells meanwhile, and who reaches it."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.load import Load
from helpers.operator_view import BIN, GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, tell

PAGE = f"{GATEWAY_URL}:8404"
NEXT = "1.1.0-page"


def get(path: str) -> tuple[str, str]:
    """Content type and text of a path at the statistics port."""
    with urllib.request.urlopen(f"{PAGE}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def state() -> dict[str, Any]:
    return json.loads(get("/fiefdom/state.json")[1])


def predictor(found: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in found["services"] if row["name"] == "predictor")


@pytest.fixture
def mended(site: Site) -> Iterator[Site]:
    yield site
    site.converge(LAB_YAML)
    site.await_serving(LAB_YAML)


def test_a_well_cluster_has_no_problems(site: Site) -> None:
    await_true(lambda: not [p for p in state()["problems"] if p["level"] != "notice"], what="a page without problems")
    found = state()
    assert (found["cluster"], found["node"], found["well"]) == ("lab", "gw1", True)
    assert {row["name"]: row["status"] for row in found["hosts"]} == {"app1": "alive", "app2": "alive"}
    assert found["audit_error"] is None and "apply" in {act["what"] for act in found["audit"]}


def test_a_release_is_seen_while_it_goes_on(mended: Site) -> None:
    def change(data: dict[str, Any]) -> None:
        data["services"]["predictor"]["version"] = NEXT
        data["rollout"] = {"soak_s": 3}

    inventory = mended.inventory("page", change)
    before = next(row["version"] for row in predictor(state())["versions"])
    seen: list[dict[str, Any]] = []
    argv, pipe = [str(BIN / "fiefdom"), "rollout", inventory], subprocess.PIPE
    with (
        Load(f"{GATEWAY_URL}/predict", at_least=2000) as load,
        subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as run,
    ):

        def is_over() -> bool:
            seen.append(state())
            return run.poll() is not None

        await_true(is_over, timeout_s=300, what="the end of the release")
        said, complaints = run.communicate()
    tell("a release that the page shows", load)
    assert run.returncode == 0, said + complaints
    assert load.failed == 0, load.report()
    at_work = [found["at_work"] for found in seen if found["at_work"] is not None]
    assert any(work["why"].startswith("rollout ") and work["alive"] for work in at_work)
    steps = [
        one for work in at_work for act in work["acts"] for one in act["services"] if one["service"] == "predictor"
    ]
    assert {(one["from"], one["to"]) for one in steps} == {(before, NEXT)}
    assert any(one["hosts"]["done"] and (one["hosts"]["turn"] or one["hosts"]["waits"]) for one in steps)
    assert any({row["version"] for row in predictor(found)["versions"]} >= {before, NEXT} for found in seen)
    assert max(predictor(found)["requests_s"] or 0 for found in seen) > 10
    assert not [found for found in seen if found["audit_error"]]

    await_true(lambda: state()["at_work"] is None, what="a cluster that nobody holds")
    act = next(act for act in state()["audit"] if act["what"] == "rollout")
    assert (act["outcome"], act["services"]) == ("ok", [{"service": "predictor", "from": before, "to": NEXT}])


def test_haproxys_own_pages_are_where_they_were(site: Site) -> None:
    assert "Statistics Report" in get("/stats")[1]
    assert "haproxy_server_status" in get("/metrics")[1]
    kind, text = get("/")
    assert kind == "text/html; charset=utf-8" and '<script type="module" src="/fiefdom/page.js">' in text


def test_a_site_whose_name_leads_here_is_told_nothing(site: Site) -> None:
    def status(path: str, host: str) -> int:
        try:
            asked = urllib.request.Request(f"{PAGE}{path}", headers={"Host": host})
            return int(urllib.request.urlopen(asked, timeout=10).status)
        except urllib.error.HTTPError as error:
            return error.code

    for path in ("/", "/fiefdom/state.json", "/fiefdom/metrics", "/metrics", "/stats"):
        assert [status(path, host) for host in ("evil.example:8404", "gw1:8404", "localhost")] == [421, 200, 200]
    assert status("/healthz", "evil.example") == 200


def test_only_admins_reach_it_and_the_container_writes_no_ledger(site: Site) -> None:
    assert site.ssh("app1", "timeout 3 bash -c '</dev/tcp/10.99.0.11/8404' && echo open || echo closed") == "closed"
    inside = "docker exec gateway sh -c"
    assert "audit.jsonl" in site.ssh("gw1", f"{inside} 'ls /var/lib/fiefdom/ledger'")
    for attempt in (
        *("echo x >>/var/lib/fiefdom/ledger/audit.jsonl", "touch /var/lib/fiefdom/ledger/lock"),
        *("rm -f /var/lib/fiefdom/ledger/audit.jsonl", "cat /var/lib/fiefdom/ledger/guard"),
    ):
        assert site.ssh("gw1", f"{inside} '{attempt}' >/dev/null 2>&1 && echo done || echo refused") == "refused", (
            attempt
        )
