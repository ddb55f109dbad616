"""How plans, releases and the state of a cluster look to a person."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fiefdom.cli import gathered
from fiefdom.cluster.audit import Act
from fiefdom.cluster.jobs import JobStatus
from fiefdom.cluster.lock import Lock
from fiefdom.cluster.status import NOT_ROUTED, HostStatus, InstanceStatus, Status
from fiefdom.converge.change import Change
from fiefdom.converge.plan import PAUSE, HostPlan, Plan
from fiefdom.grouping import grouped
from fiefdom.model.certificates import SOON_DAYS
from fiefdom.procedures.release import Release, versions_of
from fiefdom.procedures.release_command import Due
from fiefdom.procedures.rollout import Report
from fiefdom.wording import ago, duration, printable, size

_STYLE = {"+": "green", "~": "yellow", "-": "red", "-/+": "magenta"}
_WORDS = {"+": "to create", "~": "to change", "-/+": "to replace", "-": "to remove"}


def console(stderr: bool = False) -> Console:
    """Where output goes: as wide as the terminal; wide enough for any table where there is none to be read from."""
    found = Console(stderr=stderr, soft_wrap=True, highlight=False)
    if not found.is_terminal:
        found.width = 200
    return found


def good(words: str) -> Text:
    """What a person wanted to hear."""
    return Text(words, style="green")


def silence(silent: Mapping[str, str]) -> Iterable[Text]:
    """Who could not be looked at, and why."""
    for name, reason in silent.items():
        yield Text(f"{name}: ", style="bold").append(f"does not answer: {reason}", style="red")


def holders(gateways: Iterable[str], locks: Collection[Lock], silent: Mapping[str, str]) -> Iterable[Text]:
    """Each gateway, and who holds its lock."""
    held = {lock.gateway: lock for lock in locks}
    for name in gateways:
        if name in held:
            yield from lock_lines(held[name])
        elif name in silent:
            yield from silence({name: silent[name]})
        else:
            yield Text(f"{name}: ", style="bold").append("not locked", style="green")


def plan_tree(
    plan: Plan,
    inventory: str,
    silent: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    every: bool = False,
) -> Iterable[Text]:
    """A plan as lines: hosts, under each its changes, and a footer with counts, hash and the releases that wait.

    ``silent`` are hosts that could not be looked at, and ``without`` those that are left out on purpose. Where hosts
    are many, a change that several have stands once, unless a person wants ``every`` host by itself.
    """
    wide = gathered.is_wide(plan, every)
    if wide:
        yield from _wide_plan(plan)
    else:
        for host in plan.hosts:
            yield from host_lines(host)
    for name, reason in (silent or {}).items():
        yield Text(name, style="bold")
        yield Text(f"  ! does not answer: {reason}", style="red")
    changed = sum(bool(h.due.changes) for h in plan.hosts)
    counts = ", ".join(f"{n} {_WORDS[sign]}" for sign, n in plan.counts.items() if n)
    # What is a release's alone stands above as well.
    nothing = "no changes" if plan.clean else "nothing for apply"
    summary = f"{counts} on {changed} of" if counts else f"{nothing} on"
    if silent:
        summary += f" the {len(plan.hosts)} that answer of"
    count = len(plan.hosts) + len(silent or {})
    left = f", {_without(without)}" if without else ""
    waits = f"; {_are_pending(len(plan.pending))}" if plan.pending else ""
    yield Text(f"{summary} {counted(count)}{left}{waits}. plan {plan.hash}", style="bold")
    found = [(host.host, finding) for host in plan.hosts for finding in host.findings]
    for alike in gathered.gather(found, lambda one: one[1] if wide else None):
        finding = alike[0][1]
        yield Text(f"{finding.level}: {named([name for name, _ in alike])}: {finding}", style="yellow")
    left_at = (((("" if wide else h.host), path), h.host) for h in plan.hosts for path in h.left_volumes)
    for (_, path), names in grouped(left_at).items():
        yield Text(f"volume: {named(names)}: {path} stays, though no service has it any more", style="dim")
    for pending in plan.pending:
        yield Text(f"release pending: {pending}. Do it with: ", style="magenta").append(
            f"fiefdom rollout {inventory} {pending.service}", style="bold"
        )


def host_lines(host: HostPlan) -> Iterable[Text]:
    """One host's plan as lines."""
    yield Text(host.host, style="bold")
    if not host.changes:
        yield Text("  = no change", style="dim")
    yield from _changes(host.changes)


