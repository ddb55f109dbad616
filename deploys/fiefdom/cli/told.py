"""What a person is told of a word to all gateways, of which some may have missed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fiefdom.cli.frame import Document
from fiefdom.cli.group import CLEAN, SILENT


def document(
    says: Iterable[str], done: Sequence[str], missed: Mapping[str, str], data: Mapping[str, object]
) -> Document:
    """Sentences on what is so now at the gateways that have ``done`` it, and why others did not; ``data`` is --json's
    beside that."""
    words = [*says, *(f"{name}: {why}" for name, why in missed.items())]
    found = {"outcome": "ok", **data, "gateways": list(done), "silent": missed}
    return Document(found, words=words, code=SILENT if missed else CLEAN)
