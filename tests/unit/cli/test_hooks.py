"""A hook that cannot be run is refused before anybody is asked anything, by the commands that would run it alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import forked
from helpers.inventories import TEXT


def fiefdom(folder: Path, *words: str, acts: str = "") -> tuple[int, str]:
    """How the command ends and what it says, in a process of its own: who goes on loads the engine."""
    path = folder / "x.yaml"
    path.write_text(f"{TEXT}serf: {{key_file: gossip.key}}\nhooks: {{before: nowhere{acts}}}\n")
    done = forked.fiefdom(words[0], str(path), *words[1:], cwd=folder)
    return done.returncode, done.stdout + done.stderr


SAYS = "hooks.before: there is no file nowhere; correct the path, which begins in the inventory's folder\n"


@pytest.mark.parametrize("words", [["rollout"], ["rollout", "web", "--dry"], ["rollback", "web", "--yes"]])
def test_it_is_refused(tmp_path: Path, words: list[str]) -> None:
    assert fiefdom(tmp_path, *words) == (1, f"error: {SAYS}")


ACTS = [["apply", "--yes"], ["reboot"], ["retire", "app1", "--yes"], ["rotate-key", "--yes"], ["upgrade", "--yes"]]


@pytest.mark.parametrize("words", ACTS)
def test_so_are_others_that_would_run_it(tmp_path: Path, words: list[str]) -> None:
    assert fiefdom(tmp_path, *words, acts=f", acts: [{words[0]}]") == (1, f"error: {SAYS}")


@pytest.mark.parametrize("words", [*ACTS, ["plan"]])
def test_others_do_without_it(tmp_path: Path, words: list[str]) -> None:
    code, said = fiefdom(tmp_path, *words)
    assert code == 1 and "there is no gossip key" in said, "which is what they would miss next"


def test_a_check_tells_it(tmp_path: Path) -> None:
    code, said = fiefdom(tmp_path, "check")
    assert code == 1 and said.endswith(f"x.yaml:18: {SAYS}")
