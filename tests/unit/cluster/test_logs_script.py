"""logs.sh with a Docker that has its lines from files: whose it prints, in which order, and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

from fiefdom.cluster.logs import LINE_BYTES, PIECE_BYTES, SCRIPT, TOKEN_BYTES, Line, Reader, Wanted, followed

TOKEN = "0123abcd"

DOCKER = """#!/bin/sh
printf '%s\\n' "$*" >>"$ROOT/asked"
case $1 in
ps) case " $* " in *" --all "*) cat "$ROOT/all" ;; *) cat "$ROOT/running" ;; esac ;;
logs)
    for id; do :; done
    case " $* " in
    *" --follow "*)
        tail -n +1 -s 0.05 -f "$ROOT/$id.log" &
        until [ -e "$ROOT/$id.ended" ]; do sleep 0.05; done
        sleep 0.2; kill $! ;;
    *) cat "$ROOT/$id.log"; cat "$ROOT/$id.err" >&2 2>/dev/null ;;
    esac ;;
esac
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    return tmp_path


def stamp(second: float) -> str:
    return f"2026-01-31T09:{int(second) // 60:02d}:{int(second) % 60:02d}.{round(second % 1 * 10**9):09d}Z"


def says(root: Path, container: str, *lines: str, label: str = "", runs: bool = True) -> None:
    """A container, and what `docker logs --timestamps` prints of it."""
    (root / f"id-{container}.log").write_text("".join(f"{line}\n" for line in lines))
    for name in ("all", *(["running"] if runs else [])):
        with (root / name).open("a") as file:
            file.write(f"id-{container} {container} {label or container}\n")


@contextmanager
def running(root: Path, wanted: Wanted, silent_s: int = 30) -> Iterator[subprocess.Popen[bytes]]:
    script = SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={root}:")
    script = script.replace("silent_s=30", f"silent_s={silent_s}").replace("look_s=1", "look_s=0.1")
    words = ["sh", "-c", script, "fiefdom", *wanted.arguments]
    env = {"PATH": os.environ["PATH"], "ROOT": str(root), "TMPDIR": str(root / "tmp")}
    pipe = subprocess.PIPE
    run = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True)
    try:
        yield run
    finally:
        if left(run):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def left(run: subprocess.Popen[bytes]) -> list[str]:
    """Processes of the script's group that live."""
    found = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = (row.split(None, 2) for row in found.splitlines())
    return [row[2] for row in rows if row[0] == str(run.pid) and not row[1].startswith("Z")]


def await_true(seen: Callable[[], bool], within_s: float = 10) -> None:
    deadline_s = time.monotonic() + within_s
    while not seen():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def all_of(root: Path, wanted: Wanted) -> list[Line]:
    with running(root, wanted) as run:
        assert run.stdout is not None and run.stderr is not None
        out = run.stdout.read()
        assert run.wait(10) == 0, run.stderr.read()
    assert list((root / "tmp").iterdir()) == []
    reader = Reader("app1", wanted.token if wanted.follow else "")
    return [*reader.take(out), *reader.end()]


def asked(root: Path, what: str) -> list[str]:
    return [line for line in (root / "asked").read_text().splitlines() if line.startswith(what)]


def test_lines_of_all_containers_are_in_one_order(root: Path) -> None:
    """More of them than what sort takes at once by itself."""
    for port in range(20):
        says(root, f"web-{8000 + port}", *(f"{stamp(n * 20 + port)} {n} of {port}" for n in range(5)))
    found = all_of(root, Wanted())
    assert [line.text for line in found] == [f"{n} of {port}" for n in range(5) for port in range(20)]
    assert {line.container for line in found} == {f"web-{8000 + port}" for port in range(20)}


@pytest.mark.parametrize(
    ("wanted", "containers"),
    [
        (Wanted(), ["a-b-9000", "a-b-9000.failed", "a-8000", "a-8001"]),
        (Wanted(service="a"), ["a-8000", "a-8001"]),
        (Wanted(service="a-b"), ["a-b-9000", "a-b-9000.failed"]),
        (Wanted(service="a", port=8001), ["a-8001"]),
        (Wanted(port=9000), ["a-b-9000", "a-b-9000.failed"]),
        (Wanted(service="b"), []),
    ],
)
def test_whose_they_are(root: Path, wanted: Wanted, containers: list[str]) -> None:
    says(root, "a-b-9000", f"{stamp(1)} x")
    says(root, "a-b-9000.failed", f"{stamp(2)} x", label="a-b-9000", runs=False)
    says(root, "a-8000", f"{stamp(3)} x")
    says(root, "a-8001", f"{stamp(4)} x")
    assert [line.container for line in all_of(root, wanted)] == containers


