"""Templates of services' files: what they may name, what is wrong with one, and its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fiefdom.wording import printable

VARIABLES = ("host", "address", "service", "version", "port", "ports", "cluster")
"""Of an instance: its host's name and address, its service and that one's version, its own port, the ports of all of
this service on the host, and the cluster's name."""


def _plain(value: object) -> object:
    """What an expression may become: the text of all else, such as a function's, is another one in each process."""
    if value is None or isinstance(value, str | int | float | tuple | list | dict | Undefined):
        return value
    raise TypeError(f"a {type(value).__name__} is no text; call it, or write `|list` behind it")


# Nothing but the template and these values decides what it becomes.
_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=_plain
)
del _ENVIRONMENT.globals["lipsum"], _ENVIRONMENT.filters["random"]


class TemplateMistake(ValueError):
    """What is wrong with a template, as `FILE:LINE: what`."""


def mistakes(text: str, file: str) -> Iterator[str]:
    """What can be told of a template without its variables; of ``file``, line by line."""
    try:
        tree = _ENVIRONMENT.parse(text, filename=file)
        unknown = find_undeclared_variables(tree) - set(VARIABLES)
    except TemplateSyntaxError as error:
        says = printable(error.message or "is no Jinja2 template").rstrip(".")
        yield f"{file}:{error.lineno}: {says}; mend the template"
        return
    except (ValueError, RecursionError) as error:
        yield f"{file}:1: {printable(str(error))}; mend the template"
        return
    for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
        for found in tree.find_all(kind):
            yield f"{file}:{found.lineno}: a template stands alone here, and brings in no other; write the lines here"
    told: set[tuple[str, int]] = set()
    for name in tree.find_all(nodes.Name):
        if name.name in unknown and (name.name, name.lineno) not in told:
            told.add((name.name, name.lineno))
            yield f"{file}:{name.lineno}: {name.name} is not defined; a template knows {', '.join(VARIABLES)}"


def rendered(text: str, file: str, variables: Mapping[str, object]) -> str:
    """The text of a template. Raises TemplateMistake."""
    line = 1
    try:
        return _ENVIRONMENT.from_string(text).render(variables)
    except TemplateError as error:
        line = _line_of(error) or (error.lineno if isinstance(error, TemplateSyntaxError) else line)
        raise TemplateMistake(f"{file}:{line}: {printable(str(error))}; mend the template") from error
    except Exception as error:  # whatever its expressions raise, such as a division by 0
        line = _line_of(error) or line
        raise TemplateMistake(
            f"{file}:{line}: {type(error).__name__}: {printable(str(error))}; mend the template"
        ) from error


def _line_of(error: BaseException) -> int | None:
    """The line where an expression failed, as Jinja2 writes it into the trace."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
