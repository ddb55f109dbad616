"""Settings that no other file here has: what the inventory says is so on hosts, in the container and at the gateway.

The service is `shown`, beside the lab's own predictor, which is under traffic meanwhile.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fiefdom import lab
from fiefdom.desired import network
from helpers.operator_view import GATEWAY_URL, LAB_YAML, Site, undisturbed

pytestmark = pytest.mark.proof

NAME, PORT = "shown.example.org", 8600
SERVICE: dict[str, Any] = {
    "base_port": PORT,
    "instances": 1,
    "verbatim": True,
    "user": "990:990",
    "limits": {"memory_mib": 128, "cpus": 0.5, "pids": 64, "nofile": 2048},
    "volumes": [{"name": "kept", "path": "/kept", "owner": "990:991", "mode": "0750", "writable": False}],
    "files": {"/etc/shown.conf": {"text": "${AS_IT_IS}\n", "owner": "990:991", "mode": "0440"}},
    "route": {
        "host": NAME,
        "redirect_from": ["www.example.org"],
        "path_prefix": "/shop",
        "strip_prefix": True,
        "max_body_kib": 1,
        "server_timeout_s": 20,
        "tunnel_timeout_s": 60,
        "headers": {"request": {"X-Asked": "yes"}, "response": {"X-Shown": "yes"}},
    },
}


def change(data: dict[str, Any]) -> None:
    data["ssh"] |= {"permit_root": True, "max_auth_tries": 4, "client_alive_interval_s": 120}
    data["serf"] |= {"join_timeout_s": 25}
    data["gateway"] = {"stats_port": 8405, "stats_names": ["stats.example.org"], "dot_segments": "refuse"}
    data["rollout"] = {"most_errors": 0.02}
    data["time_servers"] = ["10.99.0.1"]
    data["services"]["shown"] = {**data["services"]["predictor"], **SERVICE}
    data["hosts"]["app1"]["services"] = {"shown": {"limits": {"nofile": 1024}}}
    notes = {"image": "team/notes:1", "port": 6379}
    data["development"] = {"services": {"notes": {**notes, "verbatim": True, "environment": {"WORD": "${AS_IT_IS}"}}}}


@pytest.fixture(scope="module")
def settled(first_converge: tuple[Site, str]) -> Iterator[Site]:
    site, _ = first_converge
    path = site.inventory("settings", change)
    with undisturbed("other settings", {"predictor": f"{GATEWAY_URL}/predict"}, 500, rate=50):
        site.apply(path)
    site.await_serving(path)
    assert site.plan(path)[0] == 0, "what the hosts hold is what was said"
    yield site
    site.apply(LAB_YAML)


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Where a redirect leads is looked at, not gone to."""


def named(headers: Message) -> dict[str, str]:
    """Headers by their names, which may be written in any way."""
    return {name.lower(): value for name, value in headers.items()}


def asked(path: str, host: str = NAME, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"{GATEWAY_URL}{path}", data=body, headers={"Host": host})
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=10) as answer:
            return answer.status, named(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, named(error.headers), error.read()


def test_sshd_the_clock_and_the_gateways_statistics(settled: Site) -> None:
    says = settled.ssh("app1", "sshd -T").splitlines()
    assert {"maxauthtries 4", "clientaliveinterval 120"} <= set(says)
    assert "permitrootlogin without-password" in says or "permitrootlogin prohibit-password" in says
    assert "10.99.0.1" in settled.ssh("app1", "cat /etc/systemd/timesyncd.conf.d/10-fiefdom.conf")
    assert "join_timeout_s 25" in settled.ssh("app1", "cat /etc/fiefdom/offers.conf")
    asked = urllib.request.Request(f"{GATEWAY_URL}:8405/stats", headers={"Host": "stats.example.org:8405"})
    assert b"Statistics Report" in urllib.request.urlopen(asked, timeout=10).read()


def test_what_a_container_may_and_has(settled: Site) -> None:
    limits = {name: settled.ssh(name, f"docker exec shown-{PORT} sh -c 'ulimit -n'") for name in ("app1", "app2")}
    assert limits == {"app1": "1024", "app2": "2048"}
    assert settled.ssh("app1", f"docker exec shown-{PORT} cat /etc/shown.conf") == "${AS_IT_IS}"
    inside = settled.ssh("app1", f"docker exec shown-{PORT} stat -c '%u:%g %a' /etc/shown.conf /kept")
    assert inside.splitlines() == ["990:991 440", "990:991 750"]
    assert "Read-only" in settled.ssh("app1", f"docker exec shown-{PORT} touch /kept/x 2>&1 || :")


def test_what_the_gateway_makes_of_requests(settled: Site) -> None:
    status, headers, body = asked("/shop/predict")
    assert (status, headers["x-shown"], json.loads(body)["service"]) == (200, "yes", "shown")
    status, headers, _ = asked("/shop/predict", host="www.example.org")
    assert (status, headers["location"]) == (308, f"//{NAME}/shop/predict")  # by the same scheme
    assert asked("/shop/predict", body=b"x" * 2048)[0] == 413


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy on the operator's machine that passes on what it is asked: its URL, and what it was asked."""
    asked: list[str] = []

    class PassesOn(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            sent = {n: v for n, v in self.headers.items() if n.lower() in ("if-modified-since", "if-range", "range")}
            try:
                answer = urllib.request.urlopen(urllib.request.Request(self.path, headers=sent), timeout=60)
            except urllib.error.HTTPError as error:  # 304 and 404 are answers
                answer = error
            with answer:
                body, status, headers = answer.read(), answer.status, answer.headers
            self.send_response(status)
            for name in ("Content-Range", "Content-Type", "Last-Modified"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """What was asked is kept."""

    with ThreadingHTTPServer((lab.OPERATOR_ADDRESS, 0), PassesOn) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{lab.OPERATOR_ADDRESS}:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_packages_come_by_the_proxy_that_is_named_and_by_none_afterwards(settled: Site) -> None:
    missing = network.TIMESYNCD_PACKAGE
    settled.ssh("app1", f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y remove {missing} && apt-get clean")
    with proxy() as (url, asked):
        path = settled.inventory("proxied", lambda data: (change(data), data.update(packages={"proxy": url})))
        due = settled.plan(path)[1]
        assert {f"+ file {network.APT}", f"+ package {missing}"} <= set(due["app1"])
        assert f"+ file {network.APT}" in due["gw1"]
        settled.apply(path)
    assert any(each.endswith(".deb") and f"/{missing}_" in each for each in asked), asked
    assert any("/InRelease" in each for each in asked), "lists come by it as well"
    settled.ssh("app1", f"echo '// by hand' >>{network.APT}")
    assert settled.plan(path)[1]["app1"] == [f"~ file {network.APT}"]
    settled.apply(settled.inventory("settings", change))
    assert settled.ssh("app1", f"ls {network.APT} 2>&1 || :").endswith("No such file or directory")
    assert "Proxy" not in settled.ssh("app1", "apt-config dump Acquire::http::Proxy")
