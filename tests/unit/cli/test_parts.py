"""Commands are loaded when they are asked for, and nothing a person sees tells."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fiefdom.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[3]
HEAVY = ("rich", "pydantic", "yaml", "jinja2", "pyinfra", "gevent")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_it_says_of_itself(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None and command.name == name
    for limit in (20, 45, 80, 200):
        assert main.commands[name].get_short_help_str(limit) == command.get_short_help_str(limit)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["plann", "x.yaml"]])
def test_what_needs_no_command_loads_none(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr))\n"
        "from fiefdom.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_mistyped_command_is_told_what_was_meant() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from fiefdom.cli.main import main; main(['plann', 'x.yaml'])"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: No such command 'plann'. Did you mean 'plan'?\n"


@pytest.mark.long
def test_an_inventory_that_starts_a_thread_ends_as_any_other(tmp_path: Path) -> None:
    """It has to find the library patched, or neither of the two would know the other's threads."""
    text = (ROOT / "inventories" / "python.example.py").read_text().replace("10.20.0.", "127.0.0.")
    text = text.replace('"ssh_user": "operator"', '"ssh_user": "operator", "ssh_port": 1')
    (tmp_path / "images").symlink_to(ROOT / "images")
    thread = "import threading, time\n_t = threading.Thread(target=time.sleep, args=(1,))\n_t.start()\n"
    path = tmp_path / "inventories" / "threads.py"
    path.parent.mkdir()
    path.write_text(text.replace("from pathlib import Path\n", f"from pathlib import Path\n{thread}", 1))
    done = subprocess.run(
        [sys.executable, "-c", "from fiefdom.cli.main import main; main()", "plan", str(path)],
        cwd=tmp_path,
        env={**os.environ, "FIEFDOM_GOSSIP_KEY": base64.b64encode(b"k" * 32).decode()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert "gw1\n  ! does not answer: " in done.stdout
