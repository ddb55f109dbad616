"""One save for many hosts: a `docker` that is a shell script says what it is told, fast, slowly, wrongly or never."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fiefdom.errors import FiefdomError
from fiefdom.images.docker import CHUNK
from fiefdom.images.fanout import Fanout

NAMES = ["team/predictor:1", "fiefdom/serf:1"]
BIG, SMALL = f"blobs/sha256/{'a' * 64}", f"blobs/sha256/{'b' * 64}"
SIZE = 5_000_000
WAIT_S = 30


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in ((BIG, os.urandom(SIZE)), (SMALL, b"small")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


class Docker:
    """What `docker save` does here, and which were run."""

    def __init__(self, folder: Path) -> None:
        self.said, self._calls, self._command = folder / "archive", folder / "calls", folder / "bin/docker"
        self._command.parent.mkdir()
        self.said.write_bytes(archive())
        self.does(f'exec cat "{self.said}"')

    def does(self, what: str) -> None:
        self._command.write_text(f'#!/bin/sh\necho "$$ $*" >> "{self._calls}"\n{what}\n')
        self._command.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """The arguments of each."""
        return [line.partition(" ")[2] for line in self._lines()]

    @property
    def processes(self) -> list[int]:
        return [int(line.split()[0]) for line in self._lines()]

    def alive(self) -> list[int]:
        return [pid for pid in self.processes if Path(f"/proc/{pid}").exists()]

    def _lines(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    found = Docker(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what is on its way is kept."""
    found = tmp_path / "kept"
    found.mkdir()
    monkeypatch.setenv("TMPDIR", str(found))
    monkeypatch.setattr("tempfile.tempdir", None)
    return found


@pytest.fixture
def fanout(folder: Path) -> Iterator[Fanout]:
    made = Fanout()
    yield made
    made.close()


def kept_in(folder: Path) -> list[os.stat_result]:
    """Files without a name that this process keeps open there."""
    found = []
    for number in Path("/proc/self/fd").iterdir():
        try:
            if number.readlink().is_relative_to(folder):
                found.append(number.stat())
        except OSError:  # the listing's own
            continue
    return found


def take(fanout: Fanout, dropped: frozenset[str] = frozenset()) -> bytes:
    with fanout.archive(NAMES, dropped) as pieces:
        return b"".join(pieces)


