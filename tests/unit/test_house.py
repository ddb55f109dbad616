"""The house: imports run downwards, never among neighbours, and pyinfra has one room.

From the syntax tree, so that an import inside a function or under TYPE_CHECKING counts like any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "deploys" / "fiefdom"

LINES = (
    {"cli", "deploys", "facts"},
    {"procedures", "engine"},
    {"cluster", "lab"},
    {"converge", "images"},
    {"desired", "inventory"},
    {"model"},
    {"ground"},
)
"""From the top down. A room imports from itself and from lines below its own; `ground` are the files in no room.

`deploys` and `facts` are one file each: what other repositories import."""

MOST_LINES = 500
ENGINES_OWN = {"pyinfra", "pyinfra_cli", "gevent", "paramiko"}
KNOW_PARAMIKO = {"converge.trial"}
"""Another key exchange, made with the client that a run would come back with; it opens no connection itself."""

Sources = Mapping[str, str]


def sources() -> dict[str, str]:
    """Text of every module by its dotted name inside the library; a package by its own name."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


@cache  # almost all is the same in every case
def imports_in(text: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom))


def imports(name: str, text: str, known: Iterable[str]) -> set[str]:
    """What a module imports: dotted names inside the library, and top names of everything else."""
    found = set()
    for node in imports_in(text):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{name} imports relatively"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {full if full.removeprefix("fiefdom.") in known else str(node.module) for full in inner}
    own = {module.removeprefix("fiefdom.") for module in found if module.startswith("fiefdom.")}
    return (own - {name}) | {module.split(".")[0] for module in found if not module.startswith("fiefdom.")}


def room(module: str) -> str:
    if module == "__main__":  # a command line, under the name that Python wants
        return "cli"
    first, dot, _ = module.partition(".")
    rooms = set().union(*LINES)
    return first if dot or first in rooms else "ground"


def line(of: str) -> int:
    return next(number for number, rooms in enumerate(LINES) if of in rooms)


def offences(texts: Sources) -> list[str]:
    """Every import that the rule forbids, as one line each; then every circle of modules."""
    found = []
    graph = {}
    for name, text in texts.items():
        all_of_it = imports(name, text, texts)
        graph[name] = {module for module in all_of_it if module in texts and module}
        for other in sorted(graph[name]):
            if room(other) != room(name) and line(room(other)) <= line(room(name)):
                way = "upwards" if line(room(other)) < line(room(name)) else "its neighbour"
                found.append(f"{name} imports {other}, {way}")
        foreign = {"paramiko"} if name in KNOW_PARAMIKO else set()
        if room(name) != "engine":
            found += [f"{name} imports {module}" for module in sorted(ENGINES_OWN & all_of_it - foreign)]
        if room(name) == "desired" and name in CONCERNS:
            found += [f"{name} imports the concern {other}" for other in sorted(graph[name] & CONCERNS)]
    return found + [f"a circle: {' -> '.join(circle)}" for circle in circles(graph)]


# Those that a host's state is put together from.
_TOGETHER = re.search(
    r"^from fiefdom\.desired import (.*)$", (LIBRARY / "desired/concerns.py").read_text(), re.MULTILINE
)
CONCERNS = {f"desired.{name}" for name in (_TOGETHER[1] if _TOGETHER else "").split(", ")}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import one another, each circle once (a package's own page counts as a module)."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            circle = path[path.index(name) :]
            first = circle.index(min(circle))
            found.append([*circle[first:], *circle[:first], circle[first]])
        elif name not in done:
            for other in sorted(graph[name]):
                walk(other, [*path, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return found


@pytest.mark.long
def test_imports_run_downwards_only() -> None:
    assert offences(sources()) == []


def test_no_room_has_more_than_eight_floors_above_the_ground() -> None:
    assert len(LINES) <= 8
    assert {room(name) for name in sources() if name} == set().union(*LINES)


def test_no_module_is_too_large_to_be_read_at_once() -> None:
    large = {name: text.count("\n") for name, text in sources().items() if text.count("\n") > MOST_LINES}
    assert large == {}


@pytest.mark.parametrize(
    ("module", "text", "says"),
    [
        ("desired.sshd", "from fiefdom.converge import plan\n", "desired.sshd imports converge.plan, upwards"),
        (
            "images.send",
            "def f():\n    from fiefdom.converge.plan import Plan\n",
            "images.send imports converge.plan, its neighbour",
        ),
        (
            "cluster.views",
            "if TYPE_CHECKING:\n    from fiefdom.engine import Session\n",
            "cluster.views imports engine, upwards",
        ),
        ("cluster.views", "from gevent import sleep\n", "cluster.views imports gevent"),
        ("inventory.read", "import pyinfra.api.inventory\n", "inventory.read imports pyinfra"),
        (
            "desired.sshd",
            "from fiefdom.desired.firewall import RULES\n",
            "desired.sshd imports the concern desired.firewall",
        ),
        ("errors", "import fiefdom.model\n", "errors imports model, upwards"),
        (
            "converge.plan",
            "from fiefdom.converge import steps\n",
            "a circle: converge.guard -> converge.plan -> converge.steps -> converge.guard",
        ),
    ],
)
def test_the_rule_finds(module: str, text: str, says: str) -> None:
    """Each kind of what it forbids, added to the real library."""
    texts = sources()
    assert says in offences(texts | {module: texts[module] + text})
