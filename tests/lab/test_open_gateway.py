"""What stands before and behind a gateway: proxies and balancers, cookies, gRPC, a page at once, a canary's share.

`shop` has two instances on each app host and `calls`, which speaks HTTP/2 alone, has one. Clients come from this
machine, and from addresses that the gateway takes for a proxy, a balancer, and nobody.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fiefdom import lab
from helpers.h2c import Call
from helpers.operator_view import GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, undisturbed
from helpers.tls_load import POST_BODY

pytestmark = pytest.mark.proof

GATEWAY = "10.99.0.11"
SHOP, CALLS = 8086, 8085
PROXY, BALANCER, STRANGER = "10.99.0.201", "10.99.0.202", "10.99.0.203"
IMAGE = "fiefdom-test/fronts"
PAGE = "<h1>the shop is being looked after</h1>"
HEALTH = "/is-shop-there"
AT_LEAST = 2_000

# Asks one thing after the other, each {pre: hex before the request, port, path, headers}; prints status and body.
_ASK = """
import json, socket, sys
found = []
for task in json.loads(sys.argv[1]):
    with socket.create_connection(("10.99.0.11", task["port"]), timeout=10) as asked:
        asked.settimeout(10)
        lines = [f"GET {task['path']} HTTP/1.1", "Host: shop", "Connection: close", *task["headers"], "", ""]
        answer = b""
        try:
            asked.sendall(bytes.fromhex(task["pre"]) + "\\r\\n".join(lines).encode())
            while more := asked.recv(65536):
                answer += more
        except ConnectionError:
            pass
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    found.append([int(head.split()[1]) if head else 0, body.decode()])
print(json.dumps(found))
"""


def image_of_fronts(folder: Path) -> Path:
    """The predictor's build folder with the programs around it."""
    shutil.copytree(ROOT / "images/predictor", folder, dirs_exist_ok=True)
    for name in ("mirror.py", "calls.py"):
        shutil.copy(ROOT / "tests/lab/images/fronts" / name, folder)
    dockerfile = folder / "Dockerfile"
    text = dockerfile.read_text()
    changed = text.replace("predictor.py /srv", "predictor.py mirror.py calls.py /srv")
    changed = changed.replace('/predictor.py"]', '/mirror.py"]')
    assert changed.count("mirror.py") == 2
    dockerfile.write_text(changed)
    return folder


