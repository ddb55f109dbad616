"""Words of hosts, which are only ever shown, compared or dropped."""

from __future__ import annotations

import re

from fiefdom.wording import printable

WORDS_MAX = 200


def words(value: object) -> str:
    return printable(text(value)[: 2 * WORDS_MAX])[:WORDS_MAX]


def text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def match(pattern: re.Pattern[str], value: object) -> str:
    if not pattern.fullmatch(text(value)):
        raise ValueError(value)
    return str(value)
