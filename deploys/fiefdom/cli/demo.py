"""`fiefdom demo`: from nothing to predictions through the gateway."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fiefdom import inventory, lab
from fiefdom.cli import frame, show
from fiefdom.cli.progress import Progress
from fiefdom.cluster import status
from fiefdom.converge import look
from fiefdom.converge.run import HERE, Hosts
from fiefdom.errors import FiefdomError
from fiefdom.images import build
from fiefdom.model import Cluster, Secrets
from fiefdom.procedures.apply import apply
from fiefdom.waiting import looks

INVENTORY = "inventories/lab.yaml"
ROTATION_TIMEOUT_S = 60


class _Stages:
    """The stages that ran and the seconds each took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.progress = Progress(console)
        self.times: list[tuple[str, float]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[str], None]]:
        self._console.print(f"\n[bold cyan]{name}[/bold cyan]")
        start = time.monotonic()
        with self.progress:
            yield lambda text: self.progress(HERE, text)
        self.times.append((name, time.monotonic() - start))


@click.command(cls=frame.Command)
def demo() -> frame.Document:
    """Bring up the lab, converge it and show its round robin. What `make demo` runs."""
    console = show.console()
    stages = _Stages(console)
    if not Path(INVENTORY).is_file():
        raise FiefdomError(f"{INVENTORY} is not here; run the demo in the folder of Fiefdom's repository")
    with stages("Lab: three hosts with systemd and sshd") as say:
        lab.ensure_docker(say)
        lab.ensure_base_images(say)
        lab.up(say=say)
    cluster = inventory.load(INVENTORY)
    with stages("Images: gateway, Serf and the example predictor") as say:
        build.ensure(cluster, [w.ref for w in build.wanted(cluster)], say)
        say("up to date")
    with frame.connected(INVENTORY, ()) as run:
        with stages("Converge: from bare Debian to the inventory") as say:
            wanted = look.settled_plan(run.known, run.names, run.session, say)
            if not wanted.due.clean:
                apply(run.known, run.session, wanted, whatever=True, say=stages.progress, tell=say, warn=say)
            changes = sum(wanted.counts.values())
            console.print(f"        {changes or 'zero'} changes on {len(run.names)} hosts; a second plan finds none")
        with stages("Rotation: until HAProxy has every instance up"):
            found = wait_for_rotation(cluster, run.known.secrets, run.session)
    with stages("Requests: round robin through the gateway"):
        answers = _requests(cluster, 40)
        _print_answers(console, cluster, answers)
    return frame.Document(
        words=["", *show.status_tables(found), Text(), _times(stages), "\nThe lab stays up. Try next:", *_next(cluster)]
    )


def wait_for_rotation(
    cluster: Cluster, secrets: Secrets, session: Hosts, timeout_s: float = ROTATION_TIMEOUT_S
) -> status.Status:
    """The cluster's status as soon as every instance is up everywhere. Raises FiefdomError after ``timeout_s``."""
    for late in looks(timeout_s):
        found = status.read(cluster, secrets, session)
        if late or found.serving:
            break
    if not found.serving:
        out = [f"{i.host}:{i.port}" for i in found.instances if set(i.servers) != {"up"}]
        raise FiefdomError(
            f"after {timeout_s:g} seconds not in rotation: {', '.join([*out, *found.problems])}; "
            f"look at `fiefdom status {INVENTORY}`"
        )
    return found


def _requests(cluster: Cluster, count: int) -> Counter[str]:
    """Where ``count`` requests to the first gateway were answered: `host:port version`."""
    gateway = cluster.hosts[cluster.gateways[0]].address
    answers: Counter[str] = Counter()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the lab is no business of a proxy's
    for _ in range(count):
        try:
            with direct.open(f"http://{gateway}/predict?features=5.1,3.5,1.4,0.2", timeout=5) as reply:
                body = json.load(reply)
            answers[f"{body['host']}:{body['port']} {body['version']}"] += 1
        except (OSError, ValueError, KeyError) as error:
            raise FiefdomError(f"a request to the gateway at {gateway} failed: {error}") from error
    return answers


def _print_answers(console: Console, cluster: Cluster, answers: Counter[str]) -> None:
    expected = {f"{name}:{i.port}" for name in cluster.app_hosts for i in cluster.instances(name)}
    missing = expected - {a.split()[0] for a in answers}
    if missing:
        raise FiefdomError(f"no request reached {', '.join(sorted(missing))}")
    table = Table("answered by", "version", "requests", box=None, pad_edge=False)
    for answer, count in sorted(answers.items()):
        table.add_row(*answer.split(), str(count))
    console.print(table)


def _times(stages: _Stages) -> Table:
    table = Table("stage", "seconds", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, seconds in stages.times:
        table.add_row(name.partition(":")[0], f"{seconds:.1f}")
    table.add_row("[bold]all[/bold]", f"[bold]{stages.progress.elapsed_s:.1f}[/bold]")
    return table


def _next(cluster: Cluster) -> Iterator[Text]:
    gateway = cluster.hosts[cluster.gateways[0]].address
    commands = {
        f"curl 'http://{gateway}/predict?features=5.1,3.5,1.4,0.2'": "a prediction; again for the next instance",
        f".venv/bin/fiefdom plan {INVENTORY}": "nothing to change, exit 0",
        ".venv/bin/fiefdom lab ssh app1 systemctl stop fiefdom-predictor@8000": "or any other harm; then plan: exit 2",
        f".venv/bin/fiefdom apply {INVENTORY} --yes": "mends it",
        f".venv/bin/fiefdom status {INVENTORY}": "hosts, members, instances, rotation",
        "make clean": "the lab and the venv are gone",
    }
    width = max(len(command) for command in commands)
    for command, why in commands.items():
        yield Text(f"  {command.ljust(width)}  ").append(why, style="dim")
