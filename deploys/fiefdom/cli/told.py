"""What a person is told of a word to all gateways, of which some may have missed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fiefdom.cli.frame import Document
from fiefdom.cli.group import CLEAN, SILENT


def document(says: str, gateways: Iterable[str], missed: Mapping[str, str], data: Mapping[str, object]) -> Document:
    """``says`` what is so now at those of ``gateways`` that did not miss it; ``data`` is --json's beside that."""
    done = [name for name in gateways if name not in missed]
    words = [f"{says} at {', '.join(done)}."]
    words += [f"{name}: {why}; as it is until it answers: say this again then" for name, why in missed.items()]
    found = {"outcome": "ok", **data, "gateways": done, "silent": missed}
    return Document(found, words=words, code=SILENT if missed else CLEAN)
