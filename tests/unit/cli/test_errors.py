"""How an error reaches a person and a program: a sentence, and below it the last words of what failed."""

from __future__ import annotations

import json

import click
from click.testing import CliRunner

from fiefdom.cli import frame, group
from fiefdom.errors import FiefdomError, HostError, HostErrors

WHY = HostError(
    "app1", "fiefdom-web@8000.service: answered 403, wanted 200-399, for 60 s", ("model not found", "  at line 3")
)
OTHER = HostError("app2", "does not answer")


def run(error: FiefdomError, *words: str) -> tuple[str, str]:
    @click.group(cls=group.Group)
    def main() -> None:
        pass

    @main.command(cls=frame.Command)
    @frame.json_option
    def act(**_: bool) -> frame.Document:
        raise error

    done = CliRunner().invoke(main, ["act", *words])
    assert done.exit_code == group.FAILED
    return done.stdout, done.stderr


def test_last_words_are_lines_below_the_sentence() -> None:
    assert run(WHY) == ("", f"error: {WHY}\n    model not found\n      at line 3\n")
    assert run(FiefdomError("no such\nfile")) == ("", "error: no such file\n")


def test_errors_of_several_hosts_are_a_sentence_each_with_words_of_their_own() -> None:
    assert run(HostErrors([WHY, OTHER]))[1] == (
        f"error: {WHY}\n    model not found\n      at line 3\nerror: app2: does not answer\n"
    )


def test_a_document_keeps_the_sentence_and_the_words_apart() -> None:
    document = json.loads(run(WHY, "--json")[0])
    assert document == {"outcome": "refused", "error": str(WHY), "log": ["model not found", "  at line 3"]}
    document = json.loads(run(HostErrors([WHY, OTHER]), "--json")[0])
    assert document["error"] == f"{WHY}; app2: does not answer"
    assert document["log"] == ["model not found", "  at line 3"]
