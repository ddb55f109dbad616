"""Who hears whom: what a host says of others, and the sentences that follow from both sides' words."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fiefdom.cluster import gossip
from fiefdom.cluster.gossip import Heard
from fiefdom.cluster.views import Seen, Server, Silent, View
from fiefdom.errors import Unreachable
from helpers.clock import stopped
from helpers.released import known

CLUSTER = known().cluster
ADDRESS = {name: host.address for name, host in CLUSTER.hosts.items()}
WELL = Heard({"app1": "alive", "gw1": "alive"}, {}, frozenset({"app1", "gw1"}))


def faults(gateway: Heard = WELL, host: Heard = WELL) -> list[str]:
    return gossip.faults(CLUSTER, ["app1"], ["gw1"], {"gw1": gateway, "app1": host})


def unreached(here: str, there: str, protocol: str, why: str) -> str:
    start, end = ADDRESS[here], ADDRESS[there]
    return f"{there}: port 7946/{protocol} of {end} cannot be reached from {here} ({start}): {why}"


def test_where_both_hear_each_other_nothing_is_wrong() -> None:
    assert faults() == []
    assert faults(Heard(WELL.listed), Heard(WELL.listed)) == []  # nobody was asked


@pytest.mark.parametrize(
    ("gateway", "host", "expected"),
    [
        (
            Heard(WELL.listed, {"app1": "no answer within 3 s"}, WELL.answered),
            WELL,
            [unreached("gw1", "app1", "tcp", "no answer within 3 s")],
        ),
        (
            WELL,
            Heard({}, {"gw1": "Connection refused"}, frozenset()),
            [unreached("app1", "gw1", "tcp", "Connection refused")],
        ),
        (
            Heard(WELL.listed, {"app1": "a"}, frozenset()),
            Heard(WELL.listed, {"gw1": "b"}, frozenset()),
            [unreached("gw1", "app1", "tcp", "a"), unreached("app1", "gw1", "tcp", "b")],
        ),
        (
            Heard(WELL.listed, {}, frozenset({"gw1"})),
            WELL,
            [unreached("app1", "gw1", "udp", "its answers get lost")],
        ),
        (
            WELL,
            Heard(WELL.listed, {}, frozenset({"app1"})),
            [unreached("gw1", "app1", "udp", "its answers get lost")],
        ),
        (
            Heard(WELL.listed, {}, frozenset()),
            Heard(WELL.listed, {}, frozenset()),
            [unreached("gw1", "app1", "udp", "no answer, neither there nor back")],
        ),
        (Heard({"app1": "failed"}), WELL, ["app1: gw1 lists it as failed, not as alive"]),
        (
            Heard({}),
            Heard({"gw1": "left"}),
            [
                "app1: gw1 does not list it as a member",
                "app1: app1 lists gw1 as left, not as alive",
            ],
        ),
        (WELL, Heard(None, {}, WELL.answered), ["app1: its Serf agent does not answer"]),
    ],
)
def test_what_is_wrong_names_host_port_and_direction(gateway: Heard, host: Heard, expected: list[str]) -> None:
    assert faults(gateway, host) == expected


def view(offers: set[str], state: str = "up") -> View:
    """A gateway that has app1 with some offers, and its servers in one state."""
    return View(
        members=(Seen("app1", ADDRESS["app1"], "alive", frozenset(offers)),),
        servers=tuple(Server("predictor", f"app1-{port}", port, state) for port in (8000, 8001)),
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (view({"predictor"}), []),
        (view(set()), ["app1: gw1 does not have its offer of predictor"]),
        (view({"predictor"}, "down"), ["app1: gw1 has no instance of predictor up there"]),
        (Silent("no answer"), ["gw1: the gateway does not answer: no answer"]),
    ],
)
def test_an_offer_is_up_where_a_gateway_has_it_and_a_server_of_it(found: View, expected: list[str]) -> None:
    assert gossip.not_offered(CLUSTER, ["app1"], {"gw1": found}) == expected


def test_an_answer_is_understood_or_was_not_given() -> None:
    members = json.dumps({"members": [{"name": "gw1", "addr": "10.0.0.1:7946", "status": "alive"}]})
    said = f'closed\tgw2\tno \x1b[31mroute\nmembers\t{members}\nacks\t{{"Acks":["gw1"],"Responses":{{}}}}\nnoise\n'
    assert gossip.parse(said) == Heard({"gw1": "alive"}, {"gw2": "no \\x1b[31mroute"}, frozenset({"gw1"}))
    assert gossip.parse("") == Heard(None, {}, None)
    assert gossip.parse("members\t\nacks\t") == Heard(None, {}, frozenset())
    assert gossip.parse('members\t{"members": 3}\nacks\t{"Acks": null}') == Heard(None, {}, frozenset())


# --- The script itself


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A docker that answers as the agent in `serf-agent` would, and the log of what it was asked."""
    answers = tmp_path / "docker"
    answers.write_text(
        f"""#!/bin/sh
printf '%s\\n' "$*" >>{tmp_path}/asked
case "$*" in
  *'serf-agent serf members'*) printf '{{"members": [\\n{{"name": "gw1", "addr": "a", "status": "alive"}}]}}\\n' ;;
  *'serf-agent serf query'*) printf '{{"Acks":\\n["gw1"]}}\\n' ;;
  *) exit 1 ;;
esac
"""
    )
    answers.chmod(0o755)
    return tmp_path


