"""The gateway, Serf and predictor containers with each other: real HAProxy, real gossip, real requests, one network.

No host is needed: all containers share a network namespace without any way out, with one address per would-be host. The
instances of different hosts have different ports, because a predictor listens on every address.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fiefdom.converge import steps_script
from fiefdom.desired.account import UID
from fiefdom.desired.containers import conf_file
from fiefdom.desired.render import render
from fiefdom.desired.state import Container, HostState, digest
from fiefdom.images import bases
from helpers.certificates import Issued, authority, intermediate, issued
from helpers.operator_view import await_true
from helpers.programs import place_handover, place_supervisor
from helpers.tls_load import TlsTraffic

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
PREFIX = "scratch-container-test"
NETWORK = f"{PREFIX}-network"
GATEWAY = f"{PREFIX}-gateway"
IMAGES = ("gateway", "serf", "predictor")
ADDRESSES = {"gw1": "10.99.0.11", "app1": "10.99.0.21", "app2": "10.99.0.22"}
PORTS = {"app1": (8000, 8001), "app2": (8010, 8011)}
URL = "http://10.99.0.11/predict"
OPTIONS = "check inter 1s fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down"
SANDBOX = (
    *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--ulimit=nofile=16384:16384"),
    *("--pids-limit=512", f"--tmpfs=/run:uid={UID},gid={UID}", "--tmpfs=/tmp", f"--network=container:{NETWORK}"),
)
# Gives a namespace's loopback further addresses, without the ip command in any image.
ADD_ADDRESSES = """
import fcntl, socket, struct, sys
for number, address in enumerate(sys.argv[1:]):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sHH4s8x", f"lo:{number}".encode(), socket.AF_INET, 0, socket.inet_aton(address))
        fcntl.ioctl(handle, 0x8916, request)  # SIOCSIFADDR
"""
# Instances of one host in one container, whose end is the end of all of them at the same moment. A GET of /poison ends
# the instance that reads it, which says so first.
FRAGILE = """
import asyncio, json, os, sys
from urllib.parse import parse_qs, urlsplit

