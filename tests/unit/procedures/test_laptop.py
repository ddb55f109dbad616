"""A laptop's procedures against a docker that writes down what it is told, and real sockets in place of containers."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from fiefdom.desired.compose import Check, Composed, compose
from fiefdom.errors import FiefdomError
from fiefdom.images import compose as client
from fiefdom.model import Cluster
from fiefdom.procedures import laptop
from helpers.inventories import changed

# Docker and both kinds of Compose: $HERE/here is what there is, $HERE/asked what was asked, one JSON a line.
PROGRAM = (
    f"#!{sys.executable}"
    + """
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
known = json.loads((here / "here").read_text())
name = pathlib.Path(sys.argv[0]).name
words = sys.argv[1:]
if name == "docker" and words[:1] == ["compose"] and "plugin" not in known:
    sys.exit("docker: 'compose' is not a docker command.")
composes = name == "docker-compose" or words[:1] == ["compose"]
words = words[1:] if words[:1] == ["compose"] else words
secrets = {k: v for k, v in os.environ.items() if k.startswith(("FIEFDOM_SECRET_", "COMPOSE_"))}
document = sys.stdin.read() if "--file" in words else ""
with (here / "asked").open("a") as asked:
    asked.write(json.dumps([name, words, document, secrets, os.getcwd(), os.listdir()]) + "\\n")
match words:
    case ["version", "--short"] if composes:
        print(known["plugin"] if name == "docker" else known["binary"])
    case ["version", *_] if "down" in known:
        sys.exit("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")
    case ["image", "inspect", "--format={{.Config.User}}", ref]:
        print(known["images"][ref])
    case ["image", "inspect", *refs]:
        if not all(ref in known["images"] for ref in refs):
            sys.exit("Error: no such image")
    case ["pull", "--quiet", ref]:
        if ref not in known.get("registry", {}):
            sys.exit("Error response from daemon: no such host")
        known["images"][ref] = known["registry"][ref]
        (here / "here").write_text(json.dumps(known))
    case ["ps", *_]:
        print("\\n".join(known["containers"]))
    case ["inspect", "--type=container", *ids]:
        print(json.dumps([known["containers"][one] for one in ids]))
    case ["logs", "--tail=8", one]:
        print("last words of " + one)
    case ["volume", "ls", *_]:
        print("\\n".join(known.get("volumes", [])))
    case [*_, "up", "--detach", "--no-build", "--remove-orphans"] if "fails" in known:
        print("network has no room"); sys.exit(17)
"""
)


def container(service: str, port: int, state: str = "running", code: int = 0) -> dict[str, object]:
    return {
        "Id": service,
        "State": {"Status": state, "ExitCode": code},
        "Config": {"Labels": {"com.docker.compose.service": service}},
        "HostConfig": {"PortBindings": {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}},
    }


class Machine:
    """What is on this laptop, and what its Docker was asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, *programs: str, **known: object) -> None:
        (self._folder / "here").write_text(json.dumps({"images": {}, "containers": {}, **known}))
        for program in programs:
            (self._folder / program).write_text(PROGRAM)
            (self._folder / program).chmod(0o755)

    @property
    def asked(self) -> list[tuple[str, list[str], str, dict[str, str], str, list[str]]]:
        path = self._folder / "asked"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def asked_of_compose(self, verb: str) -> tuple[str, list[str], str, dict[str, str], str, list[str]]:
        (found,) = (asked for asked in self.asked if verb in asked[1] and "--project-name" in asked[1])
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Machine(folder)


