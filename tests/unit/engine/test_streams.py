"""What scripts print on hosts, read as it is wanted, and programs of hosts at one's own terminal: with a real sshd."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from helpers import forked, sshds
from helpers.inventories import changed
from helpers.sshds import Sshd, keygen, sshd
from helpers.terminal import OWN, Terminal, terminal

pytestmark = pytest.mark.skipif(bool(sshds.missing()), reason=sshds.missing() or "-")

# In a process of its own: engine patches the standard library for everything that is imported after it.
SESSION = """
import json, sys, time
import fiefdom.engine
from fiefdom.engine.session import Session
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
cluster = Cluster.model_validate(json.loads(sys.argv[1]))
with Session(cluster, ("app1", "app2"), looks=True) as session:
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return keygen(tmp_path / "key")


@pytest.fixture
def server(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "second").write_text(str(port))
    with sshd(tmp_path / "a", [key], [f"ListenAddress 127.0.0.1:{port}"]) as found:
        known = (f"{name} {found.host_key()}\n" for name in (found.known_as, f"[127.0.0.1]:{port}"))
        (tmp_path / "known").write_text("".join(known))
        yield found


def cluster(tmp_path: Path, server: Sshd, second: int | None = None) -> str:
    """Both of its hosts are this machine; ``second`` is another port for one of them."""
    own = {"address": "127.0.0.1", "port": server.port, "user": sshds.USER}
    second = second or int((tmp_path / "second").read_text())
    found = changed({"hosts/app1/ssh": own, "hosts/app2/ssh": own | {"port": second}})
    found["ssh"] = {"known_hosts": str(tmp_path / "known"), "key": str(tmp_path / "key")}
    return json.dumps(found)


def in_session(block: str, text: str, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    program = SESSION + "".join(f"    {line}\n" for line in block.splitlines())
    done = forked.run(program, text, *arguments, stdin=stdin, timeout_s=60)
    return done.returncode, done.stdout, done.stderr


READ = """
def whole(stream):
    found = b""
    try:
        while piece := stream.read():
            found += piece
    except FiefdomError as error:
        return f"{found.decode()}{error}"
    return found.decode()

with session.listen(sys.argv[2], {"app1": ("one", "a  b"), "app2": ("two",)}) as streams:
    for name, stream in streams.items():
        print(whole(stream))
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("printf '%s.' \"$@\"", ["one.a  b.", "two."]),
        ("echo $1; echo because >&2; exit 3", ["one", "app1: because", "two", "app2: because"]),
        ("exit 3", ["app1: ended with exit code 3", "app2: ended with exit code 3"]),
        (
            "[ $1 = one ] || { echo; exit; }; echo cut off; sleep 0.3; kill -s KILL $PPID",
            ["cut off", "app1: the connection broke off"],
        ),
    ],
)
def test_each_host_has_its_arguments_and_its_end(tmp_path: Path, server: Sshd, text: str, said: list[str]) -> None:
    code, out, err = in_session(READ, cluster(tmp_path, server), text)
    assert (code, [line for line in out.splitlines() if line], err) == (0, said, "")


def test_a_host_that_does_not_answer_says_so_when_it_is_read(tmp_path: Path, server: Sshd) -> None:
    code, out, err = in_session(READ, cluster(tmp_path, server, second=1), "echo $1")
    assert (code, err) == (0, "")
    assert out.startswith("one\n\napp2: Could not connect to 127.0.0.1:1")


AHEAD = """
import resource
from fiefdom.converge.run import AHEAD_BYTES
with session.listen(sys.argv[2], {"app1": (sys.argv[3],)}) as streams:
    stream = streams["app1"]
    assert stream.read()
    time.sleep(0.5)
    print(open(sys.argv[3]).read().count("."), stream.ready())
    count = 0
    while piece := stream.read():
        count += len(piece)
    print(count > 20_000_000)
"""


def test_nobody_reads_ahead(tmp_path: Path, server: Sshd) -> None:
    """A script that says a megabyte, and notes that it has, and so on, waits for who takes it."""
    (tmp_path / "noted").touch()
    text = "head -c 1000000 /dev/zero | tr '\\0' x >$1.x; for n in $(seq 21); do cat $1.x; printf . >>$1; done"
    code, out, err = in_session(AHEAD, cluster(tmp_path, server), text, str(tmp_path / "noted"))
    assert (code, err) == (0, "")
    noted, more = out.splitlines()
    assert noted in ("0 True", "1 True", "2 True") and more == "True"


LEAVE = """
with session.listen(sys.argv[2], {"app1": (sys.argv[3],)}) as streams:
    assert streams["app1"].read() == b"begun\\n"
    assert not streams["app1"].ready()
for _ in range(100):
    if open(sys.argv[3]).read() == "over":
        print("over")
        break
    time.sleep(0.05)
"""


def test_the_script_hears_that_nobody_listens(tmp_path: Path, server: Sshd) -> None:
    (tmp_path / "noted").touch()
    text = "echo begun; cat >/dev/null; printf over >$1"
    assert in_session(LEAVE, cluster(tmp_path, server), text, str(tmp_path / "noted")) == (0, "over\n", "")


INTERACT = """
try:
    code = session.interact("app1", sys.argv[2] or None, sys.argv[3:], terminal=sys.stdin.isatty())
except FiefdomError as error:
    raise SystemExit(str(error))
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    ("text", "words", "ends"),
    [
        ("cat; printf '<%s>' \"$@\"; echo bad >&2; exit 7", ["a  b", "$x"], (7, "typed\n<a  b><$x>", "bad\n")),
        (
            "",
            ["sh", "-c", 'cat; printf "<%s>" "$@"; echo bad >&2; exit 7', "sh", "a  b"],
            (7, "typed\n<a  b>", "bad\n"),
        ),
        ("", [], (0, "", "")),
        ("kill -s KILL $PPID", [], (1, "", "app1: the connection broke off: the host ends what it was at\n")),
        ("head -c 3000000 /dev/zero | tr '\\0' x", [], (0, "x" * 3_000_000, "")),
    ],
)
def test_a_program_has_this_ends_input_and_outputs(
    tmp_path: Path, server: Sshd, text: str, words: list[str], ends: tuple[int, str, str]
) -> None:
    stdin = "" if not text and not words else "typed\n"
    assert in_session(INTERACT, cluster(tmp_path, server), text, *words, stdin=stdin) == ends


def typed(seen: Terminal, keys: str, shown: str) -> None:
    seen.type(keys)
    seen.await_true(lambda: shown in seen.screen.text, shown)


@pytest.mark.long
@pytest.mark.parametrize("text", ["", 'stty size; exec "$@"'])
def test_a_program_has_this_ends_terminal(tmp_path: Path, server: Sshd, text: str) -> None:
    """Its size, and keys that would else be signals here."""
    words = ["sh", "-c", "trap 'echo caught' INT; stty size; read x; echo got $x; read y || :; exit 5"]
    environment = {**os.environ, "TERM": "xterm"}
    program = OWN + SESSION + "".join(f"    {line}\n" for line in INTERACT.splitlines())
    with ThreadPoolExecutor() as pool, terminal() as seen:
        run = partial(forked.run, env=environment, timeout_s=60, terminal=seen.path)
        done = pool.submit(run, program, cluster(tmp_path, server), text, *words)
        seen.await_true(lambda: "30 100" in seen.screen.text, "its size")
        typed(seen, "hello\r", "got hello")
        typed(seen, "\x03", "caught")
        seen.type("\x04")
        seen.await_true(done.done, "its end")
        assert done.result().returncode == 5
        assert "fiefdom-answers" not in seen.screen.text
