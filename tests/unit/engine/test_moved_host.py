"""A host that moves goes on being the one that it is: its key is added to known_hosts under its new name."""

from __future__ import annotations

from pathlib import Path

import pytest

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


@pytest.mark.long
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


LEARN = """
import sys
from pathlib import Path
from types import SimpleNamespace
import fiefdom.engine
from fiefdom.engine import line as engine
known_hosts, kind, public = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
key = SimpleNamespace(get_name=lambda: kind)
data = {"ssh_hostname": "10.1.0.21", "ssh_port": 22, "ssh_known_hosts_file": str(known_hosts)}
transport = SimpleNamespace(get_remote_server_key=lambda: key)
old = SimpleNamespace(data=data, client=SimpleNamespace(get_transport=lambda: transport, close=lambda: None))
engine._answer = lambda *_: ("confirmed", "")
engine.text_of = lambda host, path: f"{public} root@app1\\n" if path == "/etc/ssh/ssh_host_ed25519_key.pub" else ""
with engine._Line(SimpleNamespace(name="app1", connector=old), dict(data), known_hosts, "compat") as line:
    line._fresh = SimpleNamespace(data={}, client=SimpleNamespace(close=lambda: None))
    print(Path(line._wanted["ssh_known_hosts_file"]).read_text().split() == known_hosts.read_text().split())
    line.confirm("x")
"""


@pytest.mark.parametrize("kind", ["ecdsa-sha2-nistp256", "ssh-ed25519"])
def test_who_knows_a_host_by_a_key_that_its_sshd_will_not_show_learns_the_one_that_it_does(
    tmp_path: Path, kind: str
) -> None:
    """Else the first login after the change of sshd would fail, and the change be taken back for ever."""
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("10.1.0.21 ecdsa-sha2-nistp256 AAAA\n")
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBu7Zl8xXQ8E3yQ0dVb1m6n4n7Qe5h0Hk3Wc6t8y1pR9"
    done = forked.run(LEARN, str(known_hosts), kind, public)
    assert done.stderr == ""
    learns = kind != "ssh-ed25519"
    assert done.stdout == f"{not learns}\n"
    assert known_hosts.read_text().splitlines()[1:] == [f"10.1.0.21 {public}"] * learns
