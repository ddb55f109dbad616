"""Gateways that are folders of this machine, each with a ledger that its real script writes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiefdom.cluster import locking
from fiefdom.errors import FiefdomError
from helpers.simulated import broken_off

GATEWAYS = ("gw1", "gw2")
APPS = ("app1", "app2")


def nothing(name: str, verb: str) -> None:
    """The usual thing that happens before and after a call."""


@dataclass
class Gateways:
    """Hosts whose /var/lib is a folder each, reached by a real sh; ``before`` and ``after`` see every call."""

    root: Path
    down: set[str] = field(default_factory=set)
    before: Callable[[str, str], None] = nothing
    after: Callable[[str, str], None] = nothing
    background: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    limit_file: int = resource.RLIM_INFINITY
    names: tuple[str, ...] = GATEWAYS

    def script(self, name: str, text: str, arguments: Sequence[str], stdin: str = "") -> tuple[bool, str, str]:
        verb, folder, *rest = arguments
        assert folder == "/var/lib/fiefdom/ledger"
        self.before(name, verb)
        if name in self.down:
            raise broken_off(name)
        done = subprocess.run(
            # engine.Session adds where the operator comes from as the last argument.
            ["sh", "-c", text, "fiefdom", verb, str(self.folder(name)), *rest, "10.0.0.1 5 10.0.0.2 22"],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=self.limit if self.limit_file != resource.RLIM_INFINITY else None,
        )
        self.after(name, verb)
        return done.returncode == 0, done.stdout.rstrip("\n"), done.stderr

    def limit(self) -> None:
        """Of the child alone. Python starts one that runs this by copying all of the worker's memory, not by vfork."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit_file, resource.RLIM_INFINITY))

    def on_all(self, function: Callable[[str], Any], names: Iterable[str] | None = None) -> dict[str, Any]:
        values, errors = {}, []
        for name in GATEWAYS if names is None else names:
            try:
                values[name] = function(name)
            except FiefdomError as error:
                errors.append(str(error))
        if errors:
            raise FiefdomError("; ".join(errors))
        return values

    @contextmanager
    def every(self, seconds: float, function: Callable[[], None]) -> Iterator[None]:
        self.background.append((seconds, function))
        yield
        self.background.pop()

    def folder(self, name: str) -> Path:
        return self.root / name / "fiefdom" / "ledger"

    def lock_file(self, name: str) -> Path:
        return self.folder(name) / "lock"

    def locked(self) -> list[str]:
        return [name for name in GATEWAYS if self.lock_file(name).exists()]

    def silence(self, seconds: float, *names: str) -> None:
        for name in names or GATEWAYS:
            path = self.lock_file(name)
            at = path.stat().st_mtime - seconds
            os.utime(path, (at, at))

    def audit(self, name: str) -> list[dict[str, Any]]:
        path = self.folder(name) / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def no_warning(text: str) -> None:
    raise AssertionError(text)


def hold(hosts: Gateways, who: str = "ann@desk", why: str = "rollout predictor 1.0.0 -> 1.1.0", **options: Any) -> Any:
    return locking.hold(hosts, GATEWAYS, who, why, **{"warn": no_warning, **options})