def beside(*functions: Callable[[], object]) -> list[threading.Thread]:
    """Threads that run functions, begun; daemons, so that one that hangs fails a test and not the whole run."""
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def ended(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(WAIT_S)
    return not any(thread.is_alive() for thread in threads)


def test_many_hosts_at_once_and_those_that_come_later_share_one_save(docker: Docker, fanout: Fanout) -> None:
    taken: list[bytes] = []
    assert ended(beside(*[lambda: taken.append(take(fanout))] * 8))
    taken.append(take(fanout))
    assert set(taken) == {docker.said.read_bytes()} and len(taken) == 9
    assert docker.calls == [f"save {' '.join(sorted(NAMES))}"]


def test_twenty_hosts_are_fed_side_by_side(docker: Docker, fanout: Fanout) -> None:
    """None waits for another's end, so that over links of their own all take as long as one; and one save is made."""
    together = threading.Barrier(20)
    taken: list[int] = []

    def host() -> None:
        with fanout.archive(NAMES) as pieces:
            size = len(next(pieces))
            together.wait(WAIT_S)  # broken where not all have begun before one is at its end
            taken.append(size + sum(map(len, pieces)))

    assert ended(beside(*[host] * 20))
    assert taken == [docker.said.stat().st_size] * 20
    assert len(docker.calls) == 1


def test_there_is_one_save_for_each_set_of_missing_layers(docker: Docker, fanout: Fanout) -> None:
    sets = [frozenset[str](), frozenset({BIG}), frozenset({SMALL})]
    sizes = [len(take(fanout, dropped)) for dropped in sets * 3]
    assert len(docker.calls) == 3
    assert sizes[:3] == sizes[3:6] == sizes[6:]
    assert sizes[0] >= sizes[2] > SIZE and sizes[1] < 10_000


def test_the_names_count_and_not_their_order(docker: Docker, fanout: Fanout) -> None:
    for names in (NAMES, NAMES[::-1], [*NAMES, NAMES[0]]):
        with fanout.archive(names) as pieces:
            assert b"".join(pieces) == docker.said.read_bytes()
    assert len(docker.calls) == 1


def test_a_slow_host_keeps_no_other_from_its_end(docker: Docker, fanout: Fanout) -> None:
    with fanout.archive(NAMES) as slow:
        first = next(slow)
        assert take(fanout) == docker.said.read_bytes()
        assert first + b"".join(slow) == docker.said.read_bytes()
    assert len(docker.calls) == 1


def test_a_host_that_dies_in_the_middle_leaves_its_turn_to_the_next(docker: Docker, folder: Path) -> None:
    fanout = Fanout(at_once=1)
    with pytest.raises(RuntimeError), fanout.archive(NAMES) as pieces:
        assert next(pieces)
        raise RuntimeError
    taken: list[bytes] = []
    assert ended(beside(lambda: taken.append(take(fanout))))
    assert taken == [docker.said.read_bytes()]
    assert len(docker.calls) == 1
    fanout.close()


def test_only_so_many_are_fed_at_once(docker: Docker, folder: Path) -> None:
    fanout, arrived, go_on, lock = Fanout(at_once=3), threading.Semaphore(0), threading.Event(), threading.Lock()
    size, fed = docker.said.stat().st_size, [0]

    def count(change: int) -> None:
        with lock:
            fed.append(fed[-1] + change)

    def host() -> None:
        with fanout.archive(NAMES) as pieces:
            count(+1)
            arrived.release()
            assert go_on.wait(WAIT_S)
            taken = 0
            for piece in pieces:
                taken += len(piece)
                if taken == size:
                    count(-1)

    threads = beside(*[host] * 9)
    for _ in range(3):
        assert arrived.acquire(timeout=WAIT_S)
    go_on.set()
    assert ended(threads)
    assert max(fed) == 3 and fed[-1] == 0 and len(fed) == 1 + 2 * 9
    fanout.close()


def test_a_host_that_has_all_gives_its_turn_away_while_it_unpacks(docker: Docker, folder: Path) -> None:
    fanout = Fanout(at_once=1)
    with fanout.archive(NAMES) as pieces:
        b"".join(pieces)
        assert ended(beside(lambda: take(fanout)))
    fanout.close()


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_what_is_kept_has_no_name_is_private_and_only_what_travels(
    docker: Docker, fanout: Fanout, folder: Path
) -> None:
    travelled = take(fanout, frozenset({BIG}))
    (kept,) = kept_in(folder)
    assert kept.st_size == len(travelled) < 10_000
    assert kept.st_mode & 0o777 == 0o600
    assert list(folder.iterdir()) == []
    fanout.close()
    assert kept_in(folder) == []


def test_memory_holds_pieces_only_however_far_hosts_are_apart(docker: Docker, fanout: Fanout) -> None:
    megabytes = 64
    docker.does(f"exec head -c {megabytes}M /dev/zero")

    def length() -> int:
        with fanout.archive(NAMES) as pieces:
            return sum(map(len, pieces))

    with fanout.archive(NAMES) as slow:
        next(slow)
        tracemalloc.start()
        try:
            lengths = [length() for _ in range(3)]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert lengths == [megabytes << 20] * 3
    assert peak < 8 * CHUNK


def test_docker_is_asked_for_no_more_than_the_fastest_takes(docker: Docker, fanout: Fanout, folder: Path) -> None:
    with fanout.archive(NAMES) as pieces:
        next(pieces)
        (kept,) = kept_in(folder)
        assert kept.st_size == CHUNK


@pytest.mark.long
def test_what_cannot_be_kept_is_one_sentence(docker: Docker, folder: Path) -> None:
    """In a process of its own, which may write no file above a megabyte."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from fiefdom.images.fanout import Fanout\n"
        "fanout = Fanout()\n"
        "with fanout.archive(['a']) as pieces: list(pieces)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"fiefdom.errors.FiefdomError: {folder} on this machine cannot keep the images on their way: File too large; "
        "make room there, or name another folder in TMPDIR"
    )
    assert docker.alive() == []


# --- what goes wrong with Docker --------------------------------------------------------------------------------------


def test_a_save_that_fails_in_the_middle_fails_every_host_and_the_next_tries_again(
    docker: Docker, fanout: Fanout
) -> None:
    docker.does(f'head -c 1000000 "{docker.said}"; echo "Cannot connect\nto dockerd" >&2; exit 1')
    expected = r"^docker save fiefdom/serf:1 team/predictor:1 failed: Cannot connect to dockerd$"
    with fanout.archive(NAMES) as behind:
        next(behind)
        with pytest.raises(FiefdomError, match=expected):
            take(fanout)
        with pytest.raises(FiefdomError, match=expected):
            b"".join(behind)
    docker.does(f'exec cat "{docker.said}"')
    assert take(fanout) == docker.said.read_bytes()
    assert len(docker.calls) == 2


@pytest.mark.parametrize("dropped", [frozenset[str](), frozenset({SMALL})], ids=["whole", "filtered"])
@pytest.mark.parametrize("share", [0, SIZE // 2], ids=["no image", "half"])
def test_a_save_that_ends_early_says_what_docker_said(
    docker: Docker, fanout: Fanout, dropped: frozenset[str], share: int
) -> None:
    docker.does(f'head -c {share} "{docker.said}"; echo "no such image" >&2; exit 1')
    with pytest.raises(FiefdomError, match=r"^docker save .* failed: no such image$"):
        take(fanout, dropped)


def test_an_archive_that_is_none_is_said_and_docker_is_left(docker: Docker, fanout: Fanout) -> None:
    docker.does("exec head -c 3000000 /dev/urandom")
    with pytest.raises(FiefdomError, match=r"^docker save .* broke off; is dockerd well\?$"):
        take(fanout, frozenset({BIG}))
    assert docker.alive() == []


def test_the_end_ends_docker_and_whoever_waits_for_it(docker: Docker, folder: Path) -> None:
    docker.does(f'head -c {3 * CHUNK} "{docker.said}"; exec sleep 1000')
    fanout, errors, waits = Fanout(), [], threading.Semaphore(0)

    def host() -> None:
        with pytest.raises(FiefdomError) as error, fanout.archive(NAMES) as pieces:
            for number, _ in enumerate(pieces, 1):
                if number == 3:
                    waits.release()
        errors.append(str(error.value))

    threads = beside(host, host)
    for _ in threads:
        assert waits.acquire(timeout=WAIT_S)
    fanout.close()
    assert ended(threads)
    assert len(errors) == 2 and all(error for error in errors)
    assert docker.alive() == [] and kept_in(folder) == []
    with pytest.raises(FiefdomError, match="interrupted"):
        take(fanout)
    assert len(docker.calls) == 1


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_process_leaves_neither_file_nor_docker(
    docker: Docker, folder: Path, sent: signal.Signals
) -> None:
    docker.does("exec cat /dev/zero")
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job has none
        "from fiefdom.images.fanout import Fanout\n"
        "with Fanout().archive(['a']) as pieces:\n"
        "    for number, _ in enumerate(pieces):\n"
        "        if number == 9: print('under way', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"under way\n"
        (save,) = docker.alive()
        process.send_signal(sent)
    subprocess.run(["tail", f"--pid={save}", "-f", "/dev/null"], check=True, timeout=WAIT_S)
    assert list(folder.iterdir()) == []
