"""Where a slip of YAML is, and what to do: a parser tells where it could not go on, which is often lines below."""

from __future__ import annotations

import re

import yaml

from fiefdom.wording import printable, shown

_MEND = "check the indentation, quotes and brackets there"


def of(error: yaml.MarkedYAMLError, text: str) -> tuple[int | None, str]:
    """The line of the slip in ``text`` that ``error`` comes from, and what is wrong and how to mend it."""
    problem, context = error.problem or "syntax error", error.context or ""
    mark, opened = error.problem_mark or error.context_mark, error.context_mark
    if mark is None:
        return None, f"{printable(problem)}; {_MEND}"
    if "constructor for the tag" in problem:
        return mark.line + 1, f"{printable(problem)}; take the tag out"
    if "expected a single document" in context:
        return mark.line + 1, "a second document begins with `---`; an inventory is one document"
    if "'\\t'" in problem:
        return mark.line + 1, f"{printable(problem)}; indent with spaces"
    if opened is not None and "quoted scalar" in context and ("end of stream" in problem or "separator" in problem):
        return opened.line + 1, "a quote opens here, and nothing closes it; close it"
    if opened is not None and "parsing a flow" in context and opened.line < mark.line:
        bracket = text.splitlines()[opened.line][opened.column]
        other = {"[": "]", "{": "}"}.get(bracket, "bracket")
        says = f"`{bracket}` opens here, and line {mark.line + 1} goes on without a comma or `{other}`; close it"
        return opened.line + 1, says
    if opened is not None and "simple key" in context:
        return opened.line + 1, _no_key(text, opened.line)
    last = _last_text(text, mark)
    if "mapping values are not allowed" in problem:
        # What has no `: ` goes on in the next line, and there a colon is one too many.
        if last is not None and last.plain and last.start_mark.line < mark.line and _begins_line(text, last):
            return last.start_mark.line + 1, _no_key(text, last.start_mark.line)
        says = "a second `:` in the line, or wrong indentation; put the value in quotes or mend the indentation"
        return mark.line + 1, says
    if last is not None and not last.plain and last.start_mark.line < last.end_mark.line == mark.line:
        line = last.end_mark.line + 1
        return last.start_mark.line + 1, f"a quote opens here, and the next one, in line {line}, closes it; close it here"
    where = f" {printable(context)}" if context else ""
    return mark.line + 1, f"{printable(problem)}{where}; {_MEND}"


def _no_key(text: str, line: int) -> str:
    words = text.splitlines()[line].strip()
    if glued := re.match(r"(?:- )?([A-Za-z0-9_.-]+):(?=[^\s:/])", words):
        return f"{shown(words)} has no blank after its colon; write `{glued[1]}: ` and the value"
    return f"{shown(words)} is no key with a value; write `KEY: VALUE`, or take it out"


def _begins_line(text: str, token: yaml.ScalarToken) -> bool:
    return not text.splitlines()[token.start_mark.line][: token.start_mark.column].strip(" -")


def _last_text(text: str, mark: yaml.Mark) -> yaml.ScalarToken | None:
    """The last text that YAML has read before ``mark``."""
    loader = yaml.SafeLoader(text)
    found = None
    try:
        while (token := loader.get_token()) is not None and token.start_mark.index < mark.index:
            found = token if isinstance(token, yaml.ScalarToken) else found
    except yaml.YAMLError:
        # What the scanner has read ahead.
        ahead = [token for token in loader.tokens if isinstance(token, yaml.ScalarToken)]
        found = ahead[-1] if ahead else found
    finally:
        loader.dispose()
    return found
