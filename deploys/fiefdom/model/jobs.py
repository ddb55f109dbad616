"""Jobs of a service: commands that run by the clock, each on one of the service's hosts."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from fiefdom.model.schedules import Schedule
from fiefdom.model.text import Argument, Many, Model


def _names_a_program(command: tuple[str, ...]) -> tuple[str, ...]:
    if command and not command[0]:
        raise ValueError("begins with an empty word; write the program first, such as [manage, migrate]")
    return command


Command = Annotated[Many[Argument], AfterValidator(_names_a_program)]
"""A program and its arguments, in place of an image's own."""


class Job(Model):
    """A command that one of the service's hosts runs whenever its time comes."""

    command: Command = Field(
        description="Command, in a container of its own, made as an instance is: of the same image, with the same "
        "environment, files, volumes and limits.",
        min_length=1,
    )
    schedule: Schedule = Field(
        description='When it runs, in systemd\'s calendar words, such as "*-*-* 03:00" or "Mon..Fri 08:30 '
        "Europe/Berlin\"; in the hosts' own time zone where none is named."
    )
    timeout_s: int = Field(3600, ge=1, le=604800, description="Seconds after which it is stopped and has failed.")
