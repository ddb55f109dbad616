"""Shared by all tests: their helper modules are importable by name."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "unit"), str(HERE / "lab")]


def pytest_collection_finish() -> None:
    if "fiefdom.engine" in sys.modules:
        raise pytest.UsageError(
            "a test module imports fiefdom.engine, which patches the standard library under all tests"
        )
