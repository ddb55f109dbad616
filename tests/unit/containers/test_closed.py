"""Services that an operator closed: kept in a file, told to HAProxy's workers, and switched by the container's word."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import client, closed, main, reconcile  # noqa: E402
from fiefdom_gateway.edges import Failed  # noqa: E402

UNKNOWN = "Unknown ACL identifier. Please use #<id> or <file>.\n"


class Worker:
    """A worker whose list of closed services changes as HAProxy 3.0's does."""

    def __init__(self, path: Path, *names: str, knows: bool = True) -> None:
        self.path, self.names, self.knows = path, set(names), knows
        self.asked: list[str] = []

    async def ask(self, command: str) -> str:
        self.asked.append(command)
        verb, acl, path, *name = command.split(" ")
        assert (acl, path) == ("acl", str(self.path))
        if not self.knows:
            return UNKNOWN
        if verb == "show":
            return "".join(f"0x7fdb8fc2954{i} {name}\n" for i, name in enumerate(sorted(self.names))) + "\n"
        (self.names.add if verb == "add" else self.names.discard)(name[0])
        return "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return closed.file_of(tmp_path)


def test_what_is_closed_is_in_a_file_until_it_is_opened(path: Path) -> None:
    assert closed.asked_for(path) == frozenset()
    for service in ("web", "shop", "web"):
        closed.change(path, service, close=True)
    assert path.read_text() == "shop\nweb\n", "HAProxy reads a name a line"
    closed.change(path, "shop", close=False)
    closed.change(path, "never-closed", close=False)
    assert path.read_text() == "web\n"


def test_of_two_that_switch_at_once_none_is_lost(path: Path) -> None:
    names = {f"s{number}" for number in range(12)}
    threads = [threading.Thread(target=closed.change, args=(path, name), kwargs={"close": True}) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert closed.asked_for(path) == names


def test_a_line_that_is_no_name_never_gets_into_a_command(path: Path) -> None:
    path.write_text("shop; shutdown sessions\nweb\n\n# x\n")
    worker = Worker(path)
    assert asyncio.run(closed.follow(worker.ask, path)) == {"web"}
    assert worker.asked == [f"show acl {path}", f"add acl {path} web", f"show acl {path}"]


@pytest.mark.parametrize(
    ("wanted", "actual", "changes"),
    [
        ((), (), []),
        (("a", "b"), ("a", "b"), []),
        (("a", "b"), ("b", "c"), ["add acl {} a", "del acl {} c"]),
        ((), ("c",), ["del acl {} c"]),
    ],
)
def test_a_worker_is_told_what_changed(
    path: Path, wanted: tuple[str, ...], actual: tuple[str, ...], changes: list[str]
) -> None:
    for name in wanted:
        closed.change(path, name, close=True)
    worker = Worker(path, *actual)
    assert asyncio.run(closed.follow(worker.ask, path)) == set(wanted)
    assert [command for command in worker.asked if not command.startswith("show")] == [c.format(path) for c in changes]


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
    monkeypatch.setattr(main, "SWITCH_LIMIT_S", 0.3)
    taken_up: list[str] = []

    def signalled(process: int, number: int) -> None:
        assert (process, number) == (1, signal.SIGHUP)
        if not (state / "deaf").exists():
            taken_up[:] = sorted(closed.asked_for(closed.file_of(state)))

    def document(path: str) -> str:
        assert path == f"{state}/run/status.sock"
        return json.dumps({"maintenance": [{"service": name} for name in taken_up]})

    monkeypatch.setattr(os, "kill", signalled)
    monkeypatch.setattr(client, "fetch", document)
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
    assert "did not take it up within 0.3 s" in capsys.readouterr().err
    assert main.main(["maintenance", "maybe", "shop"]) == 2
    assert capsys.readouterr().err.startswith("usage: "), "which the library knows an older gateway by"


def test_an_older_gateway_is_known_by_its_answer() -> None:
    from fiefdom.cluster import maintenance

    assert main.USAGE.startswith(maintenance._UNKNOWN)
    assert reconcile.closed is closed
