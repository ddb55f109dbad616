"""The script that supervises a container, against the Docker daemon of this machine.

The container is Perl, which is all that Debian's minimal image holds, so no image has to be built.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fiefdom.desired.containers import conf_file
from fiefdom.desired.state import Container, File, HostState, digest
from helpers.programs import place_handover, place_supervisor

pytestmark = pytest.mark.usefixtures("docker_here")

IMAGE = "debian:trixie"
SECRET = "s3cret value # kept"

# Answers 200 on port 8000 from half a second after its start, and ends with 7 half a second after SIGTERM.
SERVER = (
    "use IO::Socket::INET; $SIG{TERM} = sub { select undef, undef, undef, 0.5; exit 7 };"
    "select undef, undef, undef, 0.5;"
    "my $s = IO::Socket::INET->new(LocalPort => 8000, Listen => 5, ReuseAddr => 1) or die;"
    'while (1) { my $c = $s->accept or next; print $c "HTTP/1.0 $ENV{STATUS} x\\r\\nContent-Length: 0\\r\\n\\r\\n" }'
)


def docker(*arguments: str, check: bool = True) -> str:
    """Output of a docker command."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check)
    return done.stdout.strip()


def eventually(condition: Callable[[], object], timeout_s: float = 15) -> float:
    """Seconds until ``condition`` holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, "timed out"
        time.sleep(0.02)
    return time.monotonic() - began


@dataclass
class Supervised:
    """A container, its files under ``root``, and the runs of its script."""

    root: Path
    container: Container
    environment: str
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self) -> None:
        env = File(str(self.root / f"{self.container.name}.env"), self.environment.encode(), mode=0o600, secret=True)
        Path(env.path).write_bytes(env.content)
        conf = conf_file(self.container, HostState(files=(env,)))
        (self.root / f"{self.container.name}.conf").write_bytes(conf.content)

    def start(self, written: bool = False) -> subprocess.Popen[str]:
        if not written:
            self.write()
        env = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"} | {"NOTIFY_SOCKET": self.notify_path}
        run = subprocess.Popen([self.script, "run", self.container.name], stderr=subprocess.PIPE, text=True, env=env)
        self.runs.append(run)
        return run

    def start_until_ready(self) -> subprocess.Popen[str]:
        self.ready.clear()
        run = self.start()
        assert self.ready.wait(20), "never ready"
        return run

    @property
    def script(self) -> str:
        return str(self.root / "container")

    @property
    def stamp(self) -> str:
        path = self.root / "stamps" / self.container.name
        return path.read_text() if path.exists() else ""

    def inspect(self, template: str) -> str:
        return docker("inspect", "--type", "container", "--format", template, self.container.name, check=False)

    @property
    def id(self) -> str:
        return self.inspect("{{.Id}}")

    @property
    def pid(self) -> int:
        return int(self.inspect("{{.State.Pid}}"))

    def says(self) -> int:
        """The status that it answers its probe with; 0 where it does not answer."""
        asked = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", self.container.probe]
        return int(subprocess.run(asked, capture_output=True, text=True, check=False).stdout)

    def ended(self, run: subprocess.Popen[str], within_s: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(within_s)
        return run.returncode is not None

    def call(self, verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.script, verb, self.container.name], capture_output=True, text=True, check=False)

    def __post_init__(self) -> None:
        place_supervisor(self.root)
        self.notify_path = str(self.root / "notify")
        self.ready = threading.Event()
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notifications.bind(self.notify_path)
        self.listener = threading.Thread(target=self.listen)
        self.listener.start()

    def listen(self) -> None:
        """Take every message, as systemd does: systemd-notify waits until the one it sent is taken."""
        while message := self.notifications.recv(4096):
            if b"READY=1" in message:
                self.ready.set()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.notify_path)
        self.listener.join()
        self.notifications.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    port = free_port()
    name = f"scratch-concerns-{port}"
    container = Container(
        name=name,
        unit="",
        role="instance",
        image=IMAGE,
        args=(
            "--network=bridge",
            "--user=1000:1000",
            f"--publish=127.0.0.1:{port}:8000",
            f"--env-file={tmp_path / f'{name}.env'}",
            "--memory=64m",
        ),
        command=("perl", "-e", SERVER),
        config=(str(tmp_path / f"{name}.env"),),
        probe=f"http://127.0.0.1:{port}/health",
        start_timeout_s=10,
        stop_grace_s=5,
        version="1.0.0",
    )
    it = Supervised(tmp_path, container, f"SECRET={SECRET}\nSTATUS=200\n")
    try:
        yield it
    finally:
        for run in it.runs:
            run.kill()
        # What a killed script waits with ends with the container.
        docker("rm", "-f", name, check=False)
        for run in it.runs:
            run.communicate()
        it.close()


def test_is_ready_only_when_the_probe_is_answered(supervised: Supervised) -> None:
    began = time.monotonic()
    supervised.start_until_ready()
    assert time.monotonic() - began > 0.5
    assert supervised.inspect("{{.State.Running}}") == "true"
    labels = json.loads(supervised.inspect("{{json .Config.Labels}}"))
    spec, facts = supervised.stamp.split()
    assert labels["fiefdom.name"] == supervised.container.name
    assert labels["fiefdom.role"] == "instance"
    assert labels["fiefdom.version"] == "1.0.0"
    assert labels["fiefdom.spec"] == spec
    assert facts == digest(supervised.call("facts").stdout)


def test_facts_hold_no_secret_and_survive_a_restart(supervised: Supervised) -> None:
    supervised.start_until_ready()
    before = supervised.call("facts").stdout
    assert SECRET not in before
    assert f"SECRET={SECRET}" in json.loads(supervised.inspect("{{json .Config.Env}}"))
    docker("restart", "-t", "1", supervised.container.name)
    assert supervised.call("facts").stdout == before


def test_a_container_from_an_edited_environment_is_replaced_once_that_is_mended(supervised: Supervised) -> None:
    """It bears the label of what it was to be made from: the stamp says that it was not."""
    run = supervised.start_until_ready()
    run.send_signal(signal.SIGTERM)
    run.wait(5)
    docker("rm", supervised.container.name)
    supervised.environment += "ADDED=by-hand\n"
    Path(supervised.root / f"{supervised.container.name}.env").write_text(supervised.environment)
    supervised.ready.clear()
    run = supervised.start(written=True)
    assert supervised.ready.wait(20), "never ready"
    assert supervised.stamp.split()[2:] == ["edited"]
    edited = supervised.id
    run.send_signal(signal.SIGTERM)
    run.wait(5)
    supervised.environment = supervised.environment.replace("ADDED=by-hand\n", "")
    supervised.start_until_ready()
    assert supervised.id != edited
    assert "ADDED" not in supervised.inspect("{{json .Config.Env}}")
    assert len(supervised.stamp.split()) == 2


def test_stops_within_the_grace_period_and_ends_well(supervised: Supervised) -> None:
    run = supervised.start_until_ready()
    run.send_signal(signal.SIGTERM)
    assert run.wait(5) == 0
    assert supervised.inspect("{{.State.Running}} {{.State.ExitCode}}") == "false 7"


def test_a_stop_while_it_starts_is_taken(supervised: Supervised) -> None:
    supervised.environment = "STATUS=503\n"
    run = supervised.start()
    # A container's first process is deaf to a signal that it has no handler for yet: it stops at the end of its grace.
    eventually(lambda: supervised.says() == 503)
    run.send_signal(signal.SIGTERM)
    assert run.wait(5) == 0
    assert supervised.inspect("{{.State.Running}}") == "false"


def test_ends_with_the_exit_code_of_a_killed_process_and_starts_it_again(supervised: Supervised) -> None:
    began = time.monotonic()
    run = supervised.start_until_ready()
    first_took_s = time.monotonic() - began
    first = supervised.id
    began = time.monotonic()
    os.kill(supervised.pid, signal.SIGKILL)
    assert run.wait(5) == 137
    supervised.start_until_ready()
    # The server itself takes half a second to start; on a busy machine all takes longer, the first start too.
    assert time.monotonic() - began < max(2.5, 2 * first_took_s)
    assert supervised.id == first


def test_adopts_the_container_that_runs_already(supervised: Supervised) -> None:
    run = supervised.start_until_ready()
    before = (supervised.id, supervised.pid)
    run.kill()
    run.wait()
    supervised.start_until_ready()
    assert (supervised.id, supervised.pid) == before


def test_a_restart_by_hand_is_followed_or_adopted(supervised: Supervised) -> None:
    run = supervised.start_until_ready()
    first, pid = supervised.id, supervised.pid
    docker("restart", "-t", "1", supervised.container.name)
    if supervised.ended(run, 1):  # it saw the moment between the stop and the start; systemd runs it again
        run = supervised.start_until_ready()
    assert supervised.id == first
    assert supervised.pid not in (0, pid)
    os.kill(supervised.pid, signal.SIGKILL)
    assert run.wait(5) == 137


@pytest.mark.parametrize("change", ["argument", "environment", "command", "image", "by hand", "stamp"])
def test_replaces_a_container_that_is_not_what_is_wanted(supervised: Supervised, change: str) -> None:
    run = supervised.start_until_ready()
    first = supervised.id
    run.kill()
    run.wait()
    name = supervised.container.name
    match change:
        case "argument":
            supervised.container = replace(supervised.container, args=(*supervised.container.args, "--cpus=0.5"))
        case "environment":
            supervised.environment += "MORE=1\n"
        case "command":
            supervised.container = replace(supervised.container, command=("perl", "-e", f"{SERVER} # other"))
        case "image":
            supervised.container = replace(supervised.container, image="debian:bookworm")
        case "by hand":
            docker("update", "--memory=65m", "--memory-swap=65m", name)
        case "stamp":
            (supervised.root / "stamps" / name).unlink()
    supervised.start_until_ready()
    assert supervised.id != first
    again = supervised.id
    supervised.runs[-1].kill()
    supervised.start_until_ready()
    assert supervised.id == again, "what it made was not what it wanted"


@pytest.mark.parametrize("user", [None, "0:1000", "root"])
def test_no_container_runs_as_root(supervised: Supervised, user: str | None) -> None:
    args = [arg for arg in supervised.container.args if not arg.startswith("--user")]
    supervised.container = replace(supervised.container, args=(*args, *([f"--user={user}"] if user else [])))
    run = supervised.start()
    assert run.wait(20) == 1
    assert run.stderr is not None
    assert run.stderr.read() == (
        f"{supervised.container.name}: {IMAGE} would run as root: give the service a user, such as 1000:1000, or the "
        "Dockerfile a USER\n"
    )
    assert docker("ps", "--all", "--quiet", f"--filter=name=^{supervised.container.name}$") == ""


def test_no_container_runs_as_root_by_another_name(supervised: Supervised, tmp_path: Path) -> None:
    name = supervised.container.name
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:0:0::/:/bin/sh\n")
    image = f"{name}:1"
    docker("create", f"--name={name}-made", IMAGE)
    try:
        docker("cp", str(tmp_path / "passwd"), f"{name}-made:/etc/passwd")
        docker("commit", "--change=USER app", f"{name}-made", image)
        args = [arg for arg in supervised.container.args if not arg.startswith("--user")]
        supervised.container = replace(supervised.container, args=tuple(args), image=image)
        run = supervised.start()
        _, errors = run.communicate(timeout=20)
        assert run.returncode == 1
        assert f"{name}: {image} would run as root: give the service a user" in errors
        assert docker("ps", "--all", "--quiet", f"--filter=name=^{name}$") == ""
    finally:
        docker("rm", "-f", f"{name}-made", name, check=False)
        docker("image", "rm", image, check=False)


def test_an_instance_that_is_not_healthy_in_time_is_stopped_and_its_words_are_shown(supervised: Supervised) -> None:
    supervised.environment = "STATUS=503\n"
    command = ("perl", "-e", f"$| = 1; print qq(model not found\\n); {SERVER}")
    supervised.container = replace(supervised.container, start_timeout_s=2, command=command)
    run = supervised.start()
    _, errors = run.communicate(timeout=20)
    assert run.returncode == 1
    name, probe = supervised.container.name, supervised.container.probe
    # The reason first; below it, and marked, what the container said.
    assert errors == f"{name}: answered 503, wanted 200-399, for 2 s at {probe}\n| model not found\n"
    assert supervised.inspect("{{.State.Running}}") == "false"


def test_an_instance_that_ends_at_once_is_not_waited_for(supervised: Supervised) -> None:
    supervised.container = replace(supervised.container, start_timeout_s=60, command=("sh", "-c", "echo boom; exit 3"))
    run = supervised.start()
    _, errors = run.communicate(timeout=20)
    assert run.returncode == 1
    assert errors == f"{supervised.container.name}: ended before it was healthy, with exit code 3\n| boom\n"


def test_what_is_healthy_is_the_services_to_say(supervised: Supervised) -> None:
    supervised.environment = "STATUS=403\n"
    supervised.container = replace(supervised.container, probe_status="204,400-403", probe_host="www.example.org")
    supervised.start_until_ready()


def test_a_container_cannot_speak_for_its_supervisor(supervised: Supervised) -> None:
    lie = f"{supervised.container.name}: answered 200"
    supervised.container = replace(supervised.container, command=("sh", "-c", f"echo '{lie}'; echo '<3>no'; exit 3"))
    run = supervised.start()
    _, errors = run.communicate(timeout=20)
    assert errors.splitlines()[1:] == [f"| {lie}", "| <3>no"]


def test_an_image_that_is_missing_is_named_and_never_pulled(supervised: Supervised) -> None:
    supervised.container = replace(supervised.container, image="fiefdom/nowhere:1")
    run = supervised.start()
    _, errors = run.communicate(timeout=20)
    assert run.returncode == 1
    assert "image fiefdom/nowhere:1 is not on this host" in errors


def test_a_removed_container_ends_the_run(supervised: Supervised) -> None:
    run = supervised.start_until_ready()
    docker("rm", "-f", supervised.container.name)
    # 137 where it still saw the killed container, 1 where it was gone.
    assert run.wait(5) in (1, 137)


def test_who_answers_is_told_and_who_does_not_with_the_reason(supervised: Supervised) -> None:
    name = supervised.container.name
    supervised.write()
    done = supervised.call("answering")
    assert (done.returncode, done.stdout) == (0, f"{name}: refused the connection\n")
    supervised.start_until_ready()
    done = supervised.call("answering")
    assert (done.returncode, done.stdout) == (0, f"{name}\n")


def test_a_tcp_probe_asks_the_kernel(supervised: Supervised) -> None:
    name = supervised.container.name
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        probe = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        supervised.container = replace(supervised.container, probe=probe)
        supervised.write()
        assert supervised.call("answering").stdout == f"{name}: nobody listens\n"
        listener.listen()
        assert supervised.call("answering").stdout == f"{name}\n"


def test_stop_verb_stops_it_from_outside(supervised: Supervised) -> None:
    run = supervised.start_until_ready()
    assert supervised.call("stop").returncode == 0
    assert run.wait(5) == 7
    assert supervised.inspect("{{.State.Running}}") == "false"


def test_wrong_usage_is_told(supervised: Supervised) -> None:
    done = subprocess.run([supervised.script, "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: container ")


# --- Successors: the command HEIR is a script of ours here, and the real one is in tests/lab/test_gateway_container.py

HEIR = """#!/bin/sh
case $1 in
  lends) exit "$(cat /shared/lends)" ;;
  healthy) [ -e /shared/taken-over ] ;;
