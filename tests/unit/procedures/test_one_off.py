"""`fiefdom run` against simulated hosts: where it runs, how it ends, and what the audit tells of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from fiefdom.cluster import audit, ledger
from fiefdom.converge.one_off import BEGUN, ERR, OUT, Hear
from fiefdom.errors import FiefdomError
from fiefdom.model import Secrets, SecretSource
from fiefdom.procedures import one_off
from helpers import forked
from helpers.clock import stopped
from helpers.example import GOSSIP_KEY
from helpers.released import known
from helpers.simulated import SimulatedHosts, converged

ROOT = Path(__file__).parents[3]
FIEFDOM = Path(sys.executable).with_name("fiefdom")
SECRET = "hunter2, and 'more'"


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(known(), tmp_path)


@pytest.fixture
def run(command: Callable[..., Result]) -> Callable[..., Result]:
    """`fiefdom run` on these hosts."""
    return lambda *words: command("run", *words)


def says(hosts: SimulatedHosts, code: int, *pieces: tuple[int, bytes]) -> list[tuple[str, tuple[str, ...]]]:
    """What a command says; who was asked for it, and with which words."""
    asked = []

    def attend(host: str, arguments: tuple[str, ...], hear: Hear) -> int:
        asked.append((host, arguments[1:]))
        hear(OUT, BEGUN)
        for which, piece in pieces:
            hear(which, piece)
        return code

    hosts.one_off = attend
    return asked


def acts(hosts: SimulatedHosts) -> tuple[audit.Act, ...]:
    return audit.acts(ledger.read(hosts, hosts.known.gateways).entries)


def test_it_runs_on_the_first_host_that_answers_and_ends_as_the_command_does(
    hosts: SimulatedHosts, run: Callable[..., Result]
) -> None:
    asked = says(hosts, 7, (OUT, b"one\n"), (ERR, b"two\n"), (OUT, b"three"))
    hosts.cut.add("app1")
    done = run("predictor", "--", "ls", "-l", "a  b")
    assert (done.exit_code, done.stdout, done.stderr) == (7, "one\nthree", "two\n")
    assert asked == [("app2", ("-predictor", "", "0", "ls", "-l", "a  b"))]
    (act,) = acts(hosts)
    assert (act.what, act.hosts, act.note, act.outcome, act.services) == (
        *("run", ("app2",), "predictor: ls -l 'a b'", "failed"),
        {},
    )


def test_the_audit_tells_a_command_that_ended_well_and_no_version_of_it(
    hosts: SimulatedHosts, run: Callable[..., Result]
) -> None:
    says(hosts, 0)
    done = run("predictor", "--host", "app3", "true")
    assert (done.exit_code, done.output) == (0, "")
    (act,) = acts(hosts)
    assert (act.hosts, act.outcome, act.services) == (("app3",), "ok", {})
    assert not any("turn" in line or "take" in line for line in hosts.log), "no lock, and nothing changed"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["predictor", "ls", "--host", "app2"], ("app1", ["ls", "--host", "app2"])),
        (["predictor", "--host", "app2", "ls", "-h"], ("app2", ["ls", "-h"])),
        (["--host", "app2", "predictor", "ls", "--", "x"], ("app2", ["ls", "--", "x"])),
        (["predictor", "--host=app2", "--", "--host", "x"], ("app2", ["--host", "x"])),
    ],
)
def test_options_behind_the_command_are_the_commands(
    hosts: SimulatedHosts, run: Callable[..., Result], words: list[str], asked: tuple[str, list[str]]
) -> None:
    found = says(hosts, 0)
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert [(host, list(arguments[3:])) for host, arguments in found] == [asked]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["web", "ls"], "web is no service of this inventory; it has predictor"),
        (["predictor", "--host", "gw1", "ls"], "--host gw1: runs no predictor; these hosts do: app1, app2, app3, app4"),
        (["predictor", "--host", "x", "ls"], "--host x: no such host; hosts are gw1, gw2, app1, app2, app3, app4"),
        (["predictor"], "Missing argument '[--] COMMAND...'."),
        (["predictor", "--host", "app1", "ls"], "app1: the connection broke off: gone"),
    ],
)
def test_what_cannot_be_is_one_line(
    hosts: SimulatedHosts, run: Callable[..., Result], words: list[str], line: str
) -> None:
    hosts.cut.add("app1")
    done = run(*words)
    assert (done.exit_code, done.output) == (1, f"error: {line}\n")
    assert acts(hosts) == ()


def test_what_did_not_begin_is_one_line_and_in_the_audit(hosts: SimulatedHosts, run: Callable[..., Result]) -> None:
    def fails(_host: str, _arguments: tuple[str, ...], hear: Hear) -> int:
        hear(ERR, b"the image team/predictor:1.2.0 is not here\n")
        return 1

    hosts.one_off = fails
    done = run("predictor", "ls")
    assert (done.exit_code, done.output) == (1, "error: app1: the image team/predictor:1.2.0 is not here\n")
    assert [act.outcome for act in acts(hosts)] == ["failed"]


def test_a_secret_that_somebody_types_is_not_in_the_audit(hosts: SimulatedHosts) -> None:
    values = {SecretSource(env="A"): SECRET, SecretSource(env="B"): "a"}
    hosts.known = replace(hosts.known, secrets=Secrets(GOSSIP_KEY, values=values))
    says(hosts, 0)
    words = ["psql", f"--password={SECRET}", "all"]
    one_off.run_once(hosts.known, hosts, "predictor", ["app1"], words, lambda *_: None, pytest.fail)
    (act,) = acts(hosts)
    assert "hunter2" not in act.note and "psql" in act.note and act.note.endswith("all")


@pytest.mark.parametrize(
    "secret", [GOSSIP_KEY, "an-older-gossip-key", "user=me\npass=swordfish", "pass=swordfish", "kept"]
)
def test_secrets_of_any_kind_are_not_in_the_audit(hosts: SimulatedHosts, secret: str) -> None:
    contents: dict[str | SecretSource, bytes] = {
        SecretSource(env="A"): b"user=me\npass=swordfish\n",
        SecretSource(env="B"): b"  kept\r\n",
        "motd": b"plain\n",
    }
    found = Secrets(GOSSIP_KEY, contents=contents, other_gossip_keys=("an-older-gossip-key",))
    hosts.known = replace(hosts.known, secrets=found)
    says(hosts, 0)
    words = ["put", f"x{secret}y", "plain"]
    one_off.run_once(hosts.known, hosts, "predictor", ["app1"], words, lambda *_: None, pytest.fail)
    (act,) = acts(hosts)
    assert act.note == "predictor: put 'x***y' plain"


@pytest.mark.parametrize(
    ("begun", "times", "words"),
    [
        (True, 1, "the command was stopped, and its container is gone"),
        (True, 2, "the host stops the command by itself"),
        (False, 1, "nothing began"),
    ],
)
def test_an_interrupt_says_what_became_of_the_command(
    hosts: SimulatedHosts, run: Callable[..., Result], begun: bool, times: int, words: str
) -> None:
    def interrupted(_host: str, _arguments: tuple[str, ...], hear: Hear) -> int:
        if begun:
            hear(OUT, BEGUN)
        try:
            raise KeyboardInterrupt
        finally:
            if times == 2:
                raise KeyboardInterrupt

    hosts.one_off = interrupted
    done = run("predictor", "sleep", "60")
    assert (done.exit_code, done.output) == (1, f"error: interrupted; {words}\n")
    assert [act.outcome for act in acts(hosts)] == ["interrupted"]


def test_a_host_that_does_not_answer_in_time_is_not_the_first_that_answers(
    hosts: SimulatedHosts, run: Callable[..., Result]
) -> None:
    asked = says(hosts, 0)
    hosts.views["app1"] = "no answer for 10 s"
    assert run("predictor", "ls").exit_code == 0
    assert [host for host, _ in asked] == ["app2"]
    done = run("predictor", "--host", "app1", "ls")
    assert (done.exit_code, done.output) == (1, "error: app1: no answer for 10 s\n")


def test_words_that_are_no_text_are_refused_before_anything(hosts: SimulatedHosts, run: Callable[..., Result]) -> None:
    done = run("predictor", "--", "ls", os.fsdecode(b"a\xff"))
    assert (done.exit_code, done.output) == (
        1,
        "error: 'a\\udcff' is no UTF-8; have a script in the image say it\n",
    )
    assert hosts.log == []


CLOSED = """
import sys
from fiefdom.cli import run
from fiefdom.cli.group import Group
from fiefdom.procedures import one_off
import os

