"""Lines of a Python file in which its variables, and the keys in them, are written."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from fiefdom.wording import KeyPath


def lines_of(text: str) -> dict[KeyPath, int]:
    """Line of each variable at the top of ``text`` and of each key and entry that stands in its value, the last holds.

    What is computed has the line of what stands around it: a key of a comprehension is not in the result.
    """
    found: dict[KeyPath, int] = {}
    for key, line in _of_statements(ast.parse(text).body):
        found[key] = line
    return found


def _of_statements(body: list[ast.stmt]) -> Iterator[tuple[KeyPath, int]]:
    for statement in body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                yield from _assigned(target, statement.value)
        elif isinstance(statement, ast.AnnAssign | ast.AugAssign) and statement.value is not None:
            yield from _assigned(statement.target, statement.value)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for part in ("body", "handlers", "orelse", "finalbody"):  # of if, for, with, try
                for inner in getattr(statement, part, []):
                    yield from _of_statements(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(target, ast.Tuple | ast.List):
        values = value.elts if isinstance(value, ast.Tuple | ast.List) else [value] * len(target.elts)
        for one, its in zip(target.elts, values, strict=False):
            yield from _assigned(one, its)
    elif (key := _key_of(target)) is not None:
        yield key, target.lineno
        yield from _inside(value, key)


def _key_of(target: ast.expr) -> KeyPath | None:
    """``docker["nofile"]`` as a key path."""
    if isinstance(target, ast.Name):
        return (target.id,)
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        above, name = _key_of(target.value), target.slice.value
        return (*above, name) if above is not None and isinstance(name, str | int) else None
    return None


def _inside(value: ast.expr, key: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(value, ast.Dict):
        for name, its in zip(value.keys, value.values, strict=True):
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield (*key, name.value), name.lineno
                yield from _inside(its, (*key, name.value))
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "dict":
        for keyword in value.keywords:
            if keyword.arg is not None:
                yield (*key, keyword.arg), keyword.lineno
                yield from _inside(keyword.value, (*key, keyword.arg))
    elif isinstance(value, ast.List | ast.Tuple):
        for i, its in enumerate(value.elts):
            yield (*key, i), its.lineno
            yield from _inside(its, (*key, i))
