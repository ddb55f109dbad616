"""Shared by all tests. Their support modules are the package `helpers` (see `pythonpath` in pyproject.toml)."""

import signal
import sys

import pytest


def pytest_configure() -> None:
    """What is started begins with SIGHUP as usual, also under `nohup`: no shell can trap what it began with ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # a handler is not inherited, and this process still ignores it


def pytest_collection_finish() -> None:
    if "fiefdom.engine" in sys.modules:
        raise pytest.UsageError(
            "a test module imports fiefdom.engine, which patches the standard library under all tests"
        )
