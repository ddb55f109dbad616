"""What stands before gateways, cookies, paths for balancers, HTTP/2 behind them: what is refused, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fiefdom.model import Cluster
from helpers.inventories import changed


def cluster(**changes: Any) -> Cluster:
    return Cluster.model_validate(changed(changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"gateway": {"proxy_protocol": ["192.0.2.9/32"]}},
            "gateway.proxy_protocol[0]: the firewall lets nobody from 192.0.2.9/32 in, only 10.0.0.0/24; add it to "
            "network.client_cidrs",
        ),
        (
            {"gateway": {"proxy_protocol": ["10.0.0.9/32", "10.0.0.16/28"]}},
            "gateway.proxy_protocol[1]: app1 is in 10.0.0.16/28 and begins no connection with a PROXY header, so that "
            "gateways would refuse it; name the balancers alone, such as 10.20.0.9/32",
        ),
        (
            {"gateway": {"proxies": ["192.0.2.9/32"]}},
            "gateway.proxies[0]: the firewall lets nobody from 192.0.2.9/32 in, only 10.0.0.0/24; add it to "
            "network.client_cidrs",
        ),
        (
            {"gateway": {"proxies": ["10.0.0.9/32", "10.0.0.16/28"]}},
            "gateway.proxies[1]: app1 is in 10.0.0.16/28 and is no proxy, so that any program there could say that it "
            "is another client; name the proxies alone, such as 10.20.0.9/32",
        ),
        ({"gateway": {"proxy_protocol": ["10.0.0.9/24"]}}, "has host bits set; did you mean 10.0.0.0/24?"),
        ({"gateway": {"buffer_kib": 8}}, "greater than or equal to 16"),
        (
            {"gateway": {"buffer_kib": 128}},
            "gateway.buffer_kib: 4000 connections may take 1000 MiB of buffers, and gateway.memory_mib is 512; raise "
            "that, or lower gateway.maxconn",
        ),
        (
            {"services/web/route": {"sticky_cookie": "S"}, "services/api/route": {"port": 81, "sticky_cookie": "S"}},
            "services.api.route.sticky_cookie: S is the cookie of web as well; give each service its own",
        ),
        *(
            (
                {"services/web/route": {"sticky_cookie": "S", "headers": {"request": {name: text}}}},
                "services.web.route.headers.request: Cookie is what sticky_cookie is read from, after this; take one "
                "of the two out",
            )
            for name in ("Cookie", "COOKIE")
            for text in (None, "x=1")
        ),
        ({"services/web/route": {"sticky_cookie": "a b"}}, "a cookie's name such as SHOP_ID"),
        ({"services/web/route": {"sticky_cookie": "$x"}}, "a cookie's name such as SHOP_ID"),
        (
            {
                "services/web/route": {"balancer_path": "/up"},
                "services/api/route": {"path_prefix": "/api", "balancer_path": "/up"},
            },
            "services.api.route.balancer_path: /up tells of web already at this port; give each service its own",
        ),
        ({"services/web/route": {"balancer_path": "/up?x"}}, "a path from /"),
        (
            {"services/web/h2c": True, "services/web/kind": "tcp", "services/web/route": {"port": 81}},
            "services.web.h2c: is for kind http, of which HTTP/2 is one; take it out, or the kind",
        ),
        (
            {"services/web/h2c": True, "services/web/route": {"max_body_kib": 5}},
            "services.web.route.max_body_kib: a call of gRPC tells no length, so that all would get 411; take it out",
        ),
        (
            {"services/web/kind": "tcp", "services/web/route": {"port": 81, "sticky_cookie": "S"}},
            "services.web.route.sticky_cookie: is for HTTP, of which kind tcp knows nothing; take it out",
        ),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as error:
        cluster(**changes)
    assert says in str(error.value)


def test_what_may_be() -> None:
    cluster(gateway={"buffer_kib": 64})
    cluster(gateway={"buffer_kib": 128, "maxconn": 2000})
    # HAProxy's own size of buffers was never bounded by this.
    cluster(gateway={"maxconn": 60000})
    cluster(**{"gateway": {"proxy_protocol": ["192.0.2.9/32"]}, "network/client_cidrs": ["192.0.2.0/24"]})
    cluster(**{"gateway": {"proxies": ["192.0.2.9/32"]}, "network/client_cidrs": ["192.0.2.0/24"]})
    # By a balancer, which passes on what others connect to it: the firewall sees it alone.
    cluster(gateway={"proxies": ["192.0.2.9/32"], "proxy_protocol": ["10.0.0.9/32"]})
    cluster(**{"services/web/route": {"headers": {"request": {"Cookie": None}}}})
    cluster(**{"services/web/route": {"sticky_cookie": "A"}, "services/api/route": {"port": 81, "sticky_cookie": "B"}})
    other_port = {"path_prefix": "/api", "port": 81, "balancer_path": "/up"}
    cluster(**{"services/web/route": {"balancer_path": "/up"}, "services/api/route": other_port})


def test_clients_behind_a_balancer_may_come_from_anywhere() -> None:
    """As those behind a proxy: of them the firewall knows nothing."""
    at = {"network/client_cidrs": ["192.0.2.0/24"], "services/web/route": {"allow_from": ["203.0.113.0/24"]}}
    cluster(**at, gateway={"proxy_protocol": ["192.0.2.9/32"]})
    with pytest.raises(ValidationError, match=r"the firewall lets nobody from 203\.0\.113\.0/24 in"):
        cluster(**at)
