"""Sessions with hosts: a command that hangs there is one that failed, and keeps nobody waiting."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from fiefdom.inventory import secret
from helpers import forked
from helpers.example import GOSSIP_KEY
from helpers.inventories import VALID

# In a process of its own: engine patches the standard library for everything that is imported after it.
HOST = """
import subprocess, sys, time
from types import SimpleNamespace
from paramiko import SSHException
import fiefdom.engine
import gevent
from fiefdom.errors import Unreachable
from fiefdom.engine import session as engine
from fiefdom.engine import shells
from fiefdom.cluster import locking
from fiefdom.cluster import ledger

# On the host, its own limit comes two seconds before the link's.
engine.QUIET_S = shells.QUIET_S = 1 if sys.argv[1] == "link" else 3

class Connector:
    client = SimpleNamespace(get_transport=lambda: object())

    def run_shell_command(self, command, _stdin, _timeout):
        if sys.argv[1] == "link":
            time.sleep(60)
        if sys.argv[1] == "broken":
            raise SSHException("gone")
        done = subprocess.run(command.get_raw_value(), shell=True, input=_stdin, capture_output=True, text=True)
        return done.returncode == 0, SimpleNamespace(stdout=done.stdout.strip(), stderr=done.stderr.strip())

host = SimpleNamespace(name="gw1", connector=Connector(), connector_data={}, log_styled=lambda text, **_: print(text))
state = SimpleNamespace(inventory=SimpleNamespace(get_host=lambda _: host), activated_hosts=[host])
"""
HANGS = f"""{HOST}
session = engine.Session(None, ("gw1",))
session._state = state
began = time.monotonic()
print(session.shell("gw1", sys.argv[2:]))
assert time.monotonic() - began < 10
"""


UNREACHABLE = f"""{HOST}
def lost():
    raise EOFError("lost")

session = engine.Session(None, ("gw1",))
session._state = state
host.connector.client = SimpleNamespace(get_transport=lambda: SimpleNamespace(open_session=lost))
if sys.argv[1] == "down":
    host.connector.client = None

def one(call):
    try:
        return call("gw1")
    except Unreachable as error:
        return " | ".join((error.host, str(error)))

def all(call):
    try:
        session.on_all(call)
    except Exception as error:
        return " | ".join((type(error).__name__, str(error)))

calls = (
    lambda name: session.shell(name, ["true"]),
    lambda name: session.script(name, "true", timeout_s=1),
    lambda name: session.follow(name, [], print),
)
# At once, for some hang.
jobs = [gevent.spawn(ask, call) for call in calls for ask in (one, all)]
print(*filter(None, (job.get() for job in jobs)), sep="\\n")
"""


# Each of two jobs waits for the other to have begun, and both ask hosts that fail.
SIDE_BY_SIDE = f"""{HOST}
from gevent.event import Event
from fiefdom.converge.run import side_by_side
from fiefdom.errors import HostError, HostErrors

session = engine.Session(None, ("gw1", "gw2"))
session._state = state
began = {{"left": Event(), "right": Event()}}

def job(own, other, fails=False):
    def ask(name):
        began[own].set()
        if not began[other].wait(10):
            raise HostError(name, f"{{other}} has not begun")
        if fails:
            raise HostError(name, own)
        return own
    return lambda: session.on_all(ask)

print(*side_by_side(session, job("left", "right"), job("right", "left")))
try:
    side_by_side(session, job("left", "right", fails=True), job("right", "left", fails=True))
except HostErrors as error:
    print(*error.each, sep=" | ")
"""


# What pyinfra's own command does before the first change of hosts that may serve less meanwhile.
LOCKED = f"""{HOST}
ledger.DIR = sys.argv[2]
cluster = SimpleNamespace(gateways=("gw1",), hosts=("gw1",))
session = engine.session_of(state, cluster)
(commands,) = [[*engine.take._inner(steps="", unlocked=cluster)]]
(asks,) = commands
asks.function(state, host, *asks.args)
locking.lock(session, ("gw1",), "ann@desk", "the sale", print)
try:
    asks.function(state, host, *asks.args)
except engine.NestedOperationError:
    print("refused")
