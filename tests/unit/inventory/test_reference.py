"""The reference is made from the model and is current."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom.errors import FiefdomError
from fiefdom.inventory import reference

ROOT = Path(__file__).parents[3]


def test_the_schema_in_the_repository_is_current() -> None:
    text = (ROOT / "schema/fiefdom.schema.json").read_text()
    assert text == reference.schema_text(), "`make reference` writes it anew"


def test_the_table_of_keys_is_current() -> None:
    text = (ROOT / "docs/inventory.md").read_text()
    assert text == reference.update_page(text), "`make reference` writes it anew"


def test_the_page_of_numbers_counts_what_is_linted() -> None:
    text = (ROOT / "docs/numbers.md").read_text()
    scripts = [p for top in ("images", ".ci") for p in (ROOT / top).rglob("*") if is_script(p)]
    dockerfiles = [p for top in ("images", "examples", "tests") for p in (ROOT / top).rglob("Dockerfile")]
    assert f"| 0 findings on {len(dockerfiles)} Dockerfiles |" in text
    assert f"| 0 findings on {len(scripts) + len([*ROOT.glob('deploys/fiefdom/*/*.sh')])} scripts |" in text


def is_script(path: Path) -> bool:
    """As the Makefile has it."""
    return path.is_file() and re.match(rb"#!/(usr/)?bin/(env )?(ba)?sh", path.read_bytes()) is not None


def resolved(node: Any, schema: dict[str, Any]) -> Any:
    if "$ref" in node:
        return resolved(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], schema)
    if "anyOf" in node:
        return resolved(node["anyOf"][0], schema)
    return node


def objects(node: Any) -> list[dict[str, Any]]:
    found = [node] if isinstance(node, dict) and node.get("type") == "object" else []
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return found + [o for child in children for o in objects(child)]


def test_every_mapping_of_the_schema_is_closed_and_leaves_room_for_own_keys() -> None:
    schema = reference.schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "Fiefdom inventory"
    assert "base_dir" not in schema["properties"]
    for mapping in objects(schema):
        assert mapping["additionalProperties"] is False, mapping
        if "properties" in mapping:
            assert mapping["patternProperties"] == {"^x-": {}}
            for name, key in mapping["properties"].items():
                assert (resolved(key, schema) | key).get("description"), (
                    f"{mapping.get('title')}.{name} has no description"
                )
        else:
            assert list(mapping["patternProperties"]) != ["^x-"]


def check(value: Any, node: Any, schema: dict[str, Any], where: str = "") -> None:
    """Validate ``value``: the few words of JSON schema that ours is written in."""
    options = node.get("anyOf", [node])
    if value is None:
        assert {"type": "null"} in options, where
        return
    node = resolved(options[0], schema)
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    names = node["type"] if isinstance(node["type"], list) else [node["type"]]
    assert any(isinstance(value, types[name]) for name in names), where
    if isinstance(value, dict):
        assert set(node.get("required", [])) <= set(value), where
        for key, child in value.items():
            if key in node.get("properties", {}):
                check(child, node["properties"][key], schema, f"{where}.{key}")
            else:
                inner = [n for p, n in node["patternProperties"].items() if re.search(p, key)]
                assert inner, f"{where}.{key}"
                if inner[0]:
                    check(child, inner[0], schema, f"{where}.{key}")
    elif isinstance(value, list):
        for child in value:
            check(child, node["items"], schema, f"{where}[]")
    elif isinstance(value, str) and "pattern" in node:
        assert re.search(node["pattern"], value), where


@pytest.mark.parametrize("name", ["lab.yaml", "production.example.yaml"])
def test_the_inventories_of_the_repository_follow_the_schema(name: str) -> None:
    text = (ROOT / "inventories" / name).read_text()
    assert text.startswith("# yaml-language-server: $schema=../schema/fiefdom.schema.json\n")
    schema = reference.schema()
    check(yaml.safe_load(text), schema, schema)


def test_the_schema_check_of_this_file_can_fail() -> None:
    schema = reference.schema()
    raw = yaml.safe_load((ROOT / "inventories/lab.yaml").read_text())
    raw["services"]["predictor"]["verison"] = "1"
    with pytest.raises(AssertionError, match="verison"):
        check(raw, schema, schema)


def test_the_table_has_every_key_with_type_default_and_meaning() -> None:
    rows = reference.table().splitlines()
    assert rows[0] == "| key | type | default | what it is |"
    assert "| `cluster` | text | **required** | Name of the cluster. |" in rows
    assert any(row.startswith("| `hosts.HOST.ssh.port` | whole number, 1 to 65535 |") for row in rows)
    assert any(row.startswith("| `services.SERVICE.base_port` | whole number, 1 to 65535 | `8000` |") for row in rows)
    assert any('| `services.SERVICE.tmpfs` | list of text or mapping | `["/tmp"]` |' in row for row in rows)
    assert not any("base_dir" in row for row in rows)
    for row in rows[2:]:
        assert len(re.split(r"(?<!\\)\|", row)) == 6, row
        assert not row.endswith("|  |"), row


def test_the_readme_is_changed_between_the_markers_only() -> None:
    text = f"before\n{reference.BEGIN}\nold\n{reference.END}\nafter\n"
    new = reference.update_page(text)
    assert new == f"before\n{reference.BEGIN}\n{reference.table()}{reference.END}\nafter\n"
    assert reference.update_page(new) == new


@pytest.mark.parametrize(
    "text",
    ["", reference.BEGIN, f"{reference.END} {reference.BEGIN}", f"{reference.BEGIN * 2} {reference.END}"],
)
def test_a_readme_without_markers_is_refused(text: str) -> None:
    with pytest.raises(FiefdomError, match=r"inventory\.md"):
        reference.update_page(text)
