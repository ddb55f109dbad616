"""The `fiefdom` command: parse, call, print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fiefdom import __version__
from fiefdom.errors import FiefdomError

if TYPE_CHECKING:  # imports that a command does not need would cost every start a tenth of a second and more
    from rich.console import Console

    from fiefdom.desired import Secrets
    from fiefdom.engine import Session
    from fiefdom.model import Cluster
    from fiefdom.plan import Plan

CLEAN, FAILED, PENDING = 0, 1, 2

inventory_argument = click.argument("inventory", type=click.Path())
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


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
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

    cluster: Cluster
    names: tuple[str, ...]
    secrets: Secrets
    session: Session
    out: Console
    err: Console


@contextmanager
def _run(inventory: str, limit: Sequence[str]) -> Iterator[_Run]:
    from fiefdom import engine  # first: it patches the standard library's sockets

    # isort: split
    from fiefdom import secret, show
    from fiefdom.inventory import limit_hosts, load

    cluster = load(inventory)
    names = limit_hosts(cluster, limit)
    secrets = secret.load(cluster)
    with engine.Session(cluster, names) as session:
        yield _Run(cluster, names, secrets, session, show.console(), show.console(stderr=True))


def _plan(run: _Run) -> Plan:
    from fiefdom import converge, images

    return converge.make_plan(run.cluster, run.names, run.secrets, images.identities(run.cluster), run.session)


def _print_plan(run: _Run, wanted: Plan, as_json: bool, diff: bool) -> None:
    from fiefdom import diffs, show

    texts = diffs.of_plan(wanted, run.session.text_of) if diff else {}
    if as_json:
        data = wanted.as_data()
        if diff:
            data["diffs"] = {f"{host}:{path}": text for (host, path), text in texts.items()}
        click.echo(json.dumps(data, indent=2))
        return
    for line in show.plan_tree(wanted):
        run.out.print(line)
    for (host, path), text in texts.items():
        run.out.print(show.diff(host, path, text))


@main.command()
@inventory_argument
@limit_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files would change; secrets stay masked.")
def plan(inventory: str, limit: tuple[str, ...], as_json: bool, diff: bool) -> None:
    """Show what would change. Exit 0: nothing, 2: changes pending, 1: error."""
    with _run(inventory, limit) as run:
        wanted = _plan(run)
        _print_plan(run, wanted, as_json, diff)
    sys.exit(CLEAN if wanted.clean else PENDING)


@main.command()
@inventory_argument
@limit_option
@json_option
@click.option("--diff", is_flag=True, help="Show how text files change; secrets stay masked.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def apply(inventory: str, limit: tuple[str, ...], as_json: bool, diff: bool, yes: bool) -> None:
    """Bring hosts to what the inventory says. Exit 0 only if they are there."""
    with _run(inventory, limit) as run:
        wanted = _plan(run)
        _print_plan(run, wanted, as_json, diff)
        if wanted.clean:
            return
        if not yes:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise FiefdomError("no terminal to ask on; say --yes to apply this plan unseen")
            if not click.confirm("Apply?", err=True):
                raise FiefdomError("not applied")
        _carry_out(run, wanted, run.err if as_json else run.out)


def _carry_out(run: _Run, wanted: Plan, console: Console) -> None:
    from fiefdom import converge, images, show, status

    refs = {c.name for h in wanted.hosts for c in h.of("image")}
    with show.Progress(console) as progress:
        images.ensure(run.cluster, refs, lambda text: progress("here", text))
        converge.carry_out(wanted, run.session, run.cluster.registry is not None, progress)
        left = _plan(run)
        if any(h.snapshot.docker == "down" for h in wanted.hosts):
            # What ran on a host whose dockerd was down is only known now.
            converge.carry_out(left, run.session, run.cluster.registry is not None, progress)
            left = _plan(run)
        status.await_gateways(wanted, run.session)
    if not left.clean:
        names = [f"{h.host}: {c.kind} {c.name} ({c.why})" for h in left.hosts for c in h.changes]
        raise FiefdomError(f"not converged, {len(names)} left after the run: {'; '.join(names[:3])}")
    console.print(f"Converged {len(run.names)} hosts in {progress.elapsed_s:.1f} seconds.", highlight=False)


@main.command()
@inventory_argument
@limit_option
@json_option
def status(inventory: str, limit: tuple[str, ...], as_json: bool) -> None:
    """Show hosts, members, instances, versions and their state in HAProxy."""
    from fiefdom import show
    from fiefdom import status as status_module

    with _run(inventory, limit) as run:
        found = status_module.read(run.cluster, run.secrets, run.session)
        if as_json:
            click.echo(json.dumps(found.as_data(), indent=2))
        else:
            for part in show.status_tables(found):
                run.out.print(part)


@main.command()
@inventory_argument
def build(inventory: str) -> None:
    """Build the cluster's images on this machine, where their folders changed."""
    from fiefdom import images
    from fiefdom.inventory import load

    cluster = load(inventory)
    images.ensure(cluster, [w.ref for w in images.wanted(cluster)], click.echo)


@main.command()
@inventory_argument
def keygen(inventory: str) -> None:
    """Make the gossip key that the inventory names, once; it never overwrites."""
    from fiefdom import secret
    from fiefdom.inventory import load

    cluster = load(inventory)
    if cluster.serf.key_file is None:
        raise FiefdomError(f"{inventory}: serf.key_file: not set; name a file outside version control for the key")
    path = cluster.path(cluster.serf.key_file)
    secret.generate(path)
    click.echo(f"{path} holds a new gossip key. Keep it out of version control, and keep a copy.")


@main.command()
def schema() -> None:
    """Print the JSON schema of inventories."""
    from fiefdom import reference

    click.echo(reference.schema_text(), nl=False)


@main.command()
def demo() -> None:
    """Bring up the lab, converge it and show its round robin. What `make demo` runs."""
    from fiefdom import demo as demo_module

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
