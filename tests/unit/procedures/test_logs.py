"""`fiefdom logs`, `exec` and `ssh` on simulated hosts: whom they ask, what they print and how they end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from fiefdom.cli import outlet
from fiefdom.cluster import access, audit, ledger
from fiefdom.converge import inside, one_off
from fiefdom.model import Secrets
from helpers.clock import stopped
from helpers.released import known
from helpers.simulated import SimulatedHosts, converged

Run = Callable[..., Result]


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(known(), tmp_path)


def line(container: str, second: int, text: str) -> bytes:
    return f"{container}:2026-01-31T09:00:{second:02d}.250000000Z {text}\n".encode()


def request(**fields: object) -> str:
    return json.dumps(
        dict.fromkeys(access.FIELDS, "x") | {"service": "predictor", "status": 200, "ended": "----"} | fields
    )


def test_lines_of_all_hosts_are_json_where_there_is_no_terminal(hosts: SimulatedHosts, command: Run) -> None:
    hosts.spoken["app1"] = [line("predictor-8000", 1, "one") + line("predictor-8000", 3, "th\x1b[31mree")]
    hosts.spoken["app2"] = [line("predictor-8001", 2, "two")]
    done = command("logs", "predictor")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [json.loads(row) for row in done.stdout.splitlines()] == [
        {"time": "2026-01-31T09:00:01.250000000Z", "host": "app1", "instance": "predictor-8000", "text": "one"},
        {"time": "2026-01-31T09:00:02.250000000Z", "host": "app2", "instance": "predictor-8001", "text": "two"},
        {
            "time": "2026-01-31T09:00:03.250000000Z",
            "host": "app1",
            "instance": "predictor-8000",
            "text": "th\x1b[31mree",
        },
    ]
    assert hosts.heard == dict.fromkeys(("app1", "app2", "app3", "app4"), ("once", "", "", "instance", "predictor", ""))


def test_text_has_who_said_it_in_front_and_harms_no_terminal(hosts: SimulatedHosts, command: Run) -> None:
    hosts.spoken["app1"] = [line("predictor-8000", 1, "a\x1b[31mb\x1b[2J\tc\r")]
    done = command("logs", "--format", "text")
    assert re.fullmatch(r"0\d-\d\d \d\d:\d\d:01\.250 app1 predictor-8000 \| ab\\x1b\[2J\tc\n", done.stdout), done.stdout


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_a_host_that_is_gone_is_a_line(hosts: SimulatedHosts, command: Run, follow: list[str]) -> None:
    hosts.spoken["app1"] = [line("predictor-8000", 1, "one"), line("predictor-8000", 2, "two")]
    hosts.spoken["app2"] = [line("predictor-8001", 2, "two")]
    hosts.cut.add("app1")
    done = command("logs", "--grep", "nothing", *follow)
    assert done.exit_code == 3, done.output
    assert [json.loads(row) for row in done.stdout.splitlines()] == [
        {"time": "2026-01-31T09:00:02.250000000Z", "host": "app1", "gone": "it broke off"}
    ]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--host", "app2"], {"app2": ("once", "", "", "instance", "", "")}),
        (["predictor", "--instance", "8001", "--host", "app1", "--since", "-2h"],
         {"app1": ("once", "7200s", "", "instance", "predictor", "8001")}),
        (["-f", "--host", "app1"], {"app1": ("follow", "", "10", "instance", "", "")}),
        (["-f", "--host", "app1", "--since", "@5"], {"app1": ("follow", "5", "", "instance", "", "")}),
        (["predictor", "--gateway"], dict.fromkeys(("gw1", "gw2"), ("once", "", "", "gateway", "", ""))),
        (["--gateway", "--host", "gw2"], {"gw2": ("once", "", "", "gateway", "", "")}),
    ],
)  # fmt: skip
def test_whom_it_asks(hosts: SimulatedHosts, command: Run, words: list[str], asked: dict[str, tuple[str, ...]]) -> None:
    assert command("logs", *words).exit_code == 0
    assert hosts.heard == asked


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["web"], "web is no service of this inventory; it has predictor"),
        (["web", "--gateway"], "web is no service of this inventory; it has predictor"),
        (["--host", "app9"], "--host app9: no such host; hosts are gw1, gw2, app1, app2, app3, app4"),
        (["--host", "gw1"], "--host gw1: runs no service; these hosts do: app1, app2, app3, app4"),
        (["--gateway", "--host", "app1"], "--host app1: is no gateway; gateways are gw1, gw2"),
        (["predictor", "--instance", "9000"], "--instance 9000: no instance there; ports are 8000, 8001"),
        (["--instance", "8000", "--gateway"], "--instance is for services; leave it or --gateway out"),
        (["--since", "soon"], "--since 'soon': no time; say `2h ago`, `-30min`, `today`, `yesterday`, `09:30`, "
         "`2026-01-31 09:30` or `@1769848200`"),
        (["--grep", "(a"], "--grep '(a': missing ), unterminated subpattern at position 0; it is an expression of "
         "Python's `re`"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_before_any_host_is_asked(
    hosts: SimulatedHosts, command: Run, words: list[str], says: str
) -> None:
    done = command("logs", *words)
    assert (done.exit_code, done.output) == (1, f"error: {says}\n")
    assert hosts.heard == {}


def test_only_what_is_looked_for(hosts: SimulatedHosts, command: Run) -> None:
    hosts.spoken["app1"] = [line("predictor-8000", n, text) for n, text in enumerate(["GET /a", "get /b", "PUT /a"])]
    done = command("logs", "--grep", "^GET|^PUT")
    assert [json.loads(row)["text"] for row in done.stdout.splitlines()] == ["GET /a", "PUT /a"]


def test_requests_of_gateways_are_told_as_such(hosts: SimulatedHosts, command: Run) -> None:
    other, own = request(service="web", request_id="1"), request(request_id="2", instance="app1-8000")
    hosts.spoken["gw1"] = [line("gateway", 1, other) + line("gateway", 2, own) + line("gateway", 3, "reload")]
    hosts.spoken["gw2"] = [line("gateway.next", 4, '{"request_id": "cut')]
    done = command("logs", "--gateway")
    found = [json.loads(row) for row in done.stdout.splitlines()]
    assert [row.get("access", {}).get("request_id", row.get("text")) for row in found] == [
        *("1", "2", "reload", '{"request_id": "cut'),
    ]
    hosts.spoken["gw1"] = [line("gateway", 1, other) + line("gateway", 2, own) + line("gateway", 3, "reload")]
    done = command("logs", "predictor", "--gateway", "--format", "text")
    assert done.stdout.endswith("gw1 gateway | 200 x xx predictor app1-8000 x ms retries x 2\n")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("words", "texts"), [([], ["reload"]), (["predictor"], [])])
def test_that_no_request_is_written_is_told(
    hosts: SimulatedHosts, command: Run, words: list[str], texts: list[str]
) -> None:
    hosts.spoken["gw1"] = [line("gateway", 3, "reload")]
    done = command("logs", *words, "--gateway")
    assert [json.loads(row)["text"] for row in done.stdout.splitlines()] == texts
    told = "gateways write no line for a request; `gateway.access_log: true` in the inventory turns that on"
    assert (done.exit_code, done.stderr) == (0, f"warning: {told}\n")


def test_where_requests_are_written_nothing_more_is_told(hosts: SimulatedHosts, command: Run) -> None:
    hosts.known = known(gateway={"access_log": True})
    hosts.spoken["gw1"] = [line("gateway", 3, "reload")]
    done = command("logs", "--gateway")
    assert (done.exit_code, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_what_an_instance_says_is_no_request(hosts: SimulatedHosts, command: Run) -> None:
    hosts.spoken["app1"] = [line("predictor-8000", 1, request())]
    (row,) = command("logs").stdout.splitlines()
    assert json.loads(row)["text"] == request()


@pytest.mark.parametrize(("follow", "code"), [(["-f"], 0), ([], 1)])
def test_an_interrupt_is_the_end_of_following(
    hosts: SimulatedHosts, command: Run, monkeypatch: pytest.MonkeyPatch, follow: list[str], code: int
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outlet, "write", interrupted)
    hosts.spoken["app1"] = [line("predictor-8000", 1, "one")]
    assert command("logs", *follow).exit_code == code


def test_whoever_stops_reading_ends_it(hosts: SimulatedHosts, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(outlet, "write", closed)
    monkeypatch.setattr(outlet, "let_go", lambda _stream: None)
    hosts.spoken["app1"] = [line("predictor-8000", 1, "one")]
    done = command("logs")
    assert (done.exit_code, done.output) == (141, "")


# --- exec


def acts(hosts: SimulatedHosts) -> tuple[audit.Act, ...]:
    return audit.acts(ledger.read(hosts, hosts.known.gateways).entries)


@pytest.mark.parametrize(
    ("target", "gone", "asked", "note"),
    [
        ("predictor", [], ("app1", "no", "predictor", "", "ls", "-l", "a  b"), "predictor: ls -l 'a  b'"),
        ("predictor", ["app1"], ("app2", "no", "predictor", "", "ls", "-l", "a  b"), "predictor: ls -l 'a  b'"),
        ("predictor@app3", [], ("app3", "no", "predictor", "", "ls", "-l", "a  b"), "predictor: ls -l 'a  b'"),
        ("predictor@app3:8001", [], ("app3", "no", "predictor", "8001", "ls", "-l", "a  b"),
         "predictor:8001: ls -l 'a  b'"),
    ],
)  # fmt: skip
def test_a_command_runs_in_an_instance_and_the_audit_tells_it(
    hosts: SimulatedHosts, command: Run, target: str, gone: list[str], asked: tuple[str, ...], note: str
) -> None:
    seen: list[tuple[str, ...]] = []

    def program(host: str, text: str | None, words: tuple[str, ...]) -> int:
        assert text == inside.SCRIPT
        seen.append((host, *words))
        return 7

    hosts.program = program
    hosts.cut.update(gone)
    done = command("exec", target, "ls", "-l", "a  b")
    assert (done.exit_code, done.output, seen) == (7, "", [asked])
    (act,) = acts(hosts)
    assert (act.what, act.hosts, act.note.replace("  ", " "), act.outcome) == (
        *("exec", (asked[0],), note.replace("  ", " "), "failed"),
    )


def test_a_secret_is_not_in_the_audit(hosts: SimulatedHosts, command: Run) -> None:
    assert isinstance(hosts.known.secrets, Secrets)
    done = command("exec", "predictor", "--", "echo", f"x{hosts.known.secrets.gossip_key}")
    assert done.exit_code == 0, done.output
    assert acts(hosts)[0].note == "predictor: echo 'x***'"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["web", "ls"], "web is no service of this inventory; it has predictor"),
        (["predictor@gw1", "ls"], "predictor@gw1: runs no predictor; these hosts do: app1, app2, app3, app4"),
        (["predictor@app1:9", "ls"], "predictor@app1:9: no such instance; ports are 8000, 8001"),
        (["predictor:8000", "ls"], "'predictor:8000': no instance; say SERVICE, SERVICE@HOST or SERVICE@HOST:PORT"),
        (["predictor@app1:x", "ls"], "'predictor@app1:x': no instance; say SERVICE, SERVICE@HOST or SERVICE@HOST:PORT"),
        (["predictor"], "Missing argument '[--] COMMAND...'."),
    ],
)
def test_what_cannot_be_run_is_one_line(hosts: SimulatedHosts, command: Run, words: list[str], says: str) -> None:
    done = command("exec", *words)
    assert (done.exit_code, done.output) == (1, f"error: {says}\n")
    assert acts(hosts) == ()


# --- ssh


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["app2"], ()),
        (["app2", "--", "ls", "a  b"], ("ls", "a  b")),
        (["app2", "ls", "--at", "x"], ("ls", "--at", "x")),
        (["--at", "app2=10.0.0.1", "app2", "ls"], ("ls",)),
    ],
)
def test_it_logs_in(hosts: SimulatedHosts, command: Run, words: list[str], asked: tuple[str, ...]) -> None:
    seen: list[tuple[object, ...]] = []

    def program(*what: object) -> int:
        seen.append(what)
        return 3

    hosts.program = program
    assert command("ssh", *words).exit_code == 3
    assert seen == [("app2", None, asked)]


# --- A script as one word


@pytest.mark.parametrize("words", [("exec", "predictor"), ("ssh", "app2"), ("run", "predictor")])
@pytest.mark.parametrize(
    ("asked", "code", "is_told"),
    [
        (["ls /; id"], 127, True),
        (["ls /"], 126, True),
        (["ls|wc"], 127, True),
        (["ls /; id"], 1, False),
        (["ls /; id"], 0, False),
        (["sl"], 127, False),
        (["sh", "-c", "sl; id"], 127, False),
    ],
)
def test_a_script_that_is_one_word_is_told_how_it_runs(
    hosts: SimulatedHosts, command: Run, words: tuple[str, ...], asked: list[str], code: int, is_told: bool
) -> None:
    def attend(_host: str, _arguments: tuple[str, ...], hear: one_off.Hear) -> int:
        hear(one_off.OUT, one_off.BEGUN)
        return code

    hosts.program = lambda *_: code
    hosts.one_off = attend
    done = command(*words, "--", *asked)
    assert done.exit_code == code
    told = "warning: one word is one program; for a script write: sh -c '...'\n"
    assert done.stderr == (told if is_told else "")
