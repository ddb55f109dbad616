"""HAProxy's static part against an expected file, and the order of its routes."""

import re
from pathlib import Path

import pytest

from fiefdom.render import render

EXPECTED = Path(__file__).parent / "data" / "haproxy.cfg"

PLAIN = {
    "stats_bind": "10.99.0.11:8404",
    "listeners": [{"port": 80, "routes": [], "default_backend": "predictor"}],
    "backends": [{"name": "predictor", "health_path": "/health", "health_timeout_s": 2.0}],
    "maxconn": 4000,
    "retries": 5,
    "balance": "roundrobin",
    "connect_timeout_s": 2.0,
    "server_timeout_s": 60.0,
    "client_timeout_s": 60.0,
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


def test_each_backend_has_the_line_that_the_reconciler_fills():
    lines = haproxy_cfg(RICH).splitlines()
    assert [line for line in lines if "fiefdom:servers" in line] == [
        "    # fiefdom:servers predictor",
        "    # fiefdom:servers echo",
    ]


@pytest.mark.parametrize("line", ["user ", "group ", "chroot ", "daemon", "unique-id", "log "])
def test_lines_that_have_no_place_in_the_container(line):
    assert not [found for found in haproxy_cfg(RICH).splitlines() if found.strip().startswith(line)]
