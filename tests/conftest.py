"""Shared by all tests. Their support modules are the package `helpers` (see `pythonpath` in pyproject.toml)."""

import sys

import pytest


def pytest_collection_finish() -> None:
    if "fiefdom.engine" in sys.modules:
        raise pytest.UsageError(
            "a test module imports fiefdom.engine, which patches the standard library under all tests"
        )
