"""The `fiefdom` command: parse, call, print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fiefdom import __version__
from fiefdom.errors import FiefdomError

if TYPE_CHECKING:  # imports that a command does not need would cost every start a tenth of a second and more
    from rich.console import Console

    from fiefdom.converge.plan import HostPlan, Plan
    from fiefdom.converge.run import Known
    from fiefdom.engine import Session
    from fiefdom.model import Cluster
    from fiefdom.procedures.release import Order

CLEAN, FAILED, PENDING = 0, 1, 2

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
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


class _Group(click.Group):
    """Turns the errors that a person can cause into one line and exit 1, everywhere."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FiefdomError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("interrupted; what was done stays, and the next run finishes the rest")

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # click exits 2 for a wrong option, which would read as "changes pending" here.
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            return FAILED
        except click.exceptions.Abort:
            _fail("interrupted")
        except click.ClickException as error:
            _fail(error.format_message())


_ANSWER = "fiefdom.answer"


class _Answering(click.Command):
    """A command whose --json is one document, however it ends: what `_answer` was told, and the error that ended it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FiefdomError as error:
            from fiefdom.cluster import ledger

            outcome = "failed" if ledger.was_recorded(error) else "refused"
            _answer({"outcome": outcome, "error": _one_line(error)})
            raise
        finally:
            if ctx.params["as_json"] and _ANSWER in ctx.meta:
                click.echo(json.dumps(ctx.meta[_ANSWER], indent=2))


def _answer(data: Mapping[str, object]) -> None:
    """Add to what the command prints on standard output with --json, at its end."""
    meta = click.get_current_context().meta
    meta[_ANSWER] = meta.get(_ANSWER, {}) | data


def _one_line(words: object) -> str:
    return " ".join(str(words).split())


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {_one_line(message)}", err=True)
    raise SystemExit(FAILED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Containerised HTTP services on your own Debian hosts, behind a gateway.

    Start with `fiefdom plan INVENTORY`: it shows what `fiefdom apply INVENTORY` would do, and changes nothing.
    """


@dataclass(frozen=True)
class _Run:
    """What every command on hosts begins with."""

    inventory: str
    known: Known
    names: tuple[str, ...]
    session: Session
    out: Console
    err: Console


@contextmanager
def _run(
    inventory: str,
    limit: Sequence[str],
    check: Callable[[Cluster], object] = lambda _: None,
    at: Sequence[str] = (),
) -> Iterator[_Run]:
    """Connections to the hosts of ``limit``, and to the gateways besides where they answer: the ledger is there.

    ``check`` may refuse the cluster before any host is asked.
    """
    from fiefdom import engine  # first: it patches the standard library's sockets

    # isort: split
    from fiefdom.cli import show
    from fiefdom.converge.run import Known
    from fiefdom.images import build as images
    from fiefdom.inventory import load, secret
    from fiefdom.inventory.read import answers_at, limit_hosts

    cluster = load(inventory)
    names = limit_hosts(cluster, limit)
    now_at = answers_at(cluster, at)
    check(cluster)
    known = Known(cluster, secret.load(cluster), images.identities(cluster))
    with engine.Session(cluster, names, cluster.gateways, now_at) as session:
        yield _Run(inventory, known, names, session, show.console(), show.console(stderr=True))


def _plan(run: _Run) -> Plan:
    from fiefdom.converge import carry_out as converge

    return converge.make_plan(run.known, run.names, run.session)


def _print_plan(run: _Run, wanted: Plan, as_json: bool, diff: bool) -> None:
    from fiefdom.cli import show
    from fiefdom.converge import diffs

    texts = diffs.of_plan(wanted, run.session.text_of) if diff else {}
    if as_json:
        data = wanted.as_data()
        if diff:
            data["diffs"] = {f"{host}:{path}": text for (host, path), text in texts.items()}
        _answer(data)
        return
    for line in show.plan_tree(wanted, run.inventory):
        run.out.print(line)
    for (host, path), text in texts.items():
        run.out.print(show.diff(host, path, text))


