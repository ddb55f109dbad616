"""The serf concern by value."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fiefdom.desired import serf
from fiefdom.desired.containers import stop_limit_s
from fiefdom.desired.membership import app_tags
from fiefdom.desired.state import HostState, spec_hash
from helpers.example import GOSSIP_KEY, context


def agent(host: str = "app2", **changes: object) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(serf.desired(context(host, **changes)).file(serf.CONFIG).content)
    return parsed


def test_only_app_hosts_have_one() -> None:
    assert serf.desired(context("gw1")) == HostState()


def test_tags_say_what_the_host_offers() -> None:
    assert agent()["tags"] == {"role": "app", "svc:predictor": "1.2.0;8000-8001", "svc:web": "7;9000-9000"}
    none_here = {"app2": {"services": {"web": {"instances": 0}}}}
    assert agent(hosts=none_here)["tags"] == {"role": "app", "svc:predictor": "1.2.0;8000-8001"}


def test_a_tag_tells_the_ports_of_checks_where_they_have_some_and_what_runs_has_them() -> None:
    own = {"web": {"health": {"container_port": 3001, "base_port": 9100}}}
    there = context("app2", services=own)

    def tag(**running: object) -> str:
        found = replace(there, **running)
        return app_tags(found, found.cluster.instances("app2"))["svc:web"]

    assert tag() == "7;9000-9000;9100"
    # A release is pending: what runs may have none yet, or others.
    assert tag(running={"web": "6"}) == "6;9000-9000"
    assert tag(running={"web": "6"}, checks={"web": 200}) == "6;9000-9000;9200"


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
    assert (file.mode, file.uid, file.gid, file.secret) == (0o400, 990, 990, True)
    assert agent()["encrypt_key"] == GOSSIP_KEY


def test_each_host_has_a_token_of_its_own_for_rpc() -> None:
    tokens = {str(agent(host)["rpc_auth"]) for host in ("app1", "app2")}
    assert len(tokens) == 2
    assert all(len(token) == 64 and GOSSIP_KEY not in token for token in tokens)
    environment = serf.desired(context("app2")).file("/etc/fiefdom/containers/serf-agent.env")
    assert f"SERF_RPC_AUTH={agent('app2')['rpc_auth']}\n" in environment.content.decode()


def test_it_starts_after_every_instance_answers() -> None:
    unit = serf.desired(context("app2")).file("/etc/systemd/system/serf-agent.service").content.decode()
    for instance in ("predictor@8000", "predictor@8001", "web@9000"):
        assert f"\nWants={instance}.service\nAfter={instance}.service\n" in unit
    assert "\nExecStartPre=/usr/local/lib/fiefdom/container await predictor-8000 predictor-8001 web-9000\n" in unit
    assert "Requires=" not in unit


def test_another_version_or_count_makes_it_another_one() -> None:
    def spec(**predictor: object) -> str:
        state = serf.desired(context(services={"predictor": predictor}))
        return spec_hash(state.containers[0], state)

    assert spec() == spec()
    assert len({spec(), spec(version="2"), spec(instances=5)}) == 3


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
    assert f"\ndrain_timeout_s {drain_timeout_s}\n" in state.file(serf.ROTATION_CONF).content.decode()
    limit_s = stop_limit_s(state.containers[0]) + drain_timeout_s
    assert f"TimeoutStopSec={limit_s}\n" in state.file(f"/etc/systemd/system/{serf.UNIT}").content.decode()
