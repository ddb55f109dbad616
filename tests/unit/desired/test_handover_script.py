"""How the supervisor comes to its handing over: without it, and while an apply replaces both; docker is a script here.

What handing over does is in tests/lab/test_container_script.py, with containers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fiefdom.desired.containers import conf_file
from fiefdom.desired.state import Container, HostState
from helpers.programs import place_handover, place_supervisor

DOCKER = """#!/bin/sh
cd {root} || exit
echo "$*" >>log
case $1:$* in
  image:*) echo sha256:1 ;;
  inspect:*'--format {{.Config.User}} '*) echo 1000:1000 ;;
  inspect:*.next) exit 1 ;;
  inspect:*)
    [ -e spec ] || exit 1
    printf 'true {pid} 0 sha256:1 %s\\nfacts\\n[]\\n' "$(cat spec)" ;;
  create:*) sed -n 's/^spec //p' web.conf >spec ;;
  exec:*) exit 126 ;;
esac
"""
WEB = Container("web", "web.service", "gateway", "team/web:7", ())


@dataclass
class Web:
    """A supervisor of a container whose process is a `sleep`, and which answers nothing that it is asked inside."""

    root: Path
    process: subprocess.Popen[bytes]
    container: Container = WEB
    run: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        (self.root / "bin").mkdir()
        docker = DOCKER.replace("{root}", str(self.root)).replace("{pid}", str(self.process.pid))
        for name, text in {"docker": docker, "curl": "#!/bin/sh\n"}.items():
            (self.root / "bin" / name).write_text(text)
            (self.root / "bin" / name).chmod(0o755)
        # A root's process is refused; whose this one is depends on who runs the tests.
        script = place_supervisor(self.root)
        script.write_text(script.read_text().replace("/proc/$pid/status", "/dev/null"))
        self.write()

    def write(self) -> None:
        (self.root / "web.conf").write_bytes(conf_file(self.container, HostState()).content)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        own = {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        others = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        command = [str(self.root / "container"), *words]
        return subprocess.Popen(command, env=others | own | environment, stderr=subprocess.PIPE, text=True)

    def serve(self, *words: str) -> None:
        self.run = self.start("run", "web", *words)
        eventually(lambda: "start web" in self.asked())
        # It waits for the container's process, and so has taken all that comes before.
        eventually(lambda: f"--pid={self.process.pid}" in children(self.run.pid))

    def ended(self) -> str:
        """What it said, once it was told to stop."""
        self.run.terminate()
        _, said = self.run.communicate(timeout=20)
        assert self.run.returncode == 0
        return said

    def asked(self) -> list[str]:
        log = self.root / "log"
        return log.read_text().splitlines() if log.exists() else []


def eventually(condition: Callable[[], object], timeout_s: float = 20) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "timed out"
        time.sleep(0.02)


def children(pid: int) -> str:
    """Command lines of a process's children."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = (Path(f"/proc/{child}/cmdline") for child in pids)
    return " ".join(line.read_text().replace("\0", " ") for line in lines if line.exists())


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with subprocess.Popen(["sleep", "300"]) as process:
        it = Web(tmp_path, process)
        try:
            yield it
        finally:
            process.kill()
            process.wait()  # what waits for it ends only then
            if hasattr(it, "run"):
                it.run.kill()
                it.run.communicate()


def test_a_container_without_successors_asks_for_none(web: Web) -> None:
    place_handover(web.root)
    web.serve()
    assert web.ended() == ""
    assert not [line for line in web.asked() if line.startswith(("ps", "exec", "rename")) or ".next" in line]


def test_one_that_has_lost_its_handing_over_serves_and_says_so(web: Web) -> None:
    web.serve("heir")
    assert web.ended() == f"{web.root}/handover is missing: no successor can take over from this one\n"
    assert "stop web" in web.asked()


def test_a_reload_without_a_handing_over_says_so_and_reaches_no_run(web: Web) -> None:
    web.serve("heir")
    reload = web.start("reload", "web", MAINPID=str(web.run.pid))
    _, said = reload.communicate(timeout=20)
    assert (reload.returncode, said) == (1, f"{web.root}/handover is missing\n")
    assert web.run.poll() is None


def test_a_run_goes_on_with_the_scripts_that_it_began_with(web: Web) -> None:
    place_handover(web.root)
    web.serve("heir")
    for name in ("container", "handover"):
        # As an apply places a file; not a word of either is the same.
        (web.root / "new").write_text("exit 9\n" * 4096)
        (web.root / "new").replace(web.root / name)
    web.container = replace(WEB, args=("--read-only",))
    web.write()
    (web.root / "stamps" / ".web.reload").write_text("ticket\n")
    web.run.send_signal(signal.SIGHUP)
    verdict = web.root / "stamps" / ".web.verdict"
    eventually(verdict.exists)
    assert verdict.read_text() == "ticket it does not answer whether it would hand over\n"
    assert "exec web heir lends" in web.asked()
    assert web.ended() == "web: it does not answer whether it would hand over; the old one stays\n"