def test_docker_is_asked_as_it_takes_it(root: Path) -> None:
    says(root, "web-8000")
    all_of(root, Wanted(role="gateway", since="90s", tail=3))
    assert asked(root, "ps") == [
        'ps --no-trunc --filter label=fiefdom.role=gateway --format {{.ID}} {{.Names}} {{.Label "fiefdom.name"}} --all'
    ]
    assert asked(root, "logs") == ["logs --timestamps --since=90s --tail=3 id-web-8000"]


FULL = PIECE_BYTES - TOKEN_BYTES - 31
"""Of a line's text, what its first piece has."""


@pytest.mark.parametrize("length", [0, 1, FULL - 1, FULL, FULL + 1, PIECE_BYTES * 4 + 17])
@pytest.mark.parametrize("like", ["abcdefgh", f"{stamp(9)} ", f"{stamp(9)}+", f"{TOKEN[:-1]}:{stamp(9)} "])
def test_a_long_line_arrives_whole(root: Path, length: int, like: str) -> None:
    """Whatever it says where it is cut."""
    text = ("x" * (FULL % len(like)) + like * (length // len(like) + 1))[:length]
    says(root, "web-8000", f"{stamp(1)} {text}", f"{stamp(3)} after")
    says(root, "web-8001", f"{stamp(2)} between")
    assert [line.text for line in all_of(root, Wanted())] == [text, "between", "after"]
    with running(root, Wanted(follow=True, token=TOKEN)) as run:
        assert {line.text for line in take(run, 3)} >= {text, "between"}


def test_a_line_without_an_end_is_held_by_nobody(root: Path) -> None:
    (root / "all").write_text("id-web-8000 web-8000 web-8000\n")
    (root / "running").write_text("id-web-8000 web-8000 web-8000\n")
    (root / "id-web-8000.log").write_text(f"{stamp(1)} {'x' * (3 << 20)}")
    with running(root, Wanted(follow=True, token=TOKEN)) as run:
        found = take(run, 2)
    assert [set(line.text) for line in found] == [{"x"}] * 2


def test_what_docker_itself_says_is_a_line(root: Path) -> None:
    says(root, "web-8000", f"{stamp(1)} well", "Error response from daemon: no such log file", f"{stamp(2)} again")
    assert [line.text for line in all_of(root, Wanted())] == [
        "well",
        "Error response from daemon: no such log file",
        "again",
    ]


def test_a_docker_that_does_not_answer_is_a_reason(root: Path) -> None:
    (root / "docker").write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    for mode in (False, True):
        with running(root, Wanted(follow=mode)) as run:
            out, err = run.communicate(timeout=10)
        assert (run.returncode, out) == (1, b"")
        assert err == b"docker does not answer: Cannot connect to the Docker daemon\n"


READERS: WeakKeyDictionary[subprocess.Popen[bytes], Reader] = WeakKeyDictionary()


def take(run: subprocess.Popen[bytes], count: int) -> list[Line]:
    assert run.stdout is not None
    reader, found = READERS.setdefault(run, Reader("app1", TOKEN, backlog=True)), []
    while len(found) < count:
        piece = os.read(run.stdout.fileno(), 65536)
        assert piece, "it ended"
        found += [line for line in reader.take(piece) if line.container]
    return found


def append(root: Path, container: str, *lines: str) -> None:
    with (root / f"id-{container}.log").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def test_new_lines_come_and_so_do_new_containers(root: Path) -> None:
    says(root, "web-8000", f"{stamp(1)} first")
    with running(root, Wanted(follow=True, tail=10, token=TOKEN)) as run:
        assert [line.text for line in take(run, 1)] == ["first"]
        append(root, "web-8000", f"{stamp(2)} second")
        assert [line.text for line in take(run, 1)] == ["second"]
        says(root, "web-8001", f"{stamp(3)} new")
        assert take(run, 1)[0][2:] == ("web-8001", "new")
    there, goes_on, new = asked(root, "logs")
    assert there == "logs --timestamps --tail=10 id-web-8000"
    assert goes_on.startswith("logs --timestamps --follow --since=20"), goes_on
    assert new == "logs --timestamps --follow id-web-8001"


def test_one_that_ended_goes_on_with_nothing_twice_and_nothing_left_out(root: Path) -> None:
    """Its container began anew, or dockerd: Docker is asked from shortly before that on."""
    says(root, "web-8000", f"{stamp(1)} first")
    with running(root, Wanted(follow=True, tail=10, token=TOKEN)) as run:
        take(run, 1)
        append(root, "web-8000", f"{stamp(2)} second")
        (root / "id-web-8000.ended").touch()
        await_true(lambda: len(asked(root, "logs")) > 2)
        (root / "id-web-8000.ended").unlink()
        append(root, "web-8000", f"{stamp(3)} third")
        found = take(run, 2)
    assert [line.text for line in found] == ["second", "third"]
    again = asked(root, "logs")[2]
    assert again.startswith("logs --timestamps --follow --since=20"), again


def test_one_that_was_there_from_the_beginning_is_asked_as_the_others(root: Path) -> None:
    """However late it runs: what is older than anybody wanted does not come with it."""
    says(root, "web-8000", f"{stamp(1)} first")
    (root / "id-web-8000.ended").touch()
    with running(root, Wanted(follow=True, since="2h", token=TOKEN)) as run:
        await_true(lambda: (root / "asked").exists() and len(asked(root, "logs")) > 1)
        assert asked(root, "logs")[0] == "logs --timestamps --since=2h id-web-8000"
        says(root, "web-8001", f"{stamp(3)} new")
        await_true(lambda: "logs --timestamps --follow id-web-8001" in asked(root, "logs"))
        assert left(run)


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("quiet", [False, True])
def test_nothing_is_left_when_the_reader_goes(root: Path, follow: bool, quiet: bool) -> None:
    """Its end closed, or silent; also in the middle of more than anybody took."""
    for port in range(3):
        says(root, f"web-{8000 + port}", *(f"{stamp(n / 100)} {'x' * 100}" for n in range(5000)))
    with running(root, Wanted(follow=follow), silent_s=1 if quiet else 30) as run:
        assert run.stdout is not None and run.stdin is not None
        assert os.read(run.stdout.fileno(), 100)
        if not quiet:
            run.stdin.close()
            run.stdin = None
        await_true(lambda: not left(run))
    assert list((root / "tmp").iterdir()) == []


def test_several_containers_that_write_at_once_are_not_mixed(root: Path) -> None:
    count, ports = 4000, range(8000, 8006)
    for port in ports:
        says(root, f"web-{port}", *(f"{stamp(n / 100)} {port} {n} {'y' * (n % 700)}" for n in range(count)))
    with running(root, Wanted(follow=True, token=TOKEN)) as run:
        found = take(run, count * len(ports))
    for port in ports:
        own = [line.text for line in found if line.container == f"web-{port}"]
        assert own == [f"{port} {n} {'y' * (n % 700)}" for n in range(count)]


def test_the_script_and_its_reader_mean_the_same_lengths() -> None:
    assert f"\nwidth={PIECE_BYTES}\n" in SCRIPT and f"\nwhole={LINE_BYTES}\n" in SCRIPT
    assert {len(Wanted().token) for _ in range(5)} == {TOKEN_BYTES - 1}
    assert len({Wanted().token for _ in range(5)}) > 1


@dataclass
class Printed:
    """What a host printed, whole."""

    out: bytes

    def ready(self) -> bool:
        return True

    def read(self) -> bytes:
        out, self.out = self.out, b""
        return out


def test_what_there_is_when_following_begins_is_in_one_order(root: Path) -> None:
    """Of several instances of a host, whichever Docker tells of first; and it is told once."""
    for port in range(4):
        says(root, f"web-{8000 + port}", *(f"{stamp(n * 4 + port)} {n} of {port}" for n in range(5)))
    with running(root, Wanted(follow=True, tail=10, token=TOKEN)) as run:
        assert run.stdout is not None
        out = b""
        while out.count(b"4 of") < 8:
            out += os.read(run.stdout.fileno(), 65536)
    found = [line for line in followed({"app1": Printed(out)}, print, TOKEN) if line is not None]
    assert [line.text for line in found] == [f"{n} of {port}" for n in range(5) for port in range(4)]