@main.command(cls=_Answering)
@inventory_argument
@limit_option
@at_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files would change; secrets stay masked.")
def plan(inventory: str, limit: tuple[str, ...], at: tuple[str, ...], as_json: bool, diff: bool) -> None:
    """Show what would change. Exit 0: nothing, 2: changes pending, 1: error."""
    from fiefdom.converge import carry_out as converge

    with _run(inventory, limit, at=at) as run:
        wanted = converge.settled_plan(run.known, run.names, run.session, lambda text: click.echo(text, err=True))
        _print_plan(run, wanted, as_json, diff)
    sys.exit(CLEAN if wanted.clean else PENDING)


@main.command(cls=_Answering)
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
    from fiefdom.cli import show
    from fiefdom.converge import carry_out as converge

    with _run(inventory, limit, at=at) as run:
        wanted = converge.settled_plan(run.known, run.names, run.session, _say)
        _print_plan(run, wanted, as_json, diff)
        if wanted.due.clean:
            return
        _require_same_key(run, wanted.due.hosts)
        if not yes:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise FiefdomError("no terminal to ask on; say --yes to apply this plan unseen")
            if as_json:
                for line in show.plan_tree(wanted, inventory):
                    run.err.print(line)
            if not click.confirm("Apply?", err=True):
                raise FiefdomError("not applied")
        _carry_out(run, wanted, yes, run.err if as_json else run.out)


def _require_same_key(run: _Run, hosts: Iterable[HostPlan]) -> None:
    from fiefdom.cluster import keys

    if keys.touches_keys(hosts):
        keys.require_same_key(run.known, run.session)


def _carry_out(run: _Run, wanted: Plan, yes: bool, console: Console) -> None:
    """Bring hosts to a plan; while they take turns under the cluster's lock, so that no other run takes one out too."""
    from fiefdom.cli import show
    from fiefdom.cluster import ledger, status, views
    from fiefdom.cluster import members as strangers
    from fiefdom.converge import carry_out as converge
    from fiefdom.images import build as images

    cluster, session = run.known.cluster, run.session
    waits = ledger.is_applied_to(session, cluster.gateways)
    takes_turns, turned = converge.takes_turns(wanted), wanted
    # Another run may have brought another key while we asked.
    _require_same_key(run, wanted.due.hosts)

    def gate(name: str) -> None:
        views.await_serving(cluster, session, name)

    names = [h.host for h in wanted.due.hosts if h.changes]
    refs = {c.name for h in wanted.due.hosts for c in h.of("image")}
    with ledger.recorded(session, cluster.gateways, "apply", _warn, plan=wanted.hash, names=names) as act:
        with show.Progress(console) as progress:
            images.ensure(cluster, refs, lambda text: progress("here", text))
            if not waits:
                converge.carry_out(wanted, session, cluster, progress, gate, turns=not takes_turns)
            if waits or takes_turns:
                with ledger.hold_for_apply(act, names, _say) as held:
                    turned = _left_of(run, wanted, yes)
                    converge.carry_out(turned, session, cluster, progress, gate, held.beat)
            status.await_gateways(wanted, session)
            left = _plan(run)
            if not (closing := converge.left_by_turns(left, turned)).clean:
                converge.carry_out(closing, session, cluster, progress)
                left = _plan(run)
            for name in _forget_gone(run):
                progress(name, "forgotten, for it left the inventory")
        if not left.due.clean:
            missing = [f"{h.host}: {c.kind} {c.name} ({c.why})" for h in left.due.hosts for c in h.changes]
            raise FiefdomError(f"not converged, {len(missing)} left after the run: {'; '.join(missing[:3])}")
        strangers.require_believed(cluster, session, run.names)
    console.print(f"Converged {len(run.names)} hosts in {progress.elapsed_s:.1f} seconds.", highlight=False)


