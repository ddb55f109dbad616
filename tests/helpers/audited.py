"""Hosts under audit, and the tables of controls that stand in for scanners which cannot be installed here."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pytest
import testinfra
from testinfra.host import Host

from fiefdom import lab
from fiefdom.desired.state import Codename

HOSTS = os.environ.get("FIEFDOM_AUDIT_HOSTS", "gw1 app1 app2").split()
CONFIG = lab.lab_root() / "ssh_config"

SAID: list[str] = []
"""What scanners said in numbers of their own, for the end of the report."""


@dataclass(frozen=True)
class Target:
    """A host under audit, as root sees it."""

    name: str

    @cached_property
    def host(self) -> Host:
        """For pytest-testinfra's questions."""
        return testinfra.get_host(f"ssh://{self.name}?ssh_config={CONFIG}&controlpersist=60")

    def run(self, command: str) -> str:
        """What a command of root's shell prints; fails the test where it fails."""
        done = self.host.run(command)
        assert done.rc == 0, f"{command}: {done.stderr}"
        return done.stdout

    @cached_property
    def codename(self) -> Codename:
        """Debian's name of it."""
        return "bookworm" if self.host.system_info.codename == "bookworm" else "trixie"

    @cached_property
    def address(self) -> str:
        """Where its sshd answers."""
        asked = subprocess.run(["ssh", "-F", str(CONFIG), "-G", self.name], capture_output=True, text=True, check=True)
        return dict(line.split(" ", 1) for line in asked.stdout.splitlines())["hostname"]

    @cached_property
    def sshd(self) -> Mapping[str, str]:
        """What sshd goes by, whatever file it comes from; of keywords that stand twice the last."""
        return dict(line.split(" ", 1) for line in self.run("sshd -T").splitlines() if " " in line)

    def ssh_argv(self, *command: str, user: str = "root") -> list[str]:
        """The ssh call that runs ``command``."""
        return ["ssh", "-F", str(CONFIG), "-l", user, self.name, shlex.join(command)]

    def say(self, scanner: str, text: str) -> None:
        """Keep a scanner's number for the end of the report."""
        SAID.append(f"{scanner}: {self.name} ({self.codename}): {text}")


@dataclass(frozen=True)
class Control:
    """A control of a benchmark: ``wanted`` is true of a host that passes it.

    What Fiefdom does not do has the reason in ``why_not``.
    """

    id: str
    about: str
    wanted: Callable[[Target], bool]
    why_not: str | None = None


def each(controls: Sequence[Control]) -> pytest.MarkDecorator:
    """A test for each control; one that passes although it has a reason not to fails."""
    return pytest.mark.parametrize("control", [_row(c) for c in controls])


def _row(control: Control) -> object:
    marks = [pytest.mark.xfail(reason=control.why_not, strict=True)] if control.why_not else []
    return pytest.param(control, id=control.id, marks=marks)
