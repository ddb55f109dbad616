"""The serf concern by value."""

import json
from typing import Any

import pytest

from fiefdom.desired import serf
from fiefdom.desired.account import UID
from fiefdom.desired.containers import stop_limit_s
from fiefdom.desired.state import HostState, spec_hash
from helpers.example import GOSSIP_KEY, context


def agent(host: str = "app2", **changes: object) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(serf.desired(context(host, **changes)).file(serf.CONFIG).content)
    return parsed


def test_only_app_hosts_have_one() -> None:
    assert serf.desired(context("gw1")) == HostState()


def test_its_tags_are_in_a_file_that_follows_what_the_host_offers() -> None:
    assert "tags" not in agent()
    (container,) = serf.desired(context()).containers
    assert container.command == ("-config-file=/run/fiefdom/offers/tags.json",)
    assert "--volume=/run/fiefdom/offers:/run/fiefdom/offers:ro" in container.args


def test_it_joins_every_gateway_and_leaves_when_it_stops() -> None:
    config = agent()
    assert config["retry_join"] == ["10.1.0.11:7946", "10.1.0.12:7946"]
    assert config["advertise"] == config["bind"] == "10.1.0.22:7946"
    assert config["leave_on_terminate"] is True
    (container,) = serf.desired(context()).containers
    assert container.stop_signal == "SIGINT"


def test_its_configuration_is_for_its_user_alone() -> None:
    state = serf.desired(context())
    file = state.file(serf.CONFIG)
    assert (file.mode, file.uid, file.gid, file.secret) == (0o400, UID, UID, True)
    assert agent()["encrypt_key"] == GOSSIP_KEY


def test_each_host_has_a_token_of_its_own_for_rpc() -> None:
    tokens = {str(agent(host)["rpc_auth"]) for host in ("app1", "app2")}
    assert len(tokens) == 2
    assert all(len(token) == 64 and GOSSIP_KEY not in token for token in tokens)
    environment = serf.desired(context("app2")).file("/etc/fiefdom/containers/serf-agent.env")
    assert f"SERF_RPC_AUTH={agent('app2')['rpc_auth']}\n" in environment.content.decode()


def test_it_starts_before_any_instance_and_says_what_is_offered_then() -> None:
    unit = serf.desired(context("app2")).file("/etc/systemd/system/fiefdom-serf-agent.service").content.decode()
    assert "predictor" not in unit
    assert "\nExecStartPre=/usr/local/lib/fiefdom/offer tags\n" in unit
    assert "Requires=" not in unit


def test_neither_version_nor_count_nor_another_service_makes_it_another_one() -> None:
    def spec(**predictor: object) -> str:
        state = serf.desired(context(services={"predictor": predictor}))
        return spec_hash(state.containers[0], state)

    assert len({spec(), spec(version="2"), spec(instances=5)}) == 1


@pytest.mark.parametrize(
    ("changes", "drain_timeout_s"),
    [
        ({}, 60),
        ({"gateway": {"server_timeout_s": 300}}, 300),
        ({"gateway": {"server_timeout_s": 86400}}, 3600),
        ({"gateway": {"server_timeout_s": 300}, "serf": {"drain_timeout_s": 20}}, 20),
    ],
)
def test_it_waits_for_open_requests_as_long_as_an_instance_may_take(
    changes: dict[str, Any], drain_timeout_s: int
) -> None:
    state = serf.desired(context("app2", **changes))
    assert f"\ndrain_timeout_s {drain_timeout_s}\n" in state.file(serf.HOST_CONF).content.decode()
    limit_s = stop_limit_s(state.containers[0]) + drain_timeout_s
    assert f"TimeoutStopSec={limit_s}\n" in state.file(f"/etc/systemd/system/{serf.UNIT}").content.decode()
