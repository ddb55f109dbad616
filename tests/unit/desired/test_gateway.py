"""The gateway concern by value."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from fiefdom.desired import gateway, routes
from fiefdom.desired.state import HostState, spec_hash
from helpers.example import context


def desired(**changes: object) -> HostState:
    return gateway.desired(context("gw1", **changes))


def loaded(path: str, **changes: object) -> Any:
    return json.loads(desired(**changes).file(path).content)


def spec(**changes: object) -> str:
    state = desired(**changes)
    return spec_hash(state.containers[0], state)


def test_only_gateways_have_one() -> None:
    assert gateway.desired(context("app1")) == HostState()


def test_the_reconciler_is_told_each_service() -> None:
    config = loaded(gateway.RECONCILER_CONFIG)
    assert (config["cluster"], config["node"]) == ("example", "gw1")
    assert config["services"] == [
        {
            "name": "predictor",
            "backend": "predictor",
            "base_port": 8000,
            "max_instances": 100,
            "server_options": "check inter 1000ms fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down",
            "upgraded": "wait",
        },
        {
            "name": "web",
            "backend": "web",
            "base_port": 9000,
            "max_instances": 100,
            "server_options": "check inter 500ms fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down",
            "upgraded": "wait",
        },
    ]


def test_the_reconciler_knows_every_host_its_address_and_services() -> None:
    config = loaded(gateway.RECONCILER_CONFIG)
    assert (config["network"], config["known_hosts_only"]) == ("10.1.0.0/24", False)
    assert config["hosts"] == {
        "gw1": {"address": "10.1.0.11", "services": [], "last_ports": {}},
        "gw2": {"address": "10.1.0.12", "services": [], "last_ports": {}},
        "app1": {"address": "10.1.0.21", "services": ["predictor"], "last_ports": {"predictor": 8003}},
        "app2": {
            "address": "10.1.0.22",
            "services": ["predictor", "web"],
            "last_ports": {"predictor": 8001, "web": 9000},
        },
    }
    assert loaded(gateway.RECONCILER_CONFIG, gateway={"known_hosts_only": True})["known_hosts_only"] is True


def test_a_new_host_makes_no_other_container() -> None:
    new = {"app3": {"address": "10.1.0.23", "groups": ["app_hosts"]}}
    assert "app3" in loaded(gateway.RECONCILER_CONFIG, hosts=new)["hosts"]
    assert spec(hosts=new) == spec()


def test_limits_for_sources_are_haproxys() -> None:
    limits = {"requests_per_s": 20, "exempt_cidrs": ["10.2.0.0/16"]}
    state = desired(gateway={"source_limits": limits, "request_timeout_s": 3})
    text = state.file(gateway.HAPROXY_CONFIG).content.decode()
    assert "    acl exempt src 10.2.0.0/16\n" in text
    assert "if { sc0_http_req_rate gt 200 }" in text
    assert "    timeout http-request 3000ms\n" in text


def test_limits_that_limit_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="limits nothing; set requests_per_s or connections, or leave it out"):
        desired(gateway={"source_limits": {"exempt_cidrs": ["10.2.0.0/16"]}})


def test_what_haproxy_loads_lies_there_first_and_is_read_anew_when_it_changes() -> None:
    files = desired().files
    paths = [file.path for file in files]
    assert paths.index(gateway.GIVEUP_LUA) < paths.index(gateway.HAPROXY_CONFIG)
    script = desired().file(gateway.GIVEUP_LUA)
    loads = f"    lua-load {gateway.GIVEUP_LUA}  # {script.digest[:12]}\n"
    assert loads in desired().file(gateway.HAPROXY_CONFIG).content.decode()


@pytest.mark.parametrize("retries", [0, 3, 5, 20])
def test_one_500_takes_no_instance_out_however_few_the_retries_are(retries: int) -> None:
    (first, *_) = loaded(gateway.RECONCILER_CONFIG, gateway={"retries": retries})["services"]
    assert " error-limit 5 " in first["server_options"]


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        ({}, 100),
        ({"predictor": {"instances": 150}}, 150),
        ({"web": {"base_port": 8020}}, 20),
        ({"predictor": {"base_port": 65500}}, 36),
        ({"web": {"health": {"base_port": 8030, "container_port": 1}}}, 30),
        ({"predictor": {"health": {"base_port": 8050, "container_port": 1}}}, 50),
        ({"predictor": {"health": {"base_port": 8990, "container_port": 1}}}, 10),
        ({"predictor": {"health": {"base_port": 65500, "container_port": 1}}}, 36),
    ],
)
def test_a_member_is_believed_as_many_instances_as_there_is_room_for(services: dict[str, Any], expected: int) -> None:
    assert gateway.max_instances(context("gw1", services=services).cluster, "predictor") == expected


def test_its_agent_asks_the_other_gateways_only() -> None:
    config = loaded(gateway.AGENT_CONFIG)
    assert config["tags"] == {"role": "gateway"}
    # To join oneself always succeeds, which would end the asking.
    assert config["retry_join"] == ["10.1.0.12:7946"]


def test_haproxys_configuration_does_not_make_it_another_container() -> None:
    assert spec(gateway={"retries": 7}) == spec()
    assert spec(services={"web": {"route": {"port": 8081}}}) == spec()
    assert spec(gateway={"maxconn": 5000}) != spec(), "it needs more open files"
    assert spec(gateway={"stop_grace_s": 90}) != spec()


def test_it_stops_later_than_haproxy_may_take() -> None:
    (container,) = desired(gateway={"stop_grace_s": 90}).containers
    assert container.stop_grace_s > 90
    assert loaded(gateway.RECONCILER_CONFIG, gateway={"stop_grace_s": 90})["stop_grace_s"] == 90


@pytest.mark.parametrize(
    ("settings", "grace_s", "hard_stop_s"),
    [
        ({}, 60, 900),
        ({"server_timeout_s": 5}, 60, 900),
        ({"server_timeout_s": 300.5}, 301, 900),
        ({"server_timeout_s": 300, "stop_grace_s": 20}, 20, 900),
        ({"server_timeout_s": 1800, "client_timeout_s": 600}, 1800, 2415),
        ({"server_timeout_s": 86400, "client_timeout_s": 86400}, 3600, 172815),
        ({"stop_grace_s": 3600}, 3600, 3615),
    ],
)
def test_open_requests_get_as_long_as_an_instance_may_take(
    settings: dict[str, Any], grace_s: int, hard_stop_s: int
) -> None:
    state = desired(gateway=settings)
    assert state.containers[0].stop_grace_s == grace_s + gateway.LEAVE_S
    assert json.loads(state.file(gateway.RECONCILER_CONFIG).content)["stop_grace_s"] == grace_s
    assert f"    hard-stop-after {hard_stop_s}s\n" in state.file(gateway.HAPROXY_CONFIG).content.decode()


def test_open_files_are_enough_for_every_connection_twice() -> None:
    (container,) = desired(gateway={"maxconn": 6000}).containers
    assert "--ulimit=nofile=16096:16096" in container.args


def test_routes_become_listeners() -> None:
    text = desired().file(gateway.HAPROXY_CONFIG).content.decode()
    assert "    bind :80\n" in text
    assert "    bind :8080\n" in text
    assert "    # fiefdom:servers predictor\n" in text
    assert "    # fiefdom:servers web\n" in text
    assert "www.example.org" in text


def checks(**health: object) -> list[str]:
    text = desired(services={"web": {"health": health}}).file(gateway.HAPROXY_CONFIG).content.decode()
    return re.findall(r"^    http-check (.*)$", text.partition("backend web\n")[2], re.MULTILINE)


def test_checks_ask_what_a_hosts_supervisor_asks() -> None:
    assert checks() == checks(status="200-399") == ["send meth GET uri /ok ver HTTP/1.1 hdr Host web"]
    assert checks(path="/it's?a=1", host="x.org:81", status=[204, "300-399"]) == [
        r"send meth GET uri /it\'s?a=1 ver HTTP/1.1 hdr Host x.org:81",
        "expect status 204,300-399",
    ]


def test_a_port_of_checks_is_no_gateways_to_know() -> None:
    """It is what a host offers: until a host had its turn, its instances have no such port."""
    own = {"web": {"health": {"container_port": 3001, "base_port": 9100}}}
    assert desired(services=own).file(gateway.HAPROXY_CONFIG) == desired().file(gateway.HAPROXY_CONFIG)
    assert "9100" not in desired(services=own).file(gateway.RECONCILER_CONFIG).content.decode()


def test_it_answers_when_haproxy_does() -> None:
    (container,) = desired().containers
    assert container.probe == "http://10.1.0.11:8404/healthz"


def test_a_reload_asks_the_run_that_owns_the_container() -> None:
    text = desired().file(f"/etc/systemd/system/{gateway.UNIT}").content.decode()
    assert "ExecStart=/usr/local/lib/fiefdom/container run gateway fiefdom-gateway\n" in text
    assert "ExecReload=/usr/local/lib/fiefdom/container reload gateway\n" in text


def test_a_second_haproxy_never_listens_beside_the_first() -> None:
    text = desired().file(gateway.HAPROXY_CONFIG).content.decode()
    assert "    noreuseport\n" in text
    assert '    stats socket "${FIEFDOM_RUN-/run/haproxy}/admin.sock" ' in text


# --- Routes


def rules(port: int, services: dict[str, Any]) -> list[str]:
    """What a frontend routes by, each acl's rule in its place."""
    text = desired(services=services).file(gateway.HAPROXY_CONFIG).content.decode()
    found = re.search(rf"^frontend port-{port}\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert found
    lines = [line.strip() for line in found[1].splitlines()]
    acls: dict[str, list[str]] = {}
    for line in lines:
        if re.match("acl (host|path)-", line):
            acls.setdefault(line.split()[1], []).append(line.partition(" -m ")[2] or line.split()[-1])
    used = [line for line in lines if line.startswith("use_backend")]
    return [re.sub(r"(host|path)-\d+", lambda m: f"[{' | '.join(acls[m[0]])}]", line) for line in used]


def test_of_several_hosts_the_one_that_says_most_is_heeded_first() -> None:
    own = {
        "web": {
            "route": {"port": 80, "path_prefix": None, "host": ["*.example.org", "WWW.example.org", "*.b.example.org"]}
        },
        "shop": {"image": "x", "version": "1", "base_port": 9500, "groups": ["web_hosts"]},
    }
    own["shop"]["route"] = {"host": "*.b.example.org", "path_prefix": "/shop"}
    assert rules(80, own) == [
        "use_backend web if [str -i WWW.example.org]",
        "use_backend shop if [end -i .b.example.org] [/shop | /shop/]",
        "use_backend web if [end -i .b.example.org]",
        "use_backend web if [end -i .example.org]",
    ]


def backend(name: str, gateway_says: dict[str, Any] | None = None, **route: Any) -> list[str]:
    """What a backend does of its own, up to what all do; without the word of `fiefdom maintenance`."""
    own = {name: {"route": route}}
    text = desired(services=own, gateway=gateway_says or {}).file(gateway.HAPROXY_CONFIG).content.decode()
    found = re.search(rf"^backend {name}\n(.*?)    tcp-response content accept", text, re.MULTILINE | re.DOTALL)
    assert found
    return [line.strip() for line in found[1].splitlines() if not line.endswith(SWITCHED)]


SWITCHED = "if { be_name -m str -f opt@/var/lib/fiefdom/gateway/closed }"
ALL = ["balance roundrobin", "tcp-response inspect-delay 61000ms"]


def test_a_route_that_says_no_more_changes_nothing() -> None:
    assert backend("predictor") == ALL


def test_networks_of_clients_that_are_served() -> None:
    assert backend("predictor", allow_from=["10.0.0.0/24", "10.2.0.0/16"])[1:3] == [
        "acl from-there src 10.0.0.0/24 10.2.0.0/16",
        "http-request deny deny_status 403 unless from-there",
    ]
    many = [f"10.0.{i}.0/24" for i in range(50)]
    lines = [line for line in backend("predictor", allow_from=many) if line.startswith("acl")]
    assert [len(line.split()) - 3 for line in lines] == [20, 20, 10], "HAProxy reads 64 words of a line"


def test_of_a_client_behind_a_proxy_that_one_says_where_it_comes_from() -> None:
    assert backend("predictor", {"proxies": ["10.9.0.0/16"]}, allow_from=["10.0.0.0/8"])[1:-1] == [
        "acl from-there var(txn.client) -m ip 10.0.0.0/8",
        "http-request deny deny_status 403 unless from-there",
    ]


def test_a_body_has_a_length_that_fits() -> None:
    lines = backend("predictor", max_body_kib=10)
    assert "http-request deny deny_status 413 if { req.body_size gt 10240 }" in lines
    assert lines[3].startswith("http-request return status 411 ")
    assert lines[3].endswith(" if { var(txn.body) -m found } !{ req.hdr(content-length) -m found }")


def test_times_of_a_service_are_its_backends() -> None:
    found = desired(services={"web": {"route": {"server_timeout_s": 1.5, "tunnel_timeout_s": 7200}}})
    text = found.file(gateway.HAPROXY_CONFIG).content.decode()
    own = text.partition("\nbackend web\n")[2].partition("\n\n")[0]
    for line in ("timeout server 1500ms", "timeout tunnel 7200000ms", "tcp-response inspect-delay 2500ms"):
        assert f"    {line}\n" in own
    assert " lua.give-up 1500 if " in own
    assert " lua.give-up 60000 if " in text


def test_who_may_take_longest_decides_how_long_a_replaced_gateway_and_worker_go_on() -> None:
    slow = {"web": {"route": {"server_timeout_s": 1800}}}
    assert desired(services=slow).containers[0].stop_grace_s == 1800 + gateway.LEAVE_S
    assert loaded(gateway.RECONCILER_CONFIG, services=slow)["stop_grace_s"] == 1800
    text = desired(services=slow).file(gateway.HAPROXY_CONFIG).content.decode()
    assert f"    hard-stop-after {1800 + 60 + gateway.LEAVE_S}s\n" in text


def test_a_prefix_that_is_taken_off() -> None:
    route = {"path_prefix": "/shop/v1/", "strip_prefix": True}
    assert backend("predictor", {"dot_segments": "refuse"}, **route)[1:3] == [
        "http-request set-header X-Forwarded-Prefix /shop/v1",
        "http-request set-path /%[path,bytes(9)]",
    ]


def test_headers_are_set_as_they_are_written() -> None:
    headers = {
        "request": {"X-Odd": "a'b\"c\\\\d $HOME %[src] # 100%", "Accept": None},
        "response": {"Content-Security-Policy": "default-src 'self'", "Server": None},
    }
    assert backend("predictor", headers=headers)[1:5] == [
        'http-request set-header X-Odd "a\'b\\"c\\\\\\\\d \\$HOME %%[src] # 100%%"',
        "http-request del-header Accept",
        "http-response set-header Content-Security-Policy \"default-src 'self'\"",
        "http-response del-header Server",
    ]


def test_hosts_that_only_lead_to_the_first() -> None:
    route = {"host": ["www.example.org", "shop.example.org"], "redirect_from": ["example.org", "*.old.example.org"]}
    lines = backend("predictor", **route)
    to = "location //www.example.org%[req.hdr(host),regsub(^[^:]*,)]%[pathq]"
    assert lines[1:3] == [
        f"http-request redirect code 308 {to} if {{ req.hdr(host),host_only {way} }} {{ path_beg / }}"
        for way in ("-m str -i example.org", "-m end -i .old.example.org")
    ]
    names = ["www.example.org", "shop.example.org", "example.org"]
    assert rules(80, {"predictor": {"route": route}}) == [
        *(f"use_backend predictor if [str -i {name}]" for name in names),
        "use_backend predictor if [end -i .old.example.org]",
    ]


def test_a_wildcard_leads_nobody_away_from_what_is_served_below_it() -> None:
    host = ["www.example.org", "*.shop.example.org", "*.net", "a.example.net"]
    route = {"host": host, "redirect_from": ["*.Example.org", "old.shop.example.org", "*.old.example.net"]}
    to = "location //www.example.org%[req.hdr(host),regsub(^[^:]*,)]%[pathq]"
    assert backend("predictor", **route)[1:6] == [
        "acl served-1 req.hdr(host),host_only -m str -i www.example.org",
        "acl served-1 req.hdr(host),host_only -m end -i .shop.example.org",
        *(
            f"http-request redirect code 308 {to} if {{ req.hdr(host),host_only {way} {{ path_beg / }}"
            for way in (
                "-m end -i .Example.org } !served-1",
                "-m str -i old.shop.example.org }",
                "-m end -i .old.example.net }",
            )
        ),
    ]


def test_a_page_in_a_services_place() -> None:
    head = "http-request return status 503 hdr Retry-After 60 hdr Cache-Control no-store content-type"
    active = {"active": True, "retry_after_s": 60}
    said = 'string "this service is being looked after\\n" if TRUE || { be_name -m str -f opt@'
    assert f"{head} text/plain {said}{gateway.STATE_DIR}/closed }}\n" in _written(**active), (
        "an operator has his own word"
    )
    assert backend("predictor", maintenance={"active": False, "retry_after_s": 60}) == ALL
    it = context("gw1", services={"predictor": {"route": {"maintenance": {**active, "page": "p.html"}}}})
    state = gateway.desired(replace(it, secrets=replace(it.secrets, contents={"p.html": b"<h1>soon</h1>"})))
    path = routes.page_path("predictor")
    assert path in _written(active=False, page="p.html"), "what is switched on later has its page there"
    text = state.file(gateway.HAPROXY_CONFIG).content.decode()
    page = state.file(path)
    assert page.content == b"<h1>soon</h1>" and path < gateway.HAPROXY_CONFIG
    line = next(
        line for line in text.splitlines() if f'{head} "text/html; charset=utf-8" file {path} if TRUE || ' in line
    )
    assert line.endswith(f"}}  # {page.digest[:12]}")


def _written(**maintenance: Any) -> str:
    it = context("gw1", services={"predictor": {"route": {"maintenance": maintenance}}})
    state = gateway.desired(replace(it, secrets=replace(it.secrets, contents={"p.html": b"<h1>soon</h1>"})))
    return state.file(gateway.HAPROXY_CONFIG).content.decode()


def test_each_service_can_be_switched_whatever_the_inventory_says() -> None:
    text = _written(active=False, retry_after_s=60)
    lines = [line for line in text.splitlines() if line.endswith(SWITCHED)]
    assert [line.split()[6] for line in lines] == ["60", "300"], "of predictor and web"
    assert f"opt@{gateway.STATE_DIR}/closed }}" in text, "where the gateway's program writes it"
    assert _written(active=True).count(SWITCHED.removeprefix("if ")) == 2


DOTS = r"(/|\\|%(25)*(2f|5c))(\.|%(25)*2e){1,2}(/|\\|;|%(25)*(2f|5c|3b)|$)"


def test_dots_that_lead_out_of_a_prefix_are_refused_where_that_is_asked_for() -> None:
    text = desired(gateway={"dot_segments": "refuse"}).file(gateway.HAPROXY_CONFIG).content.decode()
    assert text.count(f"deny_status 400 if {{ path -m reg -i '{DOTS}' }}") == text.count("\nfrontend port-") == 2
    assert "-m reg" not in desired().file(gateway.HAPROXY_CONFIG).content.decode()


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        *(
            (path, False)
            for path in ("/", "/a", "/a..b", "/..b", "/.well-known/x", "/a/...", "/a.b/.c", "/%2f", "/a;b")
        ),
        *(
            (path, True)
            for path in ("/..", "/.", "/a/../b", "/a/./b", "/%2e%2e/b", "/.%2E/b", "/a%2f..%2fb", "/a/..;/b")
        ),
        *((path, True) for path in ("/%252e%252e/b", "/a%5c..%5cb", "/a\\..\\b", "/x%zz/../b", "/a/..%3bx", "//../b")),
    ],
)
def test_what_has_a_dot_segment(path: str, refused: bool) -> None:
    assert (re.search(DOTS, path, re.IGNORECASE) is not None) is refused


@pytest.mark.parametrize(("key", "listeners"), [({}, 0), ({"access_log": False}, 0), ({"access_log": True}, 2)])
def test_an_access_log_is_another_configuration(key: dict[str, bool], listeners: int) -> None:
    text = desired(gateway=key).file(gateway.HAPROXY_CONFIG).content.decode()
    assert text.count("    log stderr ") == listeners and text.count("\nfrontend port-") == 2


def test_the_statistics_port_is_asked_for_by_names_of_the_inventorys_gateways() -> None:
    def names(**changes: Any) -> list[str]:
        return gateway.stats_names(context("gw1", **changes).cluster)

    assert names() == ["gw1", "gw2"]
    assert names(gateway={"stats_names": ["gw.example.org"]}) == ["gw.example.org", "gw1", "gw2"]
    found = {place: names(hosts={"gw2": {"ssh": {"address": place}}}) for place in ("gw2.example.org", "2001:db8::9")}
    assert found == {"gw2.example.org": ["gw1", "gw2", "gw2.example.org"], "2001:db8::9": ["gw1", "gw2"]}
