"""The gateway's own pages: a real unix socket, what is answered on it, and what goes wrong behind it."""

from __future__ import annotations

import asyncio
import re
import select
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import haproxy, replies, web  # noqa: E402
from fiefdom_gateway.web import Answer, Table, Web  # noqa: E402


async def _later() -> Answer:
    await asyncio.sleep(0)
    return Answer("application/json", b'{"late": true}')


def _broken() -> Answer:
    raise KeyError("a bug\nof two lines")


TABLE: Table = {
    "/fiefdom/now": lambda: Answer("text/plain", b"now\n", {"X-Own": "1", "Cache-Control": "max-age=9"}),
    "/fiefdom/later": _later,
    "/fiefdom/broken": _broken,
}

Ask = Callable[[bytes], Awaitable[bytes]]


def on_socket(folder: Path, does: Callable[[Ask], Awaitable[None]], table: Table = TABLE) -> Web:
    """Serve a table and let `does` ask it."""

    async def run() -> Web:
        served = Web(table)
        await served.open(folder / "web.sock")

        async def ask(request: bytes) -> bytes:
            reader, writer = await asyncio.open_unix_connection(folder / "web.sock")
            writer.write(request)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(-1), 5)
            writer.close()
            return answer

        try:
            await does(ask)
        finally:
            served.close()
        return served

    return asyncio.run(run())


def asked(folder: Path, request: bytes, table: Table = TABLE) -> str:
    """Return the whole answer to a request."""
    answers: list[bytes] = []

    async def once(ask: Ask) -> None:
        answers.append(await ask(request))

    on_socket(folder, once, table)
    return answers[0].decode()


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /fiefdom/now HTTP/1.1", "200 OK", "now\n"),
        ("GET /fiefdom/now?a=/../../etc/passwd HTTP/1.0", "200 OK", "now\n"),
        ("HEAD /fiefdom/now HTTP/1.1", "200 OK", ""),
        ("GET /fiefdom/later HTTP/1.1", "200 OK", '{"late": true}'),
        ("GET /fiefdom/broken HTTP/1.1", "500 Internal Server Error", "this cannot be told now\n"),
        ("GET /fiefdom/other HTTP/1.1", "404 Not Found", "nothing is here\n"),
        ("GET /fiefdom/../fiefdom/now HTTP/1.1", "404 Not Found", "nothing is here\n"),
        ("GET /fiefdom/%6eow HTTP/1.1", "404 Not Found", "nothing is here\n"),
        ("GET //fiefdom/now HTTP/1.1", "404 Not Found", "nothing is here\n"),
        ("POST /fiefdom/now HTTP/1.1", "405 Method Not Allowed", "only GET and HEAD are answered\n"),
        ("get /fiefdom/now HTTP/1.1", "405 Method Not Allowed", "only GET and HEAD are answered\n"),
        ("GET http://a/fiefdom/now HTTP/1.1", "400 Bad Request", "this is no HTTP/1 request\n"),
        ("GET /fiefdom/now HTTP/2.0", "400 Bad Request", "this is no HTTP/1 request\n"),
        ("GET /fiefdom/now", "400 Bad Request", "this is no HTTP/1 request\n"),
        ("\xff\xfe", "400 Bad Request", "this is no HTTP/1 request\n"),
    ],
)
def test_what_is_answered(tmp_path: Path, request_line: str, status: str, body: str) -> None:
    answer = asked(tmp_path, request_line.encode("latin-1") + b"\r\nHost: a\r\n\r\n")
    head, _, found = answer.partition("\r\n\r\n")
    assert head.splitlines()[0] == f"HTTP/1.1 {status}"
    assert found == body
    # A closed connection ends each answer, and each has the headers that keep a browser from more than it.
    assert "Connection: close" in head.splitlines()
    for name, value in web.SECURITY_HEADERS.items():
        assert f"{name}: {value}" in head.splitlines()


def test_an_answers_own_headers_do_not_replace_the_ones_of_all(tmp_path: Path) -> None:
    head = asked(tmp_path, b"GET /fiefdom/now HTTP/1.1\r\n\r\n")
    assert "X-Own: 1" in head
    assert re.findall("Cache-Control: .*", head) == ["Cache-Control: no-store\r"]


def test_a_head_tells_how_long_the_answer_would_be(tmp_path: Path) -> None:
    assert "Content-Length: 4\r\n" in asked(tmp_path, b"HEAD /fiefdom/now HTTP/1.1\r\n\r\n")


def test_headers_are_bounded(tmp_path: Path) -> None:
    long = b"GET /fiefdom/now HTTP/1.1\r\nX: " + b"a" * (web.HEAD_LIMIT + 1) + b"\r\n\r\n"
    assert asked(tmp_path, long).startswith("HTTP/1.1 431 ")


