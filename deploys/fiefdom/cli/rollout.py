"""`fiefdom rollout` and `fiefdom rollback`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import click

from fiefdom.cli import frame, gathered, show
from fiefdom.cli.frame import (
    Command,
    Document,
    Run,
    dry_option,
    every_option,
    force_option,
    inventory_argument,
    json_option,
    take_over_option,
    tell,
    warn,
    without_option,
    yes_option,
)
from fiefdom.cli.group import CLEAN, FAILED
from fiefdom.cli.progress import Progress
from fiefdom.cluster.lock import quorum
from fiefdom.errors import FiefdomError
from fiefdom.inventory.groups import left_out
from fiefdom.model import Cluster
from fiefdom.procedures import release
from fiefdom.procedures.apply import require_same_key
from fiefdom.procedures.release import Order
from fiefdom.procedures.release_command import due
from fiefdom.procedures.rollback import known_before
from fiefdom.procedures.rollout import Report, Wish, end_canary, perform, prepare, require_free


def _release_options(command: Callable[..., Document]) -> Callable[..., Document]:
    options = [
        click.option("--batch", default="1", show_default=True, metavar="N|P%", help="How many hosts at once."),
        click.option("--order", default="", metavar="HOST,...", help="These hosts first, in this order."),
        click.option("--all-at-once", is_flag=True, help="Allow a batch that takes a service down as a whole."),
        without_option,
        dry_option,
        click.option("--keep", is_flag=True, help="At a failure, leave the hosts that are done on the new version."),
        force_option,
        take_over_option,
        every_option,
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(cls=Command)
@inventory_argument
@click.argument("service", required=False)
@click.option(
    "--canary", metavar="HOST", help="Stop after this host; --continue goes on, `fiefdom rollback` goes back."
)
@click.option("--continue", "resume", is_flag=True, help="Go on after a canary.")
@_release_options
def rollout(inventory: str, service: str | None, canary: str | None, resume: bool, **options: Any) -> Document:
    """Bring the inventory's version of SERVICE (or of every service) to all hosts, with no request failed.

    Host by host: out of every gateway's rotation, open requests answered, instances replaced, healthy, back in, watched
    for a while. The first failure stops it and puts back what it changed.
    """
    if canary and resume:
        raise FiefdomError("--canary and --continue exclude each other")
    order = _order(canary, **options)
    # Whether gateways have what the inventory says, certificates too, is a part of whether the cluster is whole.
    with _connected(inventory, service, order, options["without"], certified=not options["force"]) as run:
        return _release(run, "rollout", service, order, resume, **options)


@click.command(cls=Command)
@inventory_argument
@click.argument("service")
@click.argument("version", required=False)
@_release_options
@yes_option
def rollback(inventory: str, service: str, version: str | None, yes: bool, **options: Any) -> Document:
    """Bring SERVICE back to VERSION, or to the last one that was healthy, as gently as a rollout."""
    order = _order(None, **options)
    with _connected(inventory, service, order, options["without"], yes or options["dry"], certified=False) as run:
        known = known_before(run.known, run.session, service, version)
        return _release(replace(run, known=known), "rollback", service, order, False, yes=yes, **options)


def _connected(
    inventory: str,
    service: str | None,
    order: Order,
    without: Sequence[str],
    yes: bool = True,
    *,
    certified: bool,
) -> AbstractContextManager[Run]:
    def check(cluster: Cluster) -> None:
        gone = left_out(cluster, without)
        release.check(cluster, service, order, gone)
        quorum(cluster, gone)
        frame.require_terminal(yes)

    return frame.connected(inventory, (), check, without=without, certified=certified)


def _order(canary: str | None, *, batch: str, order: str, all_at_once: bool, **_: Any) -> Order:
    first = tuple(name.strip() for name in order.split(",") if name.strip())
    return release.Order(batch, first, canary, all_at_once)


def _release(
    run: Run, what: str, service: str | None, asked: Order, resume: bool, *, yes: bool = True, **options: Any
) -> Document:
    wish = Wish(what, service or "", asked, resume, options["keep"], options["force"], options["take_over"])
    cluster, dry = run.known.cluster, options["dry"]
    services = release.chosen_services(cluster, service)
    if not dry:
        require_free(run.known, run.session, wish)
    wanted = prepare(run.known, run.session, services, wish, tell)
    require_same_key(run.known, run.session, wanted.turns.values())
    report = Report(wanted, wish)
    words: list[Any] = []
    if not wanted.batches:
        versions = ", ".join(f"{name} {cluster.services[name].version}" for name in sorted(services))
        where = f"on {asked.canary}" if asked.canary else "everywhere"
        words.append(f"Nothing to release: {versions} runs {where} already.")
        if not dry and end_canary(run.known, run.session, wish, warn):
            words.append("The cluster does not wait after its canary any more.")
    elif dry:
        words += show.release_commands(due(run.known, run.session, wanted) if what == "rollout" else ())
        words += show.release_plan(wanted, options["every"])
    else:
        if not yes:
            for line in show.release_plan(wanted, options["every"]):
                run.out.print(line)
            frame.ask(f"Roll back {wanted}?", yes)
        with Progress(run.out, len(wanted.hosts), gathered.crowd(len(wanted.hosts), options["every"])) as progress:
            report = perform(run.known, run.session, wanted, wish, progress)
        words += show.release_report(report, run.inventory)
        if what == "rollback" and report.error is None:
            words.append(
                f"{run.inventory} still names the other version: change it, or the next rollout goes there again."
            )
    if run.known.without and report.error is None:
        words.append(_missed(run))
    data = (
        report.as_data()
        | {"without": list(run.known.without)}
        | ({"dry": True, "released": []} if dry else {"dry": False})
    )
    return Document(data, words=words, code=FAILED if report.error else CLEAN)


def _missed(run: Run) -> str:
    names = ", ".join(run.known.without)
    mend = f"`fiefdom apply {run.inventory}` brings it this version"
    return f"Done without {names}: once it is back, {mend}."