def handler(host, port):
    class Handler(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.received = transport, b""
        def data_received(self, data):
            self.received += data
            while b"\\r\\n\\r\\n" in self.received:
                head, _, self.received = self.received.partition(b"\\r\\n\\r\\n")
                self.answer(head, urlsplit(head.split()[1].decode()))
        def answer(self, head, target):
            delay_s = float(parse_qs(target.query).get("delay_ms", ["0"])[0]) / 1000
            if target.path == "/poison":
                print("read", target.path, flush=True)
                asyncio.get_running_loop().call_later(delay_s, os._exit, 1)
                return
            told = {"host": host, "port": port, "version": "1.0.0", "head": head.decode(errors="replace")}
            body = json.dumps(told).encode()
            status = f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n".encode()
            asyncio.get_running_loop().call_later(delay_s, self.transport.write, status + body)
    return Handler

async def serve(host, port):
    await (await asyncio.get_running_loop().create_server(handler(host, port), port=port)).serve_forever()

for port in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
    if not os.fork():
        asyncio.run(serve(sys.argv[1], port))
while True:
    os.wait()
"""
PLAIN = {
    "stats_bind": "10.99.0.11:8404",
    "listeners": [{"port": 80, "routes": [], "default_backend": "predictor"}],
    "backends": [{"name": "predictor", "health_path": "/health", "health_timeout_s": 2.0}],
    "maxconn": 4000,
    "retries": 10,
    "balance": "roundrobin",
    "connect_timeout_s": 2.0,
    "server_timeout_s": 60.0,
    "client_timeout_s": 60.0,
    "request_timeout_s": 10.0,
}


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def served(one: Issued) -> bytes:
    """What a gateway has of a certificate: it, who signed it, and its key."""
    return one.pem + intermediate().pem + one.key


def image(name: str) -> str:
    return f"{PREFIX}/{name}:test"


class Cluster:
    """One gateway and two app hosts' worth of containers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = base64.b64encode(secrets.token_bytes(32)).decode()

    # --- Files

    def write_all(self) -> None:
        config = self.folder / "gateway"
        config.mkdir()
        self._write(config / "giveup.lua", render("giveup.lua.j2"))
        self.write_static(PLAIN)
        self.write_certificates(www=served(issued("www.example.org", intermediate())))
        self.write_reconciler()
        self._write(
            config / "agent.json", self._agent("gw1", {"role": "gateway"}, 7373, "/var/lib/fiefdom/gateway"), 0o400
        )
        for number, (name, ports) in enumerate(PORTS.items(), start=1):
            (self.folder / name).mkdir()
            self.write_offer(name, f"1.0.0;{ports[0]}-{ports[-1]}", 7373 + number)
        for name in ("gateway-state", *(f"{name}-state" for name in PORTS)):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, UID, UID)

    def write_certificates(self, **pems: bytes) -> dict[str, Any]:
        """Place certificates with their keys; the part of the static part's variables that is about them."""
        folder = self.folder / "gateway" / "certificates"
        folder.mkdir(exist_ok=True)
        for name, pem in pems.items():
            self._write(folder / f"{name}.pem", pem.decode(), 0o400)
        listed = "".join(f"/etc/fiefdom/gateway/certificates/{name}.pem\n" for name in pems)
        self._write(folder / "list.txt", listed)
        self._write(self.folder / "authorities.pem", authority().pem.decode())
        digests = [digest(listed)[:12], digest(b"".join(pems.values()))[:12]]
        path = "/etc/fiefdom/gateway/certificates/list.txt"
        return {"port": 443, "list": path, "digests": digests, "plain_port": 80, "redirect": False, "hsts": None}

    def write_static(self, variables: dict[str, Any], more: str = "") -> None:
        self._write(self.folder / "gateway" / "haproxy.cfg", render("haproxy.cfg.j2", **variables) + more)

    def write_reconciler(self, **changes: object) -> None:
        service = {"name": "predictor", "backend": "predictor", "base_port": 8000, "max_instances": 100}
        settings = {
            "cluster": "lab",
            "node": "gw1",
            "haproxy_config": "/etc/fiefdom/gateway/haproxy.cfg",
            "state_dir": "/var/lib/fiefdom/gateway",
            "serf_config": "/etc/fiefdom/gateway/agent.json",
            "rpc_addr": "127.0.0.1:7373",
            "interval_s": 1,
            "absent_grace_s": 120,
            "stop_grace_s": 30,
            "services": [{**service, "server_options": OPTIONS}],
            "network": "10.99.0.0/24",
            "known_hosts_only": False,
            "hosts": {name: {"address": address, "services": ["predictor"]} for name, address in ADDRESSES.items()},
        }
        self._write(self.folder / "gateway" / "reconciler.json", json.dumps({**settings, **changes}))

    def write_offer(self, name: str, offer: str, rpc_port: int) -> None:
        agent = self._agent(name, {"role": "app", "svc:predictor": offer}, rpc_port, "/var/lib/fiefdom/serf")
        self._write(self.folder / name / "agent.json", agent, 0o400)

    def _agent(self, name: str, tags: dict[str, str], rpc_port: int, state_dir: str) -> str:
        own = f"{ADDRESSES[name]}:7946"
        agent = {
            "node_name": name,
            "tags": tags,
            "bind": own,
            "advertise": own,
            "encrypt_key": self._key,
            "rpc_addr": f"127.0.0.1:{rpc_port}",
            "rpc_auth": f"only-{name}-knows",
            "profile": "lan",
            "log_level": "warn",
            "snapshot_path": f"{state_dir}/snapshot",
            "retry_join": [f"{ADDRESSES['gw1']}:7946"] if name != "gw1" else [],
            "retry_interval": "1s",
            "rejoin_after_leave": True,
            "leave_on_terminate": True,
            "disable_name_resolution": True,
        }
        return json.dumps(agent)

    @staticmethod
    def _write(path: Path, text: str, mode: int = 0o644) -> None:
        beside = path.with_suffix(".new")
        beside.write_text(text)
        beside.chmod(mode)
        os.chown(beside, UID, UID)
        beside.rename(path)

    # --- Containers

    def start_network(self) -> None:
        docker(
            *("run", "--detach", "--name", NETWORK, "--network=none", "--sysctl=net.ipv4.ip_unprivileged_port_start=0"),
            *("--entrypoint=sleep", image("gateway"), "infinity"),
        )
        docker(
            *(
                "run",
                "--rm",
                f"--network=container:{NETWORK}",
                "--user=0",
                "--cap-add=NET_ADMIN",
                "--entrypoint=python3",
            ),
            *(image("gateway"), "-c", ADD_ADDRESSES, *ADDRESSES.values()),
        )

    def start_gateway(self) -> None:
        docker("rm", "--force", GATEWAY, check=False)
        docker(
            *("run", "--detach", "--name", GATEWAY, "--stop-timeout=45", *SANDBOX),
            *(f"--volume={self.folder}/gateway:/etc/fiefdom/gateway:ro",),
            *(f"--volume={self.folder}/gateway-state:/var/lib/fiefdom/gateway", image("gateway")),
        )

    def start_instance(self, host: str, port: int, version: str = "1.0.0") -> None:
        name = f"{PREFIX}-{host}-{port}"
        docker("rm", "--force", name, check=False)
        environment = {"PORT": port, "FIEFDOM_PORT": port, "FIEFDOM_HOST": host, "FIEFDOM_VERSION": version}
        docker(
            *("run", "--detach", "--name", name, "--stop-timeout=20", *SANDBOX),
            *(f"--env={key}={value}" for key, value in environment.items()),
            image("predictor"),
        )

    @contextlib.contextmanager
    def fragile(self, instances: int) -> Iterator[None]:
        """So many instances per host, all of them in one container: `start_fragile` starts it anew."""
        offers = {host: (self.folder / host / "agent.json").read_text() for host in PORTS}
        try:
            for number, (host, (first, *_)) in enumerate(PORTS.items(), start=1):
                for port in PORTS[host]:
                    docker("rm", "--force", f"{PREFIX}-{host}-{port}")
                self.start_fragile(host, instances)
                self.write_offer(host, f"1.0.0;{first}-{first + instances - 1}", 7373 + number)
                self.stop(f"{host}-serf")
                self.start_agent(host)
            self.until_fragile(instances)
            yield
        finally:
            for host, offer in offers.items():
                docker("rm", "--force", f"{PREFIX}-{host}-fragile", check=False)
                self._write(self.folder / host / "agent.json", offer, 0o400)
                self.stop(f"{host}-serf")

    def start_fragile(self, host: str, instances: int) -> None:
        name = f"{PREFIX}-{host}-fragile"
        docker("rm", "--force", name, check=False)
        first = PORTS[host][0]
        docker(
            *("run", "--detach", "--name", name, *SANDBOX, "--entrypoint=python3", image("gateway"), "-c", FRAGILE),
            *(host, str(first), str(first + instances - 1)),
        )

    def until_fragile(self, instances: int) -> None:
        ports = [f"{host}-{first + i}" for host, (first, *_) in PORTS.items() for i in range(instances)]
        self.until(lambda view: states(view) == dict.fromkeys(ports, "up"))

    def start_agent(self, host: str) -> None:
        name = f"{PREFIX}-{host}-serf"
        docker("rm", "--force", name, check=False)
        docker(
            *("run", "--detach", "--name", name, "--stop-timeout=15", *SANDBOX),
            *(f"--volume={self.folder}/{host}:/etc/fiefdom/serf:ro",),
            *(f"--volume={self.folder}/{host}-state:/var/lib/fiefdom/serf", image("serf")),
        )

    def stop(self, name: str) -> None:
        docker("stop", f"{PREFIX}-{name}")

    def whole(self, gateway: bool = True) -> None:
        """Bring back whatever a test left otherwise, with the gateway or without it."""
        self.write_static(PLAIN)
        self.write_reconciler()
        running = docker("ps", "--format={{.Names}}").split()
        for host, ports in PORTS.items():
            for port in ports:
                if f"{PREFIX}-{host}-{port}" not in running:
                    self.start_instance(host, port)
            if f"{PREFIX}-{host}-serf" not in running:
                self.start_agent(host)
        if not gateway:
            return
        if GATEWAY not in running:
            self.start_gateway()
        everything = {f"{host}-{port}": "up" for host, ports in PORTS.items() for port in ports}
        self.until(lambda view: states(view) == everything and view["config"]["ok"] and view["serf"]["ok"])

    # --- Looking

    def status(self) -> dict[str, Any]:
        text = docker("exec", GATEWAY, "fiefdom-gateway", "status", check=False)
        return json.loads(text) if text else {}

    def until(self, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 20.0) -> dict[str, Any]:
        """Await a status that fulfils `holds`, and return it."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            view = self.status()
            if view and holds(view):
                return view
            assert time.monotonic() < deadline_s, f"after {timeout_s} s: {view}\n{docker('logs', '--tail=30', GATEWAY)}"

    def haproxy(self, command: str) -> str:
        script = (
            "import glob, socket, sys\n"
            "with socket.socket(socket.AF_UNIX) as s:\n"
            "    s.connect(*glob.glob('/var/lib/fiefdom/gateway/run/*/admin.sock'))\n"
            "    s.sendall(sys.argv[1].encode() + b'\\n')\n"
            "    print(b''.join(iter(lambda: s.recv(65536), b'')).decode())\n"
        )
        return docker("exec", GATEWAY, "python3", "-c", script, command)


def states(view: dict[str, Any]) -> dict[str, str]:
    return {server["name"]: server["state"] for server in view["servers"]}


class Traffic:
    """tests/helpers/load.py from inside the network, as a process: `with Traffic(10): ...`, then `report`."""

    def __init__(
        self,
        seconds: float,
        *,
        kinds: str = "busy,pausing,new,slow,post",
        rate: float = 250,
        clients: int = 2,
        slow_ms: int = 300,
        at_least: int = 0,
    ) -> None:
        self._command = [
            *(
                "docker",
                "run",
                "--rm",
                f"--network=container:{NETWORK}",
                f"--volume={ROOT}/tests/helpers/load.py:/load.py:ro",
            ),
            *("--entrypoint=python3", image("gateway"), "/load.py", URL, "--json"),
            *(f"--seconds={seconds}", f"--kinds={kinds}", f"--rate={rate}"),
            *(f"--clients={clients}", f"--slow-ms={slow_ms}-{slow_ms}", f"--at-least={at_least}"),
        ]
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Traffic:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        time.sleep(1.0)
        return self

    def __exit__(self, *_: object) -> None:
        output, _ = self._process.communicate(timeout=300)
        self.report = json.loads(output)
        kinds = {kind: (tally["failed"], tally["total"]) for kind, tally in self.report["kinds"].items()}
        print(f"{self.report['failed']} failed of {self.report['total']} {kinds}")

    def failed(self, *kinds: str) -> dict[str, list[str]]:
        """The reasons of each kind that failed, of all kinds if none is named."""
        return {
            kind: tally["reasons"]
            for kind, tally in self.report["kinds"].items()
            if tally["failed"] and (not kinds or kind in kinds)
        }


@pytest.fixture(scope="module")
def _cluster(docker_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    for name in IMAGES:
        context = ROOT / "images" / name
        docker("build", "--quiet", *bases.build_arguments(context), "--tag", image(name), str(context))
    remove_all()
    # Under /tmp and readable on the way there: pytest's own folders are for root's eyes only.
    folder = tmp_path_factory.mktemp("containers")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    cluster = Cluster(folder)
    cluster.write_all()
    cluster.start_network()
    yield cluster
    remove_all()
    for name in IMAGES:
        docker("image", "rm", "--force", image(name))


def remove_all() -> None:
    names = docker("ps", "--all", "--quiet", f"--filter=name=^{PREFIX}-").split()
    if names:
        docker("rm", "--force", *names)


@pytest.fixture
def cluster(_cluster: Cluster, request: pytest.FixtureRequest) -> Cluster:
    # One that is to be supervised has been so from its start.
    _cluster.whole(gateway="supervised" not in request.fixturenames)
    return _cluster


# --- Configuration


def route(backend: str, host: str | None = None, path_prefix: str | None = None) -> dict[str, str | None]:
    return {"backend": backend, "host": host, "path_prefix": path_prefix}


def listener(port: int, default: str | None, *routes: dict[str, str | None]) -> dict[str, object]:
    return {"port": port, "routes": routes, "default_backend": default}


OWN_CHECKS = {
    "name": "predictor",
    "health_path": r"/it\'s?a=$1&b=%5B",
    "health_host": "www.example.org:81",
    "health_status": "200,204,300-399",
}
TWO = [*PLAIN["backends"], {"name": "echo", "health_path": "/up"}]
BY_PREFIX = {
    **PLAIN,
    "backends": TWO,
    "listeners": [listener(80, None, route("predictor", path_prefix="/predict"), route("echo", path_prefix="/p"))],
}
ENCRYPTED = {
    **PLAIN,
    "listeners": [listener(80, "predictor"), listener(443, "predictor")],
    "tls": {
        "port": 443,
        "list": "/etc/fiefdom/gateway/certificates/list.txt",
        "digests": ["0" * 12, "1" * 12],
        "plain_port": 80,
        "redirect": True,
        "hsts": "max-age=300; includeSubDomains",
    },
}
ROUTED = {
    **PLAIN,
    "backends": [
        {
            **PLAIN["backends"][0],
            "server_timeout_s": 1.5,
            "tunnel_timeout_s": 30,
            "allow_from": ["10.99.0.0/24", *(f"10.98.{i}.0/24" for i in range(60))],
            "max_body_kib": 16,
            "stripped": "/api",
            "host": "www.example.org",
            "redirect_from": [("-m str -i example.org", []), ("-m end -i .old.example.org", [])],
            "request_headers": {"X-Odd": r'"a\"b \$HOME %%[src] # 100%%"', "Accept": None},
            "response_headers": {"Content-Security-Policy": "\"default-src 'self'\"", "Server": None},
        }
    ],
    "listeners": [
        listener(
            80,
            None,
            *(route("predictor", host=host) for host in ("www.example.org", "example.org", "*.old.example.org")),
            route("predictor", host="*.api.example.org", path_prefix="/api"),
            route("predictor", path_prefix="/api"),
        )
    ],
    "dot_segments": "refuse",
    "closed_file": "/var/lib/fiefdom/gateway/closed",
}
FRONTED = {
    **ROUTED,
    "backends": [
        {**ROUTED["backends"][0], "awaits_bodies": True, "sticky": {"cookie": "ID", "secure": True, "key": "0" * 16}},
        {"name": "calls", "health_path": "/health", "h2c": True, "allow_from": ["10.99.0.0/24"]},
        {"name": "shut", "health_path": "/", "maintenance": {"active": False, "page": None, "retry_after_s": 60}},
    ],
    "listeners": [{**listener(80, "calls"), "h2c": True, "balancer_paths": [("/up", "calls")]}],
    "proxies": [f"10.97.{i}.0/24" for i in range(60)],
    "proxy_protocol": ["10.96.0.9/32"],
    "source_limits": {"requests_per_s": 5, "connections": 9, "exempt_cidrs": ["10.0.0.0/8"]},
    "buffer_kib": 32,
}
SERVERS = "".join(f"    server app{i}-8000 10.99.0.{20 + i}:8000 {OPTIONS}\n" for i in range(1, 9))


@pytest.mark.parametrize("servers", ["", SERVERS], ids=["no servers", "servers"])
@pytest.mark.parametrize(
    "variables",
    [
        PLAIN,
        BY_PREFIX,
        {**PLAIN, "backends": TWO, "listeners": [listener(80, "predictor"), listener(8080, "echo")]},
        {**PLAIN, "backends": TWO, "listeners": [listener(80, "predictor", route("echo", host="echo.lan"))]},
        {**PLAIN, "listeners": [listener(80, None, route("predictor"), route("predictor", path_prefix="/"))]},
        {**PLAIN, "balance": "leastconn", "nbthread": 1, "http_reuse": "aggressive"},
        {**PLAIN, "balance": "random", "connect_timeout_s": 0.25},
        {**BY_PREFIX, "source_limits": {"requests_per_s": 5, "connections": 9, "exempt_cidrs": ["10.0.0.0/8"]}},
        {**PLAIN, "access_log": True},
        {**PLAIN, "backends": [OWN_CHECKS]},
        ENCRYPTED,
        {**ENCRYPTED, "proxies": ["10.9.0.0/16", "10.8.0.0/16"]},
        ROUTED,
        {**ROUTED, "proxies": ["10.9.0.0/16"]},
        {**ROUTED, "backends": [{**ROUTED["backends"][0], "maintenance": {"page": None, "retry_after_s": 60}}]},
        FRONTED,
        {**FRONTED, "tls": ENCRYPTED["tls"]},
    ],
    ids=[
        "one",
        "two by prefix",
        "two by port",
        "two by host",
        "everything",
        "leastconn",
        "random",
        "limits",
        "access log",
        "checks",
        "tls",
        "tls behind proxies",
        "routes",
        "routes behind proxies",
        "maintenance",
        "fronted",
        "fronted, with tls",
    ],
)
def test_haproxy_takes_the_template_without_a_warning(_cluster, tmp_path, variables, servers):
    text = render("haproxy.cfg.j2", **variables)
    for backend in variables["backends"]:
        marker = f"    # fiefdom:servers {backend['name']}\n"
        text = text.replace(marker, marker + servers)
    (tmp_path / "haproxy.cfg").write_text(text)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    docker(
        *("run", "--rm", "--network=none", f"--volume={tmp_path}:/check:ro", "--entrypoint=haproxy"),
        *(f"--volume={_cluster.folder}/gateway:/etc/fiefdom/gateway:ro", image("gateway")),
        *("-dW", "-c", "-f", "/check/haproxy.cfg"),
    )


# --- A gateway and its members


def get(path: str, *, port: int = 80, host: str = "gateway") -> tuple[int, str]:
    script = (
        "import http.client, sys\n"
        "c = http.client.HTTPConnection('10.99.0.11', int(sys.argv[1]), timeout=5)\n"
        "c.request('GET', sys.argv[2], headers={'Host': sys.argv[3]})\n"
        "r = c.getresponse()\n"
        "print(r.status, r.getheader('Server'), r.read().decode())\n"
    )
    run = ("run", "--rm", f"--network=container:{NETWORK}", "--entrypoint=python3", image("gateway"), "-c")
    status, _, rest = docker(*run, script, str(port), path, host).partition(" ")
    return int(status), rest


@pytest.mark.usefixtures("cluster")
def test_every_instance_gets_its_share():
    with Traffic(2, kinds="new") as traffic:
        pass
    assert traffic.failed() == {}
    shares = traffic.report["answered"]
    assert set(shares) == {f"{host}:{port} 1.0.0" for host, ports in PORTS.items() for port in ports}
    assert max(shares.values()) - min(shares.values()) <= 2


def test_the_status_document(cluster):
    view = cluster.until(lambda view: view["reconciled_s_ago"] is not None)
    assert view["node"] == "gw1"
    assert view["serf"] == {"ok": True, "error": None}
    assert view["config"]["ok"]
    assert view["rejected"] == []
    assert {member["name"]: member["status"] for member in view["members"]} == dict.fromkeys(ADDRESSES, "alive")
    offer = {"service": "predictor", "version": "1.0.0", "first_port": 8000, "last_port": 8001, "checks": 0}
    assert [member["offers"] for member in view["members"] if member["name"] == "app1"] == [[offer]]
    assert view["servers"][0] == {
        "service": "predictor",
        "name": "app1-8000",
        "address": "10.99.0.21",
        "port": 8000,
        "state": "up",
        "sessions": 0,
        "requests": view["servers"][0]["requests"],
        "errors_5xx": 0,
        "failures": 0,
        "retries": 0,
        "version": "1.0.0",
    }
    assert view["haproxy"]["version"].startswith("3.0.")
    docker("exec", GATEWAY, "fiefdom-gateway", "healthy")


@pytest.mark.usefixtures("cluster")
def test_the_internal_port_answers_and_tells_no_version():
    assert get("/healthz", port=8404)[0] == 200
    assert "haproxy_server_status" in get("/metrics", port=8404, host="10.99.0.11")[1]
    assert "3.0.11" not in get("/stats", port=8404, host="10.99.0.11")[1]
    assert get("/predict")[1].startswith("predictor ")


def test_a_host_that_leaves_and_comes_back_fails_no_request(cluster):
    with Traffic(9) as traffic:
        cluster.stop("app1-serf")
        gone = cluster.until(lambda view: not any(name.startswith("app1-") for name in states(view)), 5)
        assert states(gone) == {"app2-8010": "up", "app2-8011": "up"}
        for port in PORTS["app1"]:
            cluster.stop(f"app1-{port}")
            cluster.start_instance("app1", port, "1.1.0")
        cluster.start_agent("app1")
        cluster.until(lambda view: states(view).get("app1-8001") == "up")
    assert traffic.failed() == {}
    assert "app1:8000 1.1.0" in traffic.report["answered"]


def test_killed_instances_fail_no_get(cluster):
    with Traffic(10, kinds="busy,pausing,new,slow") as traffic:
        for host, port in (("app1", 8000), ("app2", 8010)):
            name = f"{PREFIX}-{host}-{port}"
            docker("kill", "--signal=KILL", name)
            cluster.until(lambda view, name=f"{host}-{port}": states(view)[name] == "down", 5)
            docker("start", name)
            cluster.until(lambda view, name=f"{host}-{port}": states(view)[name] == "up", 10)
    assert traffic.failed() == {}


@pytest.mark.parametrize("delay_ms", [pytest.param(0, marks=pytest.mark.proof), 300])
def test_one_request_costs_two_instances_at_most_and_a_dead_host_no_request(cluster, delay_ms):
    with cluster.fragile(6):
        status, _ = get(f"/poison?delay_ms={delay_ms}")
        assert status in (502, 503)
        # Whatever else were tried would be over soon.
        time.sleep(2 + delay_ms / 1000)
        said = "".join(docker("logs", f"{PREFIX}-{host}-fragile") for host in PORTS)
        assert said.count("read /poison") == 2, "of twelve"
        view = cluster.until(lambda view: sorted(states(view).values()).count("down") == 2)
        assert list(states(view).values()).count("up") == 10
        assert get("/predict")[0] == 200
    with cluster.fragile(4), Traffic(14, kinds="busy,pausing,new,slow", rate=500, clients=4, slow_ms=100) as traffic:
        for host in PORTS:
            docker("kill", "--signal=KILL", f"{PREFIX}-{host}-fragile")
            time.sleep(2)
            cluster.start_fragile(host, 4)
            cluster.until_fragile(4)
    assert traffic.failed() == {}


def test_a_new_static_part_is_taken_up_and_a_broken_one_is_not(cluster):
    first = cluster.status()["config"]["digest"]
    with Traffic(9) as traffic:
        cluster.write_static({**PLAIN, "retries": 6})
        second = cluster.until(lambda view: view["config"]["digest"] != first)
        cluster.write_static(PLAIN, more="frontend nonsense\n    bogus\n")
        refused = cluster.until(lambda view: not view["config"]["ok"])
        assert "unknown keyword 'bogus'" in refused["config"]["error"]
        assert refused["config"]["digest"] == second["config"]["digest"]
        # HAProxy's own verdict: no second try, and the host's plan finds it.
        assert refused["config"]["retry_in_s"] is None
        word = cluster.folder / "gateway-state" / "refused"
        await_true(word.exists, 5)
        assert word.read_text().startswith(f"{refused['config']['refused']} ")
        cluster.write_static(PLAIN)
        cluster.until(lambda view: view["config"]["ok"] and view["config"]["digest"] == first)
        assert not word.exists()
    assert traffic.failed() == {}


def test_a_port_that_was_taken_is_tried_again_until_it_is_free(cluster):
    first = cluster.status()["config"]["digest"]
    name = f"{PREFIX}-squatter"
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 8081)); time.sleep(600)"
    squat = ("run", "--detach", "--name", name, f"--network=container:{NETWORK}", "--entrypoint=python3")
    docker(*squat, image("gateway"), "-c", listen)
    try:
        with Traffic(12) as traffic:
            cluster.write_static({**PLAIN, "listeners": [*PLAIN["listeners"], listener(8081, "predictor")]})
            taken = cluster.until(lambda view: not view["config"]["ok"])
            assert taken["config"]["digest"] == first
            assert taken["config"]["retry_in_s"] is not None
            assert "is tried again" in taken["config"]["error"]
            assert "port 8081 cannot be listened on" in taken["config"]["error"]
            docker("rm", "--force", name)
            cluster.until(lambda view: view["config"]["ok"] and view["config"]["digest"] != first)
    finally:
        docker("rm", "--force", name, check=False)
    assert get("/predict", port=8081)[0] == 200
    assert traffic.failed() == {}


def test_checks_ask_the_port_that_a_host_offers_and_follow_it(cluster):
    """app1's instances are checked at ports where nobody is, and then at their own again."""

    def offer(text: str) -> None:
        docker("rm", "--force", f"{PREFIX}-app1-serf")
        cluster.write_offer("app1", text, 7374)
        cluster.start_agent("app1")

    try:
        offer("1.0.0;8000-8001;8050")
        view = cluster.until(lambda view: {states(view).get(f"app1-{port}") for port in PORTS["app1"]} == {"down"})
        assert states(view)["app2-8010"] == "up"
        offer("1.0.0;8000-8001;8000")
        cluster.until(lambda view: {states(view).get(f"app1-{port}") for port in PORTS["app1"]} == {"up"})
    finally:
        offer("1.0.0;8000-8001")
    cluster.until(lambda view: set(states(view).values()) == {"up"})


