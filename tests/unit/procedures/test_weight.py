"""`fiefdom weight` against simulated hosts, and how releases end what it said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from fiefdom.cluster import audit, ledger, shares
from fiefdom.cluster.views import Server, Share, Silent, View
from fiefdom.procedures.release import Order
from fiefdom.procedures.rollout import Wish, perform, prepare
from helpers.clock import stopped
from helpers.released import known
from helpers.simulated import SimulatedHosts, converged


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(known(), tmp_path)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What gateways' programs were told, after their names; they keep it in their status."""
    said: list[tuple[str, ...]] = []
    others, shell = SimulatedHosts.script, SimulatedHosts.shell
    kept: dict[str, dict[str, dict[str, object]]] = {}

    def script(self: SimulatedHosts, name: str, text: str, arguments: Any = (), *more: Any, **options: Any) -> Any:
        words = tuple(arguments)
        if "weight" not in words:
            return others(self, name, text, arguments, *more, **options)
        self._require_link(name)
        said.append((name, *words[5:]))
        service, version, *percent = words[6:]
        kept.setdefault(name, {}).pop(service, None)
        if percent:
            kept[name][service] = {"service": service, "version": version, "percent": int(percent[0])}
        return True, "", ""

    def status(self: SimulatedHosts, name: str, argv: Any) -> tuple[bool, str, str]:
        words = tuple(argv)
        ok, text, error = shell(self, name, words)
        if ok and "status" in words[-2:]:
            text = json.dumps({**json.loads(text), "shares": list(kept.get(name, {}).values())})
        return ok, text, error

    monkeypatch.setattr(SimulatedHosts, "script", script)
    monkeypatch.setattr(SimulatedHosts, "shell", status)
    return said


def acts(hosts: SimulatedHosts) -> list[tuple[str, str, str]]:
    entries = ledger.read(hosts, hosts.known.gateways).entries
    return [(act.what, act.note, act.outcome) for act in audit.acts(entries)]


def test_it_is_said_to_every_gateway_and_told_in_the_audit(
    hosts: SimulatedHosts, told: list[tuple[str, ...]], command: Callable[..., Result]
) -> None:
    done = command("weight", "predictor", "1.3.0", "10")
    says = "predictor 1.3.0 is to get 10 % of the requests at gw1, gw2, where no server of that version is up.\n"
    assert (done.exit_code, done.stdout) == (0, says)
    assert command("weight", "predictor", "off").stdout == "each server of predictor gets as many at gw1, gw2.\n"
    done = command("weight", "predictor", "off", "--json")
    assert json.loads(done.stdout) == {
        **{"outcome": "ok", "service": "predictor", "version": None, "percent": None},
        **{"gateways": ["gw1", "gw2"], "silent": {}},
    }
    assert sorted(told) == sorted(
        (name, "weight", "predictor", *words)
        for name in ("gw1", "gw2")
        for words in (("1.3.0", "10"), ("off",), ("off",))
    )
    assert acts(hosts) == [("weight", "predictor: 1.3.0 10", "ok"), *[("weight", "predictor: off", "ok")] * 2]


def test_a_gateway_that_does_not_answer_is_named(
    hosts: SimulatedHosts, told: list[tuple[str, ...]], command: Callable[..., Result]
) -> None:
    hosts.cut.add("gw2")
    done = command("weight", "predictor", "1.3.0", "10")
    assert done.exit_code == 3
    assert " at gw1, where" in done.stdout and "gw2: " in done.stdout
    hosts.cut |= {"gw1"}
    assert command("weight", "predictor", "1.3.0", "10").exit_code == 1


@pytest.mark.parametrize("words", [("1.3.0",), ("off", "10"), ("1.3.0", "0"), ("1.3.0", "100"), ("1.3.0", "x")])
def test_what_is_no_share_is_refused(
    hosts: SimulatedHosts, told: list[tuple[str, ...]], command: Callable[..., Result], words: tuple[str, ...]
) -> None:
    assert command("weight", "predictor", *words).exit_code in (1, 2)
    assert told == [] and acts(hosts) == []


