"""What haproxy.cfg says of balancers and proxies before a gateway, of cookies, and of HTTP/2 behind it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fiefdom.desired import compose, gateway, services
from helpers.example import context


def config(**changes: Any) -> str:
    return gateway.desired(context("gw1", **changes)).file(gateway.HAPROXY_CONFIG).content.decode()


def section(name: str, **changes: Any) -> list[str]:
    """The lines of a section, such as `frontend port-80`."""
    found = re.search(rf"^{name}\n(.*?)(\n\n|\Z)", config(**changes), re.MULTILINE | re.DOTALL)
    assert found
    return [line.strip() for line in found[1].splitlines()]


def frontend(**changes: Any) -> list[str]:
    return section("frontend port-80", **changes)


def backend(name: str, **changes: Any) -> list[str]:
    return section(f"backend {name}", **changes)


EARLY, LATE = "tcp-request connection ", "tcp-request session "
LIMITS = {"connections": 50, "requests_per_s": 10, "exempt_cidrs": ["10.5.0.0/16"]}


# --- PROXY protocol


def test_a_balancers_header_is_taken_from_it_alone_and_before_anybody_is_counted() -> None:
    own = {"proxy_protocol": ["10.2.0.9/32"], "source_limits": LIMITS}
    lines = frontend(gateway=own)
    at = lines.index(f"{EARLY}expect-proxy layer4 if by-balancer")
    assert lines[at - 1] == "acl by-balancer src 10.2.0.9/32"
    counted = [line for line in lines if "sc0" in line]
    assert counted[:2] == [
        f"{LATE}track-sc0 src table fiefdom-sources unless exempt",
        f"{LATE}reject if {{ sc0_conn_cur gt 50 }}",
    ]
    assert lines.index(counted[0]) > at
    # Without one, as early as can be.
    assert next(line for line in frontend(gateway={"source_limits": LIMITS}) if "sc0" in line).startswith(EARLY)


def test_connections_of_kind_tcp_come_by_it_as_well() -> None:
    redis = {"image": "redis", "version": "7", "kind": "tcp", "base_port": 6379, "route": {"port": 6379}}
    own = {"proxy_protocol": ["10.2.0.9/32"], "source_limits": LIMITS}
    lines = section("frontend port-6379", gateway=own, services={"redis": redis})
    assert lines == [
        "bind :6379",
        "# Its header comes before all else, and says where the client is from then on.",
        "acl by-balancer src 10.2.0.9/32",
        f"{EARLY}expect-proxy layer4 if by-balancer",
        "acl exempt src 10.5.0.0/16",
        f"{LATE}track-sc0 src table fiefdom-sources unless exempt",
        f"{LATE}reject if {{ sc0_conn_cur gt 50 }}",
        "default_backend redis",
    ]


# --- Proxies


def test_what_all_but_proxies_say_of_themselves_is_replaced() -> None:
    lines = frontend(gateway={"proxies": ["10.2.0.0/16"]})
    at = lines.index("acl by-proxy src 10.2.0.0/16")
    assert [line for line in lines[at + 1 : at + 8] if not line.startswith("#")] == [
        "http-request del-header X-Forwarded- -m beg unless by-proxy",
        "http-request del-header Forwarded unless by-proxy",
        "http-request add-header Forwarded for=%[src];proto=http if { req.hdr(Forwarded) -m found }",
        "http-request set-header X-Forwarded-Proto http unless by-proxy { req.hdr(X-Forwarded-Proto) -m found }",
        "http-request set-header X-Forwarded-Port 80 unless by-proxy { req.hdr(X-Forwarded-Port) -m found }",
    ]


def test_where_a_client_is_that_came_by_several_proxies() -> None:
    route = {"predictor": {"route": {"allow_from": ["10.9.0.0/16"]}}}
    lines = [line for line in frontend(gateway={"proxies": ["10.2.0.0/16"]}, services=route) if "txn.client" in line]
    assert lines[:3] == [
        "acl told-by-proxy var(txn.client) -m ip 10.2.0.0/16",
        "http-request set-var(txn.client) src",
        "http-request set-var(txn.client) req.hdr_ip(X-Forwarded-For,-1) if told-by-proxy address-1",
    ]
    assert len(lines) == 7
    assert "txn.client" not in config(gateway={"proxies": ["10.2.0.0/16"]}), "nobody asks for it"
    assert "txn.client" not in config(services=route), "a client is where it comes from"


def test_what_is_no_address_is_not_stepped_over() -> None:
    """What stands before it a client may have written itself."""
    route = {"predictor": {"route": {"allow_from": ["10.9.0.0/16"]}}}
    lines = frontend(gateway={"proxies": ["10.2.0.0/16"]}, services=route)
    for back in range(1, 6):
        assert f"acl address-{back} req.hdr_ip(X-Forwarded-For,-{back}) -m found" in lines
        nearer = " ".join(f"address-{i}" for i in range(1, back + 1))
        step = f"http-request set-var(txn.client) req.hdr_ip(X-Forwarded-For,-{back}) if told-by-proxy {nearer}"
        assert step in lines


def test_the_access_log_tells_the_client_that_allow_from_is_about() -> None:
    behind: dict[str, Any] = {"gateway": {"proxies": ["10.2.0.0/16"], "access_log": True}}
    lines = frontend(**behind)
    (line,) = [line for line in lines if line.startswith("log-format ")]
    assert " %(client)[var(txn.client)] " in line
    # Of what was no request HAProxy runs no rules, and the variable is empty.
    assert f"error-{line.replace('[var(txn.client)]', 'ci')}" in lines
    # Before the first rule that may end a request.
    ends = re.compile("http-request (return|deny|redirect|allow)")
    known = max(n for n, line in enumerate(lines) if "set-var(txn.client)" in line)
    assert known < min(n for n, line in enumerate(lines) if ends.match(line))
    alone = frontend(gateway={"access_log": True})
    assert any(" %(client)ci " in line for line in alone) and not any("error-log-format" in line for line in alone)


# A word is what HAProxy takes for one: quoted, it may hold blanks.
def words(line: str) -> int:
    return len(re.findall(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", line.partition("  # ")[0]))


def test_no_line_has_more_words_than_haproxy_takes() -> None:
    many = [f"10.{i}.0.0/16" for i in range(2, 200)]
    names = [f"www{i}.example.org" for i in range(200)]
    texts = {f"X-Header-{i}": "a b" for i in range(200)}
    route = {
        **{"allow_from": many, "host": names, "redirect_from": [f"{name}.uk" for name in names]},
        **{"balancer_path": "/up", "headers": {"request": texts, "response": texts}, "sticky_cookie": "ID"},
    }
    redis = {"image": "redis", "version": "7", "kind": "tcp", "base_port": 6379, "route": {"port": 6379}}
    own = {
        **{"proxies": many, "proxy_protocol": [f"10.200.0.{i}/32" for i in range(200)], "access_log": True},
        "source_limits": {"connections": 5, "requests_per_s": 5, "exempt_cidrs": many},
    }
    health = {"status": [str(status) for status in range(200, 400)]}
    text = config(
        gateway=own,
        services={"predictor": {"route": route, "health": health}, "redis": redis},
        network={"client_cidrs": ["10.0.0.0/8"]},
    )
    lines = [line for line in text.splitlines() if not line.strip().startswith("#")]
    assert max(map(words, lines)) <= 64
    counted = [line for line in lines if line.startswith("    acl exempt ")]
    assert sum(words(line) - 3 for line in counted) == 3 * len(many), "of each of the three ports, and none is lost"


# --- A path for a balancer, and buffers


def test_a_balancer_is_told_of_servers_before_anything_else_is_asked() -> None:
    own = {"predictor": {"route": {"balancer_path": "/up"}}}
    lines = frontend(services=own, gateway={"source_limits": LIMITS})
    assert [line for line in lines if line.startswith("http-request")][:3] == [
        'http-request return status 200 content-type text/plain string "served\\n" if { path /up } '
        "{ nbsrv(predictor) gt 0 }",
        'http-request return status 200 content-type text/plain string "in maintenance\\n" if { path /up } '
        f"{{ str(predictor) -m str -f opt@{gateway.CLOSED} }}",
        'http-request return status 503 content-type text/plain string "not served\\n" if { path /up }',
    ]
    assert "/up" not in "".join(section("frontend port-8080", services=own))


def test_a_balancer_is_told_that_a_page_is_served() -> None:
    own = {"predictor": {"route": {"balancer_path": "/up", "maintenance": {"active": True}}}}
    assert (
        'http-request return status 200 content-type text/plain string "in maintenance\\n" if { path /up } TRUE'
        in frontend(services=own)
    )


def test_buffers_are_haproxys_own_unless_asked_for() -> None:
    assert "tune.bufsize" not in config()
    assert "    tune.bufsize 32768\n" in config(gateway={"buffer_kib": 32})


# --- Cookies


def test_a_cookie_leads_back_and_is_the_same_at_each_gateway() -> None:
    own = {"web": {"route": {"sticky_cookie": "WEB"}}}
    found = [
        gateway.desired(context(name, services=own)).file(gateway.HAPROXY_CONFIG).content.decode()
        for name in ("gw1", "gw2")
    ]
    cookies = [re.findall(r"^    (?:cookie|dynamic-cookie-key) .*$", text, re.MULTILINE) for text in found]
    assert cookies[0] == cookies[1]
    assert cookies[0][0] == "    cookie WEB insert indirect nocache httponly dynamic"
    assert re.fullmatch(r"    dynamic-cookie-key [0-9a-f]{16}", cookies[0][1])
    keys = {line for name in ("web", "predictor") for line in _keys({name: {"route": {"sticky_cookie": "A"}}})}
    assert len(keys) == 2, "the cookie of one service tells nothing of another's servers"


def _keys(own: dict[str, Any]) -> list[str]:
    return re.findall("dynamic-cookie-key .*", config(services=own))


# --- HTTP/2 in clear text

CALLS = {"predictor": {"h2c": True}}


@pytest.mark.parametrize(
    ("health", "options", "probe"),
    [
        ({}, " proto h2 check-proto h2", "h2c://10.1.0.21:8000/health"),
        ({"base_port": 8500, "container_port": 9000}, " proto h2 check-proto h1", "http://10.1.0.21:8500/health"),
    ],
)
def test_servers_are_spoken_to_and_checked_in_http_2(health: dict[str, Any], options: str, probe: str) -> None:
    own = {"predictor": {"h2c": True, "health": health}}
    at = context("app1", services=own)
    plain = gateway.server_options(context("app1").cluster.services["predictor"])
    assert gateway.server_options(at.cluster.services["predictor"]) == plain + options
    assert services.desired(at).containers[0].probe == probe


def test_clients_may_begin_with_http_2_where_a_service_speaks_it_and_nowhere_else() -> None:
    lines = frontend(services=CALLS)
    assert "no option disable-h2-upgrade" in lines
    assert any(line.endswith("|| HTTP_2.0 { req.hdr_cnt(host) 1 }") for line in lines)
    other = section("frontend port-8080", services=CALLS)
    assert "no option disable-h2-upgrade" not in other and not any("HTTP_2.0" in line for line in other)


def test_a_call_that_is_answered_before_it_ends_is_not_waited_for_and_its_neighbours_are() -> None:
    beside = {**CALLS, "web": {"route": {"port": 80, "host": "www.example.org"}}}
    waits = "http-request wait-for-body time 10000ms at-least 8192"
    assert waits not in frontend(services=beside)
    assert waits in backend("web", services=beside)
    own = backend("predictor", services=beside)
    assert waits not in own
    assert "http-request set-var(txn.body) int(1) unless { method GET HEAD OPTIONS }" in own
    # At a port of its own the other one is as ever.
    assert waits in section("frontend port-8080", services=CALLS) and waits not in backend("web", services=CALLS)


def test_on_a_laptop_its_port_is_open_or_not_for_the_check_there_speaks_http_1() -> None:
    for own, path in (({}, "/health"), (CALLS, None)):
        composed = compose.compose(context("app1", services=own).cluster, ["predictor"])
        assert {container.check.path for container in composed.containers} == {path}