def test_two_services_on_one_port(cluster):
    predictor = {"name": "predictor", "backend": "predictor", "base_port": 8000, "max_instances": 10}
    echo = {"name": "echo", "backend": "echo", "base_port": 8010, "max_instances": 10}
    hosts = {name: {"address": address, "services": ["predictor", "echo"]} for name, address in ADDRESSES.items()}
    cluster.write_reconciler(services=[{**each, "server_options": OPTIONS} for each in (predictor, echo)], hosts=hosts)
    cluster.write_static({**BY_PREFIX, "backends": [{**each, "health_path": "/health"} for each in TWO]})
    docker("rm", "--force", f"{PREFIX}-app2-serf")
    agent = json.loads((cluster.folder / "app2" / "agent.json").read_text())
    before = json.dumps(agent)
    agent["tags"] = {"role": "app", "svc:echo": "2.0.0;8010-8011"}
    cluster._write(cluster.folder / "app2" / "agent.json", json.dumps(agent), 0o400)
    try:
        cluster.start_agent("app2")
        view = cluster.until(
            lambda view: (
                {server["service"]: server["state"] for server in view["servers"]} == {"predictor": "up", "echo": "up"}
                and len(view["servers"]) == 4
            )
        )
        assert view["rejected"] == []
        assert '"host": "app1"' in get("/predict")[1]
        # The predictor that plays the echo service knows no /p, but it is the one who is asked.
        status, answer = get("/p/x")
        assert (status, '"host": "app2"' in answer) == (404, True)
        assert get("/px")[1].rstrip().endswith("no service is routed here")
    finally:
        cluster._write(cluster.folder / "app2" / "agent.json", before, 0o400)
        docker("rm", "--force", f"{PREFIX}-app2-serf")


