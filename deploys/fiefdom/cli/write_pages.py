"""Writes what is made from the model and the commands anew: two pages of docs/, and the schema."""

from __future__ import annotations

from pathlib import Path

from fiefdom.cli.commands_page import commands_page
from fiefdom.cli.main import main
from fiefdom.inventory import reference


def write(root: Path) -> None:
    """Write docs/commands.md, the table of keys in docs/inventory.md, and the schema of a checkout."""
    (root / "docs/commands.md").write_text(commands_page(main))
    inventory = root / "docs/inventory.md"
    inventory.write_text(reference.update_page(inventory.read_text()))
    (root / "schema/fiefdom.schema.json").write_text(reference.schema_text())


if __name__ == "__main__":
    write(Path.cwd())