def _wide_plan(plan: Plan) -> Iterable[Text]:
    for names, changes in gathered.changes(plan):
        yield Text(named(names), style="bold")
        yield from _changes(changes)
    if unchanged := sum(not host.changes for host in plan.hosts):
        yield Text(f"{counted(unchanged)}: nothing to change", style="dim")


def named(names: Sequence[str]) -> str:
    """Hosts by name, behind their number where they are several."""
    return f"{counted(len(names))}: {', '.join(names)}" if len(names) > 1 else names[0]


def counted(hosts: int) -> str:
    """How many hosts, in words."""
    return f"{hosts} host{'s' * (hosts != 1)}"


def _are_pending(releases: int) -> str:
    return "a release is pending" if releases == 1 else f"{releases} releases are pending"


def _changes(changes: Sequence[Change]) -> Iterable[Text]:
    width = min(60, max((len(f"{c.kind} {c.name}") for c in changes), default=0))
    for change in changes:
        line = Text("  ")
        line.append(f"{change.sign:<3} ", style=_STYLE[change.sign])
        line.append(f"{change.kind} {change.name}".ljust(width))
        line.append(f"  {change.why}{', with its rollout' if change.release else ''}", style="dim")
        yield line


def _without(names: Sequence[str]) -> str:
    return f"without {', '.join(names)}" if names else ""


def status_tables(status: Status, every: bool = False) -> Iterable[Table | Text]:
    """Hosts, then offers, then instances, then what is wrong.

    What is well and many stands once with its count, unless a person wants ``every`` row.
    """
    hosts = Table(
        *("host", "address", "system", "role", "member", "instances", "gateway", "disk free"), box=None, pad_edge=False
    )
    for same in gathered.hosts(status.hosts, every):
        h = same[0]
        running, wanted = sum(one.running for one in same), sum(one.wanted for one in same)
        hosts.add_row(
            Text(h.name if len(same) == 1 else counted(len(same)), style="bold"),
            h.address if len(same) == 1 else "",
            h.release,
            h.role,
            _state(h.member),
            f"{running}/{wanted}" if wanted else "-",
            _state(h.gateway),
            _free(same),
        )
    yield hosts
    yield Text()
    offers = Table("service", "host", "version", "offer", "", box=None, pad_edge=False)
    for offered in gathered.offers(status.offers, every):
        o = offered[0]
        where = o.host if len(offered) == 1 else counted(len(offered))
        offers.add_row(o.service, where, Text(o.version), _state(o.state), Text(o.why, style="dim"))
    yield offers
    yield Text()
    instances = Table("service", "instance", "version", "container", *status.gateways, box=None, pad_edge=False)
    for alike in gathered.instances(status.instances, every):
        i, count = alike[0], len(alike)
        states = (_state(word, 1 if word == NOT_ROUTED else count) for word in i.servers)
        instances.add_row(i.service, _where(alike), Text(i.version), _state(i.container, count), *states)
    yield instances
    if status.certificates:
        yield Text()
        certificates = Table("certificate", "gateway", "expires", "days", "hosts", box=None, pad_edge=False)
        for c in status.certificates:
            days = Text(str(c.days), style="red" if c.days < 0 else "yellow" if c.days < SOON_DAYS else "")
            certificates.add_row(c.name, c.gateway, c.ends.partition("T")[0], days, Text(", ".join(c.hosts)))
        yield certificates
    if status.jobs:
        yield Text()
        yield _jobs(status.jobs)
    if status.address is not None and status.address.holders:
        yield Text()
        yield Text(f"{status.address.address} is at {' and '.join(status.address.holders)}.")
    for line in status.problems:
        yield Text(f"! {line}", style="red")
    for line in status.notices:
        yield Text(f"! {line}", style="yellow")