def test_a_member_that_claims_too_much_gets_nothing(cluster):
    cluster.stop("app1-serf")
    before = (cluster.folder / "app1" / "agent.json").read_text()
    cluster.write_offer("app1", "1.0.0;22-8001", 7374)
    try:
        cluster.start_agent("app1")
        view = cluster.until(lambda view: view["rejected"] != [])
        reason = "offers predictor on ports 22-8001, outside 8000-8099"
        assert view["rejected"] == [{"member": "app1", "reason": reason}]
        assert set(states(cluster.until(lambda view: len(view["servers"]) == 2))) == {"app2-8010", "app2-8011"}
    finally:
        cluster._write(cluster.folder / "app1" / "agent.json", before, 0o400)
        cluster.stop("app1-serf")


def test_what_somebody_changed_in_haproxy_is_mended(cluster):
    everything = states(cluster.status())
    cluster.haproxy("set server predictor/app1-8000 state maint")
    cluster.haproxy("disable health predictor/app1-8001")
    cluster.haproxy("set server predictor/app2-8010 state maint")
    cluster.haproxy("del server predictor/app2-8010")
    assert "registered" in cluster.haproxy(f"add server predictor/stranger 10.99.0.22:9999 {OPTIONS}")
    cluster.until(lambda view: "stranger" not in states(view) and states(view) == everything, 5)


