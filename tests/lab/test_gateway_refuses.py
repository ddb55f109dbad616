"""What a real gateway lets through to a real instance, and whom it believes: smuggling, slow clients, false members.

Plain containers in a network of their own; no host of the lab is needed. The instance records the bytes that it gets.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fiefdom.desired.account import UID
from fiefdom.desired.render import render
from fiefdom.images import bases
from helpers.haproxy_variables import LIMITS

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
PREFIX = "scratch-refuses-test"
NETWORK = f"{PREFIX}-network"
GATEWAY = f"{PREFIX}-gw1"
SUBNET = "10.98.7.0/24"
# The upper half is where no host of this inventory may be.
ALLOWED = "10.98.7.0/25"
GATEWAY_ADDRESS = "10.98.7.11"
KNOWN = {
    "gw1": {"address": GATEWAY_ADDRESS, "services": []},
    "app1": {"address": "10.98.7.21", "services": ["predictor"]},
    "app2": {"address": "10.98.7.22", "services": ["predictor"]},
}
OPTIONS = "check inter 500ms fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down"
SANDBOX = (
    *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=256"),
    *(f"--tmpfs=/run:uid={UID},gid={UID}", "--tmpfs=/tmp", "--sysctl=net.ipv4.ip_unprivileged_port_start=80"),
)
PLAIN: dict[str, Any] = {
    "stats_bind": f"{GATEWAY_ADDRESS}:8404",
    "listeners": [{"port": 80, "routes": [], "default_backend": "predictor"}],
    "backends": [{"name": "predictor", "health_path": "/health"}],
    **LIMITS,
}

# An instance that keeps what it gets, and takes lengths and chunks as RFC 9112 says. What it has kept is told, once, at
# port 9000.
RECORDER = r"""
import json, socket, threading

seen, lock = [], threading.Lock()
# What RFC 6455 has as the answer to the key in its example.
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

def head_of(reader):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = reader.read(1)
        if not byte:
            return None
        head += byte
    return head

def body_of(head, reader):
    fields = [line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:] if b":" in line]
    values = {name: value.strip() for name, value in fields}
    if values.get(b"transfer-encoding") == b"chunked":
        body = b""
        while True:
            line = reader.readline()
            body += line
            size = int(line.split(b";")[0], 16)
            if size:
                body += reader.read(size + 2)
                continue
            while line.strip():
                line = reader.readline()
                body += line
            return body
    return reader.read(int(values.get(b"content-length", b"0")))

