"""Process 1 of the gateway's container goes on where a program cannot be started."""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import edges, supervise  # noqa: E402

SETTINGS: Any = SimpleNamespace(serf_config=Path("/nowhere/agent.json"), rpc_addr="127.0.0.1:1")


@pytest.fixture
def no_more_processes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was to be started, at the container's limit of processes."""
    tried: list[str] = []

    async def refuse(program: str, *_: Any, **__: Any) -> None:
        tried.append(program)
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    monkeypatch.setattr(supervise, "AGENT_BACKOFF_S", (0.01,))
    return tried


def test_a_program_that_cannot_be_started_has_failed(no_more_processes: list[str]) -> None:
    with pytest.raises(edges.Failed, match=r"^serf members cannot be started: \[Errno 11\] Resource temporarily"):
        asyncio.run(edges.run(["serf", "members", "-format", "json"], {}, 1.0))


def test_what_cannot_be_started_is_tried_again(no_more_processes: list[str]) -> None:
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(supervise.Agent(SETTINGS).run(), 0.3))
    assert len(no_more_processes) > 2 and set(no_more_processes) == {"serf"}
