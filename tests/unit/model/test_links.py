"""Links by value: where they lead, what they tell, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from fiefdom.inventory.complaint import mistakes_of
from fiefdom.inventory.source import written
from fiefdom.model import Cluster
from fiefdom.model import links as model_links
from fiefdom.model.links import Way, way
from helpers.inventories import changed

REDIS: dict[str, Any] = {
    "kind": "tcp",
    "image": "redis",
    "version": "7",
    "base_port": 6379,
    "container_port": 6379,
    "groups": ["large"],
}
LINKED = {"services/web/links": ["redis"]}


def raw(changes: dict[str, Any] | None = None, **redis: Any) -> dict[str, Any]:
    """An inventory in which `web` of app1 and app2 links to a redis on app2."""
    return changed({"services/redis": REDIS | redis} | LINKED | (changes or {}))


def cluster(changes: dict[str, Any] | None = None, **redis: Any) -> Cluster:
    return Cluster.model_validate(raw(changes, **redis))


def says(inventory: dict[str, Any]) -> list[str]:
    """What is wrong with an inventory, key and sentence."""
    try:
        Cluster.model_validate(inventory)
    except ValueError as error:
        return [str(m).removeprefix("x.py: ") for m in mistakes_of(error, written(inventory, "x.py"))]  # type: ignore[arg-type]
    return []


def test_what_has_one_instance_is_reached_there_whatever_gateways_have() -> None:
    assert way(cluster(), "redis") == Way("10.0.0.22", 6379)
    assert way(cluster(route={"port": 6380}), "redis") == Way("10.0.0.22", 6379)
    http = {"services/web/links": ["api"], "services/api/route": {"host": "api.example.org"}}
    assert way(cluster(http), "api") == Way("10.0.0.22", 9000)


def test_what_has_more_is_reached_at_the_gateway() -> None:
    assert way(cluster(instances=2, route={"port": 6380}), "redis") == Way("10.0.0.11", 6380)
    assert way(cluster(groups=["app_hosts"], route={"port": 6380}), "redis") == Way("10.0.0.11", 6380)
    assert way(cluster({"services/api/instances": 2}), "api") == Way("10.0.0.11", 80)


ALLOWED = {"services/web/links": ["api"], "services/api/instances": 2, "network/client_cidrs": ["192.0.2.0/24"]}
"""`web` of app1 and app2 links to an api that is reached through the gateway."""


def test_who_links_through_the_gateway_is_among_those_that_a_service_lets_in() -> None:
    """And may be, for the firewall lets hosts of who links in as it does clients."""
    own = ["192.0.2.7/32", "10.0.0.21/32", "10.0.0.22/32"]
    assert says(changed(ALLOWED | {"services/api/route/allow_from": own})) == []
    assert says(changed(ALLOWED | {"services/api/route/allow_from": own[:2]})) == [
        "services.web.links[0]: api is reached through the gateway, which refuses web on app2; add 10.0.0.22/32 to "
        "services.api.route.allow_from"
    ]
    (found,) = says(changed(ALLOWED | {"services/api/route/allow_from": own, "services/web/links": []}))[:1]
    assert "the firewall lets nobody from 10.0.0.21/32 in, only 192.0.2.0/24" in found
    alone = {"services/api/instances": 1, "services/api/route/allow_from": ["192.0.2.7/32"]}
    assert says(changed(ALLOWED | alone)) == []


def test_who_links_on_the_gateway_itself_comes_from_its_containers_addresses() -> None:
    here = {"services/web/groups": ["app_hosts", "gateways"]}
    own = ["10.0.0.0/24"]
    assert says(changed(ALLOWED | here | {"services/api/route/allow_from": own})) == [
        "services.web.links[0]: api is reached through the gateway, which refuses web on gw1; add 172.31.255.0/24 to "
        "services.api.route.allow_from"
    ]
    assert says(changed(ALLOWED | here | {"services/api/route/allow_from": [*own, "172.31.255.0/24"]})) == []


@pytest.mark.parametrize("gateway", [{"redirect": True}, {"port": 80, "plain_port": 8080}])
def test_what_gateways_have_over_tls_alone_is_no_way(gateway: dict[str, Any]) -> None:
    tls = {"certificates": {"main": {"chain": "a.pem", "key": "a.key"}}, **gateway}
    found = says(raw({"services/web/links": ["api"], "services/api/instances": 2, "gateway": {"tls": tls}}))
    assert "services.web.links[0]: api has 2 instances, and gateways have it over TLS alone" in found[0]


def test_a_link_tells_its_host_and_port_in_upper_case() -> None:
    made = cluster(
        {"services/web/links": ["redis", "search-engine"], "services/search-engine": REDIS | {"base_port": 9200}}
    )
    assert model_links.environment(made, "web") == {
        "REDIS_HOST": "10.0.0.22",
        "REDIS_PORT": "6379",
        "SEARCH_ENGINE_HOST": "10.0.0.22",
        "SEARCH_ENGINE_PORT": "9200",
    }
    assert model_links.environment(made, "redis") == {}


def test_hosts_of_who_links_are_those_that_run_it() -> None:
    made = cluster()
    assert model_links.linking_hosts(made, "redis") == ("app1", "app2")
    assert model_links.linking_hosts(made, "web") == ()
    assert [i.container for i in model_links.linked_to(made, "app2")] == ["redis-6379"]
    assert (model_links.ports_within(made, "app2"), model_links.ports_within(made, "app1")) == ((6379,), ())
    assert [i.unit for i in model_links.beside(made, "app2", "web")] == ["fiefdom-redis@6379.service"]
    assert model_links.beside(made, "app1", "web") == ()
    none_here = cluster({"hosts/app2/services": {"web": {"instances": 0}}})
    assert model_links.linking_hosts(none_here, "redis") == ("app1",)
    assert model_links.ports_within(none_here, "app2") == ()


@pytest.mark.parametrize(
    ("inventory", "complaint"),
    [
        (
            raw({"services/web/links": ["rdis"]}),
            "services.web.links[0]: no such service as rdis; known are api, redis, web",
        ),
        (
            raw({"services/web/links": ["pg"], "development": {"services": {"pg": {"image": "pg:1", "port": 1}}}}),
            "services.web.links[0]: pg is on laptops alone, in development.services; link to it in "
            "development.overrides.SERVICE.links, or make it a service",
        ),
        (
            raw(instances=0),
            "services.web.links[0]: redis runs nowhere; let it name a group that has hosts, and instances above 0",
        ),
        (
            raw(instances=2),
            "services.web.links[0]: redis has 2 instances and no gateway port, so that none of its addresses stands "
            "for all; give it route.port, or one instance on one host",
        ),
        (
            raw({"services/web/links": ["api"], "services/api/instances": 3, "services/api/route": {"host": "a.b"}}),
            "services.web.links[0]: api has 3 instances, and gateways know it by the host name a.b alone; give it a "
            "route.port of its own in place of route.host",
        ),
        (
            raw(
                {"hosts/gw2": {"address": "10.0.0.12", "groups": ["gateways"]}},
                groups=["app_hosts"],
                route={"port": 81},
            ),
            "services.web.links[0]: redis has 2 instances behind 2 gateways (gw1, gw2), and no address is that of all; "
            "give them one (gateway.address), or let `environment` say REDIS_HOST and REDIS_PORT in place of the link",
        ),
        (
            raw({"services/web/links": ["redis", "redis"]}),
            "services.web.links: redis stands there twice; once is enough",
        ),
        (
            raw({"services/web/environment": {"REDIS_PORT": "1"}}),
            "services.web.environment.REDIS_PORT: the link to redis in services.web.links says it already; take one of "
            "the two out",
        ),
        (
            raw({"hosts/app1/services": {"web": {"environment": {"REDIS_HOST": "x"}}}}),
            "hosts.app1.services.web.environment.REDIS_HOST: the link to redis in services.web.links says it already; "
            "take one of the two out",
        ),
        (
            raw({"services/web/links": ["web"]}),
            "services.web.links: web -> web is a circle, in which none could start after the others; take a link out",
        ),
        (
            raw({"services/api/links": ["web"]}, links=["api"]),
            "services.web.links: web -> redis -> api -> web is a circle, in which none could start after the others; "
            "take a link out",
        ),
        (
            changed({"services/fiefdom": REDIS, "services/web/links": ["fiefdom"]}),
            "services.web.links[0]: fiefdom would be told in variables that begin with FIEFDOM, which are Fiefdom's "
            "own; rename it",
        ),
        (
            raw({"development": {"overrides": {"redis": {"instances": 0}}}}),
            "development.overrides.redis.instances: web links to redis, of which a laptop has none with this; give it "
            "one, or development.overrides.web.environment say REDIS_HOST and REDIS_PORT",
        ),
    ],
)
def test_what_is_refused(inventory: dict[str, Any], complaint: str) -> None:
    found = says(inventory)
    assert complaint in found, found
    assert len([one for one in found if "link" in one]) == 1, found


def test_what_is_not() -> None:
    assert says(raw({"services/api/links": ["web"], "services/web/environment": {"OTHER_HOST": "x"}})) == []
    away = {"redis": {"instances": 0}, "web": {"environment": {"REDIS_HOST": "db", "REDIS_PORT": "1"}}}
    assert says(raw({"development": {"overrides": away}})) == []
    assert says(raw({"development": {"overrides": {"redis": {"instances": 0}, "web": {"instances": 0}}}})) == []


def test_a_service_that_runs_nowhere_may_link_to_what_runs_nowhere() -> None:
    """As an inventory does that has them for later."""
    off = {"services/cache": REDIS | {"instances": 0, "links": ["redis"], "base_port": 7000}, "services/web/links": []}
    assert says(raw(off, instances=0)) == []
