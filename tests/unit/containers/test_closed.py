"""Services that an operator closed: kept in a file, told to HAProxy's workers, and switched by the container's word."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import closed, gone, kept, main, shares, status, told  # noqa: E402
from fiefdom_gateway.edges import Failed  # noqa: E402
from fiefdom_gateway.settings import Service  # noqa: E402
from fiefdom_gateway.wanted import Server  # noqa: E402

FROM = "pattern loaded from file 'opt@/x/closed' used by acl at file '/x.cfg'"


class Worker:
    """A worker with two backends, each with a list of its own, which change as HAProxy 3.0's do."""

    def __init__(self, path: Path, *names: str, knows: bool = True) -> None:
        self.path, self.knows = path, knows
        self.lists = {"0": set(names), "2": set(names)}
        self.asked: list[str] = []

    async def ask(self, command: str) -> str:
        self.asked.append(command)
        verb, acl, *more = command.split(" ")
        assert acl == "acl"
        if not more:
            rows = self.lists.items() if self.knows else ()
            lines = [f"{n} ({self.path}) {FROM} line 12. curr_ver=0 next_ver=0 entry_cnt={len(x)}" for n, x in rows]
            own = "1 () acl 'be_name' file '/x.cfg' line 12. curr_ver=0 next_ver=0 entry_cnt=0"
            return "\n".join(["# id (file) description", *lines, own, "", ""])
        names = self.lists[more[0].removeprefix("#")]
        if verb == "show":
            return "".join(f"0x7fdb8fc2954{i} {name}\n" for i, name in enumerate(sorted(names))) + "\n"
        (names.add if verb == "add" else names.discard)(more[1])
        return "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return closed.file_of(tmp_path)


def test_what_is_closed_is_in_a_file_until_it_is_opened(path: Path) -> None:
    assert closed.asked_for(path) == frozenset()
    for service in ("web", "shop", "web"):
        kept.put(path, service, service)
    assert path.read_text() == "shop\nweb\n", "HAProxy reads a name a line"
    kept.put(path, "shop", None)
    kept.put(path, "never-closed", None)
    assert path.read_text() == "web\n"


