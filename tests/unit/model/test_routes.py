"""What a route may say beyond its port, host and prefix: what is refused, and what follows for times."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fiefdom.model import Cluster
from helpers.inventories import changed


def cluster(route: dict[str, Any], **changes: Any) -> Cluster:
    return Cluster.model_validate(changed({"services/web/route": route, **changes}))


@pytest.mark.parametrize(
    ("route", "changes", "says"),
    [
        (
            {"strip_prefix": True},
            {"gateway": {"dot_segments": "refuse"}},
            "services.web.route.strip_prefix: there is no path_prefix to be taken off; set one, or take this out",
        ),
        ({"strip_prefix": True, "path_prefix": "/"}, {}, "there is no path_prefix to be taken off"),
        (
            {"strip_prefix": True, "path_prefix": "/web"},
            {},
            "services.web.route.strip_prefix: a path such as /a/../b would lead out of the prefix; set "
            "gateway.dot_segments: refuse",
        ),
        (
            {"allow_from": ["10.0.0.0/25", "192.0.2.0/24"]},
            {},
            "services.web.route.allow_from[1]: the firewall lets nobody from 192.0.2.0/24 in, only 10.0.0.0/24; mend "
            "one of the two",
        ),
        ({"allow_from": ["10.0.0.1/24"]}, {}, "has host bits set; did you mean 10.0.0.0/24?"),
        (
            {"redirect_from": "example.org"},
            {},
            "services.web.route.redirect_from: leads to the first `host`, which is none or a wildcard; write one there",
        ),
        ({"redirect_from": "example.org", "host": "*.example.org"}, {}, "which is none or a wildcard"),
        (
            {"redirect_from": "example.org", "host": ["www.example.org", "example.org"]},
            {},
            "services.web.route.host: a host name stands there twice; once is enough",
        ),
        (
            {"redirect_from": "example.org", "host": "www.example.org"},
            {"services/api/route": {"host": "example.org"}},
            "services.api.route: api is reached the same way as web",
        ),
        (
            {"headers": {"request": {"Content-Length": "0"}}},
            {},
            "'Content-Length' is the gateway's to say; leave it out",
        ),
        ({"headers": {"response": {"X-Forwarded-For": None}}}, {}, "'X-Forwarded-For' is the gateway's to say"),
        ({"headers": {"request": {"X-Forwarded-Proto": "https"}}}, {}, "'X-Forwarded-Proto' is the gateway's to say"),
        (
            {"headers": {"request": {"X-forwarded-prefix": "/a"}}, "path_prefix": "/b", "strip_prefix": True},
            {"gateway": {"dot_segments": "refuse"}},
            "services.web.route.headers.request: with strip_prefix X-Forwarded-Prefix is the gateway's to say",
        ),
        ({"headers": {"response": {"X-A": "b  c"}}}, {}, "has two blanks in a row, of which HAProxy would send one"),
        ({"headers": {"response": {"X A": "b"}}}, {}, "a header's name such as X-Frame-Options"),
        ({"headers": {"response": {"X-A": "b\nX-B: c"}}}, {}, "one line of plain text, not empty"),
        ({"headers": {"response": {"X-A": ""}}}, {}, "one line of plain text, not empty"),
        ({"max_body_kib": 0}, {}, "greater than or equal to 1"),
        ({"server_timeout_s": 0}, {}, "greater than or equal to 0.001"),
        ({"tunnel_timeout_s": float("inf")}, {}, "finite"),
        ({}, {"gateway": {"dot_segments": "normalise"}}, "'pass' or 'refuse'"),
    ],
)
def test_what_cannot_be(route: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as error:
        cluster(route, **changes)
    assert says in str(error.value)


def test_what_the_gateway_does_not_say_itself_may_be_set() -> None:
    cluster({"headers": {"request": {"X-Forwarded-Host": "www.example.org", "X-Forwarded-Prefix": None}}})


def test_clients_behind_a_proxy_may_come_from_anywhere() -> None:
    cluster({"allow_from": ["192.0.2.0/24"]}, gateway={"proxies": ["10.0.0.9/32"]})
    cluster({"allow_from": ["192.0.2.0/24"]}, **{"network/client_cidrs": ["192.0.2.128/25"]})
    cluster({"strip_prefix": True, "path_prefix": "/web"}, gateway={"dot_segments": "refuse"})


@pytest.mark.parametrize(
    ("own", "gateway", "drain", "grace"),
    [
        (None, {}, 60, 60),
        (300.0, {}, 300, 300),
        (7200.0, {}, 3600, 3600),
        (5.0, {"server_timeout_s": 120.0}, 60, 120),
        (300.0, {"stop_grace_s": 90}, 300, 90),
    ],
)
def test_who_may_take_longer_is_waited_for_longer(own: float | None, gateway: Any, drain: int, grace: int) -> None:
    found = cluster({"server_timeout_s": own} if own else {}, gateway=gateway)
    assert (found.drain_timeout_s("web"), found.gateway_grace_s) == (drain, grace)
    set_for_all = cluster({"server_timeout_s": own} if own else {}, gateway=gateway, serf={"drain_timeout_s": 20})
    assert set_for_all.drain_timeout_s("web") == 20


LABEL = "a" * 63


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"{LABEL}a",
            f"www.{LABEL}a.org",
            ".".join([LABEL] * 4),
            "a" * 300,
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "a.-b",
            "a-.b",
        ),
        *("a_b", "a b", "", "a/b", "10.0.0.300", "10.1", "10", "1.2.3.4.5", "0.0.0.0"),
    ],
)
def test_a_name_that_cannot_be_is_refused_wherever_a_name_stands(name: str) -> None:
    for keys in (
        {"services/web/route": {"host": name}},
        {"services/web/route": {"host": ["www.example.org", name]}},
        {"services/web/route": {"host": f"*.{name}"}},
        {"services/web/route": {"host": "www.example.org", "redirect_from": name}},
        {"services/web/health": {"host": name}},
        {"services/web/health": {"host": f"{name}:80"}},
        {"services/web/extra_hosts": {name: "10.0.0.9"}},
        {"time_servers": [name]},
    ):
        with pytest.raises(ValidationError, match=r"it must be a host name or address|is no IPv4 address"):
            Cluster.model_validate(changed(keys))


@pytest.mark.parametrize(
    "name", ["a", "A-1.b", f"{LABEL}.org", ".".join([LABEL] * 3 + ["a" * 61]), "0.pool.ntp.org", "10.0.0.3"]
)
def test_a_name_that_may_be(name: str) -> None:
    Cluster.model_validate(changed({"services/web/route": {"host": name}, "time_servers": [name]}))
    Cluster.model_validate(changed({"services/web/health": {"host": f"{name}:80"}}))


@pytest.mark.parametrize("name", ["-x", "--help", ".", "..", "", "a b", "a" * 16])
def test_an_interface_is_no_option(name: str) -> None:
    with pytest.raises(ValidationError, match="it must be an interface name such as eth0"):
        Cluster.model_validate(changed({"hosts/app1/static": {"interface": name}}))
