"""Every key of an inventory has a case of values, a place in the lab, and a page; exceptions have a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

from fiefdom.inventory import reference
from fiefdom.model import Cluster

ROOT = Path(__file__).parents[3]
WORD = re.compile(r"[a-z][a-z0-9_]*")
KEY_IN_TEXT = re.compile(r"([a-z][a-z0-9_]*):(?=[\s\[{]|$)")

NOT_IN_THE_LAB: Mapping[str, str] = {
    "services.SERVICE.gpus": "no machine here has one; what Docker is asked for is in tests/unit/desired",
    "hosts.HOST.static.dns": "the lab's hosts have no name server but this machine's",
    "docker.bridge_address": "another one ends all containers of a host",
    "docker.address_pool": "as docker.bridge_address",
    "docker.address_pool_size": "as docker.bridge_address",
    "docker.live_restore": "it has one value alone, which the lab's hosts have",
    "serf.rpc_port": "test_gateway_container.py has agents at ports of their own, without an inventory",
}
"""Keys without a case on real hosts, each with the reason."""


def keys() -> list[str]:
    return [row[0].strip("`") for row in reference.rows(Cluster, "")]


def words_of(key: str) -> frozenset[str]:
    """The key's own word and that of the mapping it stands in, without names that a person chooses."""
    return frozenset([part for part in key.split(".") if not part.isupper()][-2:])


@cache
def written_in(path: Path) -> frozenset[str]:
    """Words that a file has as keys: of mappings, arguments, dotted paths, and of YAML in its strings."""
    text = path.read_text()
    if path.suffix != ".py":
        return frozenset(KEY_IN_TEXT.findall(text))
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(KEY_IN_TEXT.findall(node.value))
            if re.fullmatch(r"[a-z0-9_./-]+", node.value):
                found |= set(WORD.findall(node.value))
    return frozenset(found)


@cache
def told_in(path: Path) -> frozenset[str]:
    """Words that a page has as code."""
    text = path.read_text()
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return frozenset(WORD.findall(" ".join([*blocks, *spans])))


def without(texts: Iterable[frozenset[str]]) -> list[str]:
    """Keys whose two words are together in none of ``texts``."""
    texts = list(texts)
    return [key for key in keys() if not any(words_of(key) <= text for text in texts)]


def files(*patterns: str, but: tuple[str, ...] = ()) -> list[Path]:
    return [path for pattern in patterns for path in ROOT.glob(pattern) if path.name not in but]


@pytest.mark.long
def test_every_key_has_a_case_of_values() -> None:
    cases = files("tests/unit/**/test_*.py", "tests/helpers/*.py", but=(Path(__file__).name,))
    assert without(map(written_in, cases)) == []


def test_every_key_is_in_the_lab() -> None:
    lab = files("tests/lab/*.py", "inventories/lab.yaml", "examples/*/*.yaml", "group_data/*.py")
    assert without(map(written_in, lab)) == [key for key in keys() if key in NOT_IN_THE_LAB]


def test_every_key_has_a_page() -> None:
    pages = files("docs/*.md", but=("inventory.md", "commands.md"))
    assert without(map(told_in, pages)) == []


def test_a_key_of_nowhere_is_found() -> None:
    """And the exceptions are of keys that there are."""
    everything = frozenset(word for key in keys() for word in words_of(key))
    assert without([everything]) == []
    assert without([everything - {"gpus"}]) == ["services.SERVICE.gpus"]
    assert set(NOT_IN_THE_LAB) <= set(keys())
