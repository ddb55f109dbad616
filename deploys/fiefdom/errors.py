"""The one exception a person can cause: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations


class FiefdomError(Exception):
    """Bad input or a refused action. The command line prints the sentence and exits 1, without a traceback."""
