"""What the model refuses, as a person needs it: file, line, key, what is wrong and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fiefdom.inventory.beside import problems_beside
from fiefdom.inventory.written import Mistake, Origin, Written
from fiefdom.model import Cluster, Problem
from fiefdom.wording import KeyPath, shown

_UNKNOWN = "extra_forbidden"  # pydantic's name for it
_UNKNOWN_KEY = "unknown key; "
_FEW = 3
"""Keys that are named as what may be meant; of more, all that are known say as much."""
_LEAST_BEGIN = 3
"""Letters of a key that tell which one they are the beginning of."""
# Keys that people expect under another name, from Compose files and other tools.
_MEANT = {
    "tag": "version",
    "env": "environment",
    "replicas": "instances",
    "scale": "instances",
    "count": "instances",
    "ports": "base_port",
    "port": "base_port",
    "ip": "address",
    "group": "groups",
    "healthcheck": "health",
    "memory": "memory_mib",
    "mem": "memory_mib",
    "cpu": "cpus",
    "ulimit": "nofile",
    "key_file": "key",
    "identity_file": "key",
    "name": "cluster",
    "mounts": "volumes",
    "configs": "files",
    "source": "host",
    "target": "path",
    "content": "text",
    "haproxy": "gateway",
    "ntp": "time_servers",
    "apt": "packages",
}


def mistakes_of(error: ValidationError, written: Written) -> list[Mistake]:
    """Each of ``error``'s complaints, and what the rest of the inventory breaks of the rules between keys."""
    details = error.errors(include_url=False)
    # A key that is missing because its name is misspelt is one mistake.
    unknown = [d["loc"] for d in details if d["type"] == _UNKNOWN]
    unknown += [mistake.key for mistake in written.mistakes if mistake.says.startswith(_UNKNOWN_KEY)]
    misspelt = {loc: _close(loc[-1], known_keys(loc[:-1])) for loc in unknown}
    meant: set[KeyPath] = {(*loc[:-1], name) for loc, name in misspelt.items() if name is not None}
    told = [d for d in details if not (d["type"] == "missing" and d["loc"] in meant)]
    # Of a list pydantic says that it is empty where no entry of it can be.
    lists = {d["loc"][:-1] for d in details}
    told = [d for d in told if not (d["type"] == "too_short" and d["loc"] in lists)]
    # What is missing for now may stand where a mistake keeps it from being read.
    hidden = any(mistake.hides for mistake in written.mistakes)
    told = [d for d in told if not (d["type"] in ("missing", "inconsistent") and hidden)]
    problems = [problem for detail in told for problem in _problems(detail, written)]
    if not hidden and not any(d["type"] == "inconsistent" for d in details):
        problems += problems_beside(written.value, details, meant)
    known_already = {mistake.key for mistake in written.mistakes}
    return [Mistake(written.origin(key), key, says) for key, says in problems if key not in known_already]


def unknown_key(name: object, known: Iterable[str], beneath: Iterable[str] = ()) -> str:
    """What to say of a key that does not exist where ``known`` do, and ``beneath`` them those of `keys_beneath`."""
    names = list(known)
    if not isinstance(name, str):
        return f"a key must be text, not {shown(name)}; put it in quotes"
    meant = _meant(name, names, [key for key in dict.fromkeys(beneath) if key.partition(".")[0] in names])
    if 0 < len(meant) <= _FEW:
        return f"{_UNKNOWN_KEY}did you mean {' or '.join(meant)}?"
    return f"{_UNKNOWN_KEY}known here are {', '.join(names)}"


def _meant(name: str, known: list[str], beneath: list[str]) -> list[str]:
    """Which of the keys here, or of those one level deeper, ``name`` may stand for."""
    text = name.lower().replace("-", "_")
    ends = {key: key.rpartition(".")[2] for key in [*known, *beneath]}
    if (expected := _MEANT.get(text)) in known:
        return [expected]
    if exact := [key for key in beneath if ends[key] == text]:
        return exact
    if close := _close(name, known):
        return [close]
    return with_word(text, ends) or [k for k in beneath if difflib.get_close_matches(text, [ends[k]], cutoff=0.8)]


