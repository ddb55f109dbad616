"""Only missing layers travel: dockerd agrees, on real images that it saves and loads."""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

import pytest

from fiefdom.errors import FiefdomError
from fiefdom.images import layers, send
from fiefdom.images.fanout import Fanout

pytestmark = pytest.mark.usefixtures("docker_here")

PREFIX = f"scratch-layers/{os.getpid()}"
BASE_REF, FIRST, SECOND = (f"{PREFIX}-{name}:1" for name in ("base", "first", "second"))
AGAIN = f"{PREFIX}-second:2"
BASE_BYTES = 3_000_000


def docker(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout


def shell(script: str, pieces: Iterable[bytes]) -> str:
    """This machine as the host."""
    done = subprocess.run(["sh", "-c", script], input=b"".join(pieces), capture_output=True, check=False)
    if done.returncode:
        raise FiefdomError(done.stderr.decode())
    return done.stdout.decode()


def id_of(ref: str) -> str | None:
    return docker("image", "inspect", "--format", "{{.Id}}", ref, check=False).strip() or None


def chain_of(ref: str) -> layers.Chain:
    return tuple(docker("image", "inspect", "--format", "{{range .RootFS.Layers}}{{.}} {{end}}", ref).split())


@pytest.fixture
def two(tmp_path: Path) -> Iterator[None]:
    """Two images on one base of incompressible 3 MB; the second repeats the first's layer above another."""
    if not layers.is_classic(docker("info", "--format", "{{json .DriverStatus}}")):
        pytest.skip("a host's daemon is classic, and this machine's, which would play it here, is not")
    (tmp_path / "big").write_bytes(os.urandom(BASE_BYTES))
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        tar.add(tmp_path / "big", "big")
    (tmp_path / "big").unlink()
    (tmp_path / "same").write_text("the same layer")
    (tmp_path / "other").write_text(PREFIX)
    try:
        docker("import", str(tmp_path / "base.tar"), BASE_REF)
        (tmp_path / "base.tar").unlink()
        for ref, copied in ((FIRST, ["same"]), (SECOND, ["other", "same"])):
            steps = [f"FROM {BASE_REF}", *(f"COPY {name} /" for name in copied)]
            (tmp_path / "Dockerfile").write_text("\n".join(steps))
            docker("build", "--quiet", "--tag", ref, str(tmp_path))
        yield
    finally:
        docker("image", "rm", "--force", FIRST, SECOND, AGAIN, BASE_REF, check=False)


def there(*chains: layers.Chain) -> layers.Held:
    """What a classic dockerd would hold with images of these chains."""
    classic = '[["Backing Filesystem","extfs"],["Supports d_type","true"]]'
    return layers.held([classic, *(" ".join([f"sha256:{n}", *chain]) for n, chain in enumerate(chains))])


def packed(*refs: str) -> send.Parcel:
    found = send.parcel(refs, held_without(*refs))
    assert found is not None
    return found


def held_without(*refs: str) -> layers.Held:
    """What this machine would hold without these images."""
    held = send.held(shell)
    others = [chain_of(ref) for ref in (FIRST, SECOND, BASE_REF) if ref not in refs]
    return layers.Held(held.ids - {id_of(ref) or "" for ref in refs}, there(*others).chains)


@pytest.fixture
def fanout() -> Iterator[Fanout]:
    """One daemon plays both ends: a save that was read once is still there when it has lost the images."""
    made = Fanout()
    yield made
    made.close()


def read(fanout: Fanout, names: Iterable[str], dropped: frozenset[str] = frozenset()) -> bytes:
    with fanout.archive(names, dropped) as pieces:
        return b"".join(pieces)


def test_dockerd_names_what_it_holds(two: None) -> None:
    held = send.held(shell)
    assert {id_of(FIRST), id_of(SECOND), id_of(BASE_REF)} <= held.ids
    assert {chain_of(FIRST), chain_of(SECOND), chain_of(BASE_REF)} <= held.chains


def test_a_host_that_has_the_base_gets_only_the_rest(two: None, fanout: Fanout) -> None:
    expected, parcel = id_of(SECOND), packed(SECOND)
    read(fanout, parcel.sent, parcel.dropped)
    docker("image", "rm", "--force", SECOND)
    assert id_of(SECOND) is None
    assert send.send([SECOND], parcel, shell, fanout) < 100_000
    assert id_of(SECOND) == expected


def test_several_images_travel_together(two: None, fanout: Fanout) -> None:
    expected, parcel = (id_of(FIRST), id_of(SECOND)), packed(FIRST, SECOND)
    assert chain_of(FIRST)[-1] == chain_of(SECOND)[-1], "then an older Docker writes a link"
    read(fanout, parcel.sent, parcel.dropped)
    docker("image", "rm", "--force", FIRST, SECOND)
    assert send.send([FIRST, SECOND], parcel, shell, fanout) < 100_000
    assert (id_of(FIRST), id_of(SECOND)) == expected


def test_a_host_that_lost_the_base_gets_the_whole(two: None, fanout: Fanout) -> None:
    expected, parcel = id_of(SECOND), packed(SECOND)
    archive = read(fanout, parcel.sent, parcel.dropped)
    read(fanout, [SECOND])
    docker("image", "rm", "--force", SECOND, FIRST, BASE_REF)
    with pytest.raises(FiefdomError, match="no such file"):
        shell("docker load", [archive])
    assert send.send([SECOND], parcel, shell, fanout) > BASE_BYTES
    assert id_of(SECOND) == expected


def test_a_host_that_has_the_image_only_tags_it(two: None, fanout: Fanout) -> None:
    docker("tag", SECOND, AGAIN)
    parcel = send.parcel([AGAIN], send.held(shell))
    assert parcel is not None and parcel.sent == ()
    docker("image", "rm", AGAIN)
    assert send.send([AGAIN], parcel, shell, fanout) == 0
    assert id_of(AGAIN) == id_of(SECOND)


def test_a_host_without_images_or_without_an_answer_gets_the_whole(two: None) -> None:
    def silent(script: str, pieces: Iterable[bytes]) -> str:
        raise FiefdomError("Cannot connect to the Docker daemon")

    assert send.held(silent) == layers.Held()
    assert send.parcel([SECOND], layers.Held()) is None


def test_what_fails_on_the_host_is_said(two: None, fanout: Fanout) -> None:
    def full(script: str, pieces: Iterable[bytes]) -> str:
        return shell("echo no room >&2; exit 1", pieces)

    with pytest.raises(FiefdomError, match="no room"):
        send.send([SECOND], packed(SECOND), full, fanout)


def test_an_image_that_is_gone_here_is_said(fanout: Fanout) -> None:
    def patient(script: str, pieces: Iterable[bytes]) -> str:
        return shell("cat > /dev/null", pieces)

    with pytest.raises(FiefdomError, match=r"^docker save no/such:1 failed: "):
        send.send(["no/such:1"], None, patient, fanout)


@pytest.fixture
def saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `docker save` was run for, a line each: a program before Docker's own notes it."""
    (tmp_path / "bin").mkdir()
    noted = tmp_path / "saves"
    noted.touch()
    program = tmp_path / "bin/docker"
    program.write_text(f'#!/bin/sh\n[ "$1" = save ] && echo "$*" >> {noted}\nexec {which("docker")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return noted


def test_many_hosts_get_one_save_for_each_set_that_they_miss(two: None, fanout: Fanout, saves: Path) -> None:
    parcel = packed(SECOND)
    saves.write_text("")  # a daemon whose archives must be read to be understood was asked, once
    travelled = [send.send([SECOND], wanted, shell, fanout) for wanted in (parcel, None, parcel, None, None)]
    assert saves.read_text().splitlines() == [f"save {parcel.sent[0]}", f"save {SECOND}"]
    assert travelled[0] == travelled[2] < 100_000 < BASE_BYTES < travelled[1] == travelled[3] == travelled[4]


def test_a_host_that_dies_in_the_middle_leaves_the_others_theirs(two: None, fanout: Fanout, saves: Path) -> None:
    expected, middle = id_of(FIRST), threading.Barrier(2, timeout=60)

    def dying(_: str, pieces: Iterable[bytes]) -> str:
        next(iter(pieces))
        middle.wait()
        raise FiefdomError("the connection broke off")

    def well(script: str, pieces: Iterable[bytes]) -> str:
        first = next(iter(pieces))
        middle.wait()
        return shell(script, [first, *pieces])

    with ThreadPoolExecutor() as hosts:
        dead = hosts.submit(send.send, [FIRST], None, dying, fanout)
        alive = hosts.submit(send.send, [FIRST], None, well, fanout)
        assert alive.result() > BASE_BYTES
        with pytest.raises(FiefdomError, match=r"^the connection broke off$"):
            dead.result()
    assert id_of(FIRST) == expected
    assert saves.read_text().splitlines() == [f"save {FIRST}"]
