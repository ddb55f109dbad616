"""How plans, progress and the state of a cluster look to a person."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fiefdom.converge import DONE
from fiefdom.plan import Plan
from fiefdom.status import Status

_STYLE = {"+": "green", "~": "yellow", "-": "red", "-/+": "magenta"}
_WORDS = {"+": "to create", "~": "to change", "-/+": "to replace", "-": "to remove"}


def console(stderr: bool = False) -> Console:
    """Where output goes: as wide as the terminal; wide enough for any table where there is none to be read from."""
    found = Console(stderr=stderr, soft_wrap=True, highlight=False)
    if not found.is_terminal:
        found.width = 200
    return found


def plan_tree(plan: Plan) -> Iterable[Text]:
    """A plan as lines: hosts, under each its changes, and a footer with counts and hash."""
    for host in plan.hosts:
        yield Text(host.host, style="bold")
        if not host.changes:
            yield Text("  = no change", style="dim")
        width = min(60, max((len(f"{c.kind} {c.name}") for c in host.changes), default=0))
        for change in host.changes:
            line = Text("  ")
            line.append(f"{change.sign:<3} ", style=_STYLE[change.sign])
            line.append(f"{change.kind} {change.name}".ljust(width))
            line.append(f"  {change.why}", style="dim")
            yield line
    changed = sum(bool(h.changes) for h in plan.hosts)
    counts = [f"{n} {_WORDS[sign]}" for sign, n in plan.counts.items() if n]
    summary = ", ".join(counts) if counts else "no changes"
    yield Text(f"{summary} on {changed} of {len(plan.hosts)} hosts. plan {plan.hash}", style="bold")


class Progress:
    """A line for each host and phase with the elapsed seconds; on a terminal also a live line of who is at what."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._busy: dict[str, str] = {}
        self._live = console.status("") if console.is_terminal else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the progress began."""
        return time.monotonic() - self._start

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, who: str, what: str) -> None:
        """Say what ``who`` does now."""
        self._console.print(
            f"[dim]{self.elapsed_s:6.1f} s[/dim]  [bold]{escape(who):<8}[/bold] {escape(what)}", highlight=False
        )
        self._busy[who] = what
        if what == DONE:
            del self._busy[who]
        if self._live:
            self._live.update(escape(", ".join(f"{name}: {text}" for name, text in self._busy.items())))


def status_tables(status: Status) -> Iterable[Table | Text]:
    """Hosts, then instances, then what is wrong."""
    hosts = Table(
        "host", "address", "system", "role", "member", "instances", "gateway", title=None, box=None, pad_edge=False
    )
    for h in status.hosts:
        hosts.add_row(
            Text(h.name, style="bold"),
            h.address,
            h.release,
            h.role,
            _state(h.member),
            f"{h.running}/{h.wanted}" if h.wanted else "-",
            _state(h.gateway),
        )
    yield hosts
    yield Text()
    instances = Table("service", "instance", "version", "container", *status.gateways, box=None, pad_edge=False)
    for i in status.instances:
        instances.add_row(
            i.service, f"{i.host}:{i.port}", i.version, _state(i.container), *(_state(s) for s in i.servers)
        )
    yield instances
    for line in status.problems:
        yield Text(f"! {line}", style="red")


def _state(word: str) -> Text:
    good, waiting = {"alive", "running", "up", "serving"}, {"leaving", "drain", "maint", "-"}
    return Text(word, style="green" if word in good else "dim" if word in waiting else "red")


def diff(host: str, path: str, text: str) -> Text:
    """A unified diff in the usual colours, under a heading."""
    out = Text(f"\n{host}: {path}\n", style="bold")
    for line in text.splitlines(keepends=True):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        out.append(line, style=style)
    return out
