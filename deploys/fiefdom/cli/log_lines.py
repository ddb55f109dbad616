"""Lines of logs as they are printed: with who said it in front, coloured on a terminal, or as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache

from fiefdom.cluster import access
from fiefdom.cluster.logs import Line

Print = Callable[[Line], str]
"""Makes a line's text, without a line break."""

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_DIM, _RED = 2, 31
_SGR = re.compile(r"\x1b\[[0-9;]*m")


def as_json(line: Line) -> str:
    """One JSON object: `time`, `host`, and `instance` with `text`, or with `access`, or `gone` alone."""
    said: dict[str, object] = {"time": _utc(line.at_ns), "host": line.host}
    if not line.container:
        return json.dumps(said | {"gone": line.text})
    found = access.entry(line.container, line.text)
    said["instance"] = line.container
    return json.dumps(said | ({"text": line.text} if found is None else {"access": found}))


@dataclass
class Prefixed:
    """Text with time, host and container in front, each container in its colour."""

    colours: bool = False
    _of: dict[tuple[str, str], int] = field(default_factory=dict)

    def __call__(self, line: Line) -> str:
        """One line that any terminal can print: what it says in colours itself is said without them."""
        at = self._painted(_DIM, _local(line.at_ns))
        if not line.container:
            return f"{at} {self._painted(_RED, f'{line.host} tells no more: {_harmless(line.text)}')}"
        colour = self._of.setdefault((line.host, line.container), _COLOURS[len(self._of) % len(_COLOURS)])
        found = access.entry(line.container, line.text)
        words = _harmless(line.text if found is None else access.in_words(found))
        return f"{at} {self._painted(colour, f'{line.host} {line.container} |')} {words}"

    def _painted(self, colour: int, words: str) -> str:
        return f"\x1b[{colour}m{words}\x1b[0m" if self.colours else words


def _harmless(text: str) -> str:
    text = _SGR.sub("", text).removesuffix("\r")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


def _utc(at_ns: int) -> str | None:
    return f"{_utc_second(at_ns // 10**9)}.{at_ns % 10**9:09d}Z" if at_ns else None


@lru_cache(maxsize=64)
def _utc_second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def _local(at_ns: int) -> str:
    return f"{_local_second(at_ns // 10**9)}.{at_ns % 10**9 // 10**6:03d}" if at_ns else "-" * 18


@lru_cache(maxsize=64)
def _local_second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s).strftime("%m-%d %H:%M:%S")
