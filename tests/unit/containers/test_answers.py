"""Hosts' questions over the RPC stream of a Serf agent: of one that speaks the protocol here, and of a real one."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import main, rotation, serf, view  # noqa: E402
from fiefdom_gateway.answers import HOLD_S, Answers  # noqa: E402
from fiefdom_gateway.edges import Failed  # noqa: E402
from fiefdom_gateway.members import parse_members  # noqa: E402
from fiefdom_gateway.replies import State  # noqa: E402
from fiefdom_gateway.settings import Service  # noqa: E402
from fiefdom_gateway.shared import Shared  # noqa: E402
from fiefdom_gateway.status import Look  # noqa: E402
from fiefdom_gateway.view import Row, View  # noqa: E402
from fiefdom_gateway.wanted import Server  # noqa: E402

from helpers.serf_agents import KEY, FakeAgent, RealAgent, free_port  # noqa: E402

SERVICES = {"predictor": Service("predictor", "predictor", 8000, 100, "check")}
APP1 = {"Name": b"app1", "Addr": bytes((10, 99, 0, 21)), "Port": 7946, "Status": b"alive"}
OFFERING = {**APP1, "Tags": {"role": "app", "svc:predictor": "1;8000-8001"}}
WITHDRAWN = {**APP1, "Tags": {"role": "app"}}


class Played:
    """An agent, a reconciler of which only the outside is there, and the answers between them."""

    def __init__(self, agent: FakeAgent, port: int, config: Path) -> None:
        self.agent = agent
        self.looks = 0
        self.view = View()
        self.view_takes_s = 0.0
        self.view_error: Exception | None = None
        settings = SimpleNamespace(rpc_addr=f"127.0.0.1:{port}", serf_config=config, services=SERVICES)
        self.reconciler: Any = SimpleNamespace(
            settings=settings,
            look=Look(node="gw1", services=SERVICES, looked=True),
            looking=asyncio.Lock(),
            acted_at_s=0.0,
            look_again=self._look_again,
            hear=lambda *said: self.heard.append(said),
        )
        self.heard: list[tuple[str, ...]] = []
        self.answers = Answers(self.reconciler, self._take)
        self._next = 0

    def _look_again(self) -> None:
        self.looks += 1

    async def _take(self, _backend: str | None) -> View:
        await asyncio.sleep(self.view_takes_s)
        if self.view_error is not None:
            raise self.view_error
        return self.view

    def has_looked(self, *members: dict[str, Any], **more: Any) -> None:
        """The reconciler has seen these members, and believes them."""
        listed = [
            {"name": m["Name"].decode(), "addr": "10.99.0.21:7946", "status": m["Status"].decode(), "tags": m["Tags"]}
            for m in members
        ]
        roll = parse_members(json.dumps({"members": listed}), SERVICES)
        read = {member.name: member for member in roll.members}
        self.reconciler.look = replace(self.reconciler.look, read=read, members=roll.members, **more)

    async def ask(self, payload: str, word: str = "drained") -> str:
        """What the gateway answers; nothing where it does not."""
        self._next += 1
        number = self._next
        self.agent.query(number, f"fiefdom-{word}", payload.encode())
        deadline_s = time.monotonic() + 2
        while number not in self.agent.answers and time.monotonic() < deadline_s:
            await asyncio.sleep(0.005)
        return self.agent.answers.get(number, "")


@asynccontextmanager
async def playing(tmp_path: Path, key: str | None = KEY) -> AsyncIterator[Played]:
    config = tmp_path / "agent.json"
    config.write_text(json.dumps({} if key is None else {"rpc_auth": key}))
    agent = FakeAgent()
    played = Played(agent, await agent.start(), config)
    played.answers.go_on()

    async def follow() -> None:
        while True:
            await played.answers.follow()
            await asyncio.sleep(0.01)

    following = asyncio.create_task(follow())
    try:
        if key == KEY:
            await agent.streams()
        yield played
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await agent.stop()


def play(tmp_path: Path, scene: Callable[[Played], Awaitable[None]], key: str | None = KEY) -> None:
    async def run() -> None:
        async with playing(tmp_path, key) as played:
            await scene(played)

    asyncio.run(asyncio.wait_for(run(), 20))


def serving(*ports: int, state: State = State.READY, sessions: int = 0) -> View:
    return View(view.by_host(Row("predictor", f"app1-{port}", state, True, sessions, 1) for port in ports))


# --- The stream


def test_a_question_is_answered_over_the_stream(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        played.agent.members = [OFFERING]
        played.has_looked(OFFERING)
        played.view = serving(8000)
        assert await played.ask("app1 predictor", "serving") == "1 of 2 servers up"
        assert await played.ask("app1 predictor 1", "serving") == "serving"
        assert played.heard == []
        assert await played.ask(f"app1 predictor 1 {'v' * 128}", "serving") == "serving"
        assert played.heard == [("app1", "predictor", "v" * 128)]
        assert await played.ask("app1 predictor") == "app1 still offers predictor"
        assert played.agent.asked[:4] == ["handshake", "auth", "monitor", "stream"]

    play(tmp_path, scene)


def test_what_is_not_understood_is_answered_in_words(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        for payload in ("", "app1 predictor x", "\x1b[2J", "x" * 1000):
            assert await played.ask(payload) == "not understood: HOST, HOST SERVICE or HOST SERVICE LEAST [VERSION]"
        played.agent.query(99, "fiefdom-drained", b"\xff\xfe")
        assert await played.ask("app1") == "drained"
        assert played.agent.answers[99].startswith("not understood")

    play(tmp_path, scene)


def test_the_agents_log_and_events_wake_the_reconciler_and_questions_do_not(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        await played.ask("app1")
        begun = played.looks
        assert begun == 1  # what happened before is in no stream
        for line in (
            b"[DEBUG] serf: messageQueryType: fiefdom-drained",
            b"[INFO] agent: Received event: query: x",
            b"\xff",
        ):
            played.agent.log(line)
        await played.ask("app1")
        assert played.looks == begun
        for line in (b"[INFO] serf: EventMemberUpdate: app1", b"[DEBUG] serf: messageLeaveType: app1"):
            played.agent.log(line)
        played.agent._send("stream", {"Event": "member-reap", "Members": []})
        await played.ask("app1")
        assert played.looks == begun + 3

    play(tmp_path, scene)


def test_an_agent_that_starts_again_is_followed_again(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        assert await played.ask("app1") == "drained"
        for _ in range(2):
            played.agent.hang_up()
            await played.agent.streams()
            assert await played.ask("app1") == "drained"
        assert played.looks == 3

    play(tmp_path, scene)


def test_an_agent_that_refuses_the_key_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scene(played: Played) -> None:
        while played.agent.asked.count("auth") < 3:
            await asyncio.sleep(0.01)

    play(tmp_path, scene, key="another")
    said = "hosts' questions cannot be heard: Serf's agent refuses: Invalid authentication token\n"
    assert capsys.readouterr().out == said


def test_an_agent_that_says_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serf, "TIMEOUT_S", 0.05)

    async def scene() -> None:
        connected = 0

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connected
            connected += 1
            await reader.read(-1)
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        played = Played(FakeAgent(), server.sockets[0].getsockname()[1], tmp_path / "none")
        for _ in range(2):
            await asyncio.wait_for(played.answers.follow(), 2)
        assert connected == 2
        server.close()

    asyncio.run(scene())


@pytest.mark.parametrize("word", ["drained", "serving"])
def test_the_handlers_of_an_older_fiefdoms_agent_say_nothing(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Serf sends what a handler prints only where it exits with 0: the stream's answer is the one there is."""
    assert main.main([word]) == 2
    assert capsys.readouterr().out == ""