def test_a_head_that_never_ends_gets_no_answer_and_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(tmp_path, b"GET /fiefdom/now HTTP/1.1\r\n") == ""
    assert capsys.readouterr().out == ""


def test_who_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "READ_LIMIT_S", 0.01)

    async def silent(_ask: Ask) -> None:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "web.sock")
        assert await asyncio.wait_for(reader.read(-1), 5) == b""
        writer.close()

    on_socket(tmp_path, silent)


def test_who_takes_no_answer_keeps_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is dropped: what the kernel had taken is all that comes."""
    monkeypatch.setattr(web, "TAKE_LIMIT_S", 0.01)
    long = b"x" * 4_000_000

    async def slow(_ask: Ask) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "web.sock"))
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            hung_up = select.poll()
            hung_up.register(client, 0)  # POLLHUP alone: it comes without that anything is read

            async def until_hung_up() -> None:
                while not hung_up.poll(0):
                    await asyncio.sleep(0)

            await asyncio.wait_for(until_hung_up(), 5)
            client.settimeout(5)
            taken = 0
            with suppress(ConnectionResetError):
                while part := client.recv(1 << 20):
                    taken += len(part)
            assert 0 < taken < len(long)

    on_socket(tmp_path, slow, {"/": lambda: Answer("text/plain", long)})


def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "OPEN_LIMIT", 1)
    held, go_on = asyncio.Event(), asyncio.Event()

    async def holds() -> Answer:
        held.set()
        await go_on.wait()
        return Answer("text/plain", b"held\n")

    async def two(ask: Ask) -> None:
        first = asyncio.ensure_future(ask(b"GET / HTTP/1.1\r\n\r\n"))
        await held.wait()
        assert (await ask(b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        go_on.set()
        assert (await first).endswith(b"held\n")
        # And who comes after them is served again.
        assert (await ask(b"GET / HTTP/1.1\r\n\r\n")).endswith(b"held\n")

    on_socket(tmp_path, two, {"/": holds})


def test_an_answer_that_takes_too_long_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ANSWER_LIMIT_S", 0.01)

    async def never() -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    assert asked(tmp_path, b"GET / HTTP/1.1\r\n\r\n", {"/": never}).startswith("HTTP/1.1 500 ")


def test_what_goes_wrong_is_said_once_and_when_it_is_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [_broken, _broken, lambda: Answer("text/plain", b"")]

    def next_answer() -> Answer:
        return answers.pop(0)()

    async def thrice(ask: Ask) -> None:
        for _ in range(3):
            await ask(b"GET / HTTP/1.1\r\n\r\n")

    on_socket(tmp_path, thrice, {"/": next_answer})
    assert capsys.readouterr().out == ("/ cannot be answered: KeyError: 'a bug\\nof two lines'\n/ is answered again\n")


def test_a_socket_of_before_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "web.sock").touch()
    assert asked(tmp_path, b"GET /fiefdom/now HTTP/1.1\r\n\r\n").endswith("now\n")


def test_a_socket_that_cannot_be_made_is_said_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(Web(TABLE).open(tmp_path / "none" / "web.sock"))
    assert capsys.readouterr().out.startswith("the gateway's own pages cannot be served: ")


@pytest.mark.parametrize(("query", "told"), [("?of=a%20b&of=c&x", {"of": "c"}), ("", {}), ("?" + "a=1&" * 99, {})])
def test_who_wants_its_query_is_told_it(tmp_path: Path, query: str, told: dict[str, str]) -> None:
    heard: list[object] = []

    def page(words: object) -> Answer:
        heard.append(words)
        return Answer("text/plain", b"heard\n")

    request = f"GET /fiefdom/asked{query} HTTP/1.1\r\n\r\n".encode()
    assert asked(tmp_path, request, {"/fiefdom/asked": web.Asked(page)}).endswith("heard\n")
    assert heard == [told]


def test_the_reconciler_leaves_haproxys_server_for_it_alone() -> None:
    """Its row, as HAProxy prints it: an address that is none, and port 0."""
    states = (
        "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
        " srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state"
        " srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port"
        " srv_check_addr srv_agent_addr srv_agent_port\n"
        "8 fiefdom-web 1 web - 2 0 1 1 2 1 0 2 0 0 0 0 - 0 - 0 0 - - 0\n"
    )
    conn = "# bkname/svname bkid/svid addr port - purge_delay used_cur\nfiefdom-web/web 8/1 - 0 - 5000 1\n"
    actual = replies.with_busy(replies.Servers().read(states), conn)
    assert [(server.backend, server.name, server.busy) for server in actual] == [("fiefdom-web", "web", True)]
    assert haproxy.next_commands((), actual, {}) == ()
    assert haproxy.settled((), actual, {})