def _left_of(run: _Run, agreed: Plan, yes: bool) -> Plan:
    """What is left to do of a plan, now that no other run changes hosts; with ``yes``, whatever else is by now.

    Raises FiefdomError for a change that nobody agreed to.
    """
    from fiefdom.converge import carry_out as converge
    from fiefdom.procedures import turn

    # A host may be at a turn whose operator is gone.
    run.session.on_all(lambda name: turn.await_turn(run.session, name), run.names)
    left = converge.settled_plan(run.known, run.names, run.session, _say)
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
        _say(f"the hosts changed since this run looked at them; it does what is left now, {others[0]} as well")
    _require_same_key(run, left.due.hosts)
    return left


def _forget_gone(run: _Run) -> list[str]:
    """What `strangers.forget_gone` does, where it can: the hosts are converged, whatever becomes of this."""
    from fiefdom.cluster import members as strangers

    try:
        return strangers.forget_gone(run.known.cluster, run.session)
    except FiefdomError as error:
        _warn(f"members that left the inventory may still be listed: {error}")
        return []


@main.command()
@inventory_argument
@limit_option
@json_option
def status(inventory: str, limit: tuple[str, ...], as_json: bool) -> None:
    """Show hosts, members, instances, versions and their state in HAProxy."""
    from fiefdom.cli import show
    from fiefdom.cluster import status as status_module

    with _run(inventory, limit) as run:
        found = status_module.read(run.known.cluster, run.known.secrets, run.session)
        if as_json:
            click.echo(json.dumps(found.as_data(), indent=2))
        else:
            for part in show.status_tables(found):
                run.out.print(part)


take_over_option = click.option("--take-over", is_flag=True, help="Go on although a run that died left its lock.")
force_option = click.option("--force", is_flag=True, help="Go on although the cluster is not whole already.")


def _release_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--batch", default="1", show_default=True, metavar="N|P%", help="How many hosts at once."),
        click.option("--order", default="", metavar="HOST,...", help="These hosts first, in this order."),
        click.option("--all-at-once", is_flag=True, help="Allow a batch that takes a service down as a whole."),
        click.option("--dry", is_flag=True, help="Show whose turn it would be, and change nothing."),
        click.option("--keep", is_flag=True, help="At a failure, leave the hosts that are done on the new version."),
        force_option,
        take_over_option,
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command(cls=_Answering)
@inventory_argument
@click.argument("service", required=False)
@click.option(
    "--canary", metavar="HOST", help="Stop after this host; --continue goes on, `fiefdom rollback` goes back."
)
@click.option("--continue", "resume", is_flag=True, help="Go on after a canary.")
@_release_options
def rollout(inventory: str, service: str | None, canary: str | None, resume: bool, **options: Any) -> None:
    """Bring the inventory's version of SERVICE (or of every service) to all hosts, with no request failed.

    Host by host: out of every gateway's rotation, open requests answered, instances replaced, healthy, back in, watched
    for a while. The first failure stops it and puts back what it changed.
    """
    from fiefdom.procedures import release

    if canary and resume:
        raise FiefdomError("--canary and --continue exclude each other")
    order = _order(canary, **options)
    with _run(inventory, (), lambda cluster: release.check(cluster, service, order)) as run:
        _release(run, "rollout", service, order, resume, **options)


@main.command(cls=_Answering)
@inventory_argument
@click.argument("service")
@click.argument("version", required=False)
@_release_options
def rollback(inventory: str, service: str, version: str | None, **options: Any) -> None:
    """Bring SERVICE back to VERSION, or to the last one that was healthy, as gently as a rollout."""
    from fiefdom.procedures import release
    from fiefdom.procedures import rollout as rollout_module

    order = _order(None, **options)
    with _run(inventory, (), lambda cluster: release.check(cluster, service, order)) as run:
        known = rollout_module.known_before(run.known, run.session, service, version)
        _release(replace(run, known=known), "rollback", service, order, False, **options)


def _order(canary: str | None, *, batch: str, order: str, all_at_once: bool, **_: Any) -> Order:
    from fiefdom.procedures import release

    first = tuple(name.strip() for name in order.split(",") if name.strip())
    return release.Order(batch, first, canary, all_at_once)


