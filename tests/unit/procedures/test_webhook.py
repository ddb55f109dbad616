"""What is posted to a webhook, and that whatever goes wrong is a word about it that tells nothing of the URL."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from fiefdom.procedures.webhook import post

PATH = "/hooks/swordfish"


@dataclass
class Chat:
    """A chat on this machine: what it heard, and what it answers."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0
    heard: list[tuple[str, str, str, Any]] = field(default_factory=list)


@pytest.fixture
def chat() -> Iterator[Chat]:
    found = Chat()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.heard.append((self.command, self.path, self.headers["Content-Type"], json.loads(body)))
            time.sleep(found.wait_s)
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}{PATH}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield found
        server.shutdown()


def test_it_is_a_json_document(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which has no way to this machine
    assert post(chat.url, {"text": "ä & b"}) == ""
    assert chat.heard == [("POST", PATH, "application/json", {"text": "ä & b"})]


@pytest.mark.parametrize("status", [400, 403, 404, 410, 500, 503])
def test_another_status_is_told(chat: Chat, status: int) -> None:
    chat.status = status
    assert post(chat.url, {}) == f"answered with status {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(chat: Chat, status: int) -> None:
    chat.status, chat.headers = status, {"Location": chat.url}
    assert post(chat.url, {}) == f"answered with status {status}; redirects are not followed"
    assert len(chat.heard) == 1


def test_nobody_is_waited_for_long(chat: Chat) -> None:
    chat.wait_s = 1
    began = time.monotonic()
    assert post(chat.url, {}, timeout_s=0.2) in ("did not answer in time", "did not answer within 0.2 s")
    assert time.monotonic() - began < 1


def test_who_is_not_there_and_who_speaks_something_else() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}{PATH}"
        assert post(url, {}) == "cannot be reached (Connection refused)"
        taken.listen()

        def answer() -> None:
            with taken.accept()[0] as other:
                received = b""
                while not received.endswith(b"{}"):  # what is left unread would be a reset in place of the answer
                    received += other.recv(4096)
                other.sendall(b"SSH-2.0-swordfish\r\n")

        threading.Thread(target=answer, daemon=True).start()
        assert post(url, {}) == "cannot be reached (BadStatusLine)"
        assert "swordfish" not in post("http://127.0.0.1:99999/hooks/swordfish", {})
