"""What a person meets beside the commands: tasks, exit codes, examples, completion, an inventory that is left out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fiefdom.cli import help_texts
from fiefdom.cli.group import first_sentence
from fiefdom.cli.left_out import VARIABLE
from fiefdom.cli.main import COMMANDS, TASKS, main

ROOT = Path(__file__).parents[3]
HEAVY = ("rich", "pydantic", "yaml", "jinja2", "pyinfra", "gevent")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by what follows the program's name, those in groups as well."""
    top = click.Context(main)
    for name in COMMANDS:
        found = main.get_command(top, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from ((f"{name} {inner}", command) for inner, command in found.commands.items())
        else:
            yield name, found


ALL = dict(commands())


def parsed(words: list[str]) -> dict[str, Any]:
    """What a command line says, by parameter; nothing is run."""
    name = " ".join(words[:2]) if " ".join(words[:2]) in ALL else words[0]
    with ALL[name].make_context(name, words[len(name.split()) :]) as context:
        return context.params


def test_each_command_has_one_task() -> None:
    assert Counter(name for names in TASKS.values() for name in names) == Counter(COMMANDS.keys())


ASK_NOBODY = {"build", "check", "compose", "config", "dev down", "dev logs", "dev up", "keygen", "monitoring"}


def test_round_trips_are_offered_by_who_makes_some() -> None:
    of_inventory = {name: {p.name for p in found.params} for name, found in ALL.items()}
    without = {name for name, has in of_inventory.items() if "inventory" in has and "verbose" not in has}
    assert without == ASK_NOBODY | {name for name in ALL if name.startswith("secret ")}
    assert not any("verbose" in has and "inventory" not in has for has in of_inventory.values())


def test_the_list_has_all_tasks_in_one_column() -> None:
    _, _, text = CliRunner().invoke(main, ["--help"]).output.partition("\nLook:\n")
    assert [line[:-1] for line in text.splitlines() if line[:-1] in TASKS] == list(TASKS)[1:]
    rows = [line for line in text.splitlines() if re.match(r"  \S", line)]
    column = 2 + max(map(len, COMMANDS)) + 2
    assert sorted(row.split()[0] for row in rows) == sorted(COMMANDS)
    assert {len(re.match(r" +\S+ +", row)[0]) for row in rows} == {column}  # type: ignore[index]
    assert "..." not in text, "a sentence that is cut off"


GROUPS = sorted({path.split()[0] for path in ALL if " " in path})


@pytest.mark.parametrize("group", GROUPS)
def test_a_groups_list_has_whole_sentences(group: str) -> None:
    text = CliRunner().invoke(main, [group, "--help"], env={"COLUMNS": "80"}).output
    _, _, rows = text.partition("\nCommands:\n")
    inner = {path.split()[1]: command for path, command in ALL.items() if path.startswith(f"{group} ")}
    assert " ".join(rows.split()) == " ".join(f"{name} {first_sentence(inner[name])}" for name in sorted(inner))


@pytest.mark.parametrize("before", ["", *GROUPS])
def test_a_shell_is_told_whole_sentences(before: str) -> None:
    asks = {
        "_FIEFDOM_COMPLETE": "zsh_complete",
        "COMP_WORDS": f"fiefdom {before} ",
        "COMP_CWORD": "2" if before else "1",
    }
    text = CliRunner().invoke(main, env=asks, prog_name="fiefdom").output
    assert "\nplain\n" in text and "..." not in text


@pytest.mark.parametrize("path", ALL)
def test_every_help_ends_with_exit_codes_and_examples(path: str) -> None:
    text = CliRunner().invoke(main, [*path.split(), "--help"]).output
    codes, _, examples = text.partition("\nExit code:\n")[2].partition("\nExamples:\n")
    assert " ".join(codes.split()) == help_texts.exit_codes(path).replace("`", "")
    assert examples.splitlines() == [f"  {line}" for line in help_texts.examples(path)] != []


@pytest.mark.parametrize("path", ["", *GROUPS, *ALL])
def test_every_help_fits_a_terminal_of_80_columns_in_plain_words(path: str) -> None:
    text = CliRunner().invoke(main, [*path.split(), "--help"], env={"COLUMNS": "80"}).output
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "INTEGER" not in text and "FLOAT" not in text


@pytest.mark.parametrize("line", [line for path in ALL for line in help_texts.examples(path)])
def test_examples_are_what_the_command_takes(line: str) -> None:
    words = shlex.split(re.split(r" [<>]| \| man ", line)[0].removeprefix('eval "$(').removesuffix(')"'))
    assert words.pop(0) == "fiefdom"
    parsed(words)


def test_nothing_is_told_of_commands_that_are_none() -> None:
    assert not {*help_texts.EXAMPLES, *help_texts.EXIT_CODES} - {*ALL}


# --- The inventory's name left out


@pytest.mark.parametrize(
    ("line", "params"),
    [
        ("plan", {"inventory": "env.yaml"}),
        ("plan --json --limit app1", {"inventory": "env.yaml", "limit": ("app1",)}),
        ("plan x.yaml", {"inventory": "x.yaml"}),
        ("plan ./x.yml", {"inventory": "./x.yml"}),
        ("plan --limit app1 x.py", {"inventory": "x.py", "limit": ("app1",)}),
        ("rollout", {"inventory": "env.yaml", "service": None}),
        ("rollout predictor --batch 2", {"inventory": "env.yaml", "service": "predictor", "batch": "2"}),
        ("rollout --canary app1 predictor", {"inventory": "env.yaml", "service": "predictor", "canary": "app1"}),
        ("rollout x.yaml predictor", {"inventory": "x.yaml", "service": "predictor"}),
        ("rollback predictor 1.4.1", {"inventory": "env.yaml", "service": "predictor", "version": "1.4.1"}),
        ("rollback x.yaml predictor", {"inventory": "x.yaml", "service": "predictor", "version": None}),
        ("config app1", {"inventory": "env.yaml", "host": "app1"}),
        ("retire app1", {"inventory": "env.yaml", "host": "app1"}),
        ("trust", {"inventory": "env.yaml", "hosts": ()}),
        ("trust app1 app2", {"inventory": "env.yaml", "hosts": ("app1", "app2")}),
        ("compose predictor web", {"inventory": "env.yaml", "service": ("predictor", "web")}),
        ("dev up", {"inventory": "env.yaml", "service": ()}),
        ("secret set chat", {"inventory": "env.yaml", "name": "chat"}),
        ("run shop -- env", {"inventory": "env.yaml", "service": "shop", "command": ("env",)}),
        ("run shop sh -c x", {"inventory": "env.yaml", "service": "shop", "command": ("sh", "-c", "x")}),
        ("run --host app1 shop cat y.yaml", {"service": "shop", "host": "app1", "command": ("cat", "y.yaml")}),
        ("run x.yaml shop sh -c x", {"inventory": "x.yaml", "service": "shop", "command": ("sh", "-c", "x")}),
        ("maintenance on shop", {"word": "on", "inventory": "env.yaml", "service": "shop"}),
        ("maintenance --json off shop", {"word": "off", "inventory": "env.yaml", "service": "shop"}),
        ("maintenance on x.yaml shop", {"word": "on", "inventory": "x.yaml", "service": "shop"}),
        ("weight shop 2.0 10", {"inventory": "env.yaml", "service": "shop", "version": "2.0", "percent": 10}),
        ("exec shop@app1 sh", {"inventory": "env.yaml", "instance": "shop@app1", "command": ("sh",)}),
        ("ssh app1", {"inventory": "env.yaml", "host": "app1", "command": ()}),
        ("logs predictor --since today", {"inventory": "env.yaml", "service": "predictor"}),
    ],
)
def test_the_variable_names_the_inventory_that_is_left_out(
    monkeypatch: pytest.MonkeyPatch, line: str, params: dict[str, Any]
) -> None:
    monkeypatch.setenv(VARIABLE, "env.yaml")
    assert parsed(line.split()).items() >= params.items()


@pytest.mark.parametrize("value", ["", None])
def test_without_it_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    done = CliRunner().invoke(main, ["plan"])
    assert (done.exit_code, done.output) == (
        1,
        "error: Missing argument 'INVENTORY'. Name it, or set FIEFDOM_INVENTORY.\n",
    )
    assert parsed(["rollout", "predictor"])["inventory"] == "predictor"


@pytest.mark.parametrize("line", ["plan", "run shop env", "secret list"])
def test_what_the_variable_names_is_told_as_if_it_was_typed(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Also where its name cannot be that of an inventory."""
    monkeypatch.setenv(VARIABLE, "nowhere")
    done = CliRunner().invoke(main, line.split())
    assert done.exit_code == 1 and done.output.startswith("error: nowhere: ") and done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("rollback", "Missing argument 'SERVICE'."),
        ("retire x.yaml", "Missing argument 'HOST'."),
        ("plan x.yaml more", "Got unexpected extra argument (more)"),
        ("plan --bad", "No such option '--bad'."),
        ("schema x.yaml", "Got unexpected extra argument (x.yaml)"),
    ],
)
def test_what_is_wrong_otherwise_is_told_as_ever(monkeypatch: pytest.MonkeyPatch, line: str, says: str) -> None:
    monkeypatch.setenv(VARIABLE, "env.yaml")
    done = CliRunner().invoke(main, line.split())
    assert done.exit_code == 1 and done.output.startswith(f"error: {says}")


# --- Other ways to begin


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_is_a_script_of_the_shell(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0 and f"_FIEFDOM_COMPLETE={shell}_complete" in done.output and "fiefdom" in done.output


def completed(*words: str) -> list[str]:
    """What bash would offer, and which of the heavy modules that took."""
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([m for m in {HEAVY!r} if m in sys.modules]))\n"
        "from fiefdom.cli.main import main\n"
        "main(prog_name='fiefdom')\n"
    )
    asks = {
        "_FIEFDOM_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join(["fiefdom", *words]),
        "COMP_CWORD": str(len(words)),
    }
    env = os.environ | asks
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_commands_are_completed_without_loading_one() -> None:
    assert completed("ro") == ["plain,rollback", "plain,rollout", "plain,rotate-key", "[]"]
    assert {"plain,--canary", "plain,--continue"} <= {*completed("rollout", "x.yaml", "--c")}


def test_bash_has_a_function_for_it() -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    asks = f"{script}\ncomplete -p fiefdom"
    done = subprocess.run(["bash", "-c", asks], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "complete -o nosort -F _fiefdom_completion fiefdom\n")


def test_python_runs_it_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fiefdom", "plann"], capture_output=True, text=True, check=False, cwd=ROOT / "deploys"
    )
    assert (done.returncode, done.stderr) == (1, "error: No such command 'plann'. Did you mean 'plan'?\n")
    done = subprocess.run(
        [sys.executable, "-m", "fiefdom", "plan", "-h"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "deploys",
    )
    assert done.stdout.startswith("Usage: fiefdom plan [OPTIONS] INVENTORY\n")


# --- The page for man


def test_every_command_is_on_the_page_for_man() -> None:
    text = CliRunner().invoke(main, ["man"]).output
    sections = re.findall(r"^\.SS (.*)$", text, re.MULTILINE)
    assert [name.replace(r"\-", "-") for name in sections] == sorted(ALL)
    assert r".B \-\-canary HOST" in text and ".B FIEFDOM_INVENTORY" in text
    assert r"    fiefdom rollout mine.yaml predictor \-\-canary app2" in text
    for line in text.splitlines():
        assert line[:1] != "'" and not re.match(r"\.(?!TH|SH|SS|PP|TP|B |nf|fi)", line), line
        assert re.sub(r"\\[-e&]", "", line).isascii() and "\\" not in re.sub(r"\\[-e&]", "", line), line


def test_man_has_a_name_for_the_page() -> None:
    """What `apropos` and `whatis` read."""
    text = CliRunner().invoke(main, ["man"]).output
    assert re.search(r"^\.SH NAME\nfiefdom \\- [a-z]", text, re.MULTILINE)