def test_of_two_that_switch_at_once_none_is_lost(path: Path) -> None:
    names = {f"s{number}" for number in range(12)}
    threads = [threading.Thread(target=kept.put, args=(path, name, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert closed.asked_for(path) == names


def test_a_line_that_is_no_name_never_gets_into_a_command(path: Path) -> None:
    path.write_text("shop; shutdown sessions\nweb\n\n# x\n")
    worker = Worker(path)
    assert asyncio.run(closed.follow(worker.ask, path)) == {"web"}
    assert [command for command in worker.asked if "add" in command] == ["add acl #0 web", "add acl #2 web"]


@pytest.mark.parametrize(
    ("wanted", "actual", "changes"),
    [
        ((), (), []),
        (("a", "b"), ("a", "b"), []),
        (("a", "b"), ("b", "c"), ["add acl #{} a", "del acl #{} c"]),
        ((), ("c",), ["del acl #{} c"]),
    ],
)
def test_a_worker_is_told_what_changed(
    path: Path, wanted: tuple[str, ...], actual: tuple[str, ...], changes: list[str]
) -> None:
    for name in wanted:
        kept.put(path, name, name)
    worker = Worker(path, *actual)
    assert asyncio.run(closed.follow(worker.ask, path)) == set(wanted)
    told = [command for command in worker.asked if not command.startswith("show")]
    assert told == [change.format(number) for number in worker.lists for change in changes]
    assert all(names == set(wanted) for names in worker.lists.values()), "each backend has its own"


def test_what_is_quiet_is_asked_once(path: Path) -> None:
    worker = Worker(path)
    assert asyncio.run(closed.follow(worker.ask, path)) == set()
    assert worker.asked == ["show acl"]


def test_what_one_backend_lacks_is_told_to_it(path: Path) -> None:
    kept.put(path, "web", "web")
    worker = Worker(path, "web")
    worker.lists["2"].clear()
    assert asyncio.run(closed.follow(worker.ask, path)) == {"web"}
    assert worker.lists == {"0": {"web"}, "2": {"web"}}


@pytest.mark.parametrize("close", [False, True])
def test_what_one_backend_does_not_take_up_is_no_answer(path: Path, close: bool) -> None:
    """Neither that it is closed, nor that it is open."""

    class Deaf(Worker):
        async def ask(self, command: str) -> str:
            changes = command.startswith(("add acl #2 ", "del acl #2 "))
            return "\n" if changes else await super().ask(command)

    worker = Deaf(path, *(() if close else ("web",)))
    kept.put(path, "web", "web" if close else None)
    with pytest.raises(Failed, match="in each of its lists"):
        asyncio.run(closed.follow(worker.ask, path))


def test_a_configuration_that_knows_no_switch_is_told_as_such(path: Path) -> None:
    with pytest.raises(Failed, match="`fiefdom apply` brings one that does"):
        asyncio.run(closed.follow(Worker(path, knows=False).ask, path))


# --- The word


SERVICE = {"name": "shop", "backend": "shop", "base_port": 8000, "max_instances": 2, "server_options": "check"}


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a container whose process 1 takes up what the file says as soon as it is signalled."""
    state = tmp_path / "state"
    state.mkdir()
    settings = tmp_path / "reconciler.json"
    names = {"cluster": "c", "node": "gw1", "rpc_addr": "127.0.0.1:1"}
    paths = {"haproxy_config": "/x", "state_dir": str(state), "serf_config": "/x"}
    times = {"interval_s": 5, "absent_grace_s": 120, "stop_grace_s": 60}
    known = {"network": "10.0.0.0/8", "known_hosts_only": False, "hosts": {}, "services": [SERVICE]}
    settings.write_text(json.dumps({**names, **paths, **times, **known}))
    monkeypatch.setattr(main, "SETTINGS_FILE", settings)
    monkeypatch.setattr(told, "LIMIT_S", 0.3)
    taken_up: dict[str, list[dict[str, object]]] = {"maintenance": [], "shares": []}

    def signalled(process: int, number: int) -> None:
        assert (process, number) == (1, signal.SIGHUP)
        if not (state / "deaf").exists():
            taken_up["maintenance"] = [{"service": name} for name in closed.asked_for(closed.file_of(state))]
            taken_up["shares"] = [dataclasses.asdict(share) for share in shares.asked_for(shares.file_of(state))]

    def document(path: str) -> str:
        assert path == f"{state}/run/status.sock"
        return json.dumps(taken_up)

    monkeypatch.setattr(os, "kill", signalled)
    monkeypatch.setattr(told, "fetch", document)
    return state


def test_the_word_ends_well_once_haproxy_has_it(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["maintenance", "on", "shop"]) == 0
    assert closed.asked_for(container / "closed") == {"shop"}
    assert main.main(["maintenance", "off", "shop"]) == 0
    assert closed.asked_for(container / "closed") == frozenset()
    assert capsys.readouterr().err == ""


def test_the_word_says_what_keeps_it(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["maintenance", "on", "other"]) == 1
    assert capsys.readouterr().err == "this gateway has no service other\n"
    (container / "deaf").touch()
    assert main.main(["maintenance", "on", "shop"]) == 1
    assert "did not take it up within 0.3 s, so it was taken back" in capsys.readouterr().err
    assert closed.asked_for(container / "closed") == frozenset(), "what failed takes no effect later"
    assert main.main(["maintenance", "maybe", "shop"]) == 2
    assert capsys.readouterr().err.startswith("usage: "), "which the library knows an older gateway by"


def test_an_older_gateway_is_known_by_its_answer() -> None:
    from fiefdom.cluster.told import UNKNOWN

    assert main.USAGE.startswith(UNKNOWN)


def test_what_failed_is_taken_back_to_what_was_there(container: Path) -> None:
    assert main.main(["weight", "shop", "2.0", "10"]) == main.main(["maintenance", "on", "shop"]) == 0
    (container / "deaf").touch()
    assert main.main(["weight", "shop", "2.0", "20"]) == main.main(["maintenance", "off", "shop"]) == 1
    assert main.main(["weight", "shop", "off"]) == 1
    assert kept.lines_of(container / "shares") == ("shop 2.0 10",)
    assert kept.lines_of(container / "closed") == ("shop",)


def test_what_somebody_else_said_meanwhile_is_not_taken_back(tmp_path: Path) -> None:
    path = shares.file_of(tmp_path)
    before = kept.put(path, "shop", "shop 2 10")
    assert kept.put(path, "shop", "shop 2 20") == "shop 2 10"
    kept.take_back(path, "shop", "shop 2 10", before)
    assert kept.lines_of(path) == ("shop 2 20",)
    kept.take_back(path, "shop", "shop 2 20", "shop 2 10")
    assert kept.lines_of(path) == ("shop 2 10",)


def test_what_cannot_be_taken_back_says_that_it_comes(
    container: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (container / "deaf").touch()

    def full(*_: object) -> None:
        raise Failed("the disk is full")

    monkeypatch.setattr(kept, "take_back", full)
    assert main.main(["maintenance", "on", "shop"]) == 1
    assert "it does so as soon as it can, for the disk is full" in capsys.readouterr().err
    assert closed.asked_for(container / "closed") == {"shop"}


def test_only_what_haproxy_has_told_is_an_answer() -> None:
    look = status.Look(node="gw1", services={})
    assert status.words_kept(look) == {"asked_shares": []}
    share = shares.Share("shop", "2", 10)
    told = dataclasses.replace(look, closed=frozenset(), shares=(), asked_shares=(share,))
    asked = [{"service": "shop", "version": "2", "percent": 10}]
    assert status.words_kept(told) == {"maintenance": [], "shares": [], "asked_shares": asked}


def test_who_is_gone_is_forgotten(tmp_path: Path) -> None:
    def service(name: str, *, is_tcp: bool = False) -> Service:
        return Service(name, name, 8000, 2, "check", is_tcp=is_tcp)

    services = {"shop": service("shop"), "db": service("db", is_tcp=True)}
    assert gone.forget(tmp_path, services) == ()
    assert list(tmp_path.iterdir()) == [], "nothing was said, so nothing is written"
    for name in ("shop", "db", "web"):
        kept.put(closed.file_of(tmp_path), name, name)
        kept.put(shares.file_of(tmp_path), name, f"{name} 1 5")
    assert gone.forget(tmp_path, services) == ("db is closed", "web is closed", "web 1 5")
    assert kept.lines_of(closed.file_of(tmp_path)) == ("shop",)
    assert kept.lines_of(shares.file_of(tmp_path)) == ("db 1 5", "shop 1 5")


# --- Shares of versions


def servers(**versions: int) -> list[Server]:
    """Servers of `shop`, by the version that so many have."""
    has = [version.replace("_", ".")[1:] for version, count in versions.items() for _ in range(count)]
    return [Server("shop", f"app1-{8000 + i}", "10.0.0.1", 8000 + i, False, v) for i, v in enumerate(has)]


@pytest.mark.parametrize(
    ("percent", "versions", "weights"),
    [
        (10, {"v1": 3, "v2": 1}, {"1": 256, "2": 85}),
        (50, {"v1": 3, "v2": 1}, {"1": 85, "2": 256}),
        (25, {"v1": 3, "v2": 1}, {"1": 256, "2": 256}),
        (99, {"v1": 1, "v2": 1}, {"1": 3, "2": 256}),
        # As near as weights come to it.
        (1, {"v1": 1, "v2": 30}, {"1": 256, "2": 1}),
        (10, {"v1": 4}, {"1": 1}),
        (10, {"v2": 4}, {"2": 1}),
        (10, {"v1": 1, "v1_5": 1, "v2": 1}, {"1": 256, "1.5": 256, "2": 57}),
    ],
)
def test_a_version_gets_its_share_however_many_servers_have_it(
    percent: int, versions: dict[str, int], weights: dict[str, int]
) -> None:
    found = shares.weighted(servers(**versions), [shares.Share("shop", "2", percent), shares.Share("web", "1", 5)])
    assert {server.version: server.weight for server in found} == weights
    total = sum(server.weight for server in found)
    if len(weights) > 1 and min(weights.values()) > 2:
        got = sum(server.weight for server in found if server.version == "2") / total
        assert abs(100 * got - percent) < 1


def test_who_drains_gets_no_share() -> None:
    old, *others = servers(v1=2, v2=1)
    found = shares.weighted([dataclasses.replace(old, drain=True), *others], [shares.Share("shop", "2", 50)])
    assert {server.weight for server in found[1:]} == {256}


def test_shares_are_kept_one_for_a_service(tmp_path: Path) -> None:
    path = shares.file_of(tmp_path)
    assert shares.asked_for(path) == ()
    for service, version, percent in (("web", "1.0", 5), ("shop", "2", 10), ("web", "1.1+b", 50)):
        kept.put(path, service, str(shares.Share(service, version, percent)))
    assert path.read_text() == "shop 2 10\nweb 1.1+b 50\n"
    kept.put(path, "shop", None)
    path.write_text(path.read_text() + "x 1 0\nx 1 100\nx; 1 10\nnonsense\n")
    assert shares.asked_for(path) == (shares.Share("web", "1.1+b", 50),)


def test_the_word_of_a_share(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["weight", "shop", "2.0", "10"]) == 0
    assert main.main(["weight", "shop", "2.0", "20"]) == 0
    assert shares.asked_for(container / "shares") == (shares.Share("shop", "2.0", 20),)
    assert main.main(["weight", "shop", "off"]) == 0
    assert shares.asked_for(container / "shares") == ()
    assert capsys.readouterr().err == ""
    for words in (["weight", "shop", "2.0", "0"], ["weight", "shop", "2.0", "x"], ["weight", "shop"]):
        assert main.main(words) == 2
    assert main.main(["weight", "other", "2.0", "5"]) == 1
    assert capsys.readouterr().err.endswith("this gateway has no service other\n")
