"""`fiefdom maintenance` against simulated hosts: at which gateways, what is told, and what the audit says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fiefdom.cli import frame, main
from fiefdom.cluster import audit, ledger, lock, locking, told
from fiefdom.model.answers import Maintenance
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
    others = SimulatedHosts.script

    def script(self: SimulatedHosts, name: str, text: str, arguments: Any = (), *more: Any, **options: Any) -> Any:
        words = tuple(arguments)
        if "maintenance" not in words:
            return others(self, name, text, arguments, *more, **options)
        self._require_link(name)
        assert words[1:5] == ("docker", "exec", "gateway", "fiefdom-gateway")
        told.setdefault(name, []).append(words[5:])
        view = self.views.get(name)
        return (True, "", "") if view is None else (False, "", str(view))

    monkeypatch.setattr(SimulatedHosts, "script", script)
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
    locking.lock(hosts, hosts.known.gateways, "ann@there", "a release is looked into", lambda _: None)
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
    assert "whether it has heard this, `fiefdom status` tells when it answers: say it again then" in done.stdout
    assert set(switched) == {"gw2"}
    hosts.cut.clear()
    assert acts(hosts)[-1].note == "on: predictor; not at gw1"


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("usage: fiefdom-gateway run|status\n", "its gateway is older; `fiefdom apply` first"),
        ("HAProxy did not take it up within 15 s\n", "HAProxy did not take it up within 15 s"),
        (
            "",
            "no answer; whether it has heard this, `fiefdom status` tells when it answers: say it again then",
        ),
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
    done = run("off", "nothing")
    assert "nothing is no service of this inventory" in done.output
    done = run("on", "nothing")
    assert "nothing is no service of this inventory" in done.output
    assert done.exit_code == 1 and switched == {} and acts(hosts) == ()


def test_what_the_inventory_closes_has_a_word_of_its_own(
    hosts: SimulatedHosts, switched: dict[str, list[tuple[str, ...]]], run: Callable[..., Result]
) -> None:
    service = hosts.known.cluster.services["predictor"]
    route = service.route.model_copy(update={"maintenance": Maintenance(active=True)})
    services = {**hosts.known.cluster.services, "predictor": service.model_copy(update={"route": route})}
    hosts.known = replace(hosts.known, cluster=hosts.known.cluster.model_copy(update={"services": services}))
    for word in ("on", "off"):
        done = run(word, "predictor")
        assert (done.exit_code, done.stdout) == (
            0,
            f"predictor is switched {word}, and closed all the same until services.predictor.route.maintenance.active "
            "is false and `fiefdom apply` has brought that, at gw1, gw2.\n",
        )
    assert switched == {name: [("maintenance", word, "predictor") for word in ("on", "off")] for name in ("gw1", "gw2")}


def test_what_has_no_page_can_be_taken_back_and_not_closed(
    hosts: SimulatedHosts, switched: dict[str, list[tuple[str, ...]]], run: Callable[..., Result]
) -> None:
    service = hosts.known.cluster.services["predictor"].model_copy(update={"kind": "tcp"})
    services = {**hosts.known.cluster.services, "predictor": service}
    hosts.known = replace(hosts.known, cluster=hosts.known.cluster.model_copy(update={"services": services}))
    done = run("on", "predictor")
    assert done.exit_code == 1 and "is of kind tcp, to which no page can be shown" in done.output and switched == {}
    assert run("off", "predictor").exit_code == 0


def test_a_gateway_has_the_time_to_take_back_what_it_could_not_do() -> None:
    sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))
    from fiefdom_gateway.told import LIMIT_S

    assert told.LIMIT_S >= LIMIT_S + 10