def _release(
    run: _Run, what: str, service: str | None, asked: Order, resume: bool, *, as_json: bool, **options: Any
) -> None:
    from fiefdom.cli import show
    from fiefdom.procedures import release
    from fiefdom.procedures import rollout as rollout_module

    wish = rollout_module.Wish(
        what, service or "", asked, resume, options["keep"], options["force"], options["take_over"]
    )
    services = release.chosen_services(run.known.cluster, service)
    if not options["dry"]:
        rollout_module.require_free(run.session, run.known.cluster.gateways, wish)
    wanted = rollout_module.prepare(run.known, run.session, services, wish)
    _require_same_key(run, wanted.turns.values())
    report = rollout_module.Report(wanted, wish)
    out = run.err if as_json else run.out
    if not wanted.batches:
        versions = ", ".join(f"{name} {run.known.cluster.services[name].version}" for name in sorted(services))
        where = f"on {asked.canary}" if asked.canary else "everywhere"
        out.print(f"Nothing to release: {versions} runs {where} already.")
        if not options["dry"] and rollout_module.end_canary(run.session, run.known.cluster.gateways, wish, _warn):
            out.print("The cluster does not wait after its canary any more.")
    elif options["dry"]:
        for line in show.release_plan(wanted):
            out.print(line)
    else:
        with show.Progress(out, len(wanted.hosts)) as progress:
            report = rollout_module.perform(run.known, run.session, wanted, wish, progress)
        for line in show.release_report(report, run.inventory):
            out.print(line)
        if what == "rollback" and report.error is None:
            out.print(
                f"{run.inventory} still names the other version: change it, or the next rollout goes there again."
            )
    if as_json:
        dry = {"dry": True, "released": []} if options["dry"] else {"dry": False}
        _answer(report.as_data() | dry)
    sys.exit(FAILED if report.error else CLEAN)


@main.command(cls=_Answering)
@inventory_argument
@limit_option
@click.option("--upgrade", is_flag=True, help="Install Debian's upgrades first, while the host is out of rotation.")
@force_option
@take_over_option
@json_option
def reboot(inventory: str, limit: tuple[str, ...], upgrade: bool, force: bool, take_over: bool, as_json: bool) -> None:
    """Reboot the app hosts one after the other, with no request failed. A gateway only when --limit names it."""
    from fiefdom.cli import show
    from fiefdom.inventory.read import limit_hosts
    from fiefdom.procedures import reboot as maintenance

    with _run(inventory, ()) as run:
        cluster = run.known.cluster
        names = limit_hosts(cluster, limit) if limit else cluster.app_hosts
        out = run.err if as_json else run.out
        with show.Progress(out, len(names)) as progress:
            maintenance.reboot(
                run.known, run.session, names, upgrade=upgrade, force=force, take_over=take_over, say=progress
            )
        out.print(f"Rebooted {', '.join(names)} in {progress.elapsed_s:.1f} seconds.", style="green")
    _answer_done(names, progress.elapsed_s)


def _answer_done(names: Sequence[str], seconds: float) -> None:
    _answer({"outcome": "ok", "hosts": list(names), "seconds": round(seconds, 3)})


@main.command(cls=_Answering)
@inventory_argument
@click.argument("host")
@click.option("--force", is_flag=True, help="Go on although a service runs nowhere else.")
@take_over_option
@json_option
def retire(inventory: str, host: str, force: bool, take_over: bool, as_json: bool) -> None:
    """Take HOST out of the cluster for good: drained, without what Fiefdom made there, forgotten by all members."""
    from fiefdom.cli import show
    from fiefdom.procedures import reboot as maintenance

    with _run(inventory, ()) as run:
        out = run.err if as_json else run.out
        with show.Progress(out, 1) as progress:
            maintenance.retire(run.known, run.session, host, force=force, take_over=take_over, say=progress)
        out.print(f"Retired {host}. Take it out of {inventory} now, or the next apply sets it up again.", style="green")
    _answer_done([host], progress.elapsed_s)


