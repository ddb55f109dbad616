"""Kinds of services: what has a gateway port, what pauses, and what is refused of a key that is the other kind's."""

from __future__ import annotations

from typing import Any

import pytest

from fiefdom.inventory.complaint import mistakes_of
from fiefdom.inventory.source import written
from fiefdom.model import Cluster
from helpers.inventories import changed

REDIS: dict[str, Any] = {
    "kind": "tcp",
    "image": "redis",
    "version": "7",
    "base_port": 6379,
    "container_port": 6379,
    "groups": ["large"],
}


def raw(**service: Any) -> dict[str, Any]:
    return changed({"services/redis": REDIS | service})


def cluster(**service: Any) -> Cluster:
    return Cluster.model_validate(raw(**service))


def says(inventory: dict[str, Any]) -> list[str]:
    """What is wrong with an inventory, key and sentence."""
    try:
        Cluster.model_validate(inventory)
    except ValueError as error:
        return [str(m).removeprefix("x.py: ") for m in mistakes_of(error, written(inventory, "x.py"))]  # type: ignore[arg-type]
    return []


def test_http_has_a_gateway_port_and_tcp_only_the_one_that_is_said() -> None:
    assert [s.gateway_port for s in cluster().services.values()] == [80, 80, None]
    assert cluster(route={"port": 6379}).services["redis"].gateway_port == 6379
    assert (list(cluster().fronts), list(cluster(route={"port": 6379}).fronts)) == ([80], [80, 6379])
    assert [i.service for i in cluster().routed("app2")] == ["web", "web", "api"]
    assert cluster().services["web"].route.port == 80


def test_a_service_that_gateways_do_not_have_takes_no_room_in_serfs_tags() -> None:
    many = {f"services/redis{i}": REDIS | {"base_port": 10000 + 200 * i} for i in range(60)}
    assert says(changed(many)) == []
    routed = {key: value | {"route": {"port": 30000 + i}} for i, (key, value) in enumerate(many.items())}
    assert ["need 1" in one or "Serf carries" in one for one in says(changed(routed))] == [True]


def test_what_has_one_instance_pauses_and_nothing_of_kind_http_does() -> None:
    assert cluster().pauses("redis")
    assert not cluster(instances=2).pauses("redis")
    assert not cluster(groups=["app_hosts"]).pauses("redis")
    alone = Cluster.model_validate(changed({"services/api/volumes": [{"name": "d", "path": "/d", "owner": "1"}]}))
    assert alone.instances_of("api") == 1 and not alone.pauses("api")


def test_another_version_of_it_is_of_its_kind() -> None:
    other = cluster(route={"port": 6379}).with_version("redis", "8").services["redis"]
    assert (other.kind, other.gateway_port, other.version) == ("tcp", 6379, "8")
    assert says(cluster().with_version("redis", "8").model_dump(exclude_unset=True)) == []


@pytest.mark.parametrize(
    ("service", "complaint"),
    [
        ({"health": {"path": "/health"}}, "services.redis.health.path: nobody speaks HTTP to kind tcp; take it out"),
        ({"health": {"status": 204}}, "services.redis.health.status: kind tcp answers with no status; take it out"),
        ({"health": {"host": "x"}}, "services.redis.health.host: nobody speaks HTTP to kind tcp; take it out"),
        (
            {"route": {"port": 6379, "host": "redis.example.org"}},
            "services.redis.route.host: a connection of kind tcp names no host; take it out",
        ),
        (
            {"route": {"path_prefix": "/redis"}},
            "services.redis.route.path_prefix: a connection of kind tcp names no path; take it out",
        ),
        (
            {"route": {"port": 6379, "maintenance": {"active": True}}},
            "services.redis.route.maintenance: is for HTTP, of which kind tcp knows nothing; take it out",
        ),
        (
            {"route": {"port": 80}},
            "services.redis.route.port: 80 leads to api, and a gateway port of kind tcp is for one service; "
            "give each its own",
        ),
        (
            {"health": {"command": ["true"], "base_port": 7000, "container_port": 1}},
            "services.redis.health.command: is asked in the container; take health.base_port and "
            "health.container_port out",
        ),
        ({"kind": "udp"}, "services.redis.kind: "),
        ({"health": {"command": "redis-cli ping"}}, "services.redis.health.command: "),
        ({"route": {"port": 79}}, "services.redis.route.port: "),
    ],
)
def test_what_is_refused(service: dict[str, Any], complaint: str) -> None:
    found = says(raw(**service))
    assert found and all(one.startswith("services.redis") for one in found)
    assert any(one.startswith(complaint) for one in found), found


def test_a_command_is_for_kind_tcp() -> None:
    assert says(changed({"services/web/health": {"command": ["true"]}})) == [
        "services.web.health.command: is for kind tcp; of kind http the gateways ask health.path, and so does the host"
    ]
    assert says(raw(health={"command": ["redis-cli", "-p", "$PORT", "ping"]})) == []


def test_two_of_kind_tcp_with_one_gateway_port_are_told_once() -> None:
    other = REDIS | {"base_port": 6400, "route": {"port": 6379}}
    assert says(
        raw(route={"port": 6379}) | {"services": {**raw(route={"port": 6379})["services"], "second": other}}
    ) == [
        "services.second.route.port: 6379 leads to redis, and a gateway port of kind tcp is for one service; "
        "give each its own"
    ]


def test_a_gateway_port_is_served_by_app_hosts_and_others_run_it_for_themselves() -> None:
    db = {"address": "10.0.0.30", "groups": ["databases"]}
    service = {"services/redis": REDIS | {"groups": ["databases"]}, "hosts/db1": db}
    assert says(changed(service)) == []
    assert Cluster.model_validate(changed(service)).runs_on("redis") == ("db1",)
    service["services/redis"] = service["services/redis"] | {"route": {"port": 6379}}
    assert says(changed(service)) == [
        "services.redis.route.port: gateways learn of services from app hosts alone, and db1, which runs it, is none; "
        "add app_hosts to hosts.db1.groups, of which other services may be, or take the port out"
    ]


def test_a_port_of_a_gateway_and_one_of_a_host_are_told_as_ever() -> None:
    assert says(raw(route={"port": 8404})) == [
        "services.redis.route.port: port 8404 on gw1 is also taken by gateway.stats_port (port 8404); move one"
    ]
    assert "also taken by services.api.base_port" in says(raw(base_port=9000))[0]
