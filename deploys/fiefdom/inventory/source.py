"""Inventory files to plain values that remember the file and line they were written in."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from fiefdom.errors import FiefdomError
from fiefdom.wording import KeyPath, dotted, printable, shown

# Aliases let a few lines stand for millions of values; no inventory of ours comes near this many.
_VALUES_MAX = 200_000
_DEPTH_MAX = 50
_SECRETS = (("serf", "key"), ("registry", "password"))
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str
    line: int | None = None
    text: str | None = None
    """A scalar as it stands in the file: YAML reads 1.10 as 1.1."""
    rank: int = 0
    """Files of a higher rank are told of later."""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Written:
    """Values as a person wrote them, and where."""

    value: Any
    origins: Mapping[KeyPath, Origin] = field(repr=False)

    def origin(self, key: KeyPath) -> Origin:
        """Where ``key`` was written, or the nearest mapping around it."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.origins:
                return self.origins[key[:end]]
        return Origin("inventory")

    def at(self, *prefix: str) -> Written:
        """The same values as they stand inside of ``prefix``."""
        value = self.value
        for part in reversed(prefix):
            value = {part: value}
        return Written(value, {prefix + key: origin for key, origin in self.origins.items()})

    def sub(self, *prefix: str) -> Written:
        """The values inside of ``prefix``, which is there."""
        value = self.value
        for part in prefix:
            value = value[part]
        size = len(prefix)
        return Written(value, {key[size:]: o for key, o in self.origins.items() if key[:size] == prefix})

    def only(self, *names: str) -> Written:
        """The mapping with these of its keys."""
        value = {k: v for k, v in self.value.items() if k in names}
        return Written(value, {key: o for key, o in self.origins.items() if not key or key[0] in names})

    def over(self, under: Written) -> Written:
        """These values on top of ``under``: mappings are merged at every depth, all else replaces."""
        return Written(_merged(under.value, self.value), {**under.origins, **self.origins})


def _merged(under: object, over: object, at: KeyPath = ()) -> object:
    # A secret has one source; `{env: X}` on top of `{command: [...]}` replaces it.
    is_source = at[-2:] in _SECRETS or (at[-4:-3] == ("services",) and at[-2:-1] == ("environment",))
    if isinstance(under, dict) and isinstance(over, dict) and not is_source:
        both = {key: _merged(value, over[key], (*at, key)) if key in over else value for key, value in under.items()}
        return {**both, **{key: value for key, value in over.items() if key not in under}}
    return over


