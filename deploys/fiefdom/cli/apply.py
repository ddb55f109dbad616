"""`fiefdom plan`, `fiefdom apply` and `fiefdom upgrade`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import click

from fiefdom import RELEASE
from fiefdom.cli import frame, gathered, show
from fiefdom.cli.frame import (
    Command,
    Document,
    Run,
    at_option,
    dry_option,
    every_option,
    force_option,
    inventory_argument,
    json_option,
    limit_option,
    tell,
    warn,
    without_option,
    yes_option,
)
from fiefdom.cli.group import CLEAN, PENDING, SILENT
from fiefdom.cli.progress import Progress
from fiefdom.cluster.lock import quorum
from fiefdom.converge import diffs, look
from fiefdom.converge.plan import Plan
from fiefdom.converge.run import Known
from fiefdom.errors import FiefdomError
from fiefdom.inventory.groups import left_out
from fiefdom.model import Cluster
from fiefdom.procedures import apply as procedure
from fiefdom.procedures import upgrade as upgrading
from fiefdom.procedures.tidy import with_spared

Diffs = Mapping[tuple[str, str], str]


@click.command(cls=Command)
@inventory_argument
@limit_option
@at_option
@without_option
@every_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files would change; secrets stay masked.")
def plan(
    inventory: str,
    limit: tuple[str, ...],
    at: tuple[str, ...],
    without: tuple[str, ...],
    diff: bool,
    every: bool,
    **_: bool,
) -> Document:
    """Show what `fiefdom apply` would change, and change nothing."""
    with frame.connected(inventory, limit, frame.require_possible, at, without=without, looks=True) as run:
        seen = _look(run)
        texts = diffs.of_plan(seen.plan, run.session.text_of) if diff else None
    code = SILENT if seen.silent else CLEAN if seen.plan.clean else PENDING
    return Document(_data(seen, texts), _lines(seen, inventory, texts, every), code=code)


@click.command(cls=Command)
@inventory_argument
@limit_option
@at_option
@without_option
@every_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files change; secrets stay masked.")
@click.option("--plan", "agreed", metavar="HASH", help="Do the plan that `fiefdom plan` showed with HASH, or nothing.")
@yes_option
def apply(
    inventory: str,
    limit: tuple[str, ...],
    at: tuple[str, ...],
    without: tuple[str, ...],
    diff: bool,
    agreed: str | None,
    every: bool,
    as_json: bool,
    yes: bool,
) -> Document:
    """Bring hosts to what the inventory says, after asking.

    A change of sshd, firewall or network stays only if a new login confirms it in time; else the host takes it back.
    """

    def check(cluster: Cluster) -> None:
        frame.require_possible(cluster)
        quorum(cluster, left_out(cluster, without))

    with frame.connected(inventory, limit, check, at, without=without, everybody=bool(without)) as run:
        seen = _look(run, whole=True)
        known, wanted = seen.known, seen.plan
        if agreed is not None and agreed != wanted.hash:
            raise FiefdomError(f"the plan is {wanted.hash} by now, and not {agreed}; nothing was done")
        texts = diffs.of_plan(wanted, run.session.text_of) if diff else None
        document = _data(seen, texts)
        frame.begin(document)
        if not as_json:
            _print(run, seen, texts, every)
        if wanted.due.clean:
            procedure.confirm(known, run.session, warn)
            return Document(document)
        procedure.require_same_key(known, run.session, wanted.due.hosts)
        if not yes and agreed is None:
            _show_before_asking(run, seen, as_json, every)
            frame.ask("Apply?", False)
        exactly = agreed is not None
        with Progress(run.out, crowd=_crowd(wanted, every)) as progress:
            procedure.apply(
                known,
                run.session,
                wanted,
                whatever=yes and not exactly,
                exactly=exactly,
                say=progress,
                tell=tell,
                warn=warn,
            )
        words = f"Converged {show.counted(len(run.names))} in {progress.elapsed_s:.1f} seconds."
        return Document(document, words=[words])


@click.command(cls=Command)
@inventory_argument
@dry_option
@click.option(
    "--with-changes",
    is_flag=True,
    help="Bring what the inventory changed as well; releases stay for `fiefdom rollout`.",
)
@force_option
@every_option
@yes_option
@json_option
def upgrade(
    inventory: str, dry: bool, with_changes: bool, force: bool, every: bool, as_json: bool, yes: bool
) -> Document:
    """Bring all hosts to this Fiefdom's own images and files, turn by turn, with no request failed.

    Gateways first, then app hosts, each when all others serve. Instances run on: where this Fiefdom makes them
    otherwise, `fiefdom rollout` brings that. A cluster of a newer Fiefdom is refused.
    """
    with frame.connected(inventory, (), frame.require_possible) as run:
        upgrading.settle(run.session, tell)
        seen = _look(run, whole=True)
        document = _data(seen, None)
        frame.begin(document)
        if not upgrading.is_due(seen.plan):
            left = "" if seen.plan.due.clean else f" What `fiefdom plan {inventory}` shows is for `fiefdom apply`."
            return Document(document, words=[f"Every host is of Fiefdom {RELEASE} already.{left}"])
        if not with_changes:
            upgrading.require_no_changes(seen.plan)
        if not as_json:
            _print(run, seen, None, every)
        told = list(upgrading.foreseen(seen.plan, run.known.cluster))
        if dry:
            if not force:
                upgrading.require_fit(seen.known, run.session, seen.plan)
            return frame.dry(run.names, told, **document)
        procedure.require_same_key(seen.known, run.session, seen.plan.due.hosts)
        if not yes:
            _show_before_asking(run, seen, as_json, every)
        for line in told:
            tell(line)
        frame.ask("Upgrade?", yes)
        with Progress(run.out, crowd=_crowd(seen.plan, every)) as progress:
            upgrading.upgrade(
                seen.known, run.session, seen.plan, whatever=yes, force=force, say=progress, tell=tell, warn=warn
            )
        words = f"Upgraded {show.counted(len(run.names))} to Fiefdom {RELEASE} in {progress.elapsed_s:.1f} seconds."
        return Document(document, words=[show.good(words)])


@dataclass(frozen=True)
class _Seen:
    """A plan and what it was made with; ``silent`` are hosts that could not be looked at, and why."""

    plan: Plan
    known: Known
    silent: Mapping[str, str]


def _look(run: Run, *, whole: bool = False) -> _Seen:
    """The plan of a run's hosts; where it is to be ``whole``, a host that does not answer raises."""
    silent: dict[str, str] = {}
    known = run.known
    wanted = look.settled_plan(known, run.names, run.session, tell, None if whole else silent)
    with_missed = procedure.with_missed(known, run.session, wanted)
    if with_missed.behind:
        known = with_missed
        wanted = look.settled_plan(known, run.names, run.session, tell, None if whole else silent)
    known, wanted = with_spared(known, run.session, wanted)
    return _Seen(wanted, known, silent)


def _crowd(wanted: Plan, every: bool) -> int | None:
    """How many hosts change, where they are too many to tell of each phase."""
    return gathered.crowd(sum(bool(host.changes) for host in wanted.due.hosts), every)


def _show_before_asking(run: Run, seen: _Seen, as_json: bool, every: bool) -> None:
    """Show a plan that only the document was to have. Raises FiefdomError where nobody could be asked about it."""
    frame.require_terminal(False)
    if as_json:
        _print(run, seen, None, every)


def _data(seen: _Seen, texts: Diffs | None) -> dict[str, object]:
    diff = {} if texts is None else {"diffs": {f"{host}:{path}": text for (host, path), text in texts.items()}}
    return seen.plan.as_data() | {"silent": dict(seen.silent), "without": list(seen.known.without)} | diff


def _lines(seen: _Seen, inventory: str, texts: Diffs | None, every: bool) -> list[object]:
    return [
        *show.plan_tree(seen.plan, inventory, seen.silent, seen.known.without, every),
        *show.diffs(texts or {}, gathered.is_wide(seen.plan, every)),
    ]


def _print(run: Run, seen: _Seen, texts: Diffs | None, every: bool) -> None:
    for line in _lines(seen, run.inventory, texts, every):
        run.out.print(line)