def test_serf_killed_or_frozen_fails_no_request(cluster):
    find = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '^serf agent' && echo ${p#/proc/}; done"
    with Traffic(9) as traffic:
        killed = docker("exec", GATEWAY, "sh", "-c", find, check=False)
        docker("exec", GATEWAY, "sh", "-c", f"kill -KILL {killed}")
        await_true(lambda: docker("exec", GATEWAY, "sh", "-c", find, check=False) not in ("", killed), 15)
        agent = docker("exec", GATEWAY, "sh", "-c", find, check=False)
        cluster.until(lambda view: view["serf"]["ok"] and len(view["members"]) == 3)
        docker("exec", GATEWAY, "sh", "-c", f"kill -STOP {agent}")
        stuck = cluster.until(lambda view: not view["serf"]["ok"])
        assert len(states(stuck)) == 4
        docker("exec", GATEWAY, "sh", "-c", f"kill -CONT {agent}")
        cluster.until(lambda view: view["serf"]["ok"])
    assert traffic.failed() == {}


def test_a_changed_agent_configuration_restarts_the_agent_alone(cluster):
    path = cluster.folder / "gateway" / "agent.json"
    before = path.read_text()
    worker = cluster.status()["haproxy"]["pid"]
    starts = docker("logs", GATEWAY).count("Serf agent running")
    try:
        with Traffic(6) as traffic:
            cluster._write(path, before.replace("only-gw1-knows", "another"), 0o400)
            await_true(lambda: docker("logs", GATEWAY).count("Serf agent running") > starts, 10)
            view = cluster.until(lambda view: view["serf"]["ok"] and len(view["members"]) == 3)
    finally:
        cluster._write(path, before, 0o400)
    assert view["haproxy"]["pid"] == worker
    assert traffic.failed() == {}


def test_a_gateway_that_starts_alone_serves_with_the_servers_it_remembers(cluster):
    for host in PORTS:
        docker("kill", "--signal=KILL", f"{PREFIX}-{host}-serf")
    docker("kill", "--signal=KILL", GATEWAY)
    docker("start", GATEWAY)
    view = cluster.until(lambda view: view["serf"]["ok"] and view["healthy"])
    assert [member["name"] for member in view["members"]] == ["gw1"]
    assert len(states(view)) == 4
    assert get("/predict")[0] == 200


def test_a_dead_worker_ends_the_container_at_once(cluster):
    docker("exec", GATEWAY, "sh", "-c", f"kill -KILL {cluster.status()['haproxy']['pid']}")
    assert docker("wait", GATEWAY) == "1"


@pytest.mark.usefixtures("cluster")
def test_a_stop_finishes_open_requests_and_leaves_the_cluster():
    with Traffic(1.2, kinds="slow", clients=20, slow_ms=2500) as traffic:
        began_s = time.monotonic()
        docker("stop", GATEWAY)
        took_s = time.monotonic() - began_s
    assert docker("inspect", "--format={{.State.ExitCode}}", GATEWAY) == "0"
    assert took_s < 20
    assert traffic.report["total"] == 20
    environment = "--env=SERF_RPC_ADDR=127.0.0.1:7374", "--env=SERF_RPC_AUTH=only-app1-knows"
    members = docker("exec", *environment, f"{PREFIX}-app1-serf", "serf", "members", "-format", "json")
    assert {m["name"]: m["status"] for m in json.loads(members)["members"]}["gw1"] == "left"
    assert traffic.failed() == {}


# --- Routes

# Sends a request as it is given, and prints its status and what an instance was told.
RAW = """
import json, socket, sys
request, size = sys.argv[1], int(sys.argv[2])
with socket.create_connection(("10.99.0.11", 80), 10) as s:
    s.sendall(request.replace("|", "\\r\\n").encode() + b"x" * size)
    said = b""
    while b"\\r\\n\\r\\n" not in said or (b" 200 " in said[:20] and not said.endswith(b"}")):
        more = s.recv(65536)
        if not more:
            break
        said += more
head, _, body = said.decode().partition("\\r\\n\\r\\n")
print(json.dumps([int(head.split()[1]), json.loads(body)["head"] if head.split()[1] == "200" else ""]))
"""


def raw(request: str, size: int = 0) -> tuple[int, str]:
    run = ("run", "--rm", f"--network=container:{NETWORK}", "--entrypoint=python3", image("gateway"), "-c", RAW)
    status, told = json.loads(docker(*run, request, str(size)))
    return status, told


def test_hosts_prefixes_dots_bodies_and_networks(cluster):
    with cluster.fragile(1):

        def place(**changes: Any) -> None:
            before = cluster.status()["config"]["digest"]
            own = {**ROUTED["backends"][0], **changes}
            cluster.write_static({**ROUTED, "backends": [own]})
            cluster.until(lambda view: view["config"]["ok"] and view["config"]["digest"] != before)

        def of(target: str, host: str = "any.example.org") -> tuple[int, str]:
            status, told = raw(f"GET {target} HTTP/1.1|Host: {host}||")
            return status, told.partition(" HTTP/")[0]

        place()
        assert of("/api/predict?a=1") == (200, "GET /predict?a=1")
        assert of("/api") == of("/api/") == (200, "GET /")
        assert of("/apis")[0] == 404
        assert of("/x", "v1.eu.api.example.org:80")[0] == 404
        assert of("/api/x", "v1.eu.api.example.org:80") == (200, "GET /x")
        for target in ("/api/../x", "/api%2f..%2fx", "/api/..;/x", "/x%zz/../api/", "/api/%252e%252e/"):
            assert of(target)[0] == 400, target
        assert 'X-Odd: a"b $HOME %[src] # 100%' in raw("GET /api/x HTTP/1.1|Host: a||")[1].replace("x-odd", "X-Odd")
        assert of("/api/x", "example.org")[0] == of("/api/x", "x.old.example.org")[0] == 308
        assert of("/api/..x")[0] == 200
        # Last, for these instances take what follows a head for another one.
        post = "POST /api/up HTTP/1.1|Host: a|"
        assert raw(f"{post}Content-Length: 16384||", 16384)[0] == 200
        assert raw(f"{post}Content-Length: 16385||", 16384)[0] == 413
        assert raw(f"{post}Transfer-Encoding: chunked||5|hello|0||")[0] == 411
        place(maintenance={"page": None, "retry_after_s": 60})
        assert of("/api/predict")[0] == 503
        place(allow_from=["10.98.0.0/16"])
        assert of("/api/predict")[0] == 403


# --- TLS


def over_tls(cluster: Cluster, seconds: float) -> TlsTraffic:
    """Clients of HTTP/1.1 and HTTP/2, from inside the network."""
    before = (
        *("docker", "run", "--rm", f"--network=container:{NETWORK}", "--entrypoint=python3"),
        f"--volume={ROOT}/tests/helpers/tls_load.py:/tls_load.py:ro",
        *(f"--volume={cluster.folder}/authorities.pem:/authorities.pem:ro", image("gateway")),
    )
    return TlsTraffic([*before], "10.99.0.11:443", "www.example.org", "/authorities.pem", seconds, "/tls_load.py")


def test_a_renewed_certificate_ends_no_connection_and_what_haproxy_refuses_changes_nothing(cluster):
    first, second = (issued("www.example.org", intermediate(), days=days) for days in (50, 90))

    def place(www: bytes) -> None:
        cluster.write_static({**ENCRYPTED, "tls": cluster.write_certificates(www=www)})

    def until_served(one: Issued) -> dict[str, Any]:
        ends = f"{one.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        row = {"name": "www", "names": ["www.example.org"], "ends": ends}
        return cluster.until(lambda view: view["config"]["ok"] and view["certificates"] == [row])

    place(served(first))
    worker = until_served(first)["haproxy"]["pid"]
    with over_tls(cluster, 9) as traffic:
        place(served(second))
        assert until_served(second)["haproxy"]["pid"] == worker
        place(b"no certificate\n")
        refused = cluster.until(lambda view: not view["config"]["ok"])
        assert "www.pem" in refused["config"]["error"]
        assert refused["haproxy"]["pid"] == worker
        place(served(second))
        assert until_served(second)["haproxy"]["pid"] == worker
    serials = {str(int(s, 16)) for s in traffic.report["serials"]}
    assert traffic.report["failed"] == 0, traffic.report
    assert serials == {str(one.certificate.serial_number) for one in (first, second)}
    assert set(traffic.report["totals"]) == {"busy", "pausing", "post", "new", "h2"}


@pytest.mark.proof
def test_a_reload_sends_clients_over_tls_away_without_a_failure(cluster):
    tls = cluster.write_certificates(www=served(issued("www.example.org", intermediate())))
    cluster.write_static({**ENCRYPTED, "tls": tls})
    before = cluster.until(lambda view: view["config"]["ok"] and view["certificates"] != [])["config"]["digest"]
    with over_tls(cluster, 7) as traffic:
        cluster.write_static({**ENCRYPTED, "tls": tls, "retries": 6})
        cluster.until(lambda view: view["config"]["ok"] and view["config"]["digest"] != before)
        # Another name on the list is a reload as well.
        both = cluster.write_certificates(
            www=served(issued("www.example.org", intermediate())), api=served(issued("api.example.org", intermediate()))
        )
        cluster.write_static({**ENCRYPTED, "tls": both})
        cluster.until(lambda view: view["config"]["ok"] and len(view["certificates"]) == 2)
    assert traffic.report["failed"] == 0, traffic.report
    assert len(traffic.report["serials"]) == 2


# Prints protocol, status, Location, Strict-Transport-Security and what an instance was told, of one request.
ASK = """
import http.client, json, socket, ssl, sys
port, version, given = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.create_connection(("10.99.0.11", port), 5)
        if version:
            context = ssl.create_default_context(cafile="/authorities.pem")
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
            self.sock = context.wrap_socket(self.sock, server_hostname="www.example.org")
connection = Connection("www.example.org")
connection.request("GET", "/predict?a=1", headers=given)
answer = connection.getresponse()
body = answer.read().decode()
print(json.dumps({
    "protocol": connection.sock.version() if version and connection.sock else "",
    "status": answer.status,
    "location": answer.getheader("Location"),
    "hsts": answer.getheader("Strict-Transport-Security"),
    "head": json.loads(body)["head"].lower().split("\\r\\n") if answer.status == 200 else [],
}))
"""


def ask(cluster: Cluster, port: int, version: str = "", **headers: str) -> dict[str, Any]:
    run = (
        *("run", "--rm", f"--network=container:{NETWORK}", "--entrypoint=python3"),
        f"--volume={cluster.folder}/authorities.pem:/authorities.pem:ro",
    )
    given = json.dumps({name.replace("_", "-"): value for name, value in headers.items()})
    return json.loads(docker(*run, image("gateway"), "-c", ASK, str(port), version, given))


def test_clients_are_led_to_tls_and_instances_are_told_how_they_came(cluster):
    with cluster.fragile(1):
        tls = cluster.write_certificates(www=served(issued("www.example.org", intermediate())))
        cluster.write_static({**ENCRYPTED, "tls": {**tls, "redirect": True, "hsts": "max-age=300"}})
        cluster.until(lambda view: view["config"]["ok"] and view["certificates"] != [])
        lie = {"X_Forwarded_Proto": "https", "X_Forwarded_For": "192.0.2.1", "X_Forwarded_Port": "443"}
        led = ask(cluster, 80, **lie)
        assert (led["status"], led["location"]) == (308, "https://www.example.org/predict?a=1")
        for version, protocol in (("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")):
            told = ask(cluster, 443, version, **{**lie, "X_Forwarded_Proto": "http", "X_Forwarded_Port": "80"})
            assert (told["status"], told["protocol"], told["hsts"]) == (200, protocol, "max-age=300")
            forwarded = sorted(line for line in told["head"] if line.startswith("x-forwarded-"))
            assert forwarded[1:] == ["x-forwarded-port: 443", "x-forwarded-proto: https"]
            assert len(forwarded) == 3 and "192.0.2.1" not in forwarded[0]
        # A proxy before the gateway knows better.
        before = cluster.status()["config"]["digest"]
        cluster.write_static(
            {**ENCRYPTED, "tls": {**tls, "redirect": True}, "proxies": ["10.99.0.0/24", "127.0.0.0/8"]}
        )
        cluster.until(lambda view: view["config"]["ok"] and view["config"]["digest"] != before)
        told = ask(cluster, 80, **lie)
        assert told["status"] == 200
        assert "x-forwarded-proto: https" in told["head"] and "x-forwarded-port: 443" in told["head"]


def test_tls_older_than_1_2_is_refused(cluster):
    tls = cluster.write_certificates(www=served(issued("www.example.org", intermediate())))
    cluster.write_static({**ENCRYPTED, "tls": tls})
    cluster.until(lambda view: view["config"]["ok"] and view["certificates"] != [])
    # Python's own client would not say it: so this is the first message of one that speaks nothing but TLS 1.1.
    hello = (
        "import socket, sys\n"
        "body = bytes.fromhex('0302') + bytes(32) + bytes.fromhex('00' '0004' 'c013c014' '0100')\n"
        "hand = b'\\x01' + len(body).to_bytes(3, 'big') + body\n"
        "with socket.create_connection(('10.99.0.11', 443), 5) as s:\n"
        "    s.sendall(b'\\x16\\x03\\x01' + len(hand).to_bytes(2, 'big') + hand)\n"
        "    print(s.recv(7).hex())\n"
    )
    run = ("run", "--rm", f"--network=container:{NETWORK}", "--entrypoint=python3", image("gateway"), "-c", hello)
    # An alert (21), fatal (2): protocol_version (70).
    assert docker(*run)[-4:] == "0246"


# --- A gateway and its successor


class Supervised:
    """The gateway under its unit's script: `run`, and a `reload` after each change of the container."""

    def __init__(self, cluster: Cluster) -> None:
        self.folder = cluster.folder
        self.script = str(place_supervisor(self.folder))
        place_handover(self.folder)
        self.container = Container(
            name=GATEWAY,
            unit="",
            role="gateway",
            image=image("gateway"),
            args=(
                *SANDBOX,
                f"--volume={self.folder}/gateway:/etc/fiefdom/gateway:ro",
                f"--volume={self.folder}/gateway-state:/var/lib/fiefdom/gateway",
            ),
            stop_grace_s=45,
        )
        self.memory_mib = 256
        self.runs: list[subprocess.Popen[str]] = []
        self.write()

    def write(self, *more: str, command: tuple[str, ...] = ()) -> None:
        """Ask for a container of other settings, a successor therefore; with `more` arguments."""
        self.memory_mib += 1
        args = (*self.container.args, f"--memory={self.memory_mib}m", *more)
        conf = conf_file(replace(self.container, args=args, command=command), HostState())
        (self.folder / f"{GATEWAY}.conf").write_bytes(conf.content)

    def program(self, text: str, path: str) -> str:
        """An argument that puts a program of our own in the place of one of the image's."""
        own = self.folder / "gateway" / Path(path).name
        own.write_text(text)
        own.chmod(0o755)
        return f"--volume={own}:{path}:ro"

    def run(self) -> subprocess.Popen[str]:
        words = (self.script, "run", GATEWAY, "fiefdom-gateway")
        log = (self.folder / "run.log").open("a")
        self.runs.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True))
        return self.runs[-1]

    def start_reload(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "MAINPID": str(self.runs[-1].pid)}
        return subprocess.Popen([self.script, "reload", GATEWAY], stderr=subprocess.PIPE, text=True, env=environment)

    def reload(self) -> str:
        """What a reload complains of; nothing when it was done."""
        process = self.start_reload()
        _, complaint = process.communicate(timeout=90)
        assert (process.returncode == 0) == (complaint == "")
        return complaint

    def close(self) -> None:
        for run in self.runs:
            run.kill()
            run.wait()
        docker("rm", "--force", *self.containers().values(), check=False)

    @staticmethod
    def containers() -> dict[str, str]:
        """Ids of the gateway's containers by what follows its name: "", ".retiring-1", ".failed"."""
        found = docker("ps", "--all", "--no-trunc", f"--filter=name=^{GATEWAY}", "--format={{.Names}} {{.ID}}")
        return {name.removeprefix(GATEWAY): id_ for name, id_ in map(str.split, found.splitlines())}

    def log(self) -> str:
        return (self.folder / "run.log").read_text()


