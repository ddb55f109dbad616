"""Prometheus' own tool, which judges what Fiefdom tells, asks and alerts on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PROMTOOL = shutil.which("promtool") or "/nonexistent/promtool"


def promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it; what it prints is all in stdout. Where it is missing the test fails with how to have it."""
    if not Path(PROMTOOL).exists():
        raise AssertionError("no promtool on this machine: RUNLEVEL=1 apt install --no-install-recommends prometheus")
    return subprocess.run(
        [PROMTOOL, *arguments],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