# --- Whose turn it is


def test_only_the_one_whose_turn_it_is_answers(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        await played.answers.stand_still()
        played.agent.query(50, "fiefdom-drained", b"app1")
        await asyncio.sleep(0.1)
        assert played.agent.answers == {}
        # The reconciler is woken all the same.
        played.agent.log(b"serf: EventMemberJoin: app1")
        await asyncio.sleep(0.05)
        assert played.looks == 2
        played.answers.go_on()
        assert await played.ask("app1") == "drained"
        assert 50 not in played.agent.answers

    play(tmp_path, scene)


def test_an_answer_that_is_not_ready_when_the_turn_passes_is_never_given(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        played.view_takes_s = 0.1
        played.agent.query(50, "fiefdom-drained", b"app1")
        await asyncio.sleep(0.05)
        await played.answers.stand_still()
        await asyncio.sleep(0.2)
        assert played.agent.answers == {}

    play(tmp_path, scene)


# --- No older than the question


@pytest.mark.long
def test_what_the_reconciler_has_not_looked_at_is_not_drained(tmp_path: Path) -> None:
    """HAProxy knows nothing of an offer that was made and withdrawn just now: it may get its servers yet."""

    async def scene(played: Played) -> None:
        yet = "the gateway has yet to look at what app1 says now"
        played.agent.members = [WITHDRAWN]
        assert await played.ask("app1 predictor") == yet
        played.has_looked(OFFERING)
        looks = played.looks
        assert await played.ask("app1 predictor") == yet
        assert played.looks > looks
        played.has_looked(WITHDRAWN)
        assert await played.ask("app1 predictor") == "drained"
        played.agent.members = []
        assert await played.ask("app1 predictor") == yet

    play(tmp_path, scene)


def test_a_look_that_runs_is_waited_for(tmp_path: Path) -> None:
    """It may find the offer that Serf has not any more."""

    async def scene(played: Played) -> None:
        played.agent.members = [WITHDRAWN]
        played.has_looked(WITHDRAWN)
        async with played.reconciler.looking:
            asked = asyncio.create_task(played.ask("app1 predictor"))
            await asyncio.sleep(0.1)
            assert not asked.done()
            server = Server("predictor", "app1-8000", "10.99.0.21", 8000, False, "1")
            played.has_looked(OFFERING, wanted=(server,))
        assert await asked == "the gateway has yet to look at what app1 says now"

    play(tmp_path, scene)


def test_offers_that_grew_do_not_serve_before_they_were_looked_at(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        played.view = serving(8000, 8001)
        played.has_looked(OFFERING)
        played.agent.members = [{**OFFERING, "Tags": {"role": "app", "svc:predictor": "1;8000-8003"}}]
        answer = await played.ask("app1 predictor", "serving")
        assert answer == "the gateway has yet to look at what app1 says now"
        played.has_looked(*played.agent.members)
        assert await played.ask("app1 predictor", "serving") == "2 of 4 servers up"

    play(tmp_path, scene)


def test_a_view_from_before_haproxy_was_changed_is_not_used(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        assert await played.ask("app1 predictor") == "drained"
        played.view = serving(8000, state=State.DRAIN, sessions=1)
        assert await played.ask("app1 predictor") == "drained"  # 200 ms have not passed
        played.reconciler.acted_at_s = time.monotonic()
        assert await played.ask("app1 predictor") == "0 servers in rotation, 1 requests open"

    play(tmp_path, scene)


def test_while_haproxy_is_changed_without_end_nobody_is_told_anything(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        async def take(_backend: str | None) -> View:
            await asyncio.sleep(0.01)
            played.reconciler.acted_at_s = time.monotonic()
            return View()

        played.answers._take_view = take
        assert await played.ask("app1 predictor") == "HAProxy is being changed"
        assert played.answers.looks % 3 == 0, "each look is given up after three"

    play(tmp_path, scene)


def test_nobody_is_drained_while_haproxy_or_serf_does_not_answer(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        played.view_error = Failed("HAProxy's admin.sock failed")
        assert await played.ask("app1") == "the gateway cannot tell: HAProxy's admin.sock failed"
        played.view_error = None
        played.agent.refuse = "busy"
        assert await played.ask("app1") == "the gateway cannot tell: Serf's agent refuses: busy"
        played.agent.refuse = ""
        assert await played.ask("app1") == "drained"

    play(tmp_path, scene)


# --- A word that becomes true


@pytest.mark.parametrize("word", ["serving", "drained"])
def test_who_asks_hears_the_word_as_soon_as_it_is_true(tmp_path: Path, word: str) -> None:
    """One answer to one question, which came first: where there is nothing to wait for, and after a while."""

    async def scene(played: Played) -> None:
        before, after = (OFFERING, WITHDRAWN) if word == "drained" else (WITHDRAWN, OFFERING)
        played.agent.members = [before]
        played.has_looked(before)
        played.view = serving(8000, 8001) if word == "drained" else View()
        asked = asyncio.create_task(played.ask("app1 predictor", word))
        await asyncio.sleep(0.1)
        assert not asked.done()
        played.agent.members = [after]
        await asyncio.sleep(0.05)
        played.has_looked(after)
        played.view = View() if word == "drained" else serving(8000, 8001)
        assert await asked == word
        began_s, looks = time.monotonic(), played.answers.looks
        assert await played.ask("app1 predictor", word) == word
        assert time.monotonic() - began_s < HOLD_S and played.answers.looks <= looks + 1

    play(tmp_path, scene)


def test_a_held_question_takes_a_fifth_of_the_time_for_looks(tmp_path: Path) -> None:
    """Whatever one look takes: HAProxy's word on 6,000 servers takes long."""

    async def scene(played: Played) -> None:
        played.agent.members = [OFFERING]
        played.has_looked(OFFERING)
        played.view_takes_s = 0.06
        assert await played.ask("app1 predictor", "serving") == "0 of 2 servers up"
        assert played.answers.looks <= 2

    play(tmp_path, scene)


# --- One look for many


def test_many_questions_at_once_are_one_look_at_haproxy_and_two_at_the_members(tmp_path: Path) -> None:
    async def scene(played: Played) -> None:
        played.view_takes_s = 0.1
        for number in range(200):
            played.agent.query(1000 + number, "fiefdom-drained", b"app1 predictor")
        while len(played.agent.answers) < 200:
            await asyncio.sleep(0.01)
        assert set(played.agent.answers.values()) == {"drained"}
        assert played.answers.looks == 1
        assert played.agent.asked.count("members") <= 3

    play(tmp_path, scene)


def test_a_look_is_shared_by_those_for_whom_it_is_young_enough() -> None:
    async def scene() -> None:
        taken: list[float] = []

        async def take() -> int:
            await asyncio.sleep(0.02)
            taken.append(time.monotonic())
            return len(taken)

        shared = Shared(take)
        came_s = time.monotonic()
        found = await asyncio.gather(*(shared.since(came_s) for _ in range(5)))
        assert {seen.found for seen in found} == {1}
        running = asyncio.create_task(shared.since(time.monotonic()))
        await asyncio.sleep(0.01)
        # One that began before is not enough, and no second one runs beside it.
        later = await shared.since(time.monotonic())
        assert (await running).found == 2 and later.found == 3
        assert (await shared.since(came_s)).found == 3

    asyncio.run(scene())


def test_a_look_that_failed_is_taken_anew() -> None:
    async def scene() -> None:
        errors = [Failed("gone")]

        async def take() -> str:
            await asyncio.sleep(0)
            if errors:
                raise errors.pop()
            return "there"

        shared = Shared(take)
        both = await asyncio.gather(*(shared.since(0.0) for _ in range(2)), return_exceptions=True)
        assert [str(error) for error in both] == ["gone", "gone"]
        assert (await shared.since(0.0)).found == "there"

    asyncio.run(scene())


# --- A real agent

needs_serf = pytest.mark.skipif(shutil.which("serf") is None, reason="no serf here: apt-get install serf")
OLD_HANDLERS = [f"query:fiefdom-{word}=exit 2" for word in ("drained", "serving")]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[RealAgent, RealAgent]]:
    """A gateway's agent with the handlers of an older Fiefdom, which know no answer now, and a host's."""
    at, other = (f"127.0.0.{last}:{free_port()}" for last in (1, 2))
    gateway = RealAgent(tmp_path, "gw1", at, {"role": "gateway"}, event_handlers=OLD_HANDLERS)
    host = RealAgent(tmp_path, "app1", other, {"role": "app", "svc:predictor": "1;8000-8001"}, retry_join=[at])
    yield gateway, host
    host.stop()
    gateway.stop()


@needs_serf
def test_a_real_agents_questions_are_answered_once(cluster: tuple[RealAgent, RealAgent], tmp_path: Path) -> None:
    gateway, host = cluster

    async def listed() -> dict[str, dict[str, object]]:
        said = await asyncio.to_thread(
            subprocess.run, gateway.command("members", "-format=json"), capture_output=True, check=True
        )
        return {entry["name"]: entry for entry in json.loads(said.stdout)["members"]}

    async def scene() -> None:
        played = Played(FakeAgent(), int(gateway.rpc_addr.rpartition(":")[2]), gateway.config)
        played.answers.go_on()

        async def follow() -> None:
            while True:
                await played.answers.follow()
                await asyncio.sleep(0.05)

        async def asked(word: str, payload: str) -> list[str]:
            return await asyncio.to_thread(host.ask, word, payload)

        following = asyncio.create_task(follow())
        while len(await listed()) < 2 or not played.looks:
            await asyncio.sleep(0.05)
        # Members over RPC are those of the command, but for the loopback address that no host of a cluster has.
        agent = await serf.connect(gateway.rpc_addr)
        reading = asyncio.create_task(_drain(agent))
        await asyncio.gather(*agent.begin(KEY, ()))
        members = await agent.members()
        for name, entry in (await listed()).items():
            assert members[name] == {key: entry[key] for key in members[name]}
        agent.close()
        await asyncio.gather(reading, return_exceptions=True)

        await asyncio.sleep(1.5)  # the events of the join are held back
        looks = played.looks
        assert await asked("drained", "app1 predictor") == ["drained"]
        assert await asked("serving", "app1 predictor 1") == ["0 of 0 servers up"]
        assert await asked("drained", "app1 $(reboot)") == [rotation.NOT_UNDERSTOOD]
        assert played.looks == looks
        began_s = time.monotonic()
        await asyncio.to_thread(subprocess.run, host.command("tags", "-delete", "svc:predictor"), check=True)
        while played.looks == looks:
            await asyncio.sleep(0.01)
        assert time.monotonic() - began_s < 0.9  # events are held back for a second, the log is not
        await asyncio.to_thread(gateway.stop)
        await asyncio.to_thread(gateway.start)
        deadline_s = time.monotonic() + 10
        while await asked("drained", "app1 predictor") != ["drained"]:
            assert time.monotonic() < deadline_s
        following.cancel()

    asyncio.run(asyncio.wait_for(scene(), 60))


async def _drain(agent: serf.Agent) -> None:
    async for _ in agent.events():
        pass