@pytest.mark.parametrize(
    ("what", "canary", "ends"), [("rollout", "app1", False), ("rollout", None, True), ("rollback", None, True)]
)
def test_a_release_to_all_ends_it_and_a_canary_does_not(
    hosts: SimulatedHosts,
    told: list[tuple[str, ...]],
    command: Callable[..., Result],
    what: str,
    canary: str | None,
    ends: bool,
) -> None:
    command("weight", "predictor", "2.0.0", "10")
    del told[:]
    hosts.known = released = known(version="2.0.0")
    wish = Wish(what, "predictor", Order("1", (), canary, False), False, False, False, False)
    wanted = prepare(released, hosts, frozenset({"predictor"}), wish)
    report = perform(released, hosts, wanted, wish, lambda *_: None)
    assert report.error is None
    assert sorted(told) == ([(name, "weight", "predictor", "off") for name in ("gw1", "gw2")] if ends else [])


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ({}, []),
        (
            {"gw1": 10, "gw2": 10},
            [
                "predictor 2 gets 10 % of the requests at gw1, gw2; `fiefdom weight INVENTORY predictor off` ends "
                "that, and so does its rollout or rollback"
            ],
        ),
        (
            {"gw2": 10},
            [
                "predictor 2 gets 10 % of the requests at gw2, and not at gw1; `fiefdom weight INVENTORY predictor "
                "off` ends that, and so does its rollout or rollback"
            ],
        ),
    ],
)
def test_a_share_is_told_of_with_gateways_that_have_another(at: dict[str, int], says: list[str]) -> None:
    both = (up("2"), up("1", "app2"))
    found = {n: View(shares=(Share("predictor", "2", at[n]),) if n in at else (), servers=both) for n in ("gw1", "gw2")}
    assert list(shares.notices(known().cluster, found)) == says


def up(version: str | None, host: str = "app1", state: str = "up", service: str = "predictor") -> Server:
    return Server(service, f"{host}-8000", 8000, state, version=version)


NOBODY = ", where no server of that version is up"
ALL = ", where every server that is up has that version and they get all of them"


@pytest.mark.parametrize(
    ("servers", "says"),
    [
        ((up("2"), up("1", "app2")), "gets 10 % of the requests at gw1"),
        ((), f"is to get 10 % of the requests at gw1{NOBODY}"),
        ((up("1"), up(None, "app2")), f"is to get 10 % of the requests at gw1{NOBODY}"),
        ((up("2", state="down"), up("1", "app2")), f"is to get 10 % of the requests at gw1{NOBODY}"),
        ((up("2", state="drain"), up("1", "app2")), f"is to get 10 % of the requests at gw1{NOBODY}"),
        ((up("2", service="web"), up("1", "app2")), f"is to get 10 % of the requests at gw1{NOBODY}"),
        ((up("2"), up("2", "app2")), f"is to get 10 % of the requests at gw1{ALL}"),
        ((up("2"), up("1", "app2", "down"), up("1", service="web")), f"is to get 10 % of the requests at gw1{ALL}"),
    ],
)
def test_what_comes_of_a_share_depends_on_who_is_up(servers: tuple[Server, ...], says: str) -> None:
    found = list(shares.effects({"gw1": View(servers=servers)}, Share("predictor", "2", 10), ["gw1"]))
    assert found == [f"predictor 2 {says}"]


def test_gateways_at_which_it_comes_to_something_else_have_a_sentence_of_their_own() -> None:
    share = Share("predictor", "2", 10)
    both, one = (up("2"), up("1", "app2")), (up("1"),)
    views = {n: View(shares=(share,), servers=has) for n, has in (("gw1", both), ("gw2", one), ("gw3", both))}
    assert list(shares.effects({**views, "gw4": Silent("x")}, share, ["gw1", "gw2", "gw3", "gw4"])) == [
        "predictor 2 gets 10 % of the requests at gw1, gw3",
        f"predictor 2 is to get 10 % of the requests at gw2{NOBODY}",
        "predictor 2 is to get 10 % of the requests at gw4, which does not tell what comes of it",
    ]


def test_what_haproxy_does_not_have_yet_is_ended_as_well(
    hosts: SimulatedHosts, told: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share("predictor", "2", 10)
    views = {"gw1": View(shares=(share,)), "gw2": View(asked_shares=(share, Share("web", "1", 5)))}
    monkeypatch.setattr(shares, "views_of", lambda *_: views)
    shares.end(hosts, ("gw1", "gw2"), {"predictor"}, pytest.fail)  # type: ignore[arg-type]
    assert told == [(name, "weight", "predictor", "off") for name in ("gw1", "gw2")]