def _free(hosts: Sequence[HostStatus]) -> str:
    """What is free where Docker keeps images; of several hosts, where the least is."""
    known = [(host.disk.free_kib, host.disk.size_kib, host.name) for host in hosts if host.disk]
    if not known:
        return "-"
    free, whole, name = min(known)
    return f"{size(free)} of {size(whole)}" + (f" at least, at {name}" if len(hosts) > 1 else "")


def _where(instances: Sequence[InstanceStatus]) -> str:
    first = instances[0]
    if len(instances) == 1:
        return f"{first.host}:{first.port}"
    hosts = {one.host for one in instances}
    return f"{len(instances)} at {first.host if len(hosts) == 1 else counted(len(hosts))}"


def _jobs(found: Iterable[JobStatus]) -> Table:
    jobs = Table("job", "schedule", "last run", "took", "exit", "next", box=None, pad_edge=False)
    for j in found:
        jobs.add_row(
            f"{j.service} {j.job}",
            Text(j.schedule),
            f"{_moment(j.at)} on {j.host}" if j.at else "-",
            "-" if j.took_s is None else duration(j.took_s),
            Text(j.outcome or "-", style="red" if j.bad else ""),
            f"{_moment(j.next_at)} on {j.next_host}" if j.next_at else "-",
        )
    return jobs


def _moment(at: str) -> str:
    """A time as a table has it, in UTC."""
    return at.rstrip("Z").replace("T", " ")


def _state(word: str, count: int = 1) -> Text:
    good, waiting = {"alive", "running", "up", "serving", "offered"}, {"leaving", "drain", "maint", "-"}
    text = word if count == 1 else f"{count} {word}"
    return Text(text, style="green" if word in good else "dim" if word in waiting else "red")


def diffs(texts: Mapping[tuple[str, str], str], wide: bool) -> Iterable[Text]:
    """Diffs by host and path; where hosts are many, the same one once."""
    if not wide:
        yield from (diff(host, path, text) for (host, path), text in texts.items())
        return
    for names, path, text in gathered.diffs(texts):
        yield diff(named(names), path, text)


def diff(host: str, path: str, text: str) -> Text:
    """A unified diff in the usual colours, under a heading."""
    out = Text(f"\n{host}: {path}\n", style="bold")
    for line in text.splitlines(keepends=True):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        out.append(line, style=style)
    return out


def release_commands(due: Iterable[Due]) -> Iterable[Text]:
    """What would run before the first turn."""
    for one in due:
        yield Text(f"first, in {one.service} {one.version} on {one.host}: {printable(shlex.join(one.command))}")


def release_plan(release: Release, every: bool = False) -> Iterable[Text]:
    """What a release would do, batch by batch; of many, those together that do the same, unless ``every`` is wanted."""
    if gathered.are_many(gathered.LINES_OF_HOST * len(release.turns)) and not every:
        runs = gathered.batches(release)
    else:
        runs = [[number] for number in range(len(release.batches))]
    for run in runs:
        batches = [release.batches[number] for number in run]
        if len(run) > 1:
            yield Text(f"{run[0] + 1} to {run[-1] + 1}. {'; '.join(map(', '.join, batches))}", style="bold")
            yield from _turn(release, batches[0][0], " on each host")
            continue
        yield Text(f"{run[0] + 1}. {', '.join(batches[0])}", style="bold")
        for name in batches[0]:
            yield from _turn(release, name)
    if release.left:
        yield Text(f"then it waits for --continue: {', '.join(release.left)}", style="dim")


def _turn(release: Release, name: str, where: str = "") -> Iterable[Text]:
    for (service, before, after), count in Counter(versions_of(release.turns[name])).items():
        pause = f" ({PAUSE})" if service in release.pauses else ""
        yield Text(f"   -/+ {service} x {count}{where}  {before} -> {after}{pause}", style=_STYLE["-/+"])


