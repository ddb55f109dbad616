"""The parts of the status document, over its socket, from what HAProxy says of two services on three hosts."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))

from fiefdom_gateway import client, edges, status, status_socket
from fiefdom_gateway.settings import Service
from fiefdom_gateway.status import ALL, Look, Part

LOOK = Look("gw1", {name: Service(name, f"{name}-be", 8000, 100, "check") for name in ("db", "echo")}, ready=True)
PLACES = [("db-be", "app1-8100"), ("echo-be", "app1-8000"), ("echo-be", "app1-x-8000"), ("echo-be", "app2-8000")]
STATE = (
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_check_state srv_port "
    "srv_check_port\n"
)
STAT = "# pxname,svname,scur,qcur,req_tot,stot,hrsp_5xx,econ,eresp,wretr,status,\n"


def haproxy_says(command: str) -> str:
    words = command.split()
    only = next((word for word in words if word.endswith("-be")), "")
    there = [(backend, name) for backend, name in PLACES if only in ("", backend)]
    match words[:2], words[-2:]:
        case ["show", "servers"], _:
            return STATE + "".join(f"3 {b} 1 {n} 10.0.0.1 2 0 1 6 8000 0\n" for b, n in there) + "\n"
        case ["show", "stat"], ["1", "-1"]:
            return STAT + "plain,FRONTEND,0,,0,0,0,,,,OPEN,\n\n"
        case ["show", "stat"], _:
            return STAT + "".join(f"{b},{n},1,0,7,7,0,0,0,0,UP,\n" for b, n in there) + "\n"
    return "Version: 3.0\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(haproxy_says((await reader.readline()).decode()).encode())
    writer.close()


async def _asked(folder: Path, *lines: bytes | None) -> list[dict]:
    """The answers to connections that send a line each, or nothing, all at the same moment."""
    sockets = edges.Sockets(folder / "run" / "own")
    sockets.folder.mkdir(parents=True)
    path = folder / "status"
    haproxy = await asyncio.start_unix_server(_answer, sockets.admin)
    servers = await status_socket.serve(path, folder / "run" / "status.sock", lambda: LOOK, sockets)

    async def ask(line: bytes | None) -> dict:
        reader, writer = await asyncio.open_unix_connection(path)
        if line is not None:
            writer.write(line)
        answer = json.loads(await reader.read())
        writer.close()
        return answer

    answers = await asyncio.gather(*map(ask, lines))
    for server in (haproxy, *servers):
        server.close()
    return answers


def test_each_gets_the_rows_that_he_asks_for(tmp_path):
    lines = {
        None: [name for _, name in PLACES],
        b"\n": [name for _, name in PLACES],
        b"another word\n": [name for _, name in PLACES],
        b"summary\n": [],
        b"host app1\n": ["app1-8100", "app1-8000"],
        b"host app2 app1\n": ["app1-8100", "app1-8000", "app2-8000"],
        b"host nobody\n": [],
        b"service echo\n": ["app1-8000", "app1-x-8000", "app2-8000"],
        b"service gone\n": [],
    }
    answers = asyncio.run(_asked(tmp_path, *lines))
    for line, names, answer in zip(lines, lines.values(), answers, strict=True):
        assert [row["name"] for row in answer["servers"]] == names, line
        assert (answer["healthy"], answer["haproxy"]["version"]) == (True, "3.0"), line
        assert all((row["state"], row["requests"], row["sessions"]) == ("up", 7, 1) for row in answer["servers"])


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"", ALL),
        (b"host\n", ALL),
        (b"summary host a\n", ALL),
        (b"\xff\n", ALL),
        (b"summary", Part("summary")),
        (b"service a a\n", Part("service", frozenset({"a"}))),
    ],
)
def test_what_is_not_understood_asks_for_all(line, part):
    assert status_socket.part_of(line) == part


def test_the_client_names_the_part_and_reads_the_answer(tmp_path):
    async def story() -> tuple[str, str]:
        said: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            said.append(await reader.readline())
            writer.write(b"{}\n")
            writer.close()

        server = await asyncio.start_unix_server(answer, tmp_path / "s")
        text = await asyncio.to_thread(client.fetch, str(tmp_path / "s"), "host app1")
        server.close()
        return text, said[0].decode()

    assert asyncio.run(story()) == ("{}\n", "host app1\n")


def test_no_answer_of_haproxy_is_a_fact(tmp_path):
    for part in (ALL, Part("summary")):
        found = asyncio.run(status.document(LOOK, edges.Sockets(tmp_path), part=part))
        assert (found["healthy"], found["servers"]) == (False, [])