def run(agent: Path, *arguments: str) -> Heard:
    environment: Mapping[str, str] = os.environ | {"PATH": f"{agent}:{os.environ['PATH']}"}
    command = ["sh", "-c", gossip.SCRIPT, "fiefdom", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return gossip.parse(done.stdout)


@contextmanager
def listening(address: str) -> Iterator[int]:
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("patience_ms", [0, 300])
def test_a_host_tells_who_takes_no_connection_from_it(agent: Path, patience_ms: int) -> None:
    with listening("127.0.0.1") as port:
        others = ["gw1", "127.0.0.1", "gw2", "127.0.0.2"]
        found = run(agent, "serf-agent", str(port), "gateway", str(patience_ms), *others)
    acks = frozenset({"gw1"}) if patience_ms else None
    assert found == Heard({"gw1": "alive"}, {"gw2": "Connection refused"}, acks)
    asked = (agent / "asked").read_text()
    assert ("query -format=json -timeout=300ms -tag role=gateway fiefdom-hello" in asked) == bool(patience_ms)


def test_an_agent_that_does_not_answer_is_no_list_of_nobody(agent: Path) -> None:
    assert run(agent, "another", "1", "gateway", "100") == Heard(None, {}, frozenset())


def test_whom_a_gateway_lists_is_asked_of_the_gateway_itself(agent: Path) -> None:
    assert run(agent, "gateway", "1", "app", "0") == Heard(None, {}, None)
    assert not (agent / "asked").exists()


class Asked:
    """Hosts that answer by a script of the test's; ``asked`` keeps who was asked at once."""

    def __init__(self, *deaf: str) -> None:
        self.names = tuple(CLUSTER.app_hosts)
        self.deaf = set(deaf)
        self.asked: list[list[str]] = []

    def on_all(self, function: Callable[[str], Any], names: Iterable[str] | None = None) -> dict[str, Any]:
        names = list(names or ())
        self.asked.append(names)
        return {name: function(name) for name in names}

    def script(self, name: str, *_: object, **__: object) -> tuple[bool, str, str]:
        members = [{"name": other, "addr": "", "status": "alive"} for other in CLUSTER.hosts]
        acks = [] if name in self.deaf else list(CLUSTER.hosts)
        self.deaf.discard(name)
        return True, f"members\t{json.dumps({'members': members})}\nacks\t{json.dumps({'Acks': acks})}", ""

    def shell(self, name: str, argv: Iterable[str]) -> tuple[bool, str, str]:
        if name == "gw2" and tuple(argv) == ("true",):
            raise Unreachable(name, "timed out")
        members = [{"name": other, "address": "", "status": "alive"} for other in CLUSTER.hosts]
        return True, json.dumps({"serf": {"ok": True}, "members": members}), ""


def test_who_was_heard_once_is_not_asked_again_and_few_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch)
    monkeypatch.setattr(gossip, "_AT_ONCE", 2)
    hosts = Asked("app1", "app3")
    gossip.require(CLUSTER, hosts, CLUSTER.app_hosts, ["gw1"])  # type: ignore[arg-type]
    first, second, third, fourth = list(CLUSTER.app_hosts)[:4]
    assert hosts.asked[0::3] == [["one", "other"]] * 4, "what they say of each other, and the gateways of themselves"
    assert hosts.asked[1::3] == [["gw1", first, second], ["gw1", "app1"], ["gw1", third, fourth], ["gw1", "app3"]]
    assert hosts.asked[2::3] == [["gw1"]] * 4


def test_a_gateway_that_is_not_connected_is_told_and_left_out() -> None:
    told: list[str] = []
    assert gossip.within_reach(Asked(), ["gw1", "gw2"], told.append) == ["gw1"]  # type: ignore[arg-type]
    assert told == ["gw2: timed out; whether gossip passes between it and the hosts was not looked at"]
