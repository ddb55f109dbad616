"""Inventory files to plain values that remember the file and line they were written in."""

from __future__ import annotations

import ast
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from fiefdom.errors import FiefdomError
from fiefdom.inventory import slips
from fiefdom.inventory.python_lines import lines_of
from fiefdom.inventory.written import Mistake, Mistakes, Origin, Written
from fiefdom.wording import KeyPath, from_here, printable, shown

# Aliases let a few lines stand for millions of values; no inventory of ours comes near this many.
_VALUES_MAX = 200_000
_DEPTH_MAX = 50
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")


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
        # Counted in what was decoded, which has no byte order mark.
        line = error.object[: error.start].count(b"\n") + 1
        raise FiefdomError(f"{_name(path)}:{line}: not UTF-8 text; save it as UTF-8") from error
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
            return Written(walk.value(node, ()), walk.origins, tuple(walk.mistakes))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line, says = slips.of(error, text)
        raise Mistakes([Mistake(Origin(file, line), (), f"not valid YAML: {says}")]) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        says = f"the character #x{error.character:04x} is none of YAML's; save it as plain text"
        raise Mistakes([Mistake(Origin(file, line), (), f"not valid YAML: {says}")]) from error
    except RecursionError as error:
        raise FiefdomError(f"{file}: nested too deeply; an inventory is at most {_DEPTH_MAX} levels deep") from error


class _Walk:
    """Nodes to values; an object only because every step shares the loader and what was seen."""

    def __init__(self, file: str, loader: yaml.SafeLoader) -> None:
        self.file, self.loader = file, loader
        self.origins: dict[KeyPath, Origin] = {}
        self.mistakes: list[Mistake] = []
        self.flat: set[int] = set()
        self.count = 0

    def mistake(self, node: yaml.Node, key: KeyPath, says: str, hides: bool = False) -> Mistake:
        return Mistake(Origin(self.file, node.start_mark.line + 1), key, says, hides)

    def value(self, node: yaml.Node, key: KeyPath, at: yaml.Node | None = None) -> object:
        self.count += 1
        if self.count > _VALUES_MAX or len(key) > _DEPTH_MAX:
            says = "nested too deeply or too large; look for an alias (`*name`) that repeats itself"
            raise Mistakes([self.mistake(node, (), says)])
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
                        says = f"this key stands in line {seen[name_node.value]} already; take one of the two out"
                        self.mistakes.append(self.mistake(name_node, (*key, name_node.value), says, hides=True))
                    seen.setdefault(name_node.value, name_node.start_mark.line + 1)
            self.loader.flatten_mapping(node)
        for name_node, value_node in node.value:
            name = self.scalar(name_node, key) if isinstance(name_node, yaml.ScalarNode) else None
            if not isinstance(name, str):
                says = f"{shown(name_node.value)} as a key is not text; put it in quotes"
                says = says if name_node.id == "scalar" else "a key must be text"
                self.mistakes.append(self.mistake(name_node, key, says, hides=True))
                continue
            yield name, self.value(value_node, (*key, name), name_node)

    def scalar(self, node: yaml.Node, key: KeyPath) -> object:
        try:
            value: object = self.loader.construct_object(node, deep=True)
        except ValueError:  # such as the date 2026-99-99
            says = f"{shown(node.value)} cannot be read as the number or date that it looks like; put it in quotes"
            self.mistakes.append(self.mistake(node, key, says))
            return str(node.value)
        if isinstance(value, int) and not isinstance(value, bool) and not _PLAIN_INT.fullmatch(node.value):
            says = f"YAML reads {node.value} as {shown(value)}; write that, or put it in quotes if it is text"
            self.mistakes.append(self.mistake(node, key, says))
        return value


def read_python(path: str | Path) -> dict[str, Any]:
    """The variables of a Python file, as pyinfra runs it. What it prints goes to standard error.

    Raises:
        FiefdomError: it cannot be read or raises.
    """
    file, text = _name(path), read_text(path)
    variables: dict[str, Any] = {"__file__": str(path)}
    try:
        with _output_to_stderr():
            exec(compile(text, str(path), "exec"), variables)  # noqa: S102 -- the person's own inventory
    except FiefdomError:
        raise
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else _line_of(error, str(path))
        words = error.msg if isinstance(error, SyntaxError) else printable(str(error))
        says = f"{type(error).__name__}: {words}" if words else type(error).__name__
        says = f"Python stopped here with {says}; mend the file"
        raise Mistakes([Mistake(Origin(file, line, rank=1), (), says, hides=True)]) from error
    return variables


@contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Standard output is a command's document: what is printed meanwhile goes beside it, also by programs started."""
    sys.stdout.flush()
    saved = None
    try:
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of the two is closed
        pass
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


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
    those in its ``__all__``, but not what it imports. What is wrong with a file is among the mistakes of ``all``.
    """
    found: dict[str, Written] = {}
    mistakes: list[Mistake] = []
    # Two ways to the same folder are one: a repository may link to its group data from its inventories.
    for folder in {_resolved(folder): folder for folder in folders}.values():
        for path in _group_files(folder, mistakes):
            file = from_here(path)
            try:
                new = _group_file(file)
            except Mistakes as error:
                mistakes += error.all
                continue
            except FiefdomError as error:
                says = str(error).removeprefix(f"{_name(file)}: ")
                mistakes.append(Mistake(Origin(_name(file), rank=1), (), says, hides=True))
                continue
            old = found.get(path.stem, Written({}, {}))
            found[path.stem] = Written({**old.value, **new.value}, {**old.origins, **new.origins})
    if mistakes:
        everywhere = found.get("all", Written({}, {}))
        found["all"] = Written(everywhere.value, everywhere.origins, tuple(mistakes))
    return found


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError):  # links in a circle: what reads it tells
        return folder


def _group_files(folder: Path, mistakes: list[Mistake]) -> list[Path]:
    """The files of a folder of group data, which need not be there; if it is there and cannot be read, a mistake."""

    def mistake(name: Path, says: str) -> None:
        mistakes.append(Mistake(Origin(_name(from_here(name)), rank=1), (), says, hides=True))

    try:
        there = sorted(_resolved(folder).iterdir())
    except FileNotFoundError:
        if folder.is_symlink():
            mistake(folder, "a link to what is not there; mend it or take it away")
        return []
    except NotADirectoryError:
        mistake(folder, "this is not a folder; group data is in files of a folder, such as group_data/all.py")
        return []
    except OSError as error:
        mistake(folder, f"this folder of group data cannot be read ({error.strerror}); check its owner and mode")
        return []
    for path in there:
        if path.suffix in (".yaml", ".yml", ".json", ".toml"):
            mistake(path, f"group data is Python, and this file is read by nobody; write {path.stem}.py")
    return [path for path in there if path.suffix == ".py"]


def _group_file(file: Path) -> Written:
    variables, text = read_python(file), read_text(file)
    names = variables.get("__all__", set(variables) - _imported(text))
    if not isinstance(names, list | tuple | set):
        raise FiefdomError(f"{_name(file)}: __all__ must be a list of names")
    data = {n: v for n, v in variables.items() if n in names and not n.startswith("__")}
    return written(data, _name(file), lines_of(text))


def _imported(text: str) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


Lines = Mapping[KeyPath, int]
"""Line of each key that is written as such."""


def written(data: Mapping[Any, Any], file: str, lines: Lines | None = None) -> Written:
    """Python values as they stand in ``file``, whose ``lines`` are known where a key was written as such.

    Raises:
        FiefdomError: a mapping contains itself.
    """
    origins: dict[KeyPath, Origin] = {}
    known = lines or {}

    def plain(value: object, key: KeyPath, line: int | None) -> object:
        line = known.get(key, line)
        if len(key) > _DEPTH_MAX or len(origins) > _VALUES_MAX:
            says = "nested too deeply or too large; look for data in itself"
            raise Mistakes([Mistake(Origin(file, line, rank=1), key[:3], says, hides=True)])
        origins[key] = Origin(file, line, rank=1)
        if isinstance(value, Mapping):
            return {k: plain(v, (*key, k if isinstance(k, str) else shown(k)), line) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v, (*key, i), line) for i, v in enumerate(value)]
        return str(value) if isinstance(value, Path) else value

    values = {name: value for name, value in data.items() if not (callable(value) or isinstance(value, ModuleType))}
    return Written(plain(values, (), None), origins)
