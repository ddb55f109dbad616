"""`fiefdom doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import click
from rich.table import Table
from rich.text import Text

from fiefdom.cli import frame, gathered, show
from fiefdom.cli.frame import Command, Document, at_option, every_option, inventory_argument, json_option, limit_option
from fiefdom.cli.group import CLEAN, FAILED, PENDING, SILENT
from fiefdom.cluster import maintenance
from fiefdom.cluster.views import views_of
from fiefdom.converge import look
from fiefdom.converge.doctor import Finding

_STYLE = {"refused": "red", "warning": "yellow"}
_NAMES_WIDTH = 40


@click.command(cls=Command)
@inventory_argument
@limit_option
@at_option
@every_option
@json_option
def doctor(inventory: str, limit: tuple[str, ...], at: tuple[str, ...], every: bool, **_: bool) -> Document:
    """Show what hosts have of their own that Fiefdom would get into trouble with. Changes nothing."""
    with frame.connected(inventory, limit, at=at, looks=True) as run:
        found, silent = look.diagnose(run.known, run.names, run.session)
        views = views_of(run.session, [name for name in run.known.gateways if name in found])
    for name, closed in maintenance.findings(views).items():
        found[name] += closed
    levels = {finding.level for of_host in found.values() for finding in of_host}
    code = FAILED if "refused" in levels else SILENT if silent else PENDING if levels else CLEAN
    hosts = {host: [finding.as_data() for finding in of_host] for host, of_host in found.items()}
    return Document({"hosts": hosts, "silent": silent}, table(found, silent, every), code=code)


def table(
    found: Mapping[str, Sequence[Finding]], silent: Mapping[str, str], every: bool = False
) -> Iterable[Table | Text]:
    """A row per host and finding, a row per host that does not answer, and a line of what it comes to.

    Of many rows, a finding that several hosts have is one with their names, unless a person wants ``every`` row.
    """
    rows = [(host, finding) for host, of_host in found.items() for finding in of_host]
    if not rows and not silent:
        yield show.good(f"Nothing is in the way on {show.counted(len(found))}.")
        return
    shown = Table("host", "", "seen", "what it would do", "mend", box=None, pad_edge=False)
    for host, reason in silent.items():
        shown.add_row(Text(host, style="bold"), Text("silent", style="red"), Text(reason))
    wide = gathered.are_many(len(rows)) and not every
    if wide:
        shown.columns[0].max_width = _NAMES_WIDTH
    for alike in gathered.gather(rows, lambda row: row[1] if wide else None):
        names, finding = [host for host, _ in alike], alike[0][1]
        level = Text(finding.level, style=_STYLE[finding.level])
        shown.add_row(
            Text(show.named(names), style="bold"), level, *map(Text, (finding.seen, finding.effect, finding.mend))
        )
    yield shown
    refused = sum(finding.level == "refused" for _, finding in rows)
    counts = f"{refused} refused by apply, {len(rows) - refused} warnings" + f", {len(silent)} silent" * bool(silent)
    yield Text(f"{counts} on {show.counted(len(found) + len(silent))}.", style="bold")
