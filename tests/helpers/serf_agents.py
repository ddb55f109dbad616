"""Serf agents: one that speaks the RPC protocol in this process, and real ones on loopback addresses."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack

KEY = "0f" * 16


class FakeAgent:
    """Speaks Serf's RPC to one client at a time: what it is asked, and what is answered to its queries, is kept."""

    def __init__(self, key: str | None = KEY) -> None:
        self.members: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.answers: dict[int, str] = {}
        self.refuse = ""
        self._key = key
        self._streams: dict[str, int] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.AbstractServer | None = None

    async def start(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        self._streams.clear()
        if self._writer is not None:
            self._writer.close()

    def query(self, number: int, name: str, payload: bytes) -> None:
        self._send("stream", {"Event": "query", "ID": number, "LTime": 1, "Name": name, "Payload": payload})

    def log(self, line: bytes) -> None:
        self._send("monitor", {"Log": line})

    async def streams(self) -> None:
        while len(self._streams) < 2:
            await asyncio.sleep(0.005)

    def _send(self, stream: str, body: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(msgpack.packb({"Seq": self._streams[stream], "Error": ""}) + msgpack.packb(body))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        unpacker = msgpack.Unpacker()

        async def read() -> dict[str, Any]:
            while True:
                with suppress(msgpack.OutOfData):
                    return dict(unpacker.unpack())
                more = await reader.read(65536)
                if not more:
                    raise EOFError
                unpacker.feed(more)

        opened = self._key is None
        with suppress(EOFError, OSError):
            while True:
                header = await read()
                command = header["Command"]
                body = {} if command == "members" else await read()
                self.asked.append(command)
                error, reply = "", None
                if command == "auth":
                    opened = body["AuthKey"] == self._key
                    error = "" if opened else "Invalid authentication token"
                elif not opened and command != "handshake":
                    error = "Authentication required"
                elif command in ("stream", "monitor"):
                    self._streams[command] = header["Seq"]
                elif command == "members":
                    error, reply = self.refuse, {"Members": self.members}
                elif command == "respond":
                    self.answers[body["ID"]] = body["Payload"].decode()
                writer.write(msgpack.packb({"Seq": header["Seq"], "Error": error}))
                if reply is not None and not error:
                    writer.write(msgpack.packb(reply))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealAgent:
    """A Serf agent on a loopback address."""

    def __init__(self, folder: Path, name: str, address: str, tags: dict[str, str], **more: Any) -> None:
        self.rpc_addr = f"127.0.0.1:{free_port()}"
        self.config = folder / f"{name}.json"
        settings = {"node_name": name, "bind": address, "advertise": address, "rpc_addr": self.rpc_addr, "tags": tags}
        self.config.write_text(
            json.dumps({**settings, "rpc_auth": KEY, "profile": "local", "log_level": "err", **more})
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = ["serf", "agent", f"-config-file={self.config}"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 10
        while subprocess.run(self.command("members"), capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def command(self, *words: str) -> list[str]:
        return ["serf", words[0], f"-rpc-addr={self.rpc_addr}", f"-rpc-auth={KEY}", *words[1:]]

    def ask(self, word: str, payload: str) -> list[str]:
        """Every gateway's answer to a host's question."""
        asked = self.command("query", "-no-ack", "-timeout=1s", "-tag", "role=gateway", f"fiefdom-{word}", payload)
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        return [line.partition(": ")[2] for line in said.splitlines() if line.startswith("Response from")]