def serve(connection):
    reader = connection.makefile("rb")
    with connection:
        while True:
            head = head_of(reader)
            if head is None:
                return
            path = head.split(b" ")[1]
            if path == b"/health":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            entry = {"head": head.decode("latin-1"), "body": "", "ended": False}
            with lock:
                seen.append(entry)
            if path == b"/ws":
                connection.sendall(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" + ACCEPT)
                while data := connection.recv(4096):
                    connection.sendall(data)
                return
            entry["body"] = body_of(head, reader).decode("latin-1")
            try:
                if path == b"/hang":
                    reader.read(1)
                elif path == b"/big":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 64000000\r\n\r\n" + bytes(64000000))
                else:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            except OSError:
                return
            finally:
                entry["ended"] = True

def tell(server):
    while True:
        connection, _ = server.accept()
        with connection, lock:
            connection.sendall(json.dumps(seen).encode())
            seen.clear()

threading.Thread(target=tell, args=(socket.create_server(("", 9000)),), daemon=True).start()
server = socket.create_server(("", 8000), backlog=512)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def image(name: str) -> str:
    return f"{PREFIX}/{name}:test"


@dataclass
class Cluster:
    """A gateway, app1 with its instance, and whoever else joins."""

    folder: Path
    key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())

    def start(self) -> None:
        for name in ("gateway", "gateway-state"):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, UID, UID)
        docker("network", "create", f"--subnet={SUBNET}", NETWORK)
        self._write("gateway/giveup.lua", render("giveup.lua.j2"), 0o644)
        self.write_static()
        self.write_reconciler()
        self._write("gateway/agent.json", self._agent("gw1", GATEWAY_ADDRESS, {"role": "gateway"}))
        docker(
            *("run", "--detach", f"--name={GATEWAY}", "--stop-timeout=45", *SANDBOX),
            *(f"--network={NETWORK}", f"--ip={GATEWAY_ADDRESS}", "--ulimit=nofile=16384:16384"),
            *(f"--volume={self.folder}/gateway:/etc/fiefdom/gateway:ro",),
            *(f"--volume={self.folder}/gateway-state:/var/lib/fiefdom/gateway", image("gateway")),
        )
        self.join("app1", "10.98.7.21")
        docker(
            *("run", "--detach", f"--name={PREFIX}-recorder", f"--network=container:{PREFIX}-app1", "--init"),
            *("--entrypoint=python3", image("gateway"), "-c", RECORDER),
        )
        self.until(lambda view: states(view) == {"app1-8000": "up"})

    def join(
        self, name: str, address: str, *, ports: str = "8000-8000", advertised: str = "", container: str = ""
    ) -> None:
        """Start an agent with the gossip key at `address` that says it is `name`."""
        config = self._agent(name, advertised or address, {"role": "app", "svc:predictor": f"1.0.0;{ports}"}, address)
        container = container or name
        (self.folder / container).mkdir(exist_ok=True)
        self._write(f"{container}/agent.json", config)
        docker(
            *("run", "--detach", f"--name={PREFIX}-{container}", *SANDBOX, f"--network={NETWORK}", f"--ip={address}"),
            *(f"--tmpfs=/var/lib/fiefdom/serf:uid={UID}", f"--volume={self.folder}/{container}:/etc/fiefdom/serf:ro"),
            image("serf"),
        )

    @contextmanager
    def stranger(self, name: str, address: str, **more: Any) -> Iterator[None]:
        self.join(name, address, container="stranger", **more)
        try:
            yield
        finally:
            docker("stop", f"{PREFIX}-stranger")
            docker("rm", "--force", f"{PREFIX}-stranger")
            docker("exec", GATEWAY, "sh", "-c", FORGET, "sh", name)
            self.until(lambda view: states(view).keys() == {"app1-8000"} and view["rejected"] == [])

    def write_static(self, **changes: Any) -> None:
        self._write("gateway/haproxy.cfg", render("haproxy.cfg.j2", **{**PLAIN, **changes}), 0o644)

    def use(self, **changes: Any) -> None:
        """Have HAProxy run the static part with changes."""
        if (self.folder / "gateway/haproxy.cfg").read_text() == render("haproxy.cfg.j2", **{**PLAIN, **changes}):
            return
        before = self.status()["config"]["digest"]
        self.write_static(**changes)
        self.until(lambda view: view["config"]["ok"] and view["config"]["digest"] != before)
        # For a moment the replaced worker accepts as well, and each counts for itself.
        deadline_s = time.monotonic() + 20
        while (workers := docker("top", GATEWAY, "-o", "pid,comm").count("haproxy") - 1) > 1:
            assert time.monotonic() < deadline_s, f"{workers} workers"
            time.sleep(0.05)

    def write_reconciler(self, **changes: object) -> None:
        service = {"name": "predictor", "backend": "predictor", "base_port": 8000, "max_instances": 100}
        config = {
            "cluster": "lab",
            "node": "gw1",
            "haproxy_config": "/etc/fiefdom/gateway/haproxy.cfg",
            "state_dir": "/var/lib/fiefdom/gateway",
            "serf_config": "/etc/fiefdom/gateway/agent.json",
            "rpc_addr": "127.0.0.1:7373",
            "interval_s": 1,
            "absent_grace_s": 120,
            "stop_grace_s": 5,
            "services": [{**service, "server_options": OPTIONS}],
            "network": ALLOWED,
            "known_hosts_only": False,
            "hosts": KNOWN,
        }
        self._write("gateway/reconciler.json", json.dumps({**config, **changes}), 0o644)

    def _agent(self, name: str, advertised: str, tags: dict[str, str], bound: str = "") -> str:
        config = {
            "node_name": name,
            "tags": tags,
            "bind": f"{bound or advertised}:7946",
            "advertise": f"{advertised}:7946",
            "encrypt_key": self.key,
            "rpc_addr": "127.0.0.1:7373",
            "profile": "local",
            "log_level": "warn",
            "retry_join": [f"{GATEWAY_ADDRESS}:7946"] if name != "gw1" else [],
            "retry_interval": "1s",
            "leave_on_terminate": True,
            "disable_name_resolution": True,
        }
        return json.dumps(config)

    def _write(self, name: str, text: str, mode: int = 0o400) -> None:
        path = self.folder / name
        beside = path.with_suffix(".new")
        beside.write_text(text)
        beside.chmod(mode)
        os.chown(beside, UID, UID)
        beside.rename(path)

    def status(self) -> dict[str, Any]:
        text = docker("exec", GATEWAY, "fiefdom-gateway", "status", check=False)
        return json.loads(text) if text else {}

    def until(self, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 20.0) -> dict[str, Any]:
        deadline_s = time.monotonic() + timeout_s
        while True:
            view = self.status()
            if view and holds(view):
                return view
            assert time.monotonic() < deadline_s, f"after {timeout_s} s: {view}\n{docker('logs', '--tail=30', GATEWAY)}"
            time.sleep(0.1)


# A name that has left, and one that was never told, make no difference.
FORGET = 'serf force-leave -prune "$1" || :'


def states(view: dict[str, Any]) -> dict[str, str]:
    return {server["name"]: server["state"] for server in view["servers"]}