def read_text(path: str | Path) -> str:
    """The text of ``path``.

    Raises:
        FiefdomError: it cannot be read, with what to do.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            kind = "a folder; name a file in it" if Path(path).is_dir() else "not a file"
            raise FiefdomError(f"{_name(path)}: this is {kind}{_nearby(Path(path))}")
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FiefdomError(f"{_name(path)}: no such file{_nearby(Path(path))}") from error
    except UnicodeDecodeError as error:
        raise FiefdomError(f"{_name(path)}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except PermissionError as error:
        raise FiefdomError(f"{_name(path)}: you may not read it; check its owner and mode") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FiefdomError(f"{_name(path)}: cannot be read ({reason}); check the path") from error


def _name(path: str | Path) -> str:
    text = str(path)
    return text if text.isprintable() and text else ascii(text)


def _nearby(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    try:
        there = sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml", ".py"))
    except OSError:
        return f"; the folder {_name(folder)} is not there either" if not path.is_dir() else ""
    if path.is_dir():
        return f", such as {there[0]}" if there else ""
    close = difflib.get_close_matches(path.name, there, n=1) or [n for n in there if Path(n).stem == path.stem]
    if close:
        return f"; did you mean {_name(folder / close[0])}?"
    return f"; {_name(folder)} has {', '.join(there)}" if there else "; check the path"


def read_yaml(path: str | Path) -> Written:
    """The YAML mapping in ``path``, refusing duplicate keys and numbers that YAML reads in surprising ways.

    Raises:
        FiefdomError: it cannot be read, is not YAML, or is no mapping.
    """
    file, text = _name(path), read_text(path)
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None or node.tag == "tag:yaml.org,2002:null":
                raise FiefdomError(f"{file}: the inventory is empty; start from inventories/production.example.yaml")
            if not isinstance(node, yaml.MappingNode):
                kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
                raise FiefdomError(
                    f"{file}:{node.start_mark.line + 1}: the inventory is {kind}; "
                    "write a mapping that begins like `cluster: NAME`"
                )
            walk = _Walk(file, loader)
            return Written(walk.value(node, ()), walk.origins)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        raise FiefdomError(f"{where}: not valid YAML: {_problem(error)}") from error
    except yaml.YAMLError as error:
        raise FiefdomError(f"{file}: not valid YAML: {printable(str(error))}; save it as plain text") from error
    except RecursionError as error:
        raise FiefdomError(f"{file}: nested too deeply; an inventory is at most {_DEPTH_MAX} levels deep") from error


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = printable(error.problem or "syntax error")
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces"
    if "expected a single document" in (error.context or ""):
        return "a second document begins with `---`; an inventory is one document"
    if "constructor for the tag" in problem:
        return f"{problem}; take the tag out"
    if "mapping values are not allowed" in problem:
        return "a second `:` in the line, or wrong indentation; put the value in quotes or mend the indentation"
    context = f" {printable(error.context)}" if error.context else ""
    return f"{problem}{context}; check the indentation, quotes and brackets there"


class _Walk:
    """Nodes to values; an object only because every step shares the loader and what was seen."""

    def __init__(self, file: str, loader: yaml.SafeLoader) -> None:
        self.file, self.loader = file, loader
        self.origins: dict[KeyPath, Origin] = {}
        self.flat: set[int] = set()
        self.count = 0

    def fail(self, node: yaml.Node, key: KeyPath, says: str) -> FiefdomError:
        where = f"{dotted(key)}: " if key else ""
        return FiefdomError(printable(f"{self.file}:{node.start_mark.line + 1}: {where}{says}"))

    def value(self, node: yaml.Node, key: KeyPath, at: yaml.Node | None = None) -> object:
        self.count += 1
        if self.count > _VALUES_MAX or len(key) > _DEPTH_MAX:
            raise self.fail(node, (), "nested too deeply or too large; look for an alias (`*name`) that repeats itself")
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        # What is missing from the whole has no line.
        self.origins[key] = Origin(self.file, (at or node).start_mark.line + 1 if key else None, text)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return dict(self.pairs(node, key))
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(child, (*key, i)) for i, child in enumerate(node.value)]
        return self.scalar(node, key)

    def pairs(self, node: yaml.MappingNode, key: KeyPath) -> Iterator[tuple[str, object]]:
        if id(node) not in self.flat:  # what `<<` brings in may stand in the mapping as well
            self.flat.add(id(node))
            seen: dict[str, int] = {}
            for name_node, _ in node.value:
                if isinstance(name_node, yaml.ScalarNode):
                    if name_node.value in seen:
                        first = seen[name_node.value]
                        raise self.fail(
                            name_node,
                            (*key, name_node.value),
                            f"this key stands in line {first} already; take one of the two out",
                        )
                    seen[name_node.value] = name_node.start_mark.line + 1
            self.loader.flatten_mapping(node)
        for name_node, value_node in node.value:
            name = self.scalar(name_node, key) if isinstance(name_node, yaml.ScalarNode) else None
            if not isinstance(name, str):
                says = f"{shown(name_node.value)} as a key is not text; put it in quotes"
                raise self.fail(name_node, key, says if name_node.id == "scalar" else "a key must be text")
            yield name, self.value(value_node, (*key, name), name_node)

    def scalar(self, node: yaml.Node, key: KeyPath) -> object:
        try:
            value: object = self.loader.construct_object(node, deep=True)
        except ValueError as error:  # such as the date 2026-99-99
            says = f"{shown(node.value)} cannot be read as the number or date that it looks like; put it in quotes"
            raise self.fail(node, key, says) from error
        if isinstance(value, int) and not isinstance(value, bool) and not _PLAIN_INT.fullmatch(node.value):
            says = f"YAML reads {node.value} as {shown(value)}; write that, or put it in quotes if it is text"
            raise self.fail(node, key, says)
        return value


def read_python(path: str | Path) -> dict[str, Any]:
    """The variables of a Python file, as pyinfra runs it.

    Raises:
        FiefdomError: it cannot be read or raises.
    """
    file, text = _name(path), read_text(path)
    variables: dict[str, Any] = {"__file__": str(path)}
    try:
        exec(compile(text, str(path), "exec"), variables)  # noqa: S102 -- the person's own inventory
    except FiefdomError:
        raise
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else _line_of(error, str(path))
        where = f"{file}:{line}" if line else file
        words = error.msg if isinstance(error, SyntaxError) else printable(str(error))
        says = f"{type(error).__name__}: {words}" if words else type(error).__name__
        raise FiefdomError(f"{where}: Python stopped here with {says}; mend the file") from error
    return variables


def _line_of(error: BaseException, path: str) -> int | None:
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == path:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def read_group_data(folders: list[Path]) -> dict[str, Written]:
    """Data by group from the Python files in ``folders``; of two files for a group the later one's names hold.

    Reads what pyinfra's command reads (`pyinfra_cli.inventory._get_group_data` of 3.10): every name of a file, or
    those in its ``__all__``, but not what it imports.
    """
    found: dict[str, Written] = {}
    # Two ways to the same folder are one: a repository may link to its group data from its inventories.
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for path in sorted(folder.glob("*.py")):
            file = _relative(path)
            variables = read_python(file)
            imported = _imported(read_text(file))
            names = variables.get("__all__", set(variables) - imported)
            if not isinstance(names, list | tuple | set):
                raise FiefdomError(f"{_name(file)}: __all__ must be a list of names")
            data = {n: v for n, v in variables.items() if n in names and not n.startswith("__")}
            new = written(data, _name(file))
            old = found.get(path.stem, Written({}, {}))
            found[path.stem] = Written({**old.value, **new.value}, {**old.origins, **new.origins})
    return found


def _relative(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def _imported(text: str) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def written(data: Mapping[Any, Any], file: str) -> Written:
    """Python values as they stand in ``file``.

    Raises:
        FiefdomError: a mapping contains itself.
    """
    origins: dict[KeyPath, Origin] = {}

    def plain(value: object, key: KeyPath) -> object:
        if len(key) > _DEPTH_MAX or len(origins) > _VALUES_MAX:
            raise FiefdomError(f"{file}: {dotted(key[:3])}: nested too deeply or too large; look for data in itself")
        origins[key] = Origin(file, rank=1)
        if isinstance(value, Mapping):
            return {k: plain(v, (*key, k if isinstance(k, str) else shown(k))) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v, (*key, i)) for i, v in enumerate(value)]
        return str(value) if isinstance(value, Path) else value

    values = {name: value for name, value in data.items() if not (callable(value) or isinstance(value, ModuleType))}
    return Written(plain(values, ()), origins)
