"""`fiefdom maintenance` against simulated hosts: at which gateways, what is told, and what the audit says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fiefdom.cli import frame, main
from fiefdom.cluster import audit, ledger, lock
from helpers.clock import stopped
from helpers.released import known
from helpers.simulated import SimulatedHosts, converged


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(known(), tmp_path)


@pytest.fixture
def switched(hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, ...]]]:
    """By gateway, what its program was told."""
    told: dict[str, list[tuple[str, ...]]] = {}
    others = SimulatedHosts.shell

    def shell(self: SimulatedHosts, name: str, argv: Any) -> tuple[bool, str, str]:
        words = tuple(argv)
        if "maintenance" not in words:
            return others(self, name, words)
        self._require_link(name)
        assert words[:4] == ("docker", "exec", "gateway", "fiefdom-gateway")
        told.setdefault(name, []).append(words[4:])
        view = self.views.get(name)
        return (True, "", "") if view is None else (False, "", str(view))

    monkeypatch.setattr(SimulatedHosts, "shell", shell)
    return told


@pytest.fixture
def run(hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`fiefdom maintenance` on these hosts; what the inventory alone is refused for is asked for first."""

    @contextmanager
    def connected(inventory: str, _: Any, check: Any, **__: Any) -> Iterator[frame.Run]:
        check(hosts.known.cluster)
        yield frame.Run(inventory, hosts.known, hosts.names, hosts, frame.out())  # type: ignore[arg-type]

    monkeypatch.setattr(frame, "connected", connected)
    return lambda word, service, *more: CliRunner().invoke(main.main, ["maintenance", word, "inv.yaml", service, *more])


def acts(hosts: SimulatedHosts) -> tuple[audit.Act, ...]:
    return audit.acts(ledger.read(hosts, hosts.known.gateways).entries)


def test_it_is_switched_at_every_gateway_and_told_in_the_audit(
    hosts: SimulatedHosts, switched: dict[str, list[tuple[str, ...]]], run: Callable[..., Result]
) -> None:
    done = run("on", "predictor")
    assert (done.exit_code, done.stdout) == (0, "predictor is closed for maintenance at gw1, gw2.\n"), done.output
    assert switched == {name: [("maintenance", "on", "predictor")] for name in ("gw1", "gw2")}
    done = run("off", "predictor", "--json")
    assert json.loads(done.stdout) == {
        **{"outcome": "ok", "service": "predictor", "maintenance": "off", "gateways": ["gw1", "gw2"], "silent": {}},
    }
    told = [(act.what, act.hosts, act.note, act.outcome) for act in acts(hosts)]
    assert told == [("maintenance", ("gw1", "gw2"), f"{word}: predictor", "ok") for word in ("on", "off")]


def test_it_waits_for_no_run(
    hosts: SimulatedHosts, switched: dict[str, list[tuple[str, ...]]], run: Callable[..., Result]
) -> None:
    ledger.lock(hosts, hosts.known.gateways, "ann@there", "a release is looked into", lambda _: None)
    assert run("on", "predictor").exit_code == 0
    assert isinstance(ledger.read(hosts, hosts.known.gateways, 0).locks[0], lock.Lock)
    assert set(switched) == {"gw1", "gw2"}


def test_a_gateway_that_does_not_answer_is_named_and_keeps_nobody_from_the_others(
    hosts: SimulatedHosts, switched: dict[str, list[tuple[str, ...]]], run: Callable[..., Result]
) -> None:
    hosts.cut.add("gw1")
    done = run("on", "predictor")
    assert done.exit_code == 3
    assert "predictor is closed for maintenance at gw2." in done.stdout and "gw1: " in done.stdout
    assert "say this again then" in done.stdout
    assert set(switched) == {"gw2"}
    hosts.cut.clear()
    assert acts(hosts)[-1].note == "on: predictor; not at gw1"


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("usage: fiefdom-gateway run|status\n", "its gateway is older; `fiefdom apply` first"),
        ("HAProxy did not take it up within 15 s\n", "HAProxy did not take it up within 15 s"),
        ("", "no answer"),
    ],
)
def test_what_no_gateway_does_is_an_error(
    hosts: SimulatedHosts,
    switched: dict[str, list[tuple[str, ...]]],
    run: Callable[..., Result],
    says: str,
    told: str,
) -> None:
    hosts.views = dict.fromkeys(("gw1", "gw2"), says)
    done = run("on", "predictor", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["outcome"], found["error"]) == ("failed", f"gw1: {told}; gw2: {told}")
    assert acts(hosts)[-1].outcome == "failed"


def test_what_no_gateway_could_do_is_refused_before_any_is_asked(
    hosts: SimulatedHosts, switched: dict[str, list[tuple[str, ...]]], run: Callable[..., Result]
) -> None:
    done = run("on", "nothing")
    assert "nothing is no service of this inventory" in done.output
    assert done.exit_code == 1 and switched == {} and acts(hosts) == ()