assert [*engine.take._inner(steps="")] == []
"""


# What pyinfra's own command knows of a run, and that it knows it of this run alone.
LOCKED_OUT = f"""{HOST}
import gc
from pyinfra.api import State
from fiefdom.engine import deploys

def out(*_):
    raise deploys.FiefdomError("gw1: took it back")

deploys.guarded = out
first, second = State(check_for_changes=False), State(check_for_changes=False)
first.inventory = second.inventory = None
for state, name in ((first, "gw1"), (first, "gw2"), (second, "gw2")):
    host.name = name
    try:
        deploys._commit(state, host, None, (), None)
    except engine.NestedOperationError:
        pass
del first, second, state
gc.collect()
print(len(deploys._runs), "runs are known")
"""


def shell(*arguments: str, program: str = HANGS) -> str:
    done = forked.run(program, *arguments, timeout_s=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.long
def test_a_command_that_hangs_on_a_host_has_failed_and_says_so() -> None:
    assert shell("host", "sleep", "60") == "(False, '', 'no answer for 1 s')"


@pytest.mark.long
def test_a_link_that_hangs_is_a_command_that_failed() -> None:
    assert shell("link", "true") == "(False, '', 'no answer for 1 s')"


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "script", "follow"),
    [
        ("down", "not connected", "not connected"),
        ("broken", "gone", "lost"),
        ("link", "no answer for 1 s", "lost"),
    ],
)
def test_a_host_that_cannot_be_heard_is_one_error_that_names_it(how: str, script: str, follow: str) -> None:
    """However many hosts were asked; a command that hangs has answered."""
    lines = shell(how, program=UNREACHABLE).splitlines()
    broke_off = [f"gw1: the connection broke off: {words}" for words in (script, script, follow)]
    expected = [line for words in broke_off for line in (f"gw1 | {words}", f"HostErrors | {words}")]
    assert lines == (["(False, '', 'no answer for 1 s')", *expected[2:]] if how == "link" else expected)


def test_a_commands_words_are_its_own() -> None:
    assert shell("host", "printf", "%s|", "two words", "$HOME;") == "(True, 'two words|$HOME;|', '')"
    assert shell("host", "sh", "-c", "echo why >&2; exit 3") == "(False, '', 'why')"


def test_two_jobs_run_at_once_and_what_fails_in_either_is_told_host_by_host() -> None:
    assert shell("host", program=SIDE_BY_SIDE).splitlines() == [
        "{'gw1': 'left', 'gw2': 'left'} {'gw1': 'right', 'gw2': 'right'}",
        "gw1: left | gw2: left | gw1: right | gw2: right",
    ]


def test_after_one_host_that_took_a_change_back_the_others_of_the_run_are_left_alone() -> None:
    assert shell("host", program=LOCKED_OUT).splitlines() == [
        "took it back",
        "left alone, for gw1 took such a change back",
        "gw1: took it back",
        "0 runs are known",
    ]


def test_pyinfras_own_command_refuses_while_somebody_holds_the_lock(tmp_path: Path) -> None:
    line, last = shell("host", str(tmp_path), program=LOCKED).splitlines()
    assert line.startswith("gw1: locked by ann@desk ") and "the sale; when that is over: `fiefdom unlock" in line
    assert last == "refused"


# The command as a person types it, but for its patience.
COMMAND = """
import sys
from fiefdom.cli.main import main
from fiefdom.engine import session, shells