@contextmanager
def listening(answer: bytes | None, *, greets: bool = False) -> Iterator[int]:
    """A port of the loopback that answers each connection so; None closes it at once, and b"" says nothing.

    What ``greets`` speaks first.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if done.is_set() or answer is None:
                    connection.close()
                    continue
                kept.append(connection)
                if answer:
                    if not greets:
                        asked.append(connection.recv(4096))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            done.set()
            with socket.create_connection(server.getsockname()):
                pass
            thread.join()
            for connection in kept:
                connection.close()


asked: list[bytes] = []


def answer(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nLocation: /elsewhere\r\n\r\n".encode() + body


def composed(port: int, **changes: object) -> Composed:
    services = {
        "web": {
            "image": "team/web",
            "version": "1.0",
            "base_port": port,
            "health": {"path": "/ok?deep=1", "start_timeout_s": 1},
            "environment": {"TOKEN": {"env": "TOKEN"}},
        }
    }
    return compose(Cluster.model_validate(changed({"services": services, **changes})))


# --- Which Compose


@pytest.mark.parametrize(
    ("programs", "known", "found"),
    [
        (["docker"], {"plugin": "2.26.1"}, ("docker", "compose")),
        (["docker", "docker-compose"], {"plugin": "v2.40.0", "binary": "1.29.2"}, ("docker", "compose")),
        (["docker", "docker-compose"], {"binary": "1.29.2"}, ("docker-compose",)),
        (["docker-compose"], {"binary": "2.26.1-4"}, ("docker-compose",)),
    ],
)
def test_the_compose_that_is_here_is_found(
    machine: Machine, programs: list[str], known: dict[str, object], found: tuple[str, ...]
) -> None:
    machine.has(*programs, **known)
    assert client.find() == found


@pytest.mark.long
@pytest.mark.parametrize(
    ("programs", "known", "says"),
    [
        ([], {}, "there is no docker compose on this machine; install it (Debian, Ubuntu: sudo apt-get install "),
        (["docker"], {}, "there is no docker compose on this machine; install it"),
        (["docker-compose"], {"binary": "1.25.0"}, "docker-compose is 1.25.0, and 1.27 is needed; install it"),
        (["docker"], {"plugin": "2.26.1", "down": 1}, "the Docker daemon of this machine does not answer (Cannot "),
    ],
)
def test_without_one_it_is_one_line_that_names_debians_package(
    machine: Machine, programs: list[str], known: dict[str, object], says: str
) -> None:
    machine.has(*programs, **known)
    for act in (
        lambda: laptop.up(composed(8000), {}, all_of_it=True, say=pytest.fail),
        lambda: laptop.down(composed(8000), volumes=False),
        lambda: laptop.logs(composed(8000), [], follow=False, last=None),
    ):
        with pytest.raises(FiefdomError) as refusal:
            act()
        assert str(refusal.value).startswith(says) and "\n" not in str(refusal.value)
    assert not [words for _, words, *_ in machine.asked if "--project-name" in words]


# --- What is refused before anything is started


def test_a_port_that_is_taken_is_told_with_who_wants_it(machine: Machine) -> None:
    machine.has("docker", plugin="2.26.1", images={"team/web:1.0": "web"})
    with listening(b"") as port, pytest.raises(FiefdomError) as refusal:
        laptop.up(composed(port), {}, all_of_it=True, say=pytest.fail)
    assert str(refusal.value) == (
        f"services.web.base_port: port {port} for web-{port} is taken on this machine; stop what listens there, or "
        "give it another with development.overrides.web.base_port, or name the services to run"
    )


def test_a_file_that_is_not_there_is_told_before_docker_makes_a_folder_of_it(machine: Machine, tmp_path: Path) -> None:
    machine.has("docker", plugin="2.26.1", images={"team/web:1.0": "web"})
    conf = tmp_path / "app$.yaml"
    changes = {"services/web/files": {"/etc/app.yaml": {"file": str(conf)}}}
    with pytest.raises(FiefdomError) as refusal:
        laptop.up(composed(_free(), **changes), {}, all_of_it=True, say=pytest.fail)
    assert str(refusal.value).startswith(f"services.web: there is no {conf} on this machine, and web-")
    assert not conf.exists()


def test_a_device_that_is_not_there_is_told_before_anything_starts(machine: Machine) -> None:
    machine.has("docker", plugin="2.26.1", images={"team/web:1.0": "web"})
    changes = {"services/web/devices": ["/dev/fiefdom-none:/dev/x"]}
    with pytest.raises(FiefdomError) as refusal:
        laptop.up(composed(_free(), **changes), {}, all_of_it=True, say=pytest.fail)
    assert str(refusal.value) == (
        "services.web.devices: there is no /dev/fiefdom-none on this machine; plug it in, or name the services to run"
    )


@pytest.mark.long
@pytest.mark.parametrize("user", ["", "root", "0", "0:0", "root:root"])
def test_what_hosts_would_refuse_as_root_is_refused_here(machine: Machine, user: str) -> None:
    machine.has("docker", plugin="2.26.1", images={"team/web:1.0": user})
    with pytest.raises(FiefdomError, match=r"^services\.web: team/web:1\.0 would run as root, which hosts refuse: "):
        laptop.up(composed(_free()), {}, all_of_it=True, say=pytest.fail)


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_an_image_that_cannot_be_had_is_told_with_its_key(machine: Machine) -> None:
    machine.has("docker", plugin="2.26.1", images={"team/web:1.0": "web"})
    redis = {"services": {"redis": {"image": "redis:7.4", "port": _free()}}}
    said: list[str] = []
    with pytest.raises(FiefdomError) as refusal:
        laptop.up(composed(_free(), development=redis), {}, all_of_it=True, say=said.append)
    assert str(refusal.value) == (
        "development.services.redis.image: redis:7.4 is not here and cannot be pulled (Error response from daemon: no "
        "such host)"
    )
    assert said == ["pulling redis:7.4"]


# --- Up, down and logs


@pytest.mark.long
@pytest.mark.parametrize(("program", "known"), [("docker", {"plugin": "2.26.1"}), ("docker-compose", {})])
def test_up_starts_what_stands_in_the_document_with_its_secrets(
    machine: Machine, program: str, known: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "/another/project.yaml")
    said: list[str] = []
    with listening(answer("200 OK")) as port:
        machine.has(
            *("docker", program),
            **{"binary": "1.29.2", "registry": {"team/web:1.0": "web"}, **known},
            containers={"c1": container(f"web-{port}", port)},
        )
        of = composed(port)
        rows = laptop.up(of, {"FIEFDOM_SECRET_WEB_TOKEN": "hunter2 $x"}, all_of_it=True, say=said.append)
    assert rows == [laptop.Running(f"web-{port}", "web", "team/web:1.0", f"http://127.0.0.1:{port}/")]
    name, words, document, variables, _, around = machine.asked_of_compose("up")
    assert name == program
    assert words[-4:] == ["up", "--detach", "--no-build", "--remove-orphans"]
    assert words[:4] == ["--project-name", "fiefdom-dev-test", "--file", "-"]
    assert document == of.text and "hunter2" not in document
    assert variables == {"FIEFDOM_SECRET_WEB_TOKEN": "hunter2 $x"}
    assert around == []  # no .env to read
    assert said[:2] == ["pulling team/web:1.0", f"starting web-{port}"]
    assert asked[-1].splitlines()[:2] == [b"GET /ok?deep=1 HTTP/1.1", b"Host: web"]


@pytest.mark.long
def test_of_some_services_the_others_are_left_alone(machine: Machine) -> None:
    with listening(answer("200 OK")) as port:
        machine.has(
            "docker",
            plugin="2.26.1",
            images={"team/web:1.0": "web"},
            containers={"c1": container(f"web-{port}", port)},
        )
        laptop.up(composed(port), {}, all_of_it=False, say=lambda _: None)
    assert machine.asked_of_compose("up")[1][-3:] == ["up", "--detach", "--no-build"]


@pytest.mark.long
def test_what_does_not_answer_is_told_with_its_last_words(machine: Machine) -> None:
    with listening(answer("503 Not yet")) as port:
        machine.has(
            "docker",
            plugin="2.26.1",
            images={"team/web:1.0": "web"},
            containers={"c1": container(f"web-{port}", port)},
        )
        with pytest.raises(FiefdomError) as refusal:
            laptop.up(composed(port), {}, all_of_it=True, say=lambda _: None)
    assert str(refusal.value).startswith(f"web-{port}: answered 503, wanted 200-399 for ")
    assert [each.log for each in refusal.value.each] == [(f"last words of web-{port}",)]
    assert refusal.value.recorded


@pytest.mark.long
@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"c1": ("exited", 3)}, "its process ended with exit code 3"),
        ({}, "its container is gone"),
    ],
)
def test_what_ended_is_told_at_once(machine: Machine, there: Mapping[str, tuple[str, int]], says: str) -> None:
    port = _free()
    machine.has(
        "docker",
        plugin="2.26.1",
        images={"team/web:1.0": "web"},
        containers={key: container(f"web-{port}", port, *how) for key, how in there.items()},
    )
    with pytest.raises(FiefdomError) as refusal:
        laptop.up(composed(port), {}, all_of_it=True, say=lambda _: None)
    assert str(refusal.value) == f"web-{port}: {says}"


@pytest.mark.long
def test_composes_own_failure_has_its_last_words_below(machine: Machine) -> None:
    machine.has("docker", plugin="2.26.1", images={"team/web:1.0": "web"}, fails=1)
    with pytest.raises(FiefdomError) as refusal:
        laptop.up(composed(_free()), {}, all_of_it=True, say=lambda _: None)
    assert str(refusal.value) == "`docker compose up` failed with exit code 17"
    assert refusal.value.log == ("network has no room",)


def test_down_asks_for_no_secret_and_keeps_volumes_unless_told(machine: Machine) -> None:
    machine.has("docker", plugin="2.26.1", volumes=["fiefdom-dev-test_redis_data"])
    assert laptop.down(composed(8000), volumes=False) == ("fiefdom-dev-test_redis_data",)
    _, words, _, variables, *_ = machine.asked_of_compose("down")
    assert words[-2:] == ["down", "--remove-orphans"]
    assert variables == {"FIEFDOM_SECRET_WEB_TOKEN": ""}


def test_down_with_volumes_removes_those_of_what_is_in_the_inventory_no_more(machine: Machine) -> None:
    machine.has("docker", plugin="2.26.1", volumes=["fiefdom-dev-test_old_data"])
    assert laptop.down(composed(8000), volumes=True) == ()
    assert machine.asked_of_compose("down")[1][-3:] == ["down", "--remove-orphans", "--volumes"]
    assert [words for _, words, *_ in machine.asked if words[:2] == ["volume", "rm"]] == [
        ["volume", "rm", "fiefdom-dev-test_old_data"]
    ]


def test_logs_are_composes_own(machine: Machine) -> None:
    machine.has("docker", plugin="2.26.1")
    laptop.logs(composed(8000), ["web-8000"], follow=True, last=7)
    assert machine.asked_of_compose("logs")[1][-4:] == ["logs", "--follow", "--tail=7", "web-8000"]


# --- Whether it answers


@pytest.mark.parametrize(
    ("status", "ranges", "why"),
    [
        ("200 OK", ("200-399",), ""),
        ("302 Found", ("200-399",), ""),
        ("302 Found", ("200",), "answered 302, wanted 200"),
        ("404 Not Found", ("200-299", "404"), ""),
        ("500 Broken", ("200-299", "404"), "answered 500, wanted 200-299,404"),
    ],
)
def test_a_status_is_judged_as_hosts_judge_it(status: str, ranges: tuple[str, ...], why: str) -> None:
    with listening(answer(status)) as port:
        assert laptop.why_not(Check(port, 1, path="/health", host="web", status=ranges)) == why


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "answered, but not in HTTP"),
        (b"", "no answer within 0.2 s"),
        (None, "closed the connection without an answer"),
    ],
)
def test_what_does_not_answer_in_http_says_why(says: bytes | None, why: str) -> None:
    with listening(says) as port:
        assert laptop.why_not(Check(port, 1, timeout_s=0.2, path="/health", host="web")) == why
    assert laptop.why_not(Check(port, 1, path="/health", host="web")) == "refused the connection"


@pytest.mark.parametrize(("says", "why"), [(b"", ""), (b"220 hello\r\n", ""), (None, "nobody listens")])
def test_a_port_is_open_where_a_connection_is_held(says: bytes | None, why: str) -> None:
    """Docker's proxy accepts, and closes, for a container in which nobody listens."""
    with listening(says, greets=True) as port:
        assert laptop.why_not(Check(port, 1)) == why
    assert laptop.why_not(Check(port, 1)) == "nobody listens"


def test_a_command_is_run_in_the_container_and_judged_by_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1 $2" = "exec 4711" ] && shift 2 && exec "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def why(*command: str) -> str:
        return laptop.why_not(Check(1, 1, timeout_s=0.3, command=command), "4711")

    assert why("test", "two words", "=", "two words") == ""
    assert why("sh", "-c", "exit 3") == "sh ended with 3"
    assert why("sleep", "5") == "sleep gave no answer within 0.3 s"