def closing(*words):
    read, write = os.pipe()
    os.dup2(write, 1)
    os.close(write)
    run._print(1, b"heard")
    os.close(read)
    try:
        run._print(1, b"x" * 100000)
    except run._Closed:
        print("nobody hears this")
        sys.exit(141)

closing()
"""


def test_whoever_stops_reading_what_it_says_gets_no_complaint() -> None:
    done = forked.run(CLOSED)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.long
def test_an_inventory_in_python_is_read_once_and_knows_the_patched_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lab.py"
    seen = "import socket, sys\nprint(socket.socket.__module__, file=sys.stderr)\n"
    path.write_text(
        seen + (ROOT / "inventories/lab.py").read_text().replace("from __future__ import annotations\n", "")
    )
    beside = (ROOT / "inventories/lab.yaml").read_text().replace("    build: ../images/predictor\n", "")
    (tmp_path / "lab.yaml").write_text(beside)
    monkeypatch.setenv("FIEFDOM_GOSSIP_KEY", "none")
    command = [str(FIEFDOM), "run", str(path), "predictor", "ls"]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and lines[0].startswith("gevent."), done.stderr
    assert lines[1].startswith("error: FIEFDOM_GOSSIP_KEY") and len(lines) == 2, done.stderr


def test_a_service_without_instances_runs_nowhere() -> None:
    cluster = known(services={"predictor": {"groups": ["app_hosts"]}}).cluster
    cluster = cluster.model_copy(
        update={"services": {"predictor": cluster.services["predictor"].model_copy(update={"groups": ("none",)})}}
    )
    with pytest.raises(FiefdomError, match=r"^predictor runs on no host of this inventory; set its instances above 0$"):
        one_off.hosts_of(cluster, "predictor", None)