@pytest.fixture
def supervised(cluster: Cluster) -> Iterator[Supervised]:
    # In order: an agent that is killed in its first moments has not written down whom to join again.
    docker("stop", GATEWAY, check=False)
    docker("rm", GATEWAY, check=False)
    it = Supervised(cluster)
    try:
        it.run()
        serves(cluster)
        yield it
    finally:
        it.close()


def serves(cluster: Cluster) -> dict[str, Any]:
    names = {f"{host}-{port}" for host, ports in PORTS.items() for port in ports}
    return cluster.until(
        lambda view: (
            states(view) == dict.fromkeys(names, "up")
            and view["serf"]["ok"]
            and all(member["status"] == "alive" for member in view["members"])
            and len(view["members"]) == 3
        )
    )


def listening() -> list[str]:
    """Inodes of the sockets that listen on port 80 or 8404: each one more could lose what waits in its queue."""
    rows = docker("exec", NETWORK, "cat", "/proc/net/tcp").splitlines()[1:]
    cells = [row.split() for row in rows]
    return sorted(row[9] for row in cells if row[3] == "0A" and row[1].rpartition(":")[2] in ("0050", "20D4"))


def seen_by(host: str) -> dict[str, str]:
    """Status of each member as a host's agent sees it."""
    number = list(PORTS).index(host) + 1
    environment = f"--env=SERF_RPC_ADDR=127.0.0.1:{7373 + number}", f"--env=SERF_RPC_AUTH=only-{host}-knows"
    text = docker("exec", *environment, f"{PREFIX}-{host}-serf", "serf", "members", "-format", "json")
    return {member["name"]: member["status"] for member in json.loads(text)["members"]}


