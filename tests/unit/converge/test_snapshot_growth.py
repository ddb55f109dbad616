"""What a look costs a host grows with what is there, and not with its square: processor time of the script itself."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fiefdom.converge import snapshot
from fiefdom.desired.state import File, HostState, Unit

DOCKER = """#!/bin/sh
case $1 in
  ps) cat "$ROOT/containers" ;;
  image) cat "$ROOT/listed" ;;
  inspect) shift 3; printf 'used\\t%s\\n\\n' "$@" ;;
  *) exit 1 ;;
esac
"""
PROGRAMS = {"docker": DOCKER, "id": "#!/bin/sh\necho 0\n", "systemctl": '#!/bin/sh\ncat "$ROOT/units"\n'}
BEFORE_UNITS = "ActiveState=inactive\n\n" * 2


def host(root: Path) -> None:
    """A host whose state lies in ``root``, with a Docker and a systemd that say what stands in files there."""
    for name, text in PROGRAMS.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    for name in ("containers", "listed"):
        (root / name).write_text("")
    (root / "units").write_text(BEFORE_UNITS)
    (root / "state/stamps").mkdir(parents=True)
    (root / "etc").mkdir()


def look(root: Path, state: HostState) -> tuple[list[str], float]:
    """The script's records, and the processor seconds that it took, its children's too."""
    script = snapshot.SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={root}:")
    ours = f"{root}/state"
    script = script.replace("/var/lib/fiefdom", ours)
    script = script.replace(r"\/var\/lib\/fiefdom", ours.replace("/", r"\/"))  # in patterns of awk
    env = {"PATH": f"{root}:{os.environ['PATH']}", "ROOT": str(root)}
    words = ["sh", "-c", script, "fiefdom", "10.0.0.9 50000 10.0.0.1 22"]
    query = snapshot.query([state])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, input=query, env=env, capture_output=True, text=True, check=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout.splitlines(), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def paths(root: Path, count: int) -> list[Path]:
    return [root / f"etc/a-file-with-a-name-{number}.conf" for number in range(count)]


def missing(root: Path, count: int) -> HostState:
    (root / "state/manifest").write_text("".join(f"file\t{path}\n" for path in paths(root, count)))
    return HostState(files=tuple(File(str(path), b"") for path in paths(root, count)))


def files(root: Path, count: int) -> HostState:
    for path in paths(root, count):
        path.touch()
    return missing(root, count)


def originals(root: Path, count: int) -> HostState:
    """Each has taken the place of what was there."""
    for path in paths(root, count):
        kept = Path(f"{root}/state/originals{path}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("before\n")
    return files(root, count)


def stamps(root: Path, count: int) -> HostState:
    for number in range(count):
        (root / f"state/stamps/{number}.service").write_text("abc -\n")
    return HostState()


def units(root: Path, count: int) -> HostState:
    names = [f"web@{number}.service" for number in range(count)]
    said = "".join(f"\nId={name}\nLoadState=loaded\nActiveState=active\nSubState=running\n" for name in names)
    (root / "units").write_text(BEFORE_UNITS.rstrip("\n") + "\n" + said)
    return HostState(units=tuple(map(Unit, names)))


def others_containers(root: Path, count: int) -> HostState:
    lines = (f"id{number:062x}\t\tby-hand-{number}\tUp 3 days\t\n" for number in range(count))
    (root / "containers").write_text("".join(lines))
    return HostState()


def others_images(root: Path, count: int) -> HostState:
    (root / "listed").write_text("".join(f"sha256:{number:064x}\t<none>\t<none>\n" for number in range(count)))
    return HostState()


@pytest.mark.long
@pytest.mark.parametrize(
    ("made", "record"),
    [
        (missing, "made\t"),
        (files, "digest\t"),
        (originals, "original\t"),
        (stamps, "stamp\t"),
        (units, "unit\tId="),
        (others_containers, "used\tid"),
        (others_images, "used\tsha256:"),
    ],
)
def test_ten_times_as_many_cost_ten_times_as_much_at_most(
    tmp_path_factory: pytest.TempPathFactory, made: Callable[[Path, int], HostState], record: str
) -> None:
    """With their square it would be 100 times; 20 leave room for a busy machine."""
    seconds = []
    for count in (2_000, 20_000):
        root = tmp_path_factory.mktemp("host")  # short, for paths of all stamps are arguments
        host(root)
        lines, took = look(root, made(root, count))
        assert sum(line.startswith(record) for line in lines) == count
        seconds.append(took)
    assert seconds[1] < 20 * seconds[0], seconds