esac
"""
PATIENT = ("perl", "-e", "$SIG{TERM} = sub { exit 0 }; sleep 1 while 1")


@dataclass
class Heirs:
    """A supervised container that may have successors."""

    it: Supervised
    shared: Path
    memory_mib: int = 64

    def answers(self, *, lends: int = 0, healthy: bool = False) -> None:
        (self.shared / "lends").write_text(f"{lends}\n")
        if healthy:
            (self.shared / "taken-over").touch()

    def change(self) -> None:
        self.memory_mib += 1
        args = (*self.it.container.args[:-1], f"--memory={self.memory_mib}m")
        self.it.container = replace(self.it.container, args=args)
        self.it.write()

    def run(self) -> subprocess.Popen[str]:
        self.it.ready.clear()
        env = os.environ | {"NOTIFY_SOCKET": self.it.notify_path}
        words = [self.it.script, "run", self.it.container.name, "heir"]
        run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env)
        self.it.runs.append(run)
        assert self.it.ready.wait(20), "never ready"
        return run

    def reload(self) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"MAINPID": str(self.it.runs[-1].pid)}
        words = [self.it.script, "reload", self.it.container.name]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=60)

    def containers(self) -> dict[str, str]:
        """Ids of the containers by what follows the name."""
        name = self.it.container.name
        found = docker("ps", "--all", "--no-trunc", f"--filter=name=^{name}", "--format={{.Names}} {{.ID}}")
        return {full.removeprefix(name): id_ for full, id_ in map(str.split, found.splitlines())}


@pytest.fixture
def heirs(supervised: Supervised, tmp_path: Path) -> Iterator[Heirs]:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "heir").write_text(HEIR)
    (shared / "heir").chmod(0o755)
    volumes = (f"--volume={shared}:/shared:ro", f"--volume={shared / 'heir'}:/usr/local/bin/heir:ro")
    supervised.container = replace(
        supervised.container,
        args=(*volumes, "--user=1000:1000", "--memory=64m"),
        command=PATIENT,
        config=(),
        probe=None,
        start_timeout_s=3,
    )
    supervised.write()
    place_handover(tmp_path)
    it = Heirs(supervised, shared)
    it.answers()
    try:
        yield it
    finally:
        for run in supervised.runs:
            run.kill()
        docker("rm", "--force", *it.containers().values(), check=False)


def test_a_successor_gets_the_name_and_the_old_one_goes_when_it_has_ended(heirs: Heirs) -> None:
    run = heirs.run()
    first = heirs.it.id
    heirs.answers(healthy=True)
    heirs.change()
    done = heirs.reload()
    assert (done.returncode, done.stderr) == (0, "")
    assert heirs.it.id != first
    spec, facts = heirs.it.stamp.split()
    assert heirs.it.inspect('{{index .Config.Labels "fiefdom.spec"}}') == spec
    assert facts == digest(heirs.it.call("facts").stdout)
    assert heirs.containers()[".retiring-1"] == first
    second = heirs.it.id
    heirs.change()
    assert heirs.reload().returncode == 0
    assert set(heirs.containers()) == {"", ".retiring-1", ".retiring-2"}
    assert heirs.containers()[".retiring-2"] == second
    docker("stop", first)
    eventually(lambda: set(heirs.containers()) == {"", ".retiring-2"})
    third = heirs.it.id
    assert heirs.reload().returncode == 0, "nothing to do"
    assert heirs.it.id == third
    run.terminate()
    assert run.wait(20) == 0
    assert set(heirs.containers()) == {""}
    assert heirs.it.inspect("{{.State.Running}}") == "false"


def test_a_successor_that_does_not_take_over_in_time_is_kept_aside(heirs: Heirs) -> None:
    run = heirs.run()
    first, stamp = heirs.it.id, heirs.it.stamp
    for _ in range(2):
        heirs.change()
        done = heirs.reload()
        assert done.returncode == 1
        assert "the successor has not taken over within 3 s" in done.stderr
        assert (heirs.it.id, heirs.it.stamp) == (first, stamp)
        assert heirs.it.inspect("{{.State.Running}}") == "true"
        assert set(heirs.containers()) == {"", ".failed"}
    os.kill(heirs.it.pid, signal.SIGKILL)
    assert run.wait(5) == 137


@pytest.mark.parametrize("lends", [1, 2])
def test_one_that_cannot_hand_over_is_replaced_as_ever(heirs: Heirs, lends: int) -> None:
    heirs.run()
    first = heirs.it.id
    heirs.answers(lends=lends)
    heirs.change()
    assert heirs.reload().returncode == 0
    assert heirs.it.id != first
    assert set(heirs.containers()) == {""}


def test_one_that_does_not_answer_is_not_interrupted(heirs: Heirs) -> None:
    heirs.run()
    first = heirs.it.id
    heirs.answers(lends=126)
    heirs.change()
    done = heirs.reload()
    assert done.returncode == 1
    assert "does not answer whether it would hand over" in done.stderr
    assert heirs.it.id == first
    assert heirs.it.inspect("{{.State.Running}}") == "true"


@pytest.mark.parametrize("renamed", [False, True])
def test_a_run_finishes_what_a_killed_one_began(heirs: Heirs, renamed: bool) -> None:
    heirs.run()
    first = heirs.it.id
    name = heirs.it.container.name
    heirs.change()
    heirs.it.container = replace(heirs.it.container, start_timeout_s=20)
    heirs.it.write()
    with subprocess.Popen(
        [heirs.it.script, "reload", name],
        env=os.environ | {"MAINPID": str(heirs.it.runs[-1].pid)},
        stderr=subprocess.DEVNULL,
    ) as reload:
        eventually(lambda: docker("ps", "--quiet", f"--filter=name=^{name}.next$"))
        heirs.it.runs[-1].kill()
        heirs.it.runs[-1].wait()
        assert reload.wait(10) == 1
    if renamed:
        docker("rename", name, f"{name}.retiring-1")
    successor = heirs.containers()[".next"]
    heirs.answers(healthy=True)
    heirs.run()
    assert heirs.it.id == successor
    assert heirs.containers() == {"": successor, ".retiring-1": first}
    assert heirs.reload().returncode == 0
    assert heirs.it.id == successor


def test_a_reload_without_a_run_says_so(heirs: Heirs) -> None:
    env = {key: value for key, value in os.environ.items() if key != "MAINPID"}
    words = [heirs.it.script, "reload", heirs.it.container.name]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1
    assert "no $MAINPID to reload" in done.stderr
