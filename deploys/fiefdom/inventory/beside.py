"""What the rest of an inventory breaks, beside values that cannot be: so that all mistakes are told at once."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fiefdom.model import Problem
from fiefdom.model.draft import Draft
from fiefdom.model.rules import problems_beside as broken_rules
from fiefdom.wording import KeyPath

# What stands for a value that is missing or cannot be, where the model needs one: no rule reads it.
_STAND_INS: dict[str, Any] = {
    "cluster": "unknown",
    "cidr": "0.0.0.0/0",
    "admin_cidrs": ["0.0.0.0/0"],
    "network": {"cidr": "0.0.0.0/0", "admin_cidrs": ["0.0.0.0/0"]},
    "address": "0.0.0.0",  # noqa: S104 -- nobody listens there
    "groups": ["unknown"],
    "image": "unknown",
    "version": "unknown",
}
_ROUNDS_MAX = 20


def problems_beside(raw: Any, details: Iterable[ErrorDetails], meant: Iterable[KeyPath]) -> list[Problem]:
    """What ``raw`` breaks of the rules between keys, with the values of ``details`` unknown.

    ``meant`` are keys that stand there misspelt. Nothing is said that a right value in their place could make untrue.
    """
    rest, unknown = copy.deepcopy(raw), set(meant)
    errors = list(details)
    for _ in range(_ROUNDS_MAX):
        gone: set[KeyPath] = set()
        for detail in errors:
            loc = tuple(detail["loc"])
            # What held it went with a mistake beside it.
            if any(loc[:length] in gone for length in range(1, len(loc) + 1)):
                continue
            keys = _take_out(rest, loc, detail["type"])
            gone.update(keys)
            unknown.update(keys)
        try:
            draft = Draft.model_validate(rest)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        else:
            return broken_rules(draft, unknown)
    return []


def _take_out(rest: Any, loc: KeyPath, kind: str) -> Collection[KeyPath]:
    """Take the value at ``loc`` out of ``rest``, or what holds it; the keys that are unknown for it."""
    if loc[-1:] == ("[key]",):  # as pydantic marks a name that cannot be one
        _delete(rest, loc[:-1])
        return (loc[:-1],)
    if not loc:
        return ()
    at: KeyPath = ()
    around = rest
    for part in loc:
        if not isinstance(around.get(part), dict) or (*at, part) == loc:
            break
        around, at = around[part], (*at, part)
    key = (*at, loc[len(at)]) if len(at) < len(loc) else at
    name = str(key[-1])
    if kind == "extra_forbidden":
        around.pop(name, None)
        return ()
    required = not (name == "groups" and key[:1] == ("services",)) and key[:1] != ("development",)
    if name in _STAND_INS and required:
        around[name] = copy.deepcopy(_STAND_INS[name])
    elif name in around:
        del around[name]
    elif len(at) > 1:
        _delete(rest, at)
    return (key,)


def _delete(rest: Any, key: KeyPath) -> None:
    for part in key[:-1]:
        rest = rest.get(part, {})
    rest.pop(key[-1], None)