@pytest.mark.proof
def test_successors_take_over_and_no_request_fails(cluster, supervised):
    sockets = listening()
    assert len(sockets) == 2
    ids = {supervised.containers()[""]}
    with Traffic(15, kinds=EVERY_KIND, rate=800, clients=3, slow_ms=2000, at_least=20_000) as traffic:
        for number in range(4):
            supervised.write()
            assert supervised.reload() == ""
            # What took sockets over must be able to reload, and to pass on what a reload left.
            before = serves(cluster)["config"]["digest"]
            cluster.write_static({**PLAIN, "retries": 6 + number})
            cluster.until(lambda view, before=before: view["config"]["digest"] != before and view["config"]["ok"])
            ids.add(supervised.containers()[""])
            assert listening() == sockets
            assert seen_by("app1")["gw1"] == "alive"
            serves(cluster)
    assert traffic.failed() == {}
    assert traffic.report["total"] >= 20_000
    assert len(ids) == 5
    await_true(lambda: list(supervised.containers()) == [""], 30)
    assert supervised.reload() == ""
    assert supervised.containers()[""] in ids, "what it made was not what it wanted"
    # The unit must hear of the end of the newest one.
    docker("kill", GATEWAY)
    assert supervised.runs[-1].wait(5) == 137


FORMER = 990


def take_over_as(supervised: Supervised, user: int, before: int) -> None:
    """What an apply does where containers get another user: the successor's reload is in the place of systemd's."""
    folder = supervised.folder
    state, agent = folder / "gateway-state", folder / "gateway" / "agent.json"
    supervised.write(f"--user={user}:{user}", f"--tmpfs=/run:uid={user},gid={user}")
    reload = f"MAINPID={supervised.runs[-1].pid} {supervised.script} reload {GATEWAY}"
    script = steps_script.SCRIPT
    for old, new in (
        ("state=/var/lib/fiefdom\n", f"state={folder}/host\n"),
        ('$(systemctl "$verb" "$@" 2>&1)', f"$({reload} 2>&1)"),
    ):
        assert old in script
        script = script.replace(old, new)
    content = base64.b64encode(agent.read_bytes()).decode()
    taken = (
        ("lend", str(state), str(before), str(user)),
        ("lend", str(agent), str(before), str(user)),
        ("stage", str(agent), "0400", str(user), str(user), content),
        ("place", str(agent)),
        ("containers", "reload", "gateway.service"),
        ("own", str(state), "0700", str(user), str(user)),
        ("own", str(agent), "0400", str(user), str(user)),
    )
    done = subprocess.run(
        ["sh", "-c", script],
        input=steps_script.steps_text(taken),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr + supervised.log()


def test_a_successor_of_another_user_takes_over_and_no_request_fails(cluster, supervised):
    state = cluster.folder / "gateway-state"
    with Traffic(25, kinds=EVERY_KIND, rate=400, clients=3, slow_ms=2000, at_least=5_000) as traffic:
        for number, (user, before) in enumerate([(FORMER, UID), (UID, FORMER)] * 2):
            # The one before takes it up at some moment of this, and its HAProxy has other sockets then.
            cluster.write_static({**PLAIN, "retries": 6 + number})
            take_over_as(supervised, user, before)
            assert docker("exec", GATEWAY, "id", "-u") == str(user)
            paths = [state, *state.rglob("*"), cluster.folder / "gateway" / "agent.json"]
            assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(user, user)}
            assert state.stat().st_mode & 0o777 == 0o700
            # What took over can write, reload, and knows whom it served.
            before_digest = serves(cluster)["config"]["digest"]
            cluster.write_static({**PLAIN, "retries": 20 + number})
            cluster.until(lambda view, was=before_digest: view["config"]["digest"] != was and view["config"]["ok"])
            assert seen_by("app1")["gw1"] == "alive"
    assert traffic.failed() == {}
    assert traffic.report["total"] >= 5_000
    await_true(lambda: list(supervised.containers()) == [""], 40)


