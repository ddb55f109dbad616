"""`fiefdom plan` and `fiefdom apply`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click
from rich.console import Console

from fiefdom.cli import frame, show
from fiefdom.cli.frame import (
    CLEAN,
    PENDING,
    Answering,
    Run,
    answer,
    at_option,
    inventory_argument,
    json_option,
    limit_option,
    say,
    warn,
)
from fiefdom.cluster import keys, ledger, members, status, views
from fiefdom.converge import carry_out, diffs, look
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.errors import FiefdomError
from fiefdom.images import build
from fiefdom.procedures import turn


def _plan(run: Run) -> Plan:
    return look.make_plan(run.known, run.names, run.session)


def _print_plan(run: Run, wanted: Plan, as_json: bool, diff: bool) -> None:
    texts = diffs.of_plan(wanted, run.session.text_of) if diff else {}
    if as_json:
        data = wanted.as_data()
        if diff:
            data["diffs"] = {f"{host}:{path}": text for (host, path), text in texts.items()}
        answer(data)
        return
    for line in show.plan_tree(wanted, run.inventory):
        run.out.print(line)
    for (host, path), text in texts.items():
        run.out.print(show.diff(host, path, text))


@click.command(cls=Answering)
@inventory_argument
@limit_option
@at_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files would change; secrets stay masked.")
def plan(inventory: str, limit: tuple[str, ...], at: tuple[str, ...], as_json: bool, diff: bool) -> None:
    """Show what would change. Exit 0: nothing, 2: changes pending, 1: error."""
    with frame.connected(inventory, limit, at=at) as run:
        wanted = look.settled_plan(run.known, run.names, run.session, lambda text: click.echo(text, err=True))
        _print_plan(run, wanted, as_json, diff)
    sys.exit(CLEAN if wanted.clean else PENDING)


@click.command(cls=Answering)
@inventory_argument
@limit_option
@at_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files change; secrets stay masked.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def apply(inventory: str, limit: tuple[str, ...], at: tuple[str, ...], as_json: bool, diff: bool, yes: bool) -> None:
    """Bring hosts to what the inventory says. Exit 0 only if they are there.

    A change of sshd, firewall or network stays only if a new login confirms it in time; else the host takes it back.
    """
    with frame.connected(inventory, limit, at=at) as run:
        wanted = look.settled_plan(run.known, run.names, run.session, say)
        _print_plan(run, wanted, as_json, diff)
        if wanted.due.clean:
            return
        require_same_key(run, wanted.due.hosts)
        if not yes:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise FiefdomError("no terminal to ask on; say --yes to apply this plan unseen")
            if as_json:
                for line in show.plan_tree(wanted, inventory):
                    run.err.print(line)
            if not click.confirm("Apply?", err=True):
                raise FiefdomError("not applied")
        _carry_out(run, wanted, yes, run.err if as_json else run.out)


def require_same_key(run: Run, hosts: Iterable[HostPlan]) -> None:
    if keys.touches_keys(hosts):
        keys.require_same_key(run.known, run.session)


def _carry_out(run: Run, wanted: Plan, yes: bool, console: Console) -> None:
    """Bring hosts to a plan; while they take turns under the cluster's lock, so that no other run takes one out too."""
    cluster, session = run.known.cluster, run.session
    waits = ledger.is_applied_to(session, cluster.gateways)
    takes_turns, turned = carry_out.takes_turns(wanted), wanted
    # Another run may have brought another key while we asked.
    require_same_key(run, wanted.due.hosts)

    def gate(name: str) -> None:
        views.await_serving(cluster, session, name)

    names = [h.host for h in wanted.due.hosts if h.changes]
    refs = {c.name for h in wanted.due.hosts for c in h.of("image")}
    with ledger.recorded(session, cluster.gateways, "apply", warn, plan=wanted.hash, names=names) as act:
        with show.Progress(console) as progress:
            build.ensure(cluster, refs, lambda text: progress("here", text))
            if not waits:
                carry_out.carry_out(wanted, session, cluster, progress, gate, turns=not takes_turns)
            if waits or takes_turns:
                with ledger.hold_for_apply(act, names, say) as held:
                    turned = _left_of(run, wanted, yes)
                    carry_out.carry_out(turned, session, cluster, progress, gate, held.beat)
            status.await_gateways(wanted, session)
            left = _plan(run)
            if not (closing := carry_out.left_by_turns(left, turned)).clean:
                carry_out.carry_out(closing, session, cluster, progress)
                left = _plan(run)
            for name in _forget_gone(run):
                progress(name, "forgotten, for it left the inventory")
        if not left.due.clean:
            missing = [f"{h.host}: {c.kind} {c.name} ({c.why})" for h in left.due.hosts for c in h.changes]
            raise FiefdomError(f"not converged, {len(missing)} left after the run: {'; '.join(missing[:3])}")
        members.require_believed(cluster, session, run.names)
    console.print(f"Converged {len(run.names)} hosts in {progress.elapsed_s:.1f} seconds.", highlight=False)


def _left_of(run: Run, agreed: Plan, yes: bool) -> Plan:
    """What is left to do of a plan, now that no other run changes hosts; with ``yes``, whatever else is by now.

    Raises FiefdomError for a change that nobody agreed to.
    """
    # A host may be at a turn whose operator is gone.
    run.session.on_all(lambda name: turn.await_turn(run.session, name), run.names)
    left = look.settled_plan(run.known, run.names, run.session, say)
    # What ran on a host whose dockerd was down is only known now.
    blind = {h.host for h in agreed.hosts if h.snapshot.docker == "down"}
    known = {(h.host, c.kind, c.name) for h in agreed.due.hosts for c in h.changes}
    others = [
        f"{h.host}: {c.kind} {c.name}"
        for h in left.due.hosts
        for c in h.changes
        if h.host not in blind and c.kind != "record" and (h.host, c.kind, c.name) not in known
    ]
    if others and not yes:
        raise FiefdomError(f"the hosts changed since this run looked at them ({others[0]}); run it again")
    if others:
        say(f"the hosts changed since this run looked at them; it does what is left now, {others[0]} as well")
    require_same_key(run, left.due.hosts)
    return left


def _forget_gone(run: Run) -> list[str]:
    """What `strangers.forget_gone` does, where it can: the hosts are converged, whatever becomes of this."""
    try:
        return members.forget_gone(run.known.cluster, run.session)
    except FiefdomError as error:
        warn(f"members that left the inventory may still be listed: {error}")
        return []
