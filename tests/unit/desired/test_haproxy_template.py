"""HAProxy's static part against an expected file, and the order of its routes."""

import re
from pathlib import Path

import pytest

from fiefdom.cluster.access import FIELDS
from fiefdom.desired.render import render
from helpers.haproxy_variables import LIMITS

EXPECTED = Path(__file__).parent / "data" / "haproxy.cfg"

PLAIN = {
    "stats_bind": "10.99.0.11:8404",
    "listeners": [{"port": 80, "routes": [], "default_backend": "predictor"}],
    "backends": [{"name": "predictor", "health_path": "/health", "health_timeout_s": 2.0}],
    **LIMITS,
}


def route(backend: str, host: str | None = None, path_prefix: str | None = None) -> dict[str, str | None]:
    return {"backend": backend, "host": host, "path_prefix": path_prefix}


RICH = {
    **PLAIN,
    "listeners": [
        {
            "port": 80,
            "routes": [
                route("predictor", path_prefix="/foo"),
                route("echo", path_prefix="/foo/bar/"),
                route("echo", host="echo.example.com"),
                route("predictor", host="echo.example.com", path_prefix="/x"),
            ],
            "default_backend": None,
        },
        {"port": 8080, "routes": [], "default_backend": "echo"},
    ],
    "backends": [{"name": "predictor", "health_path": "/health"}, {"name": "echo", "health_path": "/up?deep=1"}],
    "balance": "random",
    "connect_timeout_s": 0.5,
    "nbthread": 2,
}


def haproxy_cfg(variables: dict[str, object]) -> str:
    return render("haproxy.cfg.j2", **variables)


def test_the_expected_file():
    assert haproxy_cfg(RICH) == EXPECTED.read_text()


