"""Rendering of templates: the text of every file that lands on a host, from plain values."""

from __future__ import annotations

from functools import cache

import jinja2
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fiefdom.desired.compiled import Compiled
from fiefdom.resources import templates_dir

MANAGED = "Managed by Fiefdom: edit the inventory, not this file."


_OPTIONS: dict[str, bool] = {
    "trim_blocks": True,
    "lstrip_blocks": True,
    "keep_trailing_newline": True,
    # They do not change under a run, which asks for some of them thousands of times.
    "auto_reload": False,
    # What is written is configuration of daemons, not HTML.
    "autoescape": False,
}


@cache
def _environment() -> Environment:
    folder = templates_dir()
    return Environment(  # noqa: S701 -- no HTML, as _OPTIONS says
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        bytecode_cache=Compiled(folder, (jinja2.__version__, _OPTIONS)),
        **_OPTIONS,  # type: ignore[arg-type] # each of its own type
    )


def render(template: str, **variables: object) -> str:
    """The template's text with ``variables`` filled in; a variable it lacks is an error (jinja2.UndefinedError)."""
    return _environment().get_template(template).render(managed=MANAGED, **variables)
