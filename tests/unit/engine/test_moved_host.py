"""A host that moves goes on being the one that it is: its key is added to known_hosts under its new name."""

from __future__ import annotations

from pathlib import Path

from helpers import forked

# In a program of its own, for the engine lets gevent patch the standard library.
MOVE = """
import sys
from pathlib import Path
from types import SimpleNamespace
import fiefdom.engine
from fiefdom.engine import line as engine
from fiefdom.errors import FiefdomError
known_hosts, *answers = Path(sys.argv[1]), *sys.argv[2:]
key = SimpleNamespace(get_name=lambda: "ssh-ed25519", get_base64=lambda: "AAAA")
transport = SimpleNamespace(get_remote_server_key=lambda: key)
old = SimpleNamespace(
    data={"ssh_hostname": "10.1.0.21", "ssh_port": 22, "ssh_known_hosts_file": str(known_hosts)},
    client=SimpleNamespace(get_transport=lambda: transport, close=lambda: None),
)
host = SimpleNamespace(name="app1", connector=old)
engine._answer = lambda *_: (answers.pop(0), "")
try:
    with engine._Line(host, {"ssh_hostname": "10.1.0.31", "ssh_port": 2222}, known_hosts, "compat") as line:
        for ask in (line.confirm, line.ask):
            line._fresh = SimpleNamespace(data={}, client=SimpleNamespace(close=lambda: None))
            print(ask("x")[0], known_hosts.exists() and known_hosts.read_text().splitlines())
except FiefdomError as error:
    print(error)
"""
LINE = "[10.1.0.31]:2222 ssh-ed25519 AAAA"


def move(known_hosts: Path, *answers: str) -> list[str]:
    done = forked.run(MOVE, str(known_hosts), *answers)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_name_is_remembered_only_once_the_host_keeps_it(tmp_path: Path) -> None:
    known_hosts = tmp_path / "ssh" / "known_hosts"
    assert move(known_hosts, "reverted", "waiting") == ["reverted False", "waiting False"]
    assert move(known_hosts, "applying", "confirmed") == ["applying False", f"confirmed {[LINE]}"]  # the word was lost
    assert move(known_hosts, "confirmed", "confirmed") == [f"confirmed {[LINE]}"] * 2
    known_hosts.write_text("other")
    assert move(known_hosts, "confirmed", "confirmed")[0] == f"confirmed {['other', LINE]}"


def test_a_file_that_cannot_be_added_to_is_told_before_anything_changes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    known_hosts = tmp_path / "file" / "known_hosts"
    (said,) = move(known_hosts, "confirmed", "confirmed")
    assert said.startswith(f"app1: was not changed, for {known_hosts} cannot be added to, ")
    assert said.endswith("; make it writable")