@main.command("rotate-key", cls=_Answering)
@inventory_argument
@force_option
@take_over_option
@json_option
def rotate_key(inventory: str, force: bool, take_over: bool, as_json: bool) -> None:
    """Give all members another gossip key, host by host, with no request failed; the old one opens nothing any more."""
    from fiefdom.cli import show
    from fiefdom.procedures import rotate_key as keyring

    with _run(inventory, ()) as run:
        out = run.err if as_json else run.out
        with show.Progress(out, len(keyring.ROUNDS) * len(run.names)) as progress:
            left = keyring.rotate(run.known, run.session, force=force, take_over=take_over, say=progress)
        out.print(f"All members have another gossip key, after {progress.elapsed_s:.1f} seconds.", style="green")
        for line in left:
            out.print(line, markup=False, highlight=False)
    _answer_done(run.names, progress.elapsed_s)


@main.command()
@inventory_argument
@click.option("--why", required=True, metavar="TEXT", help="What whoever finds it locked should know.")
def lock(inventory: str, why: str) -> None:
    """Keep releases, reboots and retirements from this cluster until `fiefdom unlock`."""
    from fiefdom.cluster import ledger

    with _run(inventory, ("gateways",)) as run:
        ledger.lock(run.session, run.known.cluster.gateways, ledger.operator(), why, _warn)
    click.echo(f"Locked. When it is over: fiefdom unlock {inventory}")


@main.command()
@inventory_argument
@click.option("--take-over", is_flag=True, help="Remove the lock of a run that died as well.")
def unlock(inventory: str, take_over: bool) -> None:
    """Remove the lock that a person set, or that a run left which died."""
    from fiefdom.cluster import ledger

    with _run(inventory, ("gateways",)) as run:
        gateways = run.known.cluster.gateways
        found = ledger.unlock(run.session, gateways, ledger.operator(), _warn, take_over=take_over)
    click.echo(f"Unlocked: {found[0].who} held it for: {found[0].why}" if found else "It was not locked.")


@main.command()
@inventory_argument
@click.option("--last", default=20, show_default=True, type=click.IntRange(1, 10000), help="How many acts.")
@json_option
def audit(inventory: str, last: int, as_json: bool) -> None:
    """Show who did what to this cluster, when and how it ended, and who holds its lock."""
    from fiefdom.cli import show
    from fiefdom.cluster import ledger

    with _run(inventory, ("gateways",)) as run:
        found = ledger.read(run.session, run.known.cluster.gateways, last)
        acts = ledger.acts(found.entries, found.live)[-last:]
        for warning in found.warnings:
            _warn(warning)
        if as_json:
            data = {"locks": [lock.as_data() for lock in found.locks], "acts": [act.as_data() for act in acts]}
            click.echo(json.dumps(data, indent=2))
            return
        run.out.print(show.audit_table(acts))
        for held in found.locks:
            for line in show.lock_lines(held):
                run.out.print(line)


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


@main.command()
@inventory_argument
@click.option("--contents", is_flag=True, help="Then list what is in each image: its base and its Debian packages.")
def build(inventory: str, contents: bool) -> None:
    """Build the cluster's images on this machine, where their folders changed."""
    from fiefdom.images import build as images
    from fiefdom.inventory import load

    cluster = load(inventory)
    images.ensure(cluster, [w.ref for w in images.wanted(cluster)], click.echo)
    if contents:
        for image in images.contents(cluster):
            for line in image.lines():
                click.echo(line)


@main.command()
@inventory_argument
def keygen(inventory: str) -> None:
    """Make the gossip key where the inventory says, once; it never overwrites."""
    from fiefdom.inventory import load, secret, vault

    cluster = load(inventory)
    source = cluster.serf.key
    if source is not None and source.secret is not None:
        vault.change(cluster, vault.adding(source.secret, secret.new_key(), replace=False), os.environ)
        click.echo(f"{cluster.secrets and cluster.secrets.file} holds a new gossip key as {source.secret}.")
    elif source is not None:
        raise FiefdomError(
            f"{inventory}: serf.key: comes from {source}, where Fiefdom cannot put it; "
            "make one with `openssl rand -base64 32`"
        )
    elif cluster.serf.key_file is not None:
        path = cluster.path(cluster.serf.key_file)
        secret.generate(path)
        click.echo(f"{path} holds a new gossip key. Keep {path.name}* out of version control, and keep a copy.")
    else:
        raise FiefdomError(f"{inventory}: serf.key_file: not set; name a file outside version control for the key")