@pytest.fixture(scope="module")
def cluster(docker_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    remove_all()
    for name in ("gateway", "serf"):
        context = ROOT / "images" / name
        docker("build", "--quiet", *bases.build_arguments(context), "--tag", image(name), str(context))
    folder = tmp_path_factory.mktemp("refuses")
    # pytest's own folders are for root's eyes only.
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        remove_all()
        for name in ("gateway", "serf"):
            docker("rmi", "--force", image(name))


def remove_all() -> None:
    names = docker("ps", "--all", "--quiet", f"--filter=name=^{PREFIX}-").split()
    if names:
        docker("rm", "--force", *names)
    if docker("network", "ls", "--quiet", f"--filter=name=^{NETWORK}$"):
        docker("network", "rm", NETWORK)


# --- Requests that are not what they seem


def exchange(raw: bytes, *, patience_s: float = 0.4) -> bytes:
    """All that the gateway answers to raw bytes, until it closes the connection or is silent for a while."""
    answer = b""
    with socket.create_connection((GATEWAY_ADDRESS, 80), timeout=5) as connection, suppress(ConnectionError):
        connection.sendall(raw)
        # The first answer may take as long as a socket's timeout, and what follows it comes at once or never.
        while data := _next(connection):
            answer += data
            connection.settimeout(patience_s)
    return answer


def _next(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except TimeoutError:
        return b""


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"^(?:ok)?HTTP/1\.[01] (\d{3})", answer, re.MULTILINE) if code != b"100"]


def recorded() -> list[dict[str, Any]]:
    """What the instance got since it was asked last."""
    with socket.create_connection(("10.98.7.21", 9000), timeout=5) as connection:
        return list(json.loads(b"".join(iter(lambda: connection.recv(65536), b""))))


@dataclass(frozen=True)
class Case:
    """Raw bytes, the statuses that they are answered with, and the requests that the instance gets from them.

    `has` and `lacks` are patterns for all that the instance got, headers in lower case.
    """

    name: str
    raw: bytes
    answered: tuple[int, ...]
    got: tuple[str, ...] = ()
    has: str = ""
    lacks: str = ""


HOST = b"Host: gateway\r\n"
INNER = b"GET /inner HTTP/1.1\r\nHost: gateway\r\n\r\n"
INNER_LENGTH = b"Content-Length: %d\r\n" % len(INNER)


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /a HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


def get(fields: bytes = b"", path: bytes = b"/a") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n"


def refused(name: str, raw: bytes, status: int = 400) -> Case:
    return Case(name, raw, (status,))


CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH_5 = b"Content-Length: 5\r\n"
CASES = [
    # What must work, so that the rest means something.
    Case("one request", get(), (200,), ("GET /a",), has="x-forwarded-for: 10.98.7.1"),
    Case("two requests, one after the other", get() + get(path=b"/b"), (200, 200), ("GET /a", "GET /b")),
    Case("a body with a length", post(LENGTH_5, b"hello"), (200,), ("POST /a",), has="hello"),
    Case("a body in chunks", post(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"), (200,), ("POST /a",), has="hello"),
    Case("HTTP/1.0 without a host", b"GET /a HTTP/1.0\r\n\r\n", (200,), ("GET /a",)),
    Case(
        "a request that is to be encouraged",
        post(LENGTH_5 + b"Expect: 100-continue\r\n", b"hello"),
        (200,),
        ("POST /a",),
    ),
    # Lengths.
    refused("two lengths", post(LENGTH_5 + b"Content-Length: 6\r\n", b"hello!")),
    refused("two lengths in a list", post(b"Content-Length: 5, 6\r\n", b"hello!")),
    Case(
        "one length twice",
        post(LENGTH_5 + LENGTH_5, b"hello"),
        (200,),
        ("POST /a",),
        lacks="content-length: 5.*content-length",
    ),
    *(
        refused(f"a length of {value!r}", post(b"Content-Length: " + value + b"\r\n", b"hello"))
        for value in (b"+5", b"-5", b"0x5", b"5 5", b"5;", b"", b"five", b"5\x0b", b"99999999999999999999999")
    ),
    refused("a blank before a colon", post(b"Content-Length : 5\r\n", b"hello")),
    Case("another request inside of a body", post(INNER_LENGTH, INNER), (200,), ("POST /a",), has="/inner"),
    Case(
        "another request inside of a GET's body",
        get(INNER_LENGTH) + INNER,
        (200,),
        ("GET /a",),
        has="/inner",
    ),
    # Encodings.
    Case(
        "a length and chunks",
        post(b"Content-Length: 3\r\n" + CHUNKED, b"0\r\n\r\n" + INNER),
        (200,),
        ("POST /a",),
        lacks="content-length: 3",
    ),
    Case(
        "chunks and a length",
        post(CHUNKED + b"Content-Length: 44\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (200,),
        ("POST /a",),
        lacks="content-length: 44",
    ),
    *(
        refused(
            f"an encoding of {value!r}",
            post(LENGTH_5 + b"Transfer-Encoding: " + value + b"\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        )
        for value in (
            *(b"xchunked", b"chunked, identity", b"identity", b"chunked\x0b", b"chunked;q=1", b'"chunked"', b"x, y"),
            *(b"chunked, chunked", b"\x00chunked", b"chunk\xc3\xa9d", b"gzip, chunked, gzip"),
        )
    ),
    refused("an encoding twice", post(CHUNKED + CHUNKED, b"0\r\n\r\n")),
    refused("a blank before an encoding's colon", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n")),
    refused("chunks in HTTP/1.0", b"POST /a HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n"),
    *(
        refused(f"a chunk's size of {size[:20]!r}", post(CHUNKED, size + b"\r\nhello\r\n0\r\n\r\n"))
        for size in (b"0x5", b"-5", b"+5", b"fffffffffffffffff", b"10000000000000005", b"5 5", b"", b"g", b"\x005")
    ),
    refused("a chunk longer than its size", post(CHUNKED, b"5\r\nhello!\r\n0\r\n\r\n")),
    refused("a chunk that ends without CR", post(CHUNKED, b"5\r\nhello\n0\r\n\r\n")),
    Case(
        "a chunk's extension",
        post(CHUNKED, b"5;x=" + b"y" * 50 + b"\r\nhello\r\n0\r\n\r\n"),
        (200,),
        ("POST /a",),
        has="hello",
        lacks="yyy",
    ),
    Case(
        "trailers stay trailers",
        post(CHUNKED, b"5\r\nhello\r\n0\r\nContent-Length: 7\r\nHost: other\r\n\r\n"),
        (200,),
        ("POST /a",),
        has="0\r\ncontent-length: 7\r\nhost: other\r\n\r\n$",
        lacks="(content-length: 7|host: other).*hello",
    ),
    # Lines and characters.
    Case("lines that end without CR", b"GET /a HTTP/1.1\nHost: gateway\n\n", (200,), ("GET /a",), has="gateway\r\n"),
    Case("a folded header", get(b"X: one\r\n two\r\n"), (200,), ("GET /a",), lacks="one\r\n"),
    refused("a folded first header", b"GET /a HTTP/1.1\r\n Host: gateway\r\n\r\n"),
    *(
        refused(f"a header line {line!r}", get(line + b"\r\n"))
        for line in (
            b"no colon",
            b": no name",
            b"na me: x",
            b"na\x00me: x",
            b"X: \x00",
            b"X: a\rb",
            b"n\xc3\xa9: x",
            b"X(: y",
        )
    ),
    *(
        refused(f"a path {path!r}", get(path=path))
        for path in (b"/a\x00", b"/a\x01", b"/a\x7f", b"/a\tb", b"/\xc3\xa9", b"/a#b", b"a", b"", b"\\a")
    ),
    refused("a blank in a path", get(path=b"/a b")),
    refused("HTTP/0.9", b"GET /a\r\n\r\n"),
    *(
        refused(f"a version {version!r}", b"GET /a " + version + b"\r\n" + HOST + b"\r\n")
        for version in (b"HTTP/2.0", b"HTTP/1.10", b"http/1.1", b"HTTP/1,1", b"HTTP/ 1.1", b"ICY/1.1", b"HTTP/0.9")
    ),
    refused("a header of 20 KB", get(b"X: " + b"x" * 20000 + b"\r\n")),
    refused("300 headers", get(b"".join(b"X%d: y\r\n" % number for number in range(300)))),
    refused("a path of 20 KB", get(path=b"/" + b"x" * 20000)),
    # Hosts and methods.
    refused("no host", b"GET /a HTTP/1.1\r\nX: y\r\n\r\n"),
    refused("two hosts", get(b"Host: other\r\n")),
    Case("one host twice", get(HOST), (200,), ("GET /a",), lacks="host: .*host: "),
    *(
        refused(f"a host {host!r}", b"GET /a HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        for host in (b"gate way", b"a, b", b"a/b", b"a@b", b"a#", b"a\\b")
    ),
    Case(
        "an address that names its host",
        b"GET http://gateway/a HTTP/1.1\r\n" + HOST + b"\r\n",
        (200,),
        ("GET http://gateway/a",),
        has="host: gateway",
    ),
    refused("an address that names another host", b"GET http://other/a HTTP/1.1\r\n" + HOST + b"\r\n"),
    refused("a trace", b"TRACE /a HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    refused("a tunnel", b"CONNECT 10.98.7.11:8404 HTTP/1.1\r\nHost: 10.98.7.11:8404\r\n\r\n", 405),
    refused("a method with a character of its own", b"G@T /a HTTP/1.1\r\n" + HOST + b"\r\n"),
    # Other protocols.
    refused("HTTP/2 from the start", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])),
    Case(
        "an upgrade to HTTP/2",
        get(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
        (200,),
        ("GET /a",),
        lacks="h2c",
    ),
    Case("a header that is to be dropped", get(b"Connection: close, X-Forwarded-For\r\n"), (200,), ("GET /a",)),
    refused("what TLS begins with", bytes([22, 3, 1, 0, 200, 1, 0, 0, 196]) + bytes(200)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_instance_gets_one_request_or_none(cluster: Cluster, case: Case) -> None:
    cluster.use()
    recorded()
    answer = exchange(case.raw)
    found = recorded()
    assert (
        tuple(statuses(answer)),
        tuple(each["head"].rpartition(" HTTP")[0].split(" HTTP")[0] for each in found),
    ) == (
        case.answered,
        case.got,
    )
    text = "".join(each["head"].lower() + each["body"] for each in found)
    assert re.search(case.has, text, re.DOTALL)
    assert not case.lacks or not re.search(case.lacks, text, re.DOTALL)
    assert not re.search(rb"(?i)haproxy|server:|\d\.\d\.\d", answer)


def test_a_websocket_goes_through(cluster: Cluster) -> None:
    cluster.use()
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with socket.create_connection((GATEWAY_ADDRESS, 80), timeout=5) as connection:
        connection.sendall(get(upgrade, path=b"/ws"))
        assert statuses(_next(connection)) == [101]
        for word in (b"one", b"two"):
            connection.sendall(word)
            assert _next(connection) == word


def test_nothing_that_answers_tells_a_version(cluster: Cluster) -> None:
    cluster.use()
    version = cluster.status()["haproxy"]["version"].partition("-")[0]
    assert re.fullmatch(r"3\.\d+\.\d+", version)
    pages = {}
    for path in ("/", "/stats", "/stats;csv", "/stats;json", "/metrics", "/healthz", "/none"):
        with socket.create_connection((GATEWAY_ADDRESS, 8404), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {GATEWAY_ADDRESS}\r\nConnection: close\r\n\r\n".encode())
            pages[path] = b"".join(iter(lambda connection=connection: connection.recv(65536), b""))
    assert b"haproxy_server_status" in pages["/metrics"]
    assert b"Statistics Report" in pages["/stats"]
    assert [path for path, page in pages.items() if version.encode() in page or b"\nServer:" in page] == []


# --- Clients that are slow, and sources that want too much


def drip(raw: bytes, every_s: float, limit_s: float) -> tuple[list[int], float]:
    """Send raw bytes one by one until the gateway has enough: its statuses, and the seconds until then."""
    began_s = time.monotonic()
    answer = b""
    with socket.create_connection((GATEWAY_ADDRESS, 80), timeout=every_s) as connection, suppress(ConnectionError):
        for byte in raw:
            connection.sendall(bytes([byte]))
            with suppress(TimeoutError):
                answer = connection.recv(65536)
                break
            if time.monotonic() - began_s > limit_s:
                break
    return statuses(answer), time.monotonic() - began_s


QUICK = {"request_timeout_s": 2.0, "client_timeout_s": 2.0, "server_timeout_s": 3.0, "keep_alive_timeout_s": 2}


@pytest.mark.parametrize(
    "raw",
    [get(b"X-Slow: " + b"x" * 500 + b"\r\n"), post(b"Content-Length: 500\r\n"), post(CHUNKED, b"1f4\r\n")],
    ids=["header", "body", "chunk"],
)
def test_a_request_that_comes_in_drops_never_reaches_an_instance(cluster: Cluster, raw: bytes) -> None:
    cluster.use(**QUICK)
    recorded()
    head, blank, rest = raw.partition(b"\r\n\r\n")
    slow = raw if not rest and b"Slow" in raw else b""
    if slow:
        answered, took_s = drip(slow, 0.2, 10)
    else:
        answered, took_s = drip_body(head + blank + rest, 10)
    assert answered == [408]
    assert 1.5 < took_s < 4
    assert recorded() == []


def drip_body(head: bytes, limit_s: float) -> tuple[list[int], float]:
    """Send a head at once and its body in drops."""
    began_s = time.monotonic()
    with socket.create_connection((GATEWAY_ADDRESS, 80), timeout=0.2) as connection:
        connection.sendall(head)
        while time.monotonic() - began_s < limit_s:
            connection.sendall(b"x")
            with suppress(TimeoutError):
                return statuses(connection.recv(65536)), time.monotonic() - began_s
    return [], limit_s


@pytest.mark.parametrize(("first", "expected"), [(b"", []), (get(), [200])], ids=["at first", "after a request"])
def test_who_says_nothing_is_hung_up_on(cluster: Cluster, first: bytes, expected: list[int]) -> None:
    cluster.use(**QUICK)
    with socket.create_connection((GATEWAY_ADDRESS, 80), timeout=10) as connection:
        began_s = time.monotonic()
        connection.sendall(first)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [code for code in statuses(answer) if code != 408] == expected
    assert 1.5 < time.monotonic() - began_s < 4


def test_who_does_not_read_is_hung_up_on(cluster: Cluster) -> None:
    cluster.use(**QUICK)
    recorded()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((GATEWAY_ADDRESS, 80))
        connection.sendall(get(path=b"/big"))
        began_s = time.monotonic()
        cluster.until(lambda view: sessions(view) == 1)
        cluster.until(lambda view: sessions(view) == 0, 10)
        assert time.monotonic() - began_s < 8
    assert [each["ended"] for each in recorded()] == [True]


def sessions(view: dict[str, Any]) -> int:
    return sum(server["sessions"] for server in view["servers"])


def test_an_instance_that_does_not_answer_is_a_504(cluster: Cluster) -> None:
    cluster.use(**QUICK, retries=0)
    began_s = time.monotonic()
    with socket.create_connection((GATEWAY_ADDRESS, 80), timeout=10) as connection:
        connection.sendall(post(LENGTH_5, b"hello").replace(b"/a", b"/hang"))
        assert statuses(_next(connection)) == [504]
    assert 2.5 < time.monotonic() - began_s < 6


@pytest.mark.parametrize("proxies", [(), ("10.98.6.0/24",), (ALLOWED,)], ids=["none", "others", "this client"])
def test_only_a_proxy_says_where_a_request_comes_from(cluster: Cluster, proxies: tuple[str, ...]) -> None:
    cluster.use(**QUICK, proxies=proxies)
    recorded()
    with socket.create_connection((GATEWAY_ADDRESS, 80), timeout=10) as connection:
        connection.sendall(get(b"X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\n"))
        assert statuses(_next(connection)) == [200]
    (head,) = [each["head"].lower() for each in recorded()]
    claimed = [line for line in head.splitlines() if "192.0.2.7" in line]
    assert claimed == (["x-forwarded-for: 192.0.2.7", "forwarded: for=192.0.2.7"] if ALLOWED in proxies else [])
    assert head.count("x-forwarded-for: 10.98.7.1\r\n") == 1


# This client is a proxy, and so is all of 10.2.0.0/16. What it says in X-Forwarded-For, a text for each line, and where
# the client is then. Clients of 10.9.0.0/16 alone may come.
PROXY = "10.98.7.1"
TOLD = (
    ((), PROXY),
    (("192.0.2.7",), "192.0.2.7"),
    (("10.9.0.1",), "10.9.0.1"),
    (("192.0.2.7, 10.9.0.1",), "10.9.0.1"),
    (("10.9.0.1, 192.0.2.7",), "192.0.2.7"),
    (("10.9.0.1, 10.2.0.1",), "10.9.0.1"),
    (("10.9.0.1", "10.2.0.1"), "10.9.0.1"),
    (("10.9.0.1, ::ffff:10.2.0.1",), "10.9.0.1"),
    (("10.9.0.1, 10.2.0.1, 10.2.0.2, 10.2.0.3, 10.2.0.4",), "10.9.0.1"),
    (("10.9.0.1, 10.2.0.1, 10.2.0.2, 10.2.0.3, 10.2.0.4, 10.2.0.5",), "10.2.0.1"),
    # Ports and brackets, as some proxies write them.
    (("10.9.0.1:5678",), "10.9.0.1"),
    (("10.9.0.1:5678, 10.2.0.1:99",), "10.9.0.1"),
    (("10.9.0.1, [2001:db8::1]",), "2001:db8::1"),
    (("10.9.0.1, 2001:db8::1",), "2001:db8::1"),
    # No address: the proxy that says so is the client, and not what stands before.
    (("10.9.0.1, unknown",), PROXY),
    (("10.9.0.1, _hidden",), PROXY),
    (("10.9.0.1, unknown, 10.2.0.1",), "10.2.0.1"),
    (("10.9.0.1", "unknown"), PROXY),
    (("10.9.0.1, [2001:db8::1]:90",), PROXY),
    (("10.9.0.1, 10.2.0.1:99999",), PROXY),
    (("10.9.0.1, 10.2.0",), PROXY),
    (("10.9.0.1 10.2.0.1",), PROXY),
    (("10.9.0.1, ",), PROXY),
    (("10.9.0.1,,10.2.0.1",), "10.2.0.1"),
    (("10.9.0.1", ""), PROXY),
    (("10.9.0.1", ","), PROXY),
    # A quote of a client's that the proxy does not close.
    (('10.9.0.1, ", 192.0.2.7',), PROXY),
    (('10.9.0.1, "', "192.0.2.7"), "192.0.2.7"),
)


def test_who_comes_by_a_proxy_cannot_choose_where_he_is(cluster: Cluster) -> None:
    """Nor in the access log, which tells the same client."""
    backend = {**PLAIN["backends"][0], "allow_from": ["10.9.0.0/16"]}
    cluster.use(**QUICK, backends=[backend], proxies=(f"{PROXY}/32", "10.2.0.0/16"), access_log=True)
    answers: dict[int, list[int]] = {}
    for number, (told, _) in enumerate(TOLD):
        lines = [f"X-Forwarded-For: {text}" for text in told] + [f"X-Request-ID: told-{number}", "Connection: close"]
        answers[number] = statuses(exchange(get("".join(f"{line}\r\n" for line in lines).encode())))
    expected = {n: [200 if client.startswith("10.9.") else 403] for n, (_, client) in enumerate(TOLD)}
    assert answers == expected
    # Forwarded is passed on and not believed; and who is no proxy is where he comes from.
    assert statuses(exchange(get(b"Forwarded: for=10.9.0.1\r\nConnection: close\r\n"))) == [403]
    assert elsewhere(1) == {"403": 1}
    exchange(b"GET\r\n\r\n")
    seen = [json.loads(line) for line in logged() if line.startswith('{"request_id": ')]
    clients = {row["request_id"]: row["client"] for row in seen}
    assert {n: clients[f"told-{n}"] for n in range(len(TOLD))} == {n: client for n, (_, client) in enumerate(TOLD)}
    assert {row["client"] for row in seen if row["method"] == "<BADREQ>"} == {PROXY}


def logged() -> list[str]:
    done = subprocess.run(["docker", "logs", GATEWAY], capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).splitlines()


def test_what_is_asked_of_the_gateway_itself(cluster: Cluster) -> None:
    """A balancer hears that a page is served, and an authority what a token asks for; a service gets nothing of it."""
    shut = {"name": "shut", "health_path": "/", "maintenance": {"active": False, "page": None, "retry_after_s": 60}}
    page = {**shut, "name": "page", "maintenance": {**shut["maintenance"], "active": True}}
    paths = [("/up", "predictor"), ("/shut", "shut"), ("/page", "page")]
    tls = {
        **{"port": 443, "list": "/none", "digests": ["0" * 12] * 2, "plain_port": 80, "redirect": False, "hsts": None},
        "answer": "THUMBPRINT",
    }
    cluster.use(
        backends=[*PLAIN["backends"], shut, page],
        listeners=[{**PLAIN["listeners"][0], "balancer_paths": paths}],
        closed_file="/var/lib/fiefdom/gateway/closed",
        tls=tls,
    )
    recorded()

    def told(path: str, method: str = "GET") -> int:
        lines = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        return statuses(exchange(lines.encode()))[0]

    assert [told(path) for path, _ in paths] == [200, 503, 200]
    # What is said of a service that nobody knows is forgotten.
    both = (("predictor", 8000), ("shut", 8100))
    known = {"max_instances": 100, "server_options": OPTIONS}
    cluster.write_reconciler(
        services=[{"name": name, "backend": name, "base_port": port, **known} for name, port in both]
    )
    try:
        docker("exec", GATEWAY, "fiefdom-gateway", "maintenance", "on", "shut")
        assert told("/shut") == 200
        docker("exec", GATEWAY, "fiefdom-gateway", "maintenance", "off", "shut")
        assert told("/shut") == 503
    finally:
        cluster.write_reconciler()

    below = "/.well-known/acme-challenge"
    asked = [(f"{below}/aB_-9", "GET"), (f"{below}/aB_-9", "HEAD"), (f"{below}/aB_-9", "POST")]
    asked += [(f"{below}{path}", "GET") for path in ("/", "/a/b", "/a.b", "/../a", f"/{'a' * 129}")]
    assert [told(*one) for one in asked] == [200, 200, *[404] * 6]
    assert b"\r\n\r\naB_-9.THUMBPRINT" in exchange(get(b"Connection: close\r\n", f"{below}/aB_-9".encode()))
    assert not [each for each in recorded() if "acme-challenge" in each["head"]]


def test_slow_clients_keep_nobody_from_being_served(cluster: Cluster) -> None:
    """Half of them send headers for ever, half bodies, from more connections than the gateway may hold at once."""
    patient = {"request_timeout_s": 120.0, "client_timeout_s": 120.0}
    cluster.use(**patient, maxconn=200, source_limits={**NO_LIMITS, "connections": 100})
    with ExitStack() as stack:
        held: list[socket.socket] = []
        for number in range(300):
            with suppress(ConnectionError):  # those above the limit, some while they still connect
                connection = stack.enter_context(socket.create_connection((GATEWAY_ADDRESS, 80), timeout=5))
                held.append(connection)
                connection.sendall(get()[:-2] if number % 2 else post(b"Content-Length: 500\r\n"))
        for _ in range(3):
            assert elsewhere(10) == {"200": 10}
            # Whoever was let in was so all the time, and still asks for more of it.
            held = [connection for connection in held if goes_on(connection)]
            assert len(held) == 100


def goes_on(connection: socket.socket) -> bool:
    """Send one more byte to a gateway that neither answers nor hangs up."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return connection.send(b"x") == 1
    except ConnectionError:
        pass
    return False


NO_LIMITS = {"requests_per_s": None, "connections": None, "exempt_cidrs": ()}
ASK = """
import collections, http.client, json, sys
found = collections.Counter()
for _ in range(int(sys.argv[1])):
    c = http.client.HTTPConnection('10.98.7.11', 80, timeout=5)
    c.request('GET', '/a')
    found[c.getresponse().status] += 1
print(json.dumps(found))
"""


def elsewhere(times: int, address: str = "10.98.7.40") -> dict[str, int]:
    """Statuses of requests from another address."""
    run = ("run", "--rm", f"--network={NETWORK}", f"--ip={address}", "--entrypoint=python3", image("gateway"))
    return dict(json.loads(docker(*run, "-c", ASK, str(times))))


def burst(times: int) -> list[bytes]:
    answers = []
    with suppress(ConnectionError), socket.create_connection((GATEWAY_ADDRESS, 80), timeout=5) as connection:
        for _ in range(times):
            connection.sendall(get())
            answers.append(_next(connection))
    return answers


def test_a_source_that_asks_too_often_gets_429_and_others_are_served(cluster: Cluster) -> None:
    limits = {**NO_LIMITS, "requests_per_s": 4, "exempt_cidrs": ("10.98.7.41/32",)}
    cluster.use(source_limits=limits)
    for retries in (5, 6):  # a new worker, which begins to count anew, and a reload to another one
        cluster.use(source_limits=limits, retries=retries)
        answers = burst(60)
        codes = [code for answer in answers for code in statuses(answer)]
        # HAProxy's rate slides, so a burst that takes a while may have a little more.
        assert 40 <= codes.count(200) <= 45
        assert codes == [200] * codes.count(200) + [429] * codes.count(429)
        assert 429 in codes
        assert b"\r\nretry-after: 10\r\n" in answers[-1].lower()
    assert elsewhere(20) == {"200": 20}
    assert elsewhere(60, "10.98.7.41") == {"200": 60}
    cluster.use()
    assert elsewhere(1) == {"200": 1}
    assert [code for answer in burst(60) for code in statuses(answer)] == [200] * 60


def test_a_source_that_connects_too_often_is_hung_up_on(cluster: Cluster) -> None:
    cluster.use(source_limits={**NO_LIMITS, "connections": 5})
    with ExitStack() as stack:
        connections = []
        for _ in range(12):
            with suppress(ConnectionError):  # the hang-up may be quicker than the connection
                connections.append(stack.enter_context(socket.create_connection((GATEWAY_ADDRESS, 80), timeout=5)))
        answers = []
        for connection in connections:
            with suppress(ConnectionError):
                connection.sendall(get())
                answers += statuses(_next(connection))
        assert answers == [200] * 5
        assert elsewhere(3) == {"200": 3}
    cluster.until(lambda _: [code for answer in burst(3) for code in statuses(answer)] == [200] * 3, 5)


# --- Members that claim what is not theirs


def refusals(view: dict[str, Any]) -> list[str]:
    return [f"{each['member']} {each['reason']}" for each in view["rejected"]]


@pytest.mark.parametrize(
    ("name", "address", "more", "reason"),
    [
        (
            "app2",
            "10.98.7.66",
            {},
            "app2 claims the name at 10.98.7.66, the inventory has it at 10.98.7.22",
        ),
        (
            "evil",
            "10.98.7.66",
            {"advertised": "10.98.7.21"},
            "evil claims 10.98.7.21, which the inventory has as the address of app1",
        ),
        ("evil", "10.98.7.200", {}, "evil claims 10.98.7.200, outside 10.98.7.0/25"),
        (
            "evil",
            "10.98.7.66",
            {"ports": "22-8000"},
            "evil offers predictor on ports 22-8000, outside 8000-8099",
        ),
    ],
    ids=["another's name", "an address that is not its own", "outside", "other ports"],
)
def test_a_member_that_claims_what_is_not_its_own_gets_no_traffic(
    cluster: Cluster, name: str, address: str, more: dict[str, str], reason: str
) -> None:
    cluster.use()
    with cluster.stranger(name, address, **more):
        view = cluster.until(lambda view: view["rejected"] != [])
        assert refusals(view) == [reason]
        time.sleep(2.5)  # more than two further looks
        assert states(cluster.status()) == {"app1-8000": "up"}
    assert docker("logs", GATEWAY).splitlines().count(f"{reason}: not believed") == 1


def test_a_new_host_is_believed_before_the_gateway_is_told_unless_only_known_ones_are(cluster: Cluster) -> None:
    cluster.use()
    with cluster.stranger("app3", "10.98.7.23", ports="8000-8001"):
        view = cluster.until(lambda view: len(view["servers"]) == 3)
        assert {server["address"] for server in view["servers"]} == {"10.98.7.21", "10.98.7.23"}
        assert view["rejected"] == []
        try:
            cluster.write_reconciler(known_hosts_only=True)
            view = cluster.until(lambda view: states(view).keys() == {"app1-8000"})
            assert refusals(view) == ["app3 at 10.98.7.23 is no host of the inventory"]
        finally:
            cluster.write_reconciler()
        cluster.until(lambda view: len(view["servers"]) == 3)


NARROW = {
    "another service's host": ({"services": []}, "offers predictor, which the inventory does not let it run", {}),
    "fewer ports": (
        {"last_ports": {"predictor": 8001}},
        "offers predictor on ports up to 8099, the inventory has it up to 8001",
        {"app2-8000", "app2-8001"},
    ),
}


@pytest.mark.parametrize(("change", "reason", "believed"), NARROW.values(), ids=NARROW)
def test_a_known_host_gets_what_the_inventory_lets_it_run(
    cluster: Cluster, change: dict[str, Any], reason: str, believed: set[str]
) -> None:
    """What app1 was believed for before the change serves on, until it offers something else."""
    cluster.use()
    narrowed = {name: {**host, **change} for name, host in KNOWN.items() if name in ("app1", "app2")}
    if "last_ports" in change:
        narrowed["app1"]["last_ports"] = {"predictor": 7999}
    with cluster.stranger("app2", "10.98.7.22", ports="8000-8099"):
        cluster.until(lambda view: len(view["servers"]) == 101)
    try:
        cluster.write_reconciler(hosts={**KNOWN, **narrowed})
        with cluster.stranger("app2", "10.98.7.22", ports="8000-8099"):
            view = cluster.until(lambda view: states(view).keys() == {"app1-8000", *believed} and view["rejected"])
            assert refusals(view) == [f"app2 {reason}"]
            assert states(view)["app1-8000"] == "up"
    finally:
        cluster.write_reconciler()
    cluster.until(lambda view: states(view) == {"app1-8000": "up"})