session.run_script = lambda *asked: shells.run_script(*asked[:-1], timeout_s=1)
session.SNAPSHOT_S = 1
main(sys.argv[1:])
"""


@pytest.fixture
def silent_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An inventory with a gateway whose sshd takes every login and every command, and says nothing more."""
    import paramiko  # half a second, which no other test of this worker need pay

    class Silent(paramiko.ServerInterface):
        def check_auth_publickey(self, *_: object) -> int:
            logins.append(self)
            return paramiko.AUTH_SUCCESSFUL

        def check_channel_request(self, *_: object) -> int:
            return paramiko.OPEN_SUCCEEDED

        def check_channel_exec_request(self, *_: object) -> bool:
            return True

    logins: list[Silent] = []
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(tmp_path / "key"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        transports: list[paramiko.Transport] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    transports.append(paramiko.Transport(server.accept()[0]))
                    transports[-1].add_server_key(key)
                    transports[-1].start_server(server=Silent())

        thread = threading.Thread(target=serve)
        thread.start()
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
        inventory = tmp_path / "inventory.yaml"
        hosts = {name: {**VALID["hosts"][name], "address": f"127.0.0.{n}"} for n, name in enumerate(VALID["hosts"], 1)}
        ssh = {"user": "root", "port": port, "key": "key", "known_hosts": "known_hosts"}
        network = {"cidr": "127.0.0.0/8", "admin_cidrs": ["127.0.0.1/32"]}
        # With a registry, nobody asks this machine's Docker which images it has: it may have none, or one that is down.
        changes = {"hosts": hosts, "network": network, "ssh": ssh, "registry": {"server": "registry.example.org"}}
        inventory.write_text(yaml.safe_dump(VALID | changes))
        monkeypatch.setenv(secret.VARIABLE, GOSSIP_KEY)
        yield inventory
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    # Not what it was asked: on a busy machine the second for an answer may be over before that.
    assert logins, "nobody logged in"
    for transport in transports:
        transport.close()


def looking(inventory: Path, *arguments: str) -> tuple[int, str, str]:
    done = forked.run(COMMAND, arguments[0], str(inventory), *arguments[1:], cwd=inventory.parent, timeout_s=120)
    return done.returncode, done.stdout, done.stderr


BROKE_OFF = "does not answer: the connection broke off: no answer for 1 s"


@pytest.mark.long
def test_a_host_that_takes_a_command_and_says_nothing_leaves_no_traceback_at_the_end(silent_host: Path) -> None:
    """Whoever still listens to it hears in time that the session is over; pyinfra leaves such a reader behind."""
    # From nothing, so that it ends as a person's command does, whatever a fork inherits.
    argv = [sys.executable, "-c", COMMAND, "audit", str(silent_host)]
    done = subprocess.run(
        argv,
        cwd=silent_host.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    code, output, errors = done.returncode, done.stdout, done.stderr
    assert (code, errors) == (3, "")
    assert output.splitlines()[-1] == f"gw1: {BROKE_OFF}"


@pytest.mark.long
def test_who_looks_sees_every_host_be_it_dead_or_frozen(silent_host: Path) -> None:
    """The gateway takes a login and says nothing more; nobody listens at the app hosts."""
    code, output, errors = looking(silent_host, "plan")
    assert (code, errors) == (3, "")
    rows = output.splitlines()
    assert [rows[0], rows[2], *rows[4:6]] == ["app1", "app2", "gw1", f"  ! {BROKE_OFF}"]
    assert all(row.startswith("  ! does not answer: ") and "onnect" in row for row in (rows[1], rows[3]))
    assert rows[6].startswith("no changes on the 0 that answer of 3 hosts. plan ")

    code, output, _ = looking(silent_host, "status", "--json", "--check")
    found = json.loads(output)
    assert (code, found["serving"]) == (3, False)
    assert [host["name"] for host in found["hosts"] if host["silence"]] == ["app1", "app2", "gw1"]
    assert {i["container"] for i in found["instances"]} == {o["state"] for o in found["offers"]} == {"unknown"}
    assert len(found["problems"]) == 3

    code, output, _ = looking(silent_host, "lock")
    assert (code, output) == (3, f"gw1: {BROKE_OFF}\n")


@pytest.mark.long
def test_who_changes_hosts_is_told_how_to_go_on_without_the_dead_ones(silent_host: Path) -> None:
    code, output, errors = looking(silent_host, "rollout")
    assert (code, output) == (1, "") and errors.startswith("error: app1: ") and errors.count("\n") == 1
    assert errors.endswith("; to go on without them: --without app1 --without app2\n")
    # The gateway alone is not more than half of the hosts; but no gateway was left out, so that it may hold the lock.
    code, output, errors = looking(silent_host, "plan", "--without", "app1", "--without", "app2")
    assert (code, errors) == (3, "") and "of 1 host, without app1, app2. plan " in output
