"""What once.sh asks of Docker for a command, where that writes down its words: it is in jobs and in `fiefdom run`."""

from __future__ import annotations

from pathlib import Path


def asked_for(root: Path, name: str, label: str, *command: str) -> set[str]:
    """How a container of this name and label is made to run ``command``, beside what is so for all of them."""
    asked = (root / "asked").read_text().splitlines()
    assert asked[:7] == ["--rm", "--name", name, "--pull", "never", "--label", label]
    end = asked.index("--entrypoint")
    assert asked[end : end + len(command) + 1] == ["--entrypoint", *command]
    return set(asked[7:end])