def release_report(report: Report, inventory: str) -> Iterable[Text]:
    """How a release ended: what runs where now, how long it took; where it failed, why and what to type next."""
    release, error = report.release, report.error
    if error is None:
        yield Text(f"Released {release} on {', '.join(release.hosts)} in {report.seconds:.1f} seconds.", style="green")
        if release.left:
            back = " and ".join(f"`fiefdom rollback {inventory} {service}`" for service in release.services)
            yield Text(
                f"{', '.join(release.left)} keep the old version. Go on with "
                f"`{_rollout(report, inventory)} --continue`, or back with {back}."
            )
        return
    for failure in error.failures:
        yield Text(f"{failure.host}: {failure.unit}: {failure.reason}", style="red")
        for line in failure.log:
            yield Text(f"    {line}", style="dim")
    if error.undone:
        yield Text(f"put back: {', '.join(error.undone)}")
    if report.on_new_version:
        where = "back already" if report.wish.what == "rollback" else "on the new version"
        yield Text(f"{where}: {', '.join(report.on_new_version)}", style="yellow")
    for failure in error.failures:
        if failure.kept:
            yield Text(f"{failure.host} keeps what failed until the next run: docker logs {', '.join(failure.kept)}")
        if failure.begun and failure.host not in error.undone:
            yield Text(f"{failure.host} was not put back; see `fiefdom status {inventory}`", style="red")
    yield from _what_next(report, inventory)


def _what_next(report: Report, inventory: str) -> Iterable[Text]:
    wish, error = report.wish, report.error
    if wish.what == "rollback":
        for service, (_, version) in report.release.services.items():
            yield Text(f"Mend that, then: fiefdom rollback {inventory} {service} {version}")
        return
    for service, (before, after) in report.release.services.items():
        if report.on_new_version and before != (after,):
            version = f" {before[0]}" if len(before) == 1 else ""
            hosts = ", ".join(report.on_new_version)
            yield Text(f"To bring {hosts} back: fiefdom rollback {inventory} {service}{version}", style="yellow")
    to_blame = error is not None and any(failure.begun for failure in error.failures)
    # Before its first turn, a run puts the canary's lock back.
    option = f" --canary {wish.order.canary}" if wish.order.canary else ""
    option = " --continue" if wish.resume and not report.begun else option
    mend = f"Mend the version in {inventory}" if to_blame else "Mend that"
    yield Text(f"{mend}, then: {_rollout(report, inventory)}{option}")


def _rollout(report: Report, inventory: str) -> str:
    return " ".join(["fiefdom rollout", inventory, *([report.wish.service] if report.wish.service else [])])


def audit_table(acts: Iterable[Act]) -> Table:
    """What was done, the oldest first; times are the gateways', UTC."""
    table = Table("at", "took", "who", "what", "services", "hosts", "plan", "outcome", "note", box=None, pad_edge=False)
    for act in acts:
        versions = (f"{name} {old or '-'} -> {new or '-'}" for name, (old, new) in act.services.items())
        table.add_row(
            Text(_moment(act.at)),
            Text("" if act.took_s is None else duration(act.took_s)),
            Text(act.who),
            Text(act.what, style="bold"),
            Text(", ".join(versions)),
            Text(", ".join(act.hosts)),
            Text(act.plan),
            Text(act.outcome, style={"ok": "green", "running": "yellow"}.get(act.outcome, "red")),
            Text("; ".join(filter(None, (_without(act.without), act.note))), style="dim"),
        )
    return table


def lock_lines(lock: Lock) -> Iterable[Text]:
    """Who holds a gateway's lock, since when and why, and whether it is at work."""
    line = Text(f"{lock.gateway}: ", style="bold")
    line.append(f"locked by {lock.who} {ago(lock.age_s)}: {lock.why}", style="yellow")
    yield line
    if not lock.person:
        state = "at work" if lock.alive else "silent, perhaps dead"
        yield Text(f"  {state}: last sign of life {ago(lock.silence_s)}", style="dim" if lock.alive else "red")
