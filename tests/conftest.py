"""Shared by all tests. Their support modules are the package `helpers` (see `pythonpath` in pyproject.toml)."""

import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes, drawn or tried, tells of the machine and of its first import, nothing of a test.
settings.register_profile("fiefdom", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fiefdom")


def pytest_configure() -> None:
    """What is started begins with SIGHUP as usual, also under `nohup`: no shell can trap what it began with ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # a handler is not inherited, and this process still ignores it


def pytest_collection_finish() -> None:
    if "fiefdom.engine" in sys.modules:
        raise pytest.UsageError(
            "a test module imports fiefdom.engine, which patches the standard library under all tests"
        )


def pytest_runtest_teardown(item: pytest.Item) -> None:
    if "fiefdom.engine" in sys.modules:
        pytest.exit(f"{item.nodeid} loads fiefdom.engine, which patches the standard library under all tests", 3)
