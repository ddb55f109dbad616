"""Shared by all tests: their helper modules are importable by name."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "unit"), str(HERE / "lab")]
