"""What all commands share: arguments, connections, and the document that each ends with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console

from fiefdom.cli import show, verbose
from fiefdom.cli.group import CLEAN, one_line
from fiefdom.cli.help_texts import Helped
from fiefdom.cli.left_out import with_inventory
from fiefdom.cli.outlet import is_terminal
from fiefdom.converge.run import Hosts, Known
from fiefdom.errors import FiefdomError
from fiefdom.images import build, docker
from fiefdom.inventory import hooks, load, secret
from fiefdom.inventory.groups import answers_at, left_out, limit_hosts
from fiefdom.inventory.offline import impossible
from fiefdom.inventory.read import unread_group_data
from fiefdom.model import Cluster
from fiefdom.wording import dotted, printable

inventory_argument = click.argument("inventory", type=click.Path())
at_option = click.option(
    "--at",
    multiple=True,
    metavar="HOST=ADDRESS[:PORT]",
    help="Where HOST answers now, while the inventory already says where it shall answer.",
)
limit_option = click.option(
    "--limit", multiple=True, metavar="PATTERN", help="Only these hosts or groups; globs and commas are understood."
)
without_option = click.option(
    "--without", multiple=True, metavar="HOST", help="Go on without HOST, which is dead; an apply brings it back later."
)
dry_option = click.option(
    "--dry", is_flag=True, help="Show what would be done, or why it would be refused; change nothing."
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
every_option = click.option(
    "--all", "-a", "every", is_flag=True, help="Show each host by itself, however many they are."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


@dataclass(frozen=True)
class Document:
    """What a command ends with.

    ``data`` is what --json prints, and ``table`` what a person reads in its place. ``words`` are for a person either
    way: on standard error where standard output is a document's.
    """

    data: Mapping[str, object] | Sequence[object] = field(default_factory=dict)
    table: Iterable[Any] = ()
    words: Iterable[Any] = ()
    code: int = CLEAN


class Command(Helped):
    """A command that returns its `Document`, which is printed here alone; with --json there is one however it ends."""

    asks_hosts = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.asks_hosts and any(param.name == "inventory" for param in self.params):
            self.params.append(verbose.option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self.completed(args))

    def completed(self, args: list[str]) -> list[str]:
        """Words of a command line with those that a person may leave out."""
        return with_inventory(self, args)

    def invoke(self, ctx: click.Context) -> None:
        try:
            document: Document = super().invoke(ctx)
        except FiefdomError as error:
            outcome = "failed" if error.recorded else "refused"
            if _wants_json(ctx):
                _print_json(
                    ctx.meta.get(_BEGUN, {}) | {"outcome": outcome, "error": one_line(error), "log": list(error.log)}
                )
            raise
        except BaseException:  # somebody interrupted it
            if _wants_json(ctx) and _BEGUN in ctx.meta:
                _print_json(ctx.meta[_BEGUN])
            raise
        if _wants_json(ctx):
            _print_json(document.data)
        else:
            _print(document.table)
        _print(document.words)
        if document.code:
            raise SystemExit(document.code)


class Local(Command):
    """A command of an inventory that asks none of its hosts: so there is no round trip to tell of."""

    asks_hosts = False


_BEGUN = "fiefdom.begun"


def begin(data: Mapping[str, object]) -> None:
    """What --json prints of a command that an error ends later on, beside the error."""
    click.get_current_context().meta[_BEGUN] = dict(data)


def out() -> Console:
    """Where a person reads: standard output, or standard error where that is a document's."""
    return show.console(stderr=_wants_json(click.get_current_context()))


def _wants_json(ctx: click.Context) -> bool:
    return bool(ctx.params.get("as_json"))


def _print_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2))


def _print(lines: Iterable[Any]) -> None:
    wants_json = _wants_json(click.get_current_context())
    for line in lines:
        if isinstance(line, str):
            click.echo(line, err=wants_json)
        else:
            show.console(stderr=wants_json).print(line)


def loaded(inventory: str) -> Cluster:
    """The cluster of an inventory; told is what pyinfra's habit would have mixed in from the working directory."""
    cluster = load(inventory)
    tell_unread(inventory)
    return cluster


def tell_unread(inventory: str) -> None:
    """Tell of group data in the working directory that is not this inventory's."""
    if (folder := unread_group_data(inventory)) is not None:
        warn(f"{folder} is not read: group data of {inventory} is beside it, or beside its folder")


def require_possible(cluster: Cluster) -> None:
    """Raise FiefdomError where an image is to be built from a folder that is not there, or a job's time is over."""
    for key, says in impossible(cluster):
        raise FiefdomError(f"{dotted(key)}: {says}")


@dataclass(frozen=True)
class Run:
    """What every command on hosts begins with."""

    inventory: str
    known: Known
    names: tuple[str, ...]
    session: Hosts
    out: Console
    """Where a person reads."""


