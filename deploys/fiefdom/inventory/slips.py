"""Where a slip of YAML is, and what to do: a parser tells where it could not go on, which is often lines below."""

from __future__ import annotations

import re

import yaml

from fiefdom.wording import printable, shown

# By what a parser's complaint has in it; the first that fits.
_SAYS = (
    ("constructor for the tag", "{problem}; take the tag out"),
    ("expected a single document", "a second document begins with `---`; an inventory is one document"),
    ("'\\t'", "{problem}; indent with spaces"),
    (
        "mapping values are not allowed",
        "a second `:` in the line, or wrong indentation; put the value in quotes or mend the indentation",
    ),
    ("", "{problem}{where}; check the indentation, quotes and brackets there"),
)

_Slip = tuple[int | None, str]


def of(error: yaml.MarkedYAMLError, text: str) -> _Slip:
    """The line of the slip in ``text`` that ``error`` comes from, and what is wrong and how to mend it."""
    problem, context = error.problem or "syntax error", error.context or ""
    mark = error.problem_mark or error.context_mark
    if mark is not None and (slip := _opened(error, text, mark) or _read_on(error, text, mark)) is not None:
        return slip
    says = next(says for part, says in _SAYS if part in f"{problem} {context}")
    where = f" {printable(context)}" if context else ""
    return None if mark is None else mark.line + 1, says.format(problem=printable(problem), where=where)


def _opened(error: yaml.MarkedYAMLError, text: str, mark: yaml.Mark) -> _Slip | None:
    """A slip that the parser knows the begin of: a quote or bracket that is not closed, a word that is no key."""
    opened, context, problem = error.context_mark, error.context or "", error.problem or ""
    if opened is None:
        return None
    line = opened.line + 1
    if "quoted scalar" in context and ("end of stream" in problem or "separator" in problem):
        return line, "a quote opens here, and nothing closes it; close it"
    if "parsing a flow" in context and opened.line < mark.line:
        bracket = text.splitlines()[opened.line][opened.column]
        other = {"[": "]", "{": "}"}.get(bracket, "bracket")
        return line, f"`{bracket}` opens here, and line {mark.line + 1} goes on without a comma or `{other}`; close it"
    return (line, _no_key(text, opened.line)) if "simple key" in context else None


def _read_on(error: yaml.MarkedYAMLError, text: str, mark: yaml.Mark) -> _Slip | None:
    """A slip that made the parser take the lines below for the same text."""
    last = _last_text(text, mark)
    if last is None or last.start_mark.line == mark.line:
        return None
    line = last.start_mark.line + 1
    if "mapping values are not allowed" in (error.problem or "") and last.plain and _begins_line(text, last):
        return line, _no_key(text, last.start_mark.line)
    if not last.plain and last.end_mark.line == mark.line:
        return line, f"a quote opens here, and the next one, in line {mark.line + 1}, closes it; close it here"
    return None


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
        while loader.check_token() and (token := loader.peek_token()).start_mark.index < mark.index:  # type: ignore[no-untyped-call]
            found = token if isinstance(token, yaml.ScalarToken) else found
            loader.get_token()  # type: ignore[no-untyped-call]
    except yaml.YAMLError:
        # What the scanner has read ahead.
        ahead = [token for token in loader.tokens if isinstance(token, yaml.ScalarToken)]
        found = ahead[-1] if ahead else found
    finally:
        loader.dispose()
    return found