@main.group("secret")
def secret_group() -> None:
    """Secrets in the inventory's encrypted file, which only `secrets.recipients` can read."""


name_argument = click.argument("name")


@secret_group.command("set")
@inventory_argument
@name_argument
def secret_set(inventory: str, name: str) -> None:
    """Put a secret in: from standard input, or asked for. It never stands on a command line."""
    from fiefdom.inventory import load, secret, vault

    cluster = load(inventory)
    vault.require_name(name)
    if sys.stdin.isatty():
        text = click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)
    else:
        text = secret.decoded(sys.stdin.buffer.read(), f"the value of {name}")
    secret.require_one_line(text, f"the value of {name}")
    vault.change(cluster, vault.adding(name, text), os.environ)
    click.echo(f"{name} is set. `fiefdom plan {inventory}` shows what it changes.")


@secret_group.command("list")
@inventory_argument
def secret_list(inventory: str) -> None:
    """Show the names of the secrets, and nothing else of them."""
    from fiefdom.inventory import load, vault
    from fiefdom.wording import printable

    for name in sorted(vault.read(load(inventory), os.environ)):
        click.echo(printable(name))


@secret_group.command("remove")
@inventory_argument
@name_argument
def secret_remove(inventory: str, name: str) -> None:
    """Take a secret out."""
    from fiefdom.inventory import load, vault

    vault.change(load(inventory), vault.removing(name), os.environ)
    click.echo(f"{name} is removed. Whoever knew it still does: where it opens something, change it there as well.")


@secret_group.command("rekey")
@inventory_argument
def secret_rekey(inventory: str) -> None:
    """Encrypt the file anew after a change of `secrets.recipients`."""
    from fiefdom.inventory import load, vault

    cluster = load(inventory)
    vault.change(cluster, vault.as_it_is, os.environ)
    click.echo(
        f"Encrypted anew; recipients: {cluster.secrets and len(cluster.secrets.recipients)}. Whoever was taken out has "
        "the old values and older versions of the file: change the secrets themselves as well."
    )


@main.command()
def schema() -> None:
    """Print the JSON schema of inventories."""
    from fiefdom.inventory import reference

    click.echo(reference.schema_text(), nl=False)


@main.command()
def demo() -> None:
    """Bring up the lab, converge it and show its round robin. What `make demo` runs."""
    from fiefdom.cli import demo as demo_module

    demo_module.run()


@main.group()
def lab() -> None:
    """Real hosts on this machine: systemd, sshd and, after a converge, dockerd in each."""


def _say(text: str) -> None:
    click.echo(text, err=True)


@lab.command("up")
@click.option("--app-hosts", default=2, show_default=True, type=click.IntRange(1, 9), help="How many app hosts.")
def lab_up(app_hosts: int) -> None:
    """Boot a gateway and app hosts; what runs already stays as it is."""
    from fiefdom import lab as lab_module

    lab_module.up(app_hosts, _say)


@lab.command("down")
@click.option("--images", is_flag=True, help="Remove the hosts' images as well.")
def lab_down(images: bool) -> None:
    """Remove the lab and all that it left on this machine."""
    from fiefdom import lab as lab_module

    lab_module.down(_say, images=images)


@lab.command("status")
@json_option
def lab_status(as_json: bool) -> None:
    """Show the lab's hosts."""
    from fiefdom import lab as lab_module

    hosts = lab_module.status()
    if as_json:
        click.echo(json.dumps([asdict(h) for h in hosts], indent=2))
        return
    for host in hosts:
        click.echo("  ".join(f"{value:<12}" for value in asdict(host).values()).rstrip())


@lab.command("ssh", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def lab_ssh(host: str, command: tuple[str, ...]) -> None:
    """Log in to a lab host, or run a command there."""
    from fiefdom import lab as lab_module

    argv = lab_module.ssh_argv(host, command)
    os.execvp(argv[0], argv)  # noqa: S606 -- ssh takes this process over, with its terminal and exit code