@contextmanager
def connected(
    inventory: str,
    limit: Sequence[str] | Callable[[Cluster], Sequence[str]],
    check: Callable[[Cluster], object] = lambda _: None,
    at: Sequence[str] = (),
    *,
    without: Sequence[str] | None = None,
    looks: bool = False,
    everybody: bool = False,
    certified: bool = True,
) -> Iterator[Run]:
    """Connections to the hosts of ``limit`` less those of ``without``, and to the gateways besides where they answer,
    or to ``everybody``: the ledger is there. ``limit`` may be made of the cluster.

    ``check`` may refuse the cluster before any host is asked. Every host must answer, but to who only ``looks``.
    Nothing of the gateways' certificates is read unless what they are to be is ``certified``: see `secret.load`.
    """
    if inventory.endswith(".py"):
        import fiefdom.engine  # noqa: F401 -- what such a file begins, threads for one, has to know the patched library
    cluster = loaded(inventory)
    names = limit_hosts(cluster, limit(cluster) if callable(limit) else limit)
    now_at = answers_at(cluster, at)
    gone = left_out(cluster, without or ())
    names = tuple(name for name in names if name not in gone)
    if not names:
        raise FiefdomError(f"--without {', '.join(gone)}: leaves no host")
    check(cluster)
    hooks.require(cluster, str(click.get_current_context().info_name))
    # Deferred until there is somebody to connect to: pyinfra takes most of a second, and patches the standard library.
    from fiefdom import engine

    known = Known(
        cluster, secret.load(cluster, certified=certified), build.identities(cluster), gone, local=docker.describe
    )
    others = tuple(name for name in cluster.hosts if name not in gone) if everybody else known.gateways
    with engine.Session(cluster, names, others, now_at, looks=looks or without is not None) as session:
        if not looks:
            _require_all(session.silent, names)
        yield Run(inventory, known, names, session, out())


@dataclass(frozen=True)
class Reached:
    """Hosts that somebody looks at, and nothing besides."""

    cluster: Cluster
    session: Hosts
    silent: Mapping[str, str]
    """Why some do not answer."""


@contextmanager
def reached(
    inventory: str, names: Sequence[str] | Callable[[Cluster], Sequence[str]], at: Sequence[str] = ()
) -> Iterator[Reached]:
    """Connections to hosts by name, or as ``names`` makes them of the cluster: no secret is read, no other host asked.

    So it works where little else does.
    """
    if inventory.endswith(".py"):
        import fiefdom.engine  # noqa: F401 -- as in `connected`
    cluster = loaded(inventory)
    wanted = tuple(names(cluster) if callable(names) else names)
    for name in wanted:
        if name not in cluster.hosts:
            raise FiefdomError(f"{printable(name)}: no such host; hosts are {', '.join(cluster.hosts)}")
    now_at = answers_at(cluster, at)
    from fiefdom import engine

    with engine.Session(cluster, wanted, (), now_at, looks=True) as session:
        yield Reached(cluster, session, session.silent)


def _require_all(silent: Mapping[str, str], names: Sequence[str]) -> None:
    dead = {name: reason for name, reason in silent.items() if name in names}
    if dead:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dead.items())
        option = " ".join(f"--without {name}" for name in dead)
        raise FiefdomError(f"{reasons}; to go on without {'it' if len(dead) == 1 else 'them'}: {option}")


take_over_option = click.option("--take-over", is_flag=True, help="Go on although a run that died left its lock.")
force_option = click.option("--force", is_flag=True, help="Go on although the cluster is not whole already.")


def require_terminal(yes: bool) -> None:
    """Raise FiefdomError where nobody could be asked whether to do what a command does, and nobody said ``yes``."""
    if not (yes or (is_terminal(sys.stdin) and is_terminal(sys.stderr))):
        raise FiefdomError("no terminal to ask on; say --yes to let it go on unasked")


def ask(question: str, yes: bool) -> None:
    """Ask whether to go on, unless somebody said ``yes``. Raises FiefdomError where that is not to be."""
    require_terminal(yes)
    if not yes and not click.confirm(question, err=True):
        raise FiefdomError("nothing was done")


def done(names: Sequence[str], seconds: float, *words: Any) -> Document:
    """The document of hosts that went through something."""
    return Document({"outcome": "ok", "hosts": list(names), "seconds": round(seconds, 3)}, words=words)


def dry(names: Sequence[str], words: Iterable[Any], **data: object) -> Document:
    """The document of hosts that would go through something."""
    return Document(
        {"outcome": "ok", "dry": True, "hosts": list(names), **data}, words=[*words, "Nothing was changed."]
    )


def warn(text: str) -> None:
    """Tell what does not end the run."""
    click.echo(f"warning: {text}", err=True)


def tell(text: str) -> None:
    """Tell what is waited for, or done on this machine."""
    click.echo(text, err=True)
