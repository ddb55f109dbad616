"""The command on simulated hosts, for modules whose tests drive both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fiefdom.cli import frame, main
from helpers.simulated import SimulatedHosts


@pytest.fixture
def command(hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The `fiefdom` command on these hosts."""

    @contextmanager
    def connected(inventory: str, *_: Any, **__: Any) -> Iterator[frame.Run]:
        yield frame.Run(inventory, hosts.known, hosts.names, hosts, frame.out())  # type: ignore[arg-type]

    @contextmanager
    def reached(_inventory: str, names: Any, *_: Any) -> Iterator[frame.Reached]:
        cluster = hosts.known.cluster
        if callable(names):
            names(cluster)
        yield frame.Reached(cluster, hosts, {})  # type: ignore[arg-type]

    monkeypatch.setattr(frame, "connected", connected)
    monkeypatch.setattr(frame, "reached", reached)
    return lambda *words: CliRunner().invoke(main.main, [words[0], "inv.yaml", *words[1:]])
