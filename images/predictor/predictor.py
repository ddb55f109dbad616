"""Serve predictions over HTTP, one thread per connection, and stop without cutting a request off.

Environment: PORT to listen on; FIEFDOM_SERVICE, FIEFDOM_VERSION, FIEFDOM_HOST and FIEFDOM_PORT to answer with;
BASE_PATH where a gateway routes a path prefix here; PREDICT_DELAY_MS to be slow; FAIL_HEALTH=1 and FAIL_PREDICT=1 to be
broken on purpose.
"""

import json
import os
import select
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import linear

BODY_LIMIT_BYTES = 64 * 1024
DELAY_LIMIT_MS = 60_000
# A gateway's pool drops idle connections after seconds. This side must be the one that waits longer, else both race.
IDLE_TIMEOUT_S = 75.0
# An idle connection may be about to carry a request when we are told to stop: for so long it still gets an answer.
STOP_LINGER_S = 1.0


@dataclass(frozen=True)
class Settings:
    service: str
    version: str
    host: str
    port: int
    listen_port: int
    base_path: str
    delay_ms: float
    fail_health: bool
    fail_predict: bool


def settings(environ: Mapping[str, str]) -> Settings:
    listen_port = int(environ.get("PORT", "8000"))
    return Settings(
        service=environ.get("FIEFDOM_SERVICE", "predictor"),
        version=environ.get("FIEFDOM_VERSION", "unknown"),
        host=environ.get("FIEFDOM_HOST", socket.gethostname()),
        port=int(environ.get("FIEFDOM_PORT", str(listen_port))),
        listen_port=listen_port,
        base_path="/" + environ.get("BASE_PATH", "").strip("/") if environ.get("BASE_PATH", "").strip("/") else "",
        delay_ms=float(environ.get("PREDICT_DELAY_MS", "0")),
        fail_health=environ.get("FAIL_HEALTH") == "1",
        fail_predict=environ.get("FAIL_PREDICT") == "1",
    )


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    request_queue_size = 1024
    allow_reuse_address = True
    daemon_threads = False

    def __init__(self, own: Settings, model: linear.Model) -> None:
        self.own = own
        self.model = model
        self.stopping = threading.Event()
        self.stop_reader, self.stop_writer = os.pipe()
        super().__init__(("", own.listen_port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            sys.stderr.write(f"connection from {client_address[0]} failed: {error!r}\n")

    def finish(self) -> None:
        """Take what the kernel has already accepted for us, refuse the rest, and wait for every open request."""
        self.shutdown()
        self.socket.setblocking(False)
        while True:
            try:
                request, address = self.get_request()
            except OSError:
                break
            request.setblocking(True)
            self.process_request(request, address)
        self.stopping.set()
        os.close(self.stop_writer)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "predictor"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    wbufsize = 16 * 1024  # headers and body in one packet
    server: Server

    def handle(self) -> None:
        self.close_connection = False
        while not self.close_connection and self._request_begins():
            self.handle_one_request()

    def _request_begins(self) -> bool:
        """Wait for the first byte of a request; False when there will be none."""
        self.connection.settimeout(0)
        buffered = self.rfile.peek(1)  # type: ignore[attr-defined]
        self.connection.settimeout(IDLE_TIMEOUT_S)
        if buffered:
            return True
        if not self.server.stopping.is_set():
            poll = select.poll()
            poll.register(self.connection, select.POLLIN)
            poll.register(self.server.stop_reader, select.POLLIN)
            ready = poll.poll(IDLE_TIMEOUT_S * 1000)
            if not self.server.stopping.is_set():
                return bool(ready)
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(STOP_LINGER_S * 1000))

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            self._send(HTTPStatus.LENGTH_REQUIRED, {"error": "a POST needs a Content-Length"})
            return
        if int(length) > BODY_LIMIT_BYTES:
            self.close_connection = True
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"a body has at most {BODY_LIMIT_BYTES} bytes"})
            return
        self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes | None) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        own = self.server.own
        path = url.path
        if own.base_path and path.startswith(own.base_path + "/"):
            path = path[len(own.base_path) :]
        if path == "/health":
            self._health()
        elif path == "/predict":
            self._predict(query, body)
        else:
            self._send(HTTPStatus.NOT_FOUND, {"error": f"nothing at {url.path[:80]}: ask /predict or /health"})

    def _health(self) -> None:
        if self.server.own.fail_health:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "failing on purpose"})
        else:
            self._send(HTTPStatus.OK, {"status": "ok"})

    def _predict(self, query: dict[str, str], body: bytes | None) -> None:
        try:
            delay_ms = delay(query, self.server.own.delay_ms)
            features = linear.vector(self.server.model, given_features(self.server.model, query, body))
        except linear.BadFeatures as error:
            self._send(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            return
        if delay_ms:
            time.sleep(delay_ms / 1000)
        if self.server.own.fail_predict:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "failing on purpose"})
            return
        label, probabilities = linear.predict(self.server.model, features)
        self._send(HTTPStatus.OK, {"prediction": label, "probabilities": probabilities, "features": features})

    def _send(self, status: HTTPStatus, answer: dict[str, object]) -> None:
        own = self.server.own
        origin = {"service": own.service, "version": own.version, "host": own.host, "port": own.port}
        payload = json.dumps({**answer, **origin}).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if self.server.stopping.is_set() or self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    do_HEAD = do_GET

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: the gateway counts requests."""

    def log_message(self, format: str, *args: Any) -> None:
        sys.stderr.write(f"{self.address_string()}: {format % args}\n")


def delay(query: Mapping[str, str], default_ms: float) -> float:
    """Return the wanted delay in milliseconds. Raises BadFeatures."""
    try:
        delay_ms = float(query.get("delay_ms", default_ms))
    except ValueError:
        raise linear.BadFeatures("delay_ms must be a number of milliseconds") from None
    if not 0 <= delay_ms <= DELAY_LIMIT_MS:
        raise linear.BadFeatures(f"delay_ms must lie between 0 and {DELAY_LIMIT_MS}")
    return delay_ms


def given_features(model: linear.Model, query: Mapping[str, str], body: bytes | None) -> object:
    """Return the features of a request: from its body, its query, or the model's example. Raises BadFeatures."""
    if body:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise linear.BadFeatures("the body must be JSON") from None
        return document.get("features", document) if isinstance(document, dict) else document
    if "features" in query:
        return query["features"].split(",")
    named = {name: query[name] for name in model.features if name in query}
    return named or list(model.example)


def main() -> None:
    threading.stack_size(256 * 1024)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = Server(settings(os.environ), linear.load(Path(__file__).with_name("model.json")))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    own = server.own
    sys.stdout.write(f"{own.service} {own.version} listens on port {own.listen_port}\n")
    stop.wait()
    server.finish()
    sys.stdout.write(f"{own.service} {own.version} stopped\n")


if __name__ == "__main__":
    main()
