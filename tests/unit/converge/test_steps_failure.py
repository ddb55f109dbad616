"""How steps.sh tells why a step failed: one sentence, and last words apart from it. systemd is a script here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fiefdom.converge import failure
from fiefdom.converge.steps_script import SCRIPT, Step, steps_text

SYSTEMCTL = """#!/bin/sh
case $1 in
  restart | reload) echo "Job for $2 failed."; echo 'See "systemctl status".'; exit 1 ;;
  is-active) [ ! -e {root}/up ] && echo activating || echo active ;;
esac
"""
JOURNALCTL = """#!/bin/sh
case $* in
  *'-p err'*_SYSTEMD_UNIT=*) cat {root}/errors ;;
  *_SYSTEMD_UNIT=*) cat {root}/said ;;
  *) echo 'systemd: fiefdom-web@8000.service failed'; echo 'systemd: it is over' ;;
esac
"""
REASON = "web-8000: answered 403, wanted 200-399, for 60 s at http://10.1.0.21:8000/health"


class Host:
    """A folder that stands for a host's root, and the words of its journal."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in {"systemctl": SYSTEMCTL, "journalctl": JOURNALCTL, "docker": "#!/bin/sh\nexit 1\n"}.items():
            (root / name).write_text(text.replace("{root}", str(root)))
            (root / name).chmod(0o755)
        self.says()
        (root / "state").mkdir()
        script = SCRIPT.replace("LC_ALL=C PATH=", f"LC_ALL=C PATH={root}:")
        self.script = script.replace("/var/lib/fiefdom", str(root / "state"))

    def says(self, *said: str, errors: tuple[str, ...] = ()) -> None:
        (self.root / "errors").write_text("".join(f"{line}\n" for line in errors))
        (self.root / "said").write_text("".join(f"{line}\n" for line in said))

    def take(self, *steps: Step) -> list[str]:
        words = ["sh", "-c", self.script, "fiefdom"]
        done = subprocess.run(words, input=steps_text(steps), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        return done.stdout.splitlines()

    def failure(self, *steps: Step) -> tuple[str, tuple[str, ...]]:
        return failure.of_lines(self.take(*steps))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


RESTART = ("containers", "restart", "fiefdom-web@8000.service")


def test_the_reason_is_the_supervisors_and_the_log_the_containers_last_words(host: Host) -> None:
    words = [f"| line {i}" for i in range(12)]
    host.says("web-8000: replacing a container", REASON, *words, "web-8000: replacing", errors=("older", REASON))
    why, log = host.failure(RESTART)
    assert why == f"fiefdom-web@8000.service: {REASON.removeprefix('web-8000: ')}"
    assert log == tuple(f"line {i}" for i in range(2, 12))


def test_a_container_that_says_nothing_leaves_what_else_was_said(host: Host) -> None:
    error = "web-8000: docker could not create it"
    host.says("Error response from daemon: no space left", error, errors=(error,))
    assert host.failure(RESTART) == (
        "fiefdom-web@8000.service: docker could not create it",
        ("Error response from daemon: no space left",),
    )


def test_where_nobody_says_why_systemds_own_words_are_all_there_is(host: Host) -> None:
    assert host.failure(RESTART) == (
        "fiefdom-web@8000.service: did not restart",
        ("systemd: fiefdom-web@8000.service failed", "systemd: it is over"),
    )


def test_another_containers_reason_keeps_its_name(host: Host) -> None:
    """An agent waits for the instances of its host."""
    host.says(errors=(REASON,))
    assert (
        host.failure(("containers", "restart", "fiefdom-serf-agent.service"))[0]
        == f"fiefdom-serf-agent.service: {REASON}"
    )


def test_a_reload_that_failed_says_why_although_the_old_one_serves_on(host: Host) -> None:
    (host.root / "up").touch()
    error = "gateway: the successor ended before it had taken over; the old one stays"
    host.says("| no such key", error, errors=(error,))
    why, log = host.failure(("containers", "reload", "fiefdom-gateway.service"))
    assert why == "fiefdom-gateway.service: the successor ended before it had taken over; the old one stays"
    assert log == ("no such key",)
    host.says()
    why, log = host.failure(("containers", "reload", "fiefdom-gateway.service"))
    assert (why, log) == (
        "fiefdom-gateway.service: reload failed: Job for fiefdom-gateway.service failed.",
        ('See "systemctl status".',),
    )


def test_a_unit_that_is_no_containers_has_systemctls_first_line_for_a_reason(host: Host) -> None:
    why, log = host.failure(("unit", "ssh.service", "restart", "-", "-"))
    assert why == "ssh.service: restart failed: Job for ssh.service failed."
    assert log == ('See "systemctl status".', "systemd: fiefdom-web@8000.service failed", "systemd: it is over")


def test_damaged_layers_are_told_with_what_to_do_first(host: Host) -> None:
    host.says("error creating overlay mount", errors=("web-8000: docker could not start it",))
    why, log = host.failure(RESTART)
    assert why.startswith("fiefdom-web@8000.service: Docker has broken files of ") and why.endswith(", and apply again")
    assert log == ("docker could not start it", "error creating overlay mount")


def test_what_the_reason_holds_beyond_its_first_line_is_told_below_it(host: Host) -> None:
    refused = ("check", "/srv/x", "sh", "-c", "echo line 3: no such word; printf '\\n  ^\\tX\\n'; exit 1")
    stage = ("stage", "/srv/x", "0644", "0", "0", "-")
    lines = host.take(stage, refused)
    assert lines[-1] == "fiefdom-failed\t/srv/x\trefused by sh: line 3: no such word"
    assert [line for line in lines if line.startswith("fiefdom-log")] == ["fiefdom-log\t/srv/x\t  ^ X"]


def test_last_words_are_as_any_terminal_can_print_them() -> None:
    lines = ["fiefdom-log\tx\t\x1b[31mred\tX", "fiefdom-log\tx\t ", "fiefdom-failed\tx\twhy", "fiefdom-failed\ty\tno"]
    assert failure.of_lines(lines) == ("x: why", ("\\x1b[31mred X",))
    assert failure.of_lines(["done\tx"]) == ("", ())
