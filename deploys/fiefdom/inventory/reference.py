"""The inventory's reference, made from the model: a JSON schema for editors, and a page's table of keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster, SecretSource
from fiefdom.model.passthrough import Tmpfs

BEGIN = "<!-- keys:begin -->"
END = "<!-- keys:end -->"

# What stands for the name in the key path of a mapping by name.
NAMES = {
    **{"hosts": "HOST", "services": "SERVICE", "overrides": "SERVICE"},
    **{"environment": "NAME", "volumes": "NAME", "files": "PATH", "sysctls": "KEY", "registries": "NAME"},
    **{"jobs": "NAME", "certificates": "NAME", "request": "NAME", "response": "NAME"},
}
# Set by the reader of inventories, not by the person.
_INTERNAL = ("base_dir",)


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of an inventory in YAML."""
    body = Cluster.model_json_schema(mode="validation")
    for name in _INTERNAL:
        del body["properties"][name]
    _close(body)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **body,
        "title": "Fiefdom inventory",
    }


def schema_text() -> str:
    """The content of schema/fiefdom.schema.json."""
    return json.dumps(schema(), indent=2) + "\n"


def table() -> str:
    """Every key of an inventory as a Markdown table."""
    lines = ["| key | type | default | what it is |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows(Cluster, "")]
    return "\n".join(lines) + "\n"


def update_page(text: str) -> str:
    """``text`` with the table of keys between its two markers made anew.

    Raises:
        FiefdomError: the markers are not there once each, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise FiefdomError(
            f"docs/inventory.md: the table of keys needs the lines {BEGIN} and {END} once each; put them back"
        )
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def _close(node: object) -> None:
    """Refuse in editors what the model refuses: names that match no pattern, and null where it is only a default."""
    if isinstance(node, dict):
        patterns = node.get("patternProperties", {})
        if patterns and "properties" not in node and "^x-" not in patterns:
            node["additionalProperties"] = False
        for child in node.values():
            _close(child)
    elif isinstance(node, list):
        for child in node:
            _close(child)


def rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        if not prefix and name in _INTERNAL:
            continue
        key = f"{prefix}{name}"
        description = field.description or ""
        inner, by_name = _inner_model(field.annotation)
        if inner is None:
            yield f"`{key}`", _type_words(field), _default(field), description
            continue
        path = f"{key}.{NAMES[name]}" if by_name else key
        kind = "list of mappings" if get_origin(field.annotation) is tuple else "mapping"
        yield f"`{path}`", kind, _default(field), description
        yield from rows(inner, f"{path}.")


def _inner_model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model inside of a field's type, and whether it stands there by name."""
    options = [a for a in get_args(annotation) or (annotation,) if a not in (type(None), Ellipsis)]
    by_name = get_origin(annotation) is dict
    last = options[-1]
    if last is SecretSource:  # told once, in the page's own words
        return None, False
    return (last, by_name) if isinstance(last, type) and issubclass(last, BaseModel) else (None, by_name)


def _type_words(field: FieldInfo) -> str:
    words = _words(field.annotation)
    constraints = [*field.metadata, *_constraints(field.annotation)]
    low = next((c.ge for c in constraints if isinstance(c, annotated_types.Ge)), None)
    above = next((c.gt for c in constraints if isinstance(c, annotated_types.Gt)), None)
    high = next((c.le for c in constraints if isinstance(c, annotated_types.Le)), None)
    if low is not None and high is not None:
        return f"{words}, {low} to {high}"
    if above is not None:
        return f"{words} above {above}" + (f", at most {high}" if high is not None else "")
    return words


def _constraints(annotation: Any) -> list[Any]:
    found = [c for m in getattr(annotation, "__metadata__", ()) for c in getattr(m, "metadata", (m,))]
    for inner in get_args(annotation) if type(None) in get_args(annotation) or found else ():
        found += _constraints(inner)
    return found


def _words(annotation: Any) -> str:
    if hasattr(annotation, "__metadata__"):
        return _words(get_args(annotation)[0])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(a) if isinstance(a, bool) else a}`" for a in arguments)
    if origin is dict:
        return f"mapping to {_words(arguments[1])}"
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    options = [a for a in arguments if a is not type(None)]
    if options:
        return " or ".join(_words(option) for option in options)
    words = {
        SecretSource: "secret",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Any: "value",
        Tmpfs: "mapping",
    }
    return words[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default is PydanticUndefined or field.default is None or field.default == ():
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