def with_word(name: str, keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` whose last part begins with the words of ``name`` (memory of memory_mib); else those that have
    them in it; else those that begin with its letters, where these are several.
    """
    text = name.lower().replace("-", "_")
    words = text.split("_")
    ends = {key: key.rpartition(".")[2] for key in keys}
    return (
        [key for key, end in ends.items() if end.split("_")[: len(words)] == words]
        or [key for key, end in ends.items() if set(words) <= set(end.split("_"))]
        or [key for key, end in ends.items() if len(text) >= _LEAST_BEGIN and end.startswith(text)]
    )


def _close(name: object, known: list[str]) -> str | None:
    text = str(name).lower()
    close = difflib.get_close_matches(text.replace("-", "_"), known, n=1, cutoff=0.7)
    return close[0] if close else _MEANT[text] if _MEANT.get(text) in known else None


def known_keys(key: KeyPath) -> list[str]:
    """Keys that a person may write in the mapping at ``key``, which may be text as well."""
    found = _type_at(key)
    models = [one for one in (found, *get_args(found)) if isinstance(one, type) and issubclass(one, BaseModel)]
    return [name for model in models[:1] for name in model.model_fields if name != "base_dir"]


def keys_beneath(key: KeyPath) -> list[str]:
    """Keys in the mappings that stand in the one at ``key``, such as `limits.memory_mib` of a service.

    What stands beneath a name of the person's, or in a list, is not among them.
    """
    inner = {name: _type_at((*key, name)) for name in known_keys(key)}
    models = {name: found for name, found in inner.items() if isinstance(found, type) and issubclass(found, BaseModel)}
    return [f"{name}.{word}" for name in models for word in known_keys((*key, name))]


def _problems(detail: ErrorDetails, written: Written) -> Iterator[Problem]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "inconsistent":
        yield from context["all"]
        return
    # pydantic marks an error of a mapping's key, or of a mapping that is none, by a last step of its own.
    key: KeyPath = tuple(part for part in detail["loc"] if part != "[key]")
    if kind == _UNKNOWN:
        yield key, unknown_key(key[-1], known_keys(key[:-1]), keys_beneath(key[:-1]))
    elif kind == "missing":
        field = getattr(_type_at(key[:-1]), "model_fields", {}).get(key[-1])
        meaning = f" ({field.description.rstrip('.')})" if field is not None and field.description else ""
        yield key, f"missing; add `{key[-1]}`{meaning}"
    else:
        yield key, _says(kind, detail, written.origin(key))


def _says(kind: str, detail: ErrorDetails, origin: Origin) -> str:
    value, context = detail["input"], detail.get("ctx", {})
    says = _SAYS.get(kind, f"{detail['msg']}, not {{given}}")
    return (says if isinstance(says, str) else says(value, context, origin)).replace("{given}", _described(value))


def _not_text(value: object, _: Mapping[str, Any], origin: Origin) -> str:
    if isinstance(value, dict | list | tuple | None):
        return "must be text, not {given}"
    text = origin.text if origin.text is not None else str(value) if isinstance(value, bool | float) else "..."
    return f'must be text, not {{given}}; put it in quotes: "{text}"'


def _not_a_number(value: object, _: Mapping[str, Any], __: Origin) -> str:
    return "must be a number, not {given}" + ("; take the quotes away" if _is_number(value) else "")


def _not_whole(value: object, _: Mapping[str, Any], __: Origin) -> str:
    return "must be a whole number, not {given}" + ("; take the quotes away" if _is_number(value) else "")


def _not_in_range(value: object, context: Mapping[str, Any], _: Origin) -> str:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    bound = next(name for name in words if name in context)
    return f"must be {words[bound]} {context[bound]}, not {shown(value)}"


def _not_a_choice(value: object, context: Mapping[str, Any], _: Origin) -> str:
    choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
    close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"must be {context['expected'].replace('True', 'true')}, not {{given}}" + (
        f"; did you mean {close[0]}?" if close else ""
    )


def _not_a_list(value: object, _: Mapping[str, Any], __: Origin) -> str:
    how = ", with a dash before each entry" if isinstance(value, dict) else " such as [a, b]"
    return f"must be a list{how}, not {{given}}"


_A_MAPPING = "must be a mapping of keys to values, not {given}"
_SAYS: Mapping[str, str | Callable[[object, Mapping[str, Any], Origin], str]] = {
    "value_error": lambda _, context, __: str(context["error"]),
    "string_type": _not_text,
    "string_unicode": "must be text that can be written as UTF-8",
    "int_type": _not_whole,
    "int_from_float": _not_whole,
    "float_type": _not_a_number,
    "finite_number": "must be a finite number, not {given}",
    "bool_type": "must be true or false, not {given}",
    "dict_type": _A_MAPPING,
    "model_type": _A_MAPPING,
    "tuple_type": _not_a_list,
    "too_short": "is empty; it needs at least one entry",
    "greater_than": _not_in_range,
    "greater_than_equal": _not_in_range,
    "less_than": _not_in_range,
    "less_than_equal": _not_in_range,
    "literal_error": _not_a_choice,
}


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdigit()


def _described(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {shown(value)}"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def _type_at(key: KeyPath) -> Any:
    """The model class whose mapping stands at ``key``, or another type on the way."""
    found: Any = Cluster
    for part in key:
        found = _plain_type(found)
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            found = field.annotation if field is not None else None
        elif get_origin(found) is tuple:
            found = get_args(found)[0]
        else:
            found = get_args(found)[-1] if get_origin(found) is dict else None
    return _plain_type(found)


def _plain_type(annotation: Any) -> Any:
    """``annotation`` without Annotated, and without None beside it."""
    if hasattr(annotation, "__metadata__"):
        return _plain_type(get_args(annotation)[0])
    if get_origin(annotation) is dict or annotation is None:
        return annotation
    options = [a for a in get_args(annotation) if a is not type(None)]
    return _plain_type(options[0]) if len(options) == 1 and type(None) in get_args(annotation) else annotation