@dataclass
class Fronts:
    """The lab with both services, and what its inventory says."""

    site: Site
    build: Path

    def inventory(self, version: str = "1.0.0", retry_after_s: int = 7, active: bool = False) -> str:
        """Path of an inventory with this version of `shop`."""
        (self.site.scratch / "soon.html").write_text(PAGE)

        def change(data: dict[str, Any]) -> None:
            like = {**data["services"]["predictor"], "image": IMAGE, "build": str(self.build)}
            data["services"]["shop"] = {
                **like,
                "version": version,
                "base_port": 8700,
                "route": {
                    "port": SHOP,
                    "sticky_cookie": "SHOP_ID",
                    "balancer_path": HEALTH,
                    "allow_from": ["10.99.0.1/32", "10.77.0.0/16"],
                    "maintenance": {"active": active, "page": "soon.html", "retry_after_s": retry_after_s},
                },
            }
            data["services"]["calls"] = {
                **like,
                "base_port": 8720,
                "instances": 1,
                "h2c": True,
                "environment": {"SPEAKS": "h2c"},
                "route": {"port": CALLS},
            }
            own = {"proxies": [f"{PROXY}/32"], "proxy_protocol": [f"{BALANCER}/32"], "buffer_kib": 32}
            data["gateway"] = {**data.get("gateway", {}), **own}
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory(f"fronts-{version}-{retry_after_s}{'-closed' * active}", change)

    def ok(self, *words: str) -> str:
        done = self.site.fiefdom(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def acts(self, what: str) -> list[str]:
        """Notes of the audit's acts."""
        return [
            act["note"]
            for act in json.loads(self.ok("audit", self.inventory(), "--json"))["acts"]
            if act["what"] == what
        ]


@pytest.fixture(scope="module")
def fronts(first_converge: tuple[Site, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronts]:
    site, _ = first_converge
    found = Fronts(site, image_of_fronts(tmp_path_factory.mktemp("fronts")))
    with beside("a gateway opened to balancers, cookies and HTTP/2"):
        site.apply(found.inventory())
        site.await_serving(found.inventory())
    assert site.plan(found.inventory())[0] == 0
    yield found
    site.apply(LAB_YAML)
    site.await_serving()


def beside(event: str) -> AbstractContextManager[None]:
    """Traffic on what is not touched, of which no request fails."""
    return undisturbed(event, {"predictor": f"{GATEWAY_URL}/predict"}, AT_LEAST, rate=200)


def task(path: str = "/headers", *headers: str, pre: bytes = b"", port: int = SHOP) -> dict[str, Any]:
    return {"path": path, "headers": headers, "pre": pre.hex(), "port": port}


def ask_from(address: str, *tasks: dict[str, Any]) -> list[tuple[int, Any]]:
    """Status of each answer that a client at this address gets, and the headers that its instance got."""
    own = ["docker", "run", "--rm", f"--network={lab.NETWORK}", f"--ip={address}", "--label=fiefdom.lab=1"]
    argv = [*own, "--entrypoint=python3", f"{IMAGE}:1.0.0", "-c", _ASK, json.dumps(tasks)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [
        (status, dict(json.loads(body)["headers"]) if status == 200 else {}) for status, body in json.loads(done.stdout)
    ]


def v1(client: str) -> bytes:
    return f"PROXY TCP4 {client} {GATEWAY} 5000 {SHOP}\r\n".encode()


def v2(client: str) -> bytes:
    addresses = socket.inet_aton(client) + socket.inet_aton(GATEWAY) + struct.pack(">HH", 5000, SHOP)
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack(">H", len(addresses)) + addresses


def get(path: str, cookie: str = "", method: str = "GET") -> tuple[int, http.client.HTTPMessage, bytes]:
    """What this machine gets of `shop`, on a new connection."""
    connection = http.client.HTTPConnection(GATEWAY, SHOP, timeout=20)
    try:
        connection.request(method, path, POST_BODY if method == "POST" else None, {"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


# --- Who comes


def test_where_a_client_is_says_who_may_say_so(fronts: Fronts) -> None:
    names = ("X-Forwarded-For: 10.77.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil")
    claims = (*names, "Forwarded: for=10.77.0.1")
    refused, tricked = ask_from(STRANGER, task("/headers", *claims), task("/headers", pre=v1("10.77.0.1")))
    assert (refused[0], tricked[0]) == (403, 400), "neither a header nor a PROXY line of just anybody is believed"

    told, spoofed, chained = ask_from(
        PROXY,
        task("/headers", *claims),
        task("/headers", "X-Forwarded-For: 10.77.0.1, 192.0.2.7"),
        task("/headers", f"X-Forwarded-For: 192.0.2.7, 10.77.0.1, {PROXY}"),
    )
    assert [told[0], spoofed[0], chained[0]] == [200, 403, 200]
    assert (told[1]["x-forwarded-proto"], told[1]["x-forwarded-host"]) == ("https", "evil"), "a proxy's word is kept"
    assert told[1]["x-forwarded-for"] == PROXY, "and the last line says where the proxy is"

    passed = ask_from(
        BALANCER,
        task("/headers", "X-Forwarded-For: 192.0.2.7", pre=v1("10.77.0.1")),
        task("/headers", pre=v2("10.77.0.2")),
        task("/headers", pre=v2("192.0.2.7")),
        task("/headers"),
    )
    assert [status for status, _ in passed] == [200, 200, 403, 0]
    assert [seen["x-forwarded-for"] for _, seen in passed[:2]] == ["10.77.0.1", "10.77.0.2"]
    status, _, body = get("/headers")
    own = dict(json.loads(body)["headers"])
    assert (status, own["x-forwarded-for"], own["x-forwarded-proto"]) == (200, "10.99.0.1", "http")


def test_headers_of_more_than_a_plain_buffer_come_through(fronts: Fronts) -> None:
    assert get("/headers", cookie=f"big={'x' * 20_000}")[0] == 200


# --- Cookies


@contextmanager
def posting(cookie: str) -> Iterator[Counter[Any]]:
    """A client that posts all the time; by status, or by what went wrong, how often."""
    seen: Counter[Any] = Counter()
    over = threading.Event()

    def post() -> None:
        while not over.is_set():
            try:
                seen[get("/predict", cookie, "POST")[0]] += 1
            except (OSError, http.client.HTTPException) as error:
                seen[repr(error)] += 1

    client = threading.Thread(target=post)
    client.start()
    try:
        yield seen
    finally:
        over.set()
        client.join()


def instance_of(cookie: str) -> tuple[str, int]:
    status, _, body = get("/predict", cookie)
    assert status == 200, body
    answer = json.loads(body)
    return answer["host"], answer["port"]


def test_a_client_comes_back_to_its_instance_and_goes_elsewhere_when_that_leaves(fronts: Fronts) -> None:
    site, inventory = fronts.site, fronts.inventory()
    status, headers, body = get("/predict")
    first = json.loads(body)["host"], json.loads(body)["port"]
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert status == 200 and cookie.startswith("SHOP_ID=") and "HttpOnly" in headers["Set-Cookie"]
    assert {instance_of(cookie) for _ in range(8)} == {first}
    assert len({instance_of("") for _ in range(8)}) == 4
    with posting(cookie) as seen:
        site.ssh(first[0], "systemctl stop fiefdom-serf-agent")
        assert {instance_of(cookie)[0] for _ in range(4)} == {"app1", "app2"} - {first[0]}
        site.ssh(first[0], "systemctl start fiefdom-serf-agent")
        site.await_serving(inventory)
        assert instance_of(cookie) == first, "its cookie leads there again"
    assert set(seen) == {200} and seen.total() > 20, seen
    site.ssh("gw1", "systemctl reload fiefdom-gateway")
    assert instance_of(cookie) == first, "whatever gateway leads it"


# --- HTTP/2


def test_a_call_goes_to_and_fro_and_ends_with_its_trailers(fronts: Fronts) -> None:
    with Call((GATEWAY, CALLS), "/calls.Calls/Say", "calls") as call:
        assert [call.say(b"one"), call.say(b"two")] == [b"one", b"two"], "answered before it has ended"
        assert call.status == 200
        assert call.say(b"three", last=True) == b"three"
        assert b"grpc-status" in call.trailers
    ups = {i["servers"][0] for i in fronts.site.status(fronts.inventory())["instances"] if i["service"] == "calls"}
    assert ups == {"up"}, "checked in HTTP/2 by gateway and hosts"


# --- A page at once


def balancer_told() -> int:
    return get(HEALTH)[0]


def test_maintenance_is_switched_at_once_and_outlives_all_that_a_gateway_goes_through(fronts: Fronts) -> None:
    site, inventory = fronts.site, fronts.inventory()
    assert get("/predict")[0] == balancer_told() == 200
    with beside("maintenance on, a hand-over, a reload, maintenance off"):
        fronts.ok("maintenance", "on", inventory, "shop")
        status, headers, body = get("/predict")
        assert (status, headers["Retry-After"], body.decode()) == (503, "7", PAGE)
        assert balancer_told() == 200, "a balancer goes on to lead clients to the page"
        site.ssh("gw1", "systemctl reload fiefdom-gateway")
        assert get("/predict")[0] == 503
        site.apply(fronts.inventory(retry_after_s=9))
        assert (get("/predict")[0], get("/predict")[1]["Retry-After"]) == (503, "9"), "HAProxy was reloaded"
        inventory = fronts.inventory(retry_after_s=9)
        assert site.status(inventory)["maintenance"] == {"shop": ["gw1"]}
        told = site.status(inventory)["notices"]
        assert any(line.startswith("shop is switched to maintenance at gw1:") for line in told), told
        found = site.fiefdom("doctor", inventory)
        assert found.returncode == 2 and "shop is switched to maintenance" in found.stdout, found.stdout
        assert site.plan(inventory)[0] == 0, "it is no drift"
        fronts.ok("maintenance", "off", inventory, "shop")
        assert get("/predict")[0] == 200
    fronts.ok("maintenance", "on", inventory, "shop")
    site.ssh("gw1", "systemctl restart fiefdom-gateway")
    await_true(lambda: site.status(inventory)["serving"], what="a gateway that is up again")
    assert get("/predict")[0] == 503, "over a restart as well"
    fronts.ok("maintenance", "off", inventory, "shop")
    assert get("/predict")[0] == 200 and site.status(inventory)["maintenance"] == {}
    assert fronts.acts("maintenance")[-4:] == ["on: shop", "off: shop"] * 2


def test_two_words_close_a_service_and_each_is_taken_back_where_it_was_said(fronts: Fronts) -> None:
    site, opened, closed = fronts.site, *(fronts.inventory(retry_after_s=9, active=active) for active in (False, True))
    site.apply(closed)
    says = "closed all the same until services.shop.route.maintenance.active is false"
    assert says in fronts.ok("maintenance", "off", closed, "shop") and get("/predict")[0] == 503
    assert says in fronts.ok("maintenance", "on", closed, "shop")
    told = [line for line in site.status(closed)["notices"] if line.startswith("shop is ")]
    assert [line.split()[2] for line in told] == ["looked", "switched"]
    site.apply(opened)
    assert get("/predict")[0] == 503, "an operator has closed it as well"
    fronts.ok("maintenance", "off", opened, "shop")
    assert get("/predict")[0] == 200


def test_a_balancer_is_told_where_nobody_serves(fronts: Fronts) -> None:
    site = fronts.site
    for host in ("app1", "app2"):
        site.ssh(host, "systemctl stop fiefdom-offer-shop")
    assert balancer_told() == 503
    for host in ("app1", "app2"):
        site.ssh(host, "systemctl start fiefdom-offer-shop")
    await_true(lambda: balancer_told() == 200, what="shop served again")
    site.await_serving(fronts.inventory(retry_after_s=9))


# --- A canary's share


def versions(count: int = 200) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(count):
        status, _, body = get("/predict")
        assert status == 200, body
        found[json.loads(body)["version"]] += 1
    return found


def test_a_canary_gets_the_share_that_it_was_given(fronts: Fronts) -> None:
    site, new = fronts.site, fronts.inventory("2.0.0", retry_after_s=9)
    with beside("a canary with a tenth of the requests, and the way back"):
        assert "where no server of that version is up" in fronts.ok("weight", new, "shop", "2.0.0", "10")
        fronts.ok("rollout", new, "shop", "--canary", "app1")
        assert 15 <= versions()["2.0.0"] <= 25, "not half of them, as two of four servers would get"
        site.ssh("gw1", "systemctl reload fiefdom-gateway")
        assert 15 <= versions()["2.0.0"] <= 25, "another container of the gateway knows it"
        fronts.ok("weight", new, "shop", "2.0.0", "60")
        assert 110 <= versions()["2.0.0"] <= 130
        assert any("shop 2.0.0 gets 60 % of the requests" in line for line in site.status(new)["notices"])
        fronts.ok("rollback", new, "shop", "1.0.0", "--yes")
    assert set(versions(20)) == {"1.0.0"}
    told = [line for line in site.status(new)["notices"] if " % of the requests" in line]
    assert told == [], "it went with the canary"
    assert fronts.acts("weight")[-2:] == ["shop: 2.0.0 10", "shop: 2.0.0 60"]


def test_what_was_said_of_a_service_goes_with_it(fronts: Fronts) -> None:
    """The last one here, for it takes the services away."""
    site, inventory = fronts.site, fronts.inventory(retry_after_s=9)
    fronts.ok("maintenance", "on", inventory, "shop")
    fronts.ok("weight", inventory, "shop", "3.0.0", "10")
    kept = "cat /var/lib/fiefdom/gateway/closed /var/lib/fiefdom/gateway/shares"
    assert site.ssh("gw1", kept).split() == ["shop", "shop", "3.0.0", "10"]
    site.apply(LAB_YAML)
    await_true(lambda: site.ssh("gw1", kept).split() == [], what="nothing said of a service that is gone")