EVERY_KIND = "busy,pausing,new,slow,post,post-new,slow-post"
OTHER_HAPROXY = "#!/bin/sh\necho 'no such library' >&2\nexit 1\n"
STUCK_SERF = "#!/bin/sh\nexec sleep infinity\n"


@pytest.mark.parametrize("bad", ["image", "haproxy", pytest.param("serf", marks=pytest.mark.proof)])
def test_a_bad_successor_changes_nothing_and_is_kept_aside(cluster, supervised, bad):
    before = supervised.containers()
    stamp = (supervised.folder / "stamps" / GATEWAY).read_text()
    more: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    match bad:
        case "image":
            command = ("nonsense",)
        case "haproxy":
            more = (supervised.program(OTHER_HAPROXY, "/usr/sbin/haproxy"),)
        case "serf":
            more = (supervised.program(STUCK_SERF, "/usr/bin/serf"),)
    with Traffic(6, kinds=EVERY_KIND, clients=3, slow_ms=2000) as traffic:
        supervised.write(*more, command=command)
        complaint = supervised.reload()
        assert "the successor ended before it had taken over" in complaint
        assert "the old one stays" in complaint
        after = supervised.containers()
        assert set(after) == {"", ".failed"}
        assert after[""] == before[""]
        assert (supervised.folder / "stamps" / GATEWAY).read_text() == stamp
        serves(cluster)
        words = {"image": "usage:", "haproxy": "no such library", "serf": "was not ready within"}
        assert words[bad] in supervised.log()
        supervised.write()
        assert supervised.reload() == ""
        serves(cluster)
    assert traffic.failed() == {}
    assert supervised.containers()[""] != before[""]
    assert len(listening()) == 2


@pytest.mark.proof
def test_a_third_one_takes_over_while_the_first_has_open_requests(cluster, supervised):
    with Traffic(12, kinds=EVERY_KIND, clients=3, slow_ms=15000) as first:
        supervised.write()
        assert supervised.reload() == ""
        with Traffic(8, kinds="slow,slow-post", clients=3, slow_ms=15000) as second:
            supervised.write()
            assert supervised.reload() == ""
            assert set(supervised.containers()) == {"", ".retiring-1", ".retiring-2"}
            # Who leaves waits for the open requests in all of them.
            assert sum(server["sessions"] for server in cluster.status()["servers"]) >= 12
    assert first.failed() == {}
    assert second.failed() == {}
    await_true(lambda: list(supervised.containers()) == [""], 45)


@pytest.mark.proof
def test_a_host_that_leaves_is_drained_in_the_retiring_gateway_too(cluster, supervised):
    with Traffic(10, clients=3, slow_ms=4000) as traffic:
        supervised.write()
        assert supervised.reload() == ""
        cluster.stop("app1-serf")
        cluster.until(
            lambda view: not any(name.startswith("app1-") for name in states(view)) and sessions_of(view, "app1") == 0
        )
        for port in PORTS["app1"]:
            docker("kill", f"{PREFIX}-app1-{port}")
    assert traffic.failed() == {}


def sessions_of(view: dict[str, Any], host: str) -> int:
    return sum(server["sessions"] for server in view["servers"] if server["name"].startswith(host))


def test_a_successor_takes_over_while_the_agent_starts_with_another_configuration(cluster, supervised):
    """As when the key is rotated: were a farewell cut short, app hosts would take the gateway for gone from then on."""
    path = cluster.folder / "gateway" / "agent.json"
    before = path.read_text()
    try:
        cluster._write(path, before.replace("only-gw1-knows", "another"), 0o400)
        await_true(lambda: "the Serf agent starts again" in docker("logs", GATEWAY), 10)
        supervised.write()
        reload = supervised.start_reload()
        seen = set()
        while reload.poll() is None:
            seen |= {seen_by(host)["gw1"] for host in PORTS}
        assert reload.communicate()[1] == ""
        serves(cluster)
        assert seen | {seen_by(host)["gw1"] for host in PORTS} == {"alive"}
    finally:
        cluster._write(path, before, 0o400)


@pytest.mark.parametrize("moment", ["before", pytest.param("during", marks=pytest.mark.proof), "after"])
def test_a_run_that_is_killed_half_way_is_finished_by_the_next(cluster, supervised, moment):
    before = supervised.containers()[""]
    with Traffic(6, kinds=EVERY_KIND, clients=3, slow_ms=2000) as traffic:
        supervised.write()
        reload = supervised.start_reload()
        match moment:
            case "before":
                await_true(lambda: ".next" in supervised.containers())
            case "during":
                await_true(lambda: "a successor asks" in docker("logs", before, check=False))
            case "after":
                await_true(lambda: "taken over" in docker("logs", before, check=False))
        supervised.runs[-1].kill()
        supervised.runs[-1].wait()
        assert reload.wait(10) == 1
        supervised.run()
        await_true(lambda: supervised.containers().get("", before) != before, 45)
        serves(cluster)
    assert traffic.failed() == {}
    await_true(lambda: list(supervised.containers()) == [""], 45)
    assert supervised.reload() == ""


def test_a_successor_that_never_ran_is_cleared_away(cluster, supervised):
    """A run that is killed between the two steps leaves it."""
    before = supervised.containers()[""]
    supervised.runs[-1].kill()
    supervised.runs[-1].wait()
    supervised.write()
    docker("create", "--name", f"{GATEWAY}.next", image("gateway"))
    supervised.run()
    await_true(lambda: supervised.containers().get("", before) != before, 45)
    serves(cluster)
    await_true(lambda: list(supervised.containers()) == [""], 45)


def test_a_container_of_an_older_image_is_replaced_with_an_interruption(cluster, supervised):
    text = (ROOT / "images" / "gateway" / "fiefdom-gateway").read_text()
    old = text.replace("import sys\n", "import sys\n\nif sys.argv[1:] == ['lends']:\n    sys.exit(2)\n")
    supervised.write(supervised.program(old, "/usr/local/bin/fiefdom-gateway"))
    assert supervised.reload() == ""
    serves(cluster)
    before = supervised.containers()
    supervised.write()
    assert supervised.reload() == ""
    serves(cluster)
    assert supervised.containers().keys() == before.keys() == {""}
    assert supervised.containers() != before
    assert "it is interrupted this once" in supervised.log()


def test_a_stop_ends_the_retiring_ones_too(supervised):
    with Traffic(1.2, kinds="slow", clients=10, slow_ms=6000) as traffic:
        supervised.write()
        assert supervised.reload() == ""
        supervised.runs[-1].terminate()
        assert supervised.runs[-1].wait(30) == 0
    assert list(supervised.containers()) == [""]
    assert docker("inspect", "--format={{.State.Running}}", GATEWAY) == "false"
    assert traffic.failed() == {}
