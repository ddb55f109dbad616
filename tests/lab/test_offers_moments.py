"""Offers at their worst moments: connections that stay open, a gateway that restarts or is cut off, many services."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fiefdom import lab
from helpers.faults import split
from helpers.operator_view import GATEWAY_URL, ROOT, Site, await_true, undisturbed

pytestmark = pytest.mark.proof

AT_LEAST = 5_000
CHAT_PORT = 8084
SERVERS = {"app1:9400", "app1:9401", "app2:9400", "app2:9401"}
MANY = 12
"""Services on each host: the offers of all have to fit into the 512 bytes of an agent's tags."""


def chat_image(folder: Path) -> Path:
    """The predictor's build folder with a program around it that takes upgrades."""
    shutil.copytree(ROOT / "images/predictor", folder, dirs_exist_ok=True)
    shutil.copy(ROOT / "tests/lab/images/chat/chat.py", folder)
    dockerfile = folder / "Dockerfile"
    text = dockerfile.read_text()
    changed = text.replace("predictor.py /srv", "predictor.py chat.py /srv").replace('/predictor.py"]', '/chat.py"]')
    assert changed.count("chat.py") == 2
    dockerfile.write_text(changed)
    return folder


@dataclass
class Chats:
    """The lab with a service that takes WebSockets."""

    site: Site
    build: Path
    version: str = "1.0.0"
    drain: dict[str, Any] = field(default_factory=dict)
    more: int = 0

    def inventory(self) -> str:
        def change(data: dict[str, Any]) -> None:
            like = data["services"]["predictor"]
            data["services"]["chat"] = {
                **like,
                "image": "fiefdom-test/chat",
                "build": str(self.build),
                "version": self.version,
                "base_port": 9400,
                "route": {"port": CHAT_PORT},
                "drain": self.drain,
            }
            for number in range(self.more):
                own = {"base_port": 10_000 + 10 * number, "instances": 1, "route": {"path_prefix": f"/s{number}"}}
                environment = {"BASE_PATH": f"/s{number}"}
                data["services"][f"service-{number}"] = {**like, **own, "environment": environment}
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory("chats", change)

    def ok(self, verb: str, *arguments: str) -> str:
        done = self.site.fiefdom(verb, self.inventory(), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def served(self) -> set[str]:
        """Instances of the chat that the gateway has up."""
        return self.site.rotation(self.inventory(), "chat")


def traffic(event: str) -> AbstractContextManager[None]:
    urls = {"predictor": f"{GATEWAY_URL}/predict", "chat": f"{GATEWAY_URL}:{CHAT_PORT}/predict"}
    return undisturbed(event, urls, AT_LEAST, rate=300)


@pytest.fixture(scope="module")
def _chats(first_converge: tuple[Site, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chats]:
    site, _ = first_converge
    found = Chats(site, chat_image(tmp_path_factory.mktemp("chat")))
    found.ok("apply", "--yes")
    yield found
    site.converge()


@pytest.fixture
def chats(_chats: Chats) -> Iterator[Chats]:
    yield _chats
    _chats.drain, _chats.more = {}, 0
    if not _chats.site.whole(_chats.inventory()):
        _chats.site.converge(_chats.inventory())
        _chats.site.await_serving(_chats.inventory())


class Window:
    """A client with a WebSocket that is open; it hears when that ends."""

    def __init__(self) -> None:
        self.socket = socket.create_connection((lab.host("gw1").address, CHAT_PORT), timeout=60)
        self.socket.sendall(
            b"GET /chat HTTP/1.1\r\nHost: lab\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        self.stream = self.socket.makefile("rb")
        head = iter(self.stream.readline, b"\r\n")
        assert next(head).split()[1] == b"101"
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n".lower() in [line.lower() for line in head]
        self.server = self.stream.readline().decode().strip()

    def says_back(self, text: bytes = b"hello\n") -> bool:
        try:
            self.socket.sendall(text)
            return self.stream.readline() == text
        except OSError:
            return False

    def close(self) -> None:
        self.socket.close()


@contextmanager
def windows(servers: set[str]) -> Iterator[dict[str, Window]]:
    """A window at every instance."""
    found: dict[str, Window] = {}
    opened: list[Window] = []
    try:

        def open_one() -> bool:
            opened.append(Window())
            found.setdefault(opened[-1].server, opened[-1])
            return found.keys() == servers

        await_true(open_one, what="a window at every instance")
        assert all(window.says_back() for window in found.values())
        yield found
    finally:
        for window in opened:
            window.close()


def test_a_release_closes_windows_that_may_be_closed(chats: Chats) -> None:
    """Told so, it does not wait for a chat window: all are closed as their host drains, and clients open new ones."""
    chats.drain = {"timeout_s": 60, "upgraded": "close"}
    chats.ok("apply", "--yes")
    chats.version = "2.0.0"
    with windows(SERVERS) as opened, traffic("a release with a window open to every instance, closed"):
        said = chats.ok("rollout", "chat")
        assert not any(window.says_back() for window in opened.values())
        with windows(SERVERS):
            pass
    assert "going on after" not in said


def test_a_release_waits_for_windows_as_long_as_its_service_says(chats: Chats) -> None:
    """Not told so, it waits for the time that the service has, and its neighbour serves on from every host."""
    chats.drain = {"timeout_s": 5, "upgraded": "wait"}
    chats.ok("apply", "--yes")
    chats.version = "3.0.0"
    with windows(SERVERS) as opened, traffic("a release with a window open to every instance, waited for"):
        ended = threading.Event()
        waited: list[bool] = []

        def watch() -> None:
            while not ended.wait(0.5):
                waited.append(opened["app1:9400"].says_back())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            chats.ok("rollout", "chat")
        finally:
            ended.set()
            watcher.join()
    assert sum(waited) >= 6, "windows were not waited for"


GATEWAY = {"its agent killed": "pkill -9 -x serf", "replaced": "systemctl reload fiefdom-gateway"}


@pytest.mark.parametrize("harm", GATEWAY.values(), ids=GATEWAY)
def test_a_gateways_parts_start_anew_while_offers_are_made_and_withdrawn(chats: Chats, harm: str) -> None:
    """As they begin, and while one waits for a window: what is withdrawn gets nothing more, what is offered serves."""
    site = chats.site
    chats.drain = {"timeout_s": 10, "upgraded": "wait"}
    chats.ok("apply", "--yes")

    def act(command: str, then: str = "") -> None:
        acting = threading.Thread(target=site.ssh, args=("app1", command, False))
        acting.start()
        if then:
            await_true(lambda: site.ssh("app1", OFFER_STATE) == then, what=f"the offer {then}")
        site.ssh("gw1", harm)
        acting.join()

    with traffic(f"a gateway's part while offers are made and withdrawn, {harm}"):
        act("systemctl stop fiefdom-offer-chat")
        await_true(lambda: chats.served() == SERVERS - {"app1:9400", "app1:9401"}, what="the withdrawal")
        act("systemctl start fiefdom-offer-chat")
        await_true(lambda: chats.served() == SERVERS, what="all instances in rotation")
        with windows(SERVERS) as opened:
            act("systemctl stop fiefdom-offer-chat", then="deactivating")
            assert opened["app2:9400"].says_back()
            await_true(lambda: chats.served() == SERVERS - {"app1:9400", "app1:9401"}, what="the withdrawal")
        act("systemctl start fiefdom-offer-chat")
        await_true(lambda: chats.served() == SERVERS, what="all instances in rotation")


OFFER_STATE = "systemctl show --property ActiveState --value fiefdom-offer-chat"


def test_an_offer_is_withdrawn_while_the_gateway_is_cut_off(chats: Chats) -> None:
    """Nobody can acknowledge it: it goes on after its time, and the gateway that is back has the truth."""
    site = chats.site
    chats.drain = {"timeout_s": 5}
    chats.ok("apply", "--yes")
    with split("app1", [lab.host("gw1").address]):
        site.ssh("app1", "systemctl stop fiefdom-offer-chat")
    await_true(lambda: chats.served() == SERVERS - {"app1:9400", "app1:9401"}, what="the withdrawal at the gateway")
    with traffic("an offer that was withdrawn while the gateway was cut off is made again"):
        site.ssh("app1", "systemctl start fiefdom-offer-chat")
        await_true(lambda: chats.served() == SERVERS, what="all instances in rotation")


def test_twelve_services_on_a_host(chats: Chats) -> None:
    chats.more = MANY - 2
    with traffic(f"{MANY} services on each host"):
        chats.ok("apply", "--yes")
        offers = chats.site.status(chats.inventory())["offers"]
        assert len(offers) == 2 * MANY and {o["state"] for o in offers} == {"offered"}
        chats.site.ssh("app1", "systemctl restart fiefdom-serf-agent")
        chats.site.await_serving(chats.inventory())
        chats.more = 0
        chats.ok("apply", "--yes")