def rules(text: str, port: int) -> list[str]:
    frontend = re.search(rf"^frontend port-{port}\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"(?:use|default)_backend .*", frontend[1])


def test_a_single_service_is_the_default():
    text = haproxy_cfg(PLAIN)
    assert rules(text, 80) == ["default_backend predictor"]
    assert "unrouted" not in text


def test_hosts_come_before_paths_and_longer_prefixes_before_shorter():
    assert rules(haproxy_cfg(RICH), 80) == [
        "use_backend predictor if host-1 path-1",
        "use_backend echo if host-2",
        "use_backend echo if path-3",
        "use_backend predictor if path-4",
        "default_backend fiefdom-unrouted",
    ]


def test_a_prefix_ends_at_a_slash():
    assert re.findall(r"acl path-4 (.*)", haproxy_cfg(RICH)) == ["path /foo", "path_beg /foo/"]


def test_a_route_of_everything_comes_last_and_needs_no_condition():
    routes = [route("echo"), route("predictor", path_prefix="/"), route("predictor", path_prefix="/foo")]
    listeners = [{"port": 80, "routes": routes, "default_backend": None}]
    assert rules(haproxy_cfg({**PLAIN, "listeners": listeners}), 80) == [
        "use_backend predictor if path-1",
        "use_backend predictor",
        "use_backend echo",
        "default_backend fiefdom-unrouted",
    ]


def test_a_backend_says_what_a_good_answer_is_where_it_is_no_default():
    own = {"name": "predictor", "health_path": "/ready", "health_host": "x.org", "health_status": "204,300-399"}
    lines = [line.strip() for line in haproxy_cfg({**PLAIN, "backends": [own]}).splitlines()]
    send = lines.index("http-check send meth GET uri /ready ver HTTP/1.1 hdr Host x.org")
    assert lines[send + 1] == "http-check expect status 204,300-399"
    assert "http-check expect" not in haproxy_cfg(RICH)


def test_each_backend_has_the_line_that_the_reconciler_fills():
    lines = haproxy_cfg(RICH).splitlines()
    assert [line for line in lines if "fiefdom:servers" in line] == [
        "    # fiefdom:servers predictor",
        "    # fiefdom:servers echo",
    ]


@pytest.mark.parametrize("line", ["user ", "group ", "chroot ", "daemon", "unique-id", "log "])
def test_lines_that_have_no_place_in_the_container(line):
    assert not [found for found in haproxy_cfg(RICH).splitlines() if found.strip().startswith(line)]


# --- What was sent


@pytest.mark.parametrize("name", ["predictor", "echo"])
def test_every_backend_counts_what_was_lost(name: str):
    backend = re.search(rf"^backend {name}\n(.*?)\n\n", haproxy_cfg(RICH), re.MULTILINE | re.DOTALL)[1]
    rules = [line.strip() for line in backend.splitlines() if " tcp-response content " in line]
    assert [rule.split()[2] for rule in rules] == ["accept", "accept", "lua.give-up", "set-var(txn.lost)"]
    assert "bc_err_name" in rules[1], "what nobody read is not counted"


def test_the_rules_wait_longer_than_an_instance_may_take():
    text = haproxy_cfg({**PLAIN, "server_timeout_s": 2.5})
    assert "    tcp-response inspect-delay 3500ms\n" in text
    assert " lua.give-up 2500 if " in text


def test_statuses_that_are_tried_again_are_those_that_are_counted():
    text = haproxy_cfg(PLAIN)
    assert re.findall(r"\b5\d\d\b", re.search(r"retry-on .*", text)[0]) == ["502", "503", "504"]
    assert "accept if { status 101 200:501 505:999 }" in text


def test_actions_of_lua_are_those_that_are_called():
    called = set(re.findall(r"\blua\.([a-z-]+)", haproxy_cfg(PLAIN)))
    assert called == set(re.findall(r'register_action\("([a-z-]+)"', render("giveup.lua.j2")))


# --- Limits


def test_every_phase_of_a_request_has_a_timeout():
    found = set(re.findall(r"^    timeout (\S+) \d+", haproxy_cfg(PLAIN), re.MULTILINE))
    phases = {"connect", "queue", "client", "client-fin", "server", "server-fin", "tunnel", "check"}
    assert found == phases | {"http-request", "http-keep-alive"}


def test_a_client_gets_as_long_for_its_body_as_for_its_headers():
    text = haproxy_cfg({**PLAIN, "request_timeout_s": 2.5})
    assert "    timeout http-request 2500ms\n" in text
    assert "    http-request wait-for-body time 2500ms at-least 8192\n" in text


@pytest.mark.parametrize(
    ("given", "names", "words"),
    [
        ({}, ("X-Forwarded-For", "Forwarded"), ""),
        ({"proxies": ("10.2.0.0/16", "10.3.0.1/32")}, ("X-Forwarded- -m beg", "Forwarded"), " unless by-proxy"),
        ({"proxy_protocol": ("10.2.0.9/32",)}, ("X-Forwarded- -m beg", "Forwarded"), ""),
    ],
)
def test_what_a_client_says_of_where_it_comes_from_is_dropped(given, names, words):
    lines = [line.strip() for line in haproxy_cfg({**PLAIN, **given}).splitlines()]
    dropped = [line for line in lines if "del-header" in line]
    assert dropped == [f"http-request del-header {name}{words}" for name in names]
    acls = [line for line in lines if line.startswith("acl by-proxy ")]
    assert acls == (["acl by-proxy src 10.2.0.0/16 10.3.0.1/32"] if "proxies" in given else [])
    said = [line.split()[2] for line in lines if line.startswith("http-request set-header X-Forwarded-")]
    assert said == (["X-Forwarded-Proto", "X-Forwarded-Port"] if given else []), "as before where nothing is in front"
    # Before what ends the rules for most requests.
    assert lines.index(dropped[1]) < lines.index("http-request allow if { method GET HEAD OPTIONS }")


def but_statistics(text: str) -> str:
    """Without the statistics' frontend, which has limits of its own."""
    return re.sub("^frontend stats\n.*?\n\n", "", text, flags=re.MULTILINE | re.DOTALL)


def limited(**limits: object) -> list[str]:
    given = {"requests_per_s": None, "connections": None, "exempt_cidrs": (), **limits}
    text = but_statistics(haproxy_cfg({**RICH, "source_limits": given}))
    return [line.strip() for line in text.splitlines() if re.search("sc0|fiefdom-sources|stick-table|exempt", line)]


def test_nothing_is_counted_without_limits():
    for text in (haproxy_cfg(PLAIN), haproxy_cfg({**PLAIN, "source_limits": None})):
        assert not re.search("sc0|stick-table|fiefdom-sources|429", but_statistics(text))


TRACK = "tcp-request connection track-sc0 src table fiefdom-sources"
TABLE = ["backend fiefdom-sources", "stick-table type ip size 100k expire 60s store conn_cur,http_req_rate(10s)"]
DENY = "http-request deny deny_status 429 hdr Retry-After 10 if { sc0_http_req_rate gt 500 }"
REJECT = "tcp-request connection reject if { sc0_conn_cur gt 20 }"


def test_all_listeners_count_in_one_table():
    assert limited(requests_per_s=50) == [TRACK, DENY, TRACK, DENY, *TABLE]
    assert limited(connections=20) == [TRACK, REJECT, TRACK, REJECT, *TABLE]
    assert limited(connections=20, requests_per_s=50, exempt_cidrs=("10.0.0.0/8", "10.9.0.1/32"))[:4] == [
        "acl exempt src 10.0.0.0/8 10.9.0.1/32",
        f"{TRACK} unless exempt",
        REJECT,
        DENY,
    ]


def test_what_is_denied_is_denied_at_every_listener():
    text = haproxy_cfg(RICH)
    for line in (
        "option disable-h2-upgrade",
        "http-request deny deny_status 405 if { method CONNECT TRACE }",
        "http-request deny deny_status 400 unless HTTP_1.1 { req.hdr_cnt(host) 1 } "
        "|| HTTP_1.0 !{ req.hdr(transfer-encoding) -m found }",
    ):
        assert text.count(f"    {line}\n") == (1 if line.startswith("option") else 2)


def test_requests_are_logged_at_every_listener_where_that_is_asked_for() -> None:
    """Its fields are those that are documented; the id comes before any rule that ends a request."""
    lines = [line.strip() for line in haproxy_cfg({**RICH, "access_log": True}).splitlines()]
    (told,) = {line for line in lines if line.startswith("log-format ")}
    assert lines.count(told) == 2
    assert told.startswith('log-format "%{+json}o') and re.findall(r"%\((\w+)(?::\w+)?\)", told) == list(FIELDS)
    own = [line for line in lines if "X-Request-ID" in line or line.startswith("http-request")]
    assert (
        own[0] == "http-request set-header X-Request-ID %[uuid] unless { req.hdr(X-Request-ID) -m reg ^[!-~]{1,128}$ }"
    )
    assert own[1] == "http-request set-var(txn.request_id) req.hdr(X-Request-ID)"
    for text in (haproxy_cfg(RICH), haproxy_cfg({**RICH, "access_log": False})):
        assert "log-format" not in text and "X-Request-ID" not in text
