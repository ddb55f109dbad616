"""What a person reads of 3 and of 100 hosts with twelve instances each: few lines, and each that is not well."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from fiefdom.cli import doctor, gathered, show
from fiefdom.cluster.status import HostStatus, InstanceStatus, OfferStatus, Status
from fiefdom.converge.change import Change
from fiefdom.converge.doctor import Finding
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.converge.snapshot import Disk, FoundContainer, Snapshot
from fiefdom.desired.state import Container, HostState
from fiefdom.procedures.release import Release

SMALL, LARGE = 3, 100
PORTS = range(8000, 8012)
LEAST = ["8.0", "GiB", "of", "10.0", "GiB", "at", "least,"]


def names(hosts: int) -> list[str]:
    return [f"h{number}" for number in range(hosts)]


def apps(hosts: int) -> list[str]:
    return names(hosts)[1:]


def printed(*things: object) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=200)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, Text))
    return [line.rstrip() for line in out.getvalue().splitlines()]


# --- Status


def a_status(hosts: int) -> Status:
    """A gateway, and app hosts with a service of twelve instances each; all is well."""
    disk = Disk(10 << 20, 8 << 20)
    gateway = HostStatus("h0", "10.1.0.1", "trixie", "gateway", "alive", 0, 0, "serving", disk=disk)
    others = (
        HostStatus(name, "10.1.0.2", "trixie", "app host", "alive", 12, 12, "-", disk=disk) for name in apps(hosts)
    )
    return Status(
        ("h0",),
        (gateway, *others),
        tuple(OfferStatus("web", name, "7", "offered") for name in apps(hosts)),
        tuple(InstanceStatus("web", name, port, "7", "running", ("up",)) for name in apps(hosts) for port in PORTS),
        (),
    )


def rows_of(status: Status, every: bool = False) -> list[list[str]]:
    return [line.split() for line in printed(*show.status_tables(status, every)) if line]


def test_the_status_of_a_hundred_hosts_is_a_row_for_each_kind_of_what_is_well() -> None:
    assert rows_of(a_status(LARGE)) == [
        ["host", "address", "system", "role", "member", "instances", "gateway", "disk", "free"],
        ["h0", "10.1.0.1", "trixie", "gateway", "alive", "-", "serving", "8.0", "GiB", "of", "10.0", "GiB"],
        ["99", "hosts", "trixie", "app", "host", "alive", "1188/1188", "-", *LEAST, "at", "h1"],
        ["service", "host", "version", "offer"],
        ["web", "99", "hosts", "7", "offered"],
        ["service", "instance", "version", "container", "h0"],
        ["web", "1188", "at", "99", "hosts", "7", "1188", "running", "1188", "up"],
    ]


@pytest.mark.parametrize(("hosts", "every"), [(SMALL, False), (SMALL, True), (LARGE, True)])
def test_the_status_of_few_hosts_or_of_every_one_has_a_row_for_each_instance(hosts: int, every: bool) -> None:
    rows = rows_of(a_status(hosts), every)
    assert len(rows) == 3 + hosts + len(apps(hosts)) * 13
    assert ["web", "h2:8011", "7", "running", "up"] in rows and ["web", "h2", "7", "offered"] in rows


def test_where_few_hosts_have_many_instances_each_host_has_a_row() -> None:
    found = a_status(6)
    sick = replace(found.instances[13], servers=("down",))
    found = replace(found, instances=(*found.instances[:13], sick, *found.instances[14:]))
    assert rows_of(found)[-6:] == [
        ["web", "12", "at", "h1", "7", "12", "running", "12", "up"],
        ["web", "11", "at", "h2", "7", "11", "running", "11", "up"],
        ["web", "h2:8001", "7", "running", "down"],
        *(["web", "12", "at", name, "7", "12", "running", "12", "up"] for name in ("h3", "h4", "h5")),
    ]


SICK_HOSTS: Sequence[dict[str, object]] = (
    {"member": "failed"},
    {"member": "unknown"},
    {"running": 11},
    {"gateway": "down"},
    {"silence": "gone"},
)


@pytest.mark.parametrize("change", SICK_HOSTS)
def test_a_host_that_is_not_well_has_its_own_row(change: dict[str, object]) -> None:
    found = a_status(LARGE)
    sick = replace(found.hosts[50], **change)  # type: ignore[arg-type]
    rows = rows_of(replace(found, hosts=(*found.hosts[:50], sick, *found.hosts[51:])))
    assert [row[:2] for row in rows[1:4]] == [["h0", "10.1.0.1"], ["98", "hosts"], ["h50", "10.1.0.2"]]


@pytest.mark.parametrize(
    "change", [{"state": "waiting"}, {"state": "refused"}, {"why": "1 of 12 instances are healthy"}]
)
def test_an_offer_that_is_not_whole_has_its_own_row(change: dict[str, str]) -> None:
    found = a_status(LARGE)
    sick = replace(found.offers[50], **change)
    rows = rows_of(replace(found, offers=(*found.offers[:50], sick, *found.offers[51:])))
    assert ["web", "98", "hosts", "7", "offered"] in rows
    assert ["web", "h51", "7", sick.state, *sick.why.split()] in rows


@pytest.mark.parametrize(
    "change",
    [{"container": "stopped"}, {"container": "missing"}, *({"servers": (s,)} for s in ("down", "drain", "out"))],
)
def test_instances_that_are_not_up_have_rows_of_their_own(change: dict[str, object]) -> None:
    found = a_status(LARGE)
    sick = {at: replace(found.instances[at], **change) for at in (600, 601, 1187)}  # type: ignore[arg-type]
    rows = rows_of(replace(found, instances=tuple(sick.get(at, i) for at, i in enumerate(found.instances))))
    assert rows[-4][:5] == ["web", "1185", "at", "99", "hosts"]
    assert [row[1] for row in rows[-3:]] == ["h51:8000", "h51:8001", "h99:8011"]


def test_another_version_and_no_rotation_are_rows_of_their_own() -> None:
    found = a_status(LARGE)
    old = tuple(replace(i, version="6") if i.host == "h5" else i for i in found.instances)
    inside = tuple(InstanceStatus("store", name, 6379, "3", "running", ("-",)) for name in apps(LARGE))
    assert rows_of(replace(found, instances=(*old, *inside)))[-3:] == [
        ["web", "1176", "at", "98", "hosts", "7", "1176", "running", "1176", "up"],
        ["web", "12", "at", "h5", "6", "12", "running", "12", "up"],
        ["store", "99", "at", "99", "hosts", "3", "99", "running", "-"],
    ]


def test_the_least_disk_of_many_is_told_with_its_host() -> None:
    found = a_status(LARGE)
    hosts = [replace(h, disk=Disk(10 << 20, 1 << 20)) if h.name == "h7" else h for h in found.hosts]
    hosts[9] = replace(hosts[9], disk=None)
    rows = rows_of(replace(found, hosts=tuple(hosts)))
    assert rows[2][-8:] == ["GiB", "of", "10.0", "GiB", "at", "least,", "at", "h7"] and rows[2][-9] == "1.0"


# --- Plans

FILE = Change("file", "~", "/etc/x", "content")
PACKAGE = Change("package", "+", "curl", "not installed")


def a_plan(hosts: int, **changes: Sequence[Change]) -> Plan:
    now = Snapshot(0, "debian", "trixie")
    return Plan(tuple(HostPlan(name, tuple(changes.get(name, ())), HostState(), now) for name in names(hosts)))


def lines_of(plan: Plan, **options: bool) -> list[str]:
    return [line.plain.rstrip() for line in show.plan_tree(plan, "inv.yaml", **options)]  # type: ignore[arg-type]


def test_hosts_with_nothing_to_change_are_counted_where_they_are_many() -> None:
    some = a_plan(LARGE, h7=[FILE])
    assert lines_of(some) == [
        "h7",
        "  ~   file /etc/x  content",
        "99 hosts: nothing to change",
        f"1 to change on 1 of 100 hosts. plan {some.hash}",
    ]
    clean = a_plan(LARGE)
    assert lines_of(clean) == ["100 hosts: nothing to change", f"no changes on 100 hosts. plan {clean.hash}"]


@pytest.mark.parametrize(("hosts", "every"), [(SMALL, False), (SMALL, True), (20, False), (LARGE, True)])
def test_few_hosts_or_every_one_have_lines_of_their_own(hosts: int, every: bool) -> None:
    lines = lines_of(a_plan(hosts, h1=[FILE], h2=[FILE]), every=every)
    assert lines[:6] == ["h0", "  = no change", "h1", "  ~   file /etc/x  content", "h2", "  ~   file /etc/x  content"]
    assert len(lines) == 2 * hosts + 1


def test_the_same_change_of_many_hosts_stands_once_with_their_names() -> None:
    own = {name: [Change("hostname", "~", name, "is old"), PACKAGE, FILE] for name in ("h9", "h2")}
    wide = a_plan(LARGE, h30=[FILE], **own)
    assert lines_of(wide) == [
        "3 hosts: h2, h9, h30",
        "  ~   file /etc/x  content",
        "2 hosts: h2, h9",
        "  +   package curl  not installed",
        "h2",
        "  ~   hostname h2  is old",
        "h9",
        "  ~   hostname h9  is old",
        "97 hosts: nothing to change",
        f"2 to create, 5 to change on 3 of 100 hosts. plan {wide.hash}",
    ]


def test_no_change_is_lost_and_the_order_is_the_plans() -> None:
    wide = a_plan(LARGE, **{f"h{at}": [PACKAGE] * (at % 2) + [FILE] * (at % 3 > 0) for at in range(LARGE)})
    shown = [(name, change) for hosts, changes in gathered.changes(wide) for change in changes for name in hosts]
    assert sorted(shown, key=str) == sorted(((h.host, c) for h in wide.hosts for c in h.changes), key=str)
    assert gathered.changes(wide) == gathered.changes(replace(wide))
    for hosts, _ in gathered.changes(wide):
        assert list(hosts) == sorted(hosts, key=names(LARGE).index)


def test_silent_hosts_findings_and_volumes_stay_where_hosts_are_many() -> None:
    finding = Finding("warning", "clock", "the clock is off", "certificates fail", "set it")
    plan = a_plan(LARGE)
    hosts = [replace(host, left_volumes=("/v",)) if host.host in ("h3", "h4") else host for host in plan.hosts]
    hosts[5], hosts[6] = (replace(host, findings=(finding,)) for host in hosts[5:7])
    lines = [line.plain for line in show.plan_tree(Plan(tuple(hosts)), "inv.yaml", {"dead": "gone"})]
    assert lines[:3] == ["100 hosts: nothing to change", "dead", "  ! does not answer: gone"]
    assert lines[-2:] == [
        f"warning: 2 hosts: h5, h6: {finding}",
        "volume: 2 hosts: h3, h4: /v stays, though no service has it any more",
    ]


def test_the_same_diff_of_many_hosts_stands_once() -> None:
    texts = {("h1", "/etc/x"): "+a\n", ("h2", "/etc/x"): "+a\n", ("h3", "/etc/x"): "+b\n"}
    assert [text.plain for text in show.diffs(texts, wide=True)] == [
        "\n2 hosts: h1, h2: /etc/x\n+a\n",
        "\nh3: /etc/x\n+b\n",
    ]
    assert [text.plain for text in show.diffs(texts, wide=False)] == [
        f"\n{host}: {path}\n{text}" for (host, path), text in texts.items()
    ]


# --- Releases


def a_release(batches: Sequence[tuple[str, ...]], unlike: Sequence[str] = ()) -> Release:
    """Two instances on each host; on those that are ``unlike``, of another version before."""

    def turn(name: str) -> HostPlan:
        before = "0" if name in unlike else "1"
        changes, found = [], {}
        for port in (8000, 8001):
            own = Container(
                f"web-{port}", f"fiefdom-web@{port}.service", "instance", "w:2", (), version="2", service="web"
            )
            changes.append(Change("container", "-/+", own.name, f"{before} -> 2", own, release="web"))
            found[own.name] = FoundContainer(True, "sha256:1", "s", "instance", before, True, "f")
        return HostPlan(name, tuple(changes), HostState(), Snapshot(0, "debian", "trixie", containers=found))

    return Release({"web": ("1", "2")}, {name: turn(name) for batch in batches for name in batch}, tuple(batches), ())


def release_lines(release: Release, every: bool = False) -> list[str]:
    return [line.plain for line in show.release_plan(release, every)]


def test_batches_that_do_the_same_stand_together_where_they_are_many() -> None:
    release = a_release([(name,) for name in names(LARGE)], unlike=["h50"])
    assert release_lines(release) == [
        f"1 to 50. {'; '.join(names(50))}",
        "   -/+ web x 2 on each host  1 -> 2",
        "51. h50",
        "   -/+ web x 2  0 -> 2",
        f"52 to 100. {'; '.join(names(LARGE)[51:])}",
        "   -/+ web x 2 on each host  1 -> 2",
    ]
    pairs = a_release([(f"h{at}", f"h{at + 1}") for at in range(0, LARGE, 2)], unlike=["h3"])
    assert [line for line in release_lines(pairs) if line[0] != " "] == [
        "1. h0, h1",
        "2. h2, h3",
        f"3 to 50. {'; '.join(f'h{at}, h{at + 1}' for at in range(4, LARGE, 2))}",
    ]


@pytest.mark.parametrize(("hosts", "every"), [(SMALL, False), (LARGE, True)])
def test_few_batches_or_every_one_stand_alone(hosts: int, every: bool) -> None:
    lines = release_lines(a_release([(name,) for name in names(hosts)]), every)
    assert lines == [
        line for at, name in enumerate(names(hosts), 1) for line in (f"{at}. {name}", "   -/+ web x 2  1 -> 2")
    ]


# --- Findings


def test_a_finding_of_many_hosts_is_a_row_with_their_names() -> None:
    same = Finding("warning", "clock", "the clock is off", "certificates fail", "set it")
    own = Finding("refused", "port", "port 80 is taken", "the gateway cannot start", "stop it")
    found = {name: [same] for name in names(LARGE)} | {"h7": [own, same]}
    lines = printed(*doctor.table(found, {"dead": "gone"}))
    assert len(lines) < 25 and sum("the clock is off" in line for line in lines) == 1
    assert set(re.findall(r"h\d+", " ".join(line[:42] for line in lines))) == set(names(LARGE))
    assert ["dead", "silent", "gone"] in [line.split() for line in lines]
    assert any(line.startswith("h7 ") and "port 80 is taken" in line for line in lines)
    assert lines[-1] == "1 refused by apply, 100 warnings, 1 silent on 101 hosts."
    assert sum("the clock is off" in line for line in printed(*doctor.table(found, {}, every=True))) == LARGE
    few = printed(*doctor.table({name: [same] for name in names(SMALL)}, {}))
    assert [line.split()[0] for line in few] == ["host", *names(SMALL), "0"]


# --- From an inventory on


@pytest.mark.parametrize("hosts", [SMALL, pytest.param(LARGE, marks=pytest.mark.long)])
def test_a_cluster_as_its_inventory_says_is_read_on_a_screen(hosts: int, tmp_path: Path) -> None:
    from fiefdom.cluster.status import read
    from fiefdom.converge import look
    from helpers import crowd
    from helpers.simulated import converged

    found = converged(crowd.known(hosts), tmp_path)
    plan = look.make_plan(found.known, found.names, found)
    seen = read(found.known.cluster, found.known.secrets, found)
    assert len(lines_of(plan)) == (2 if hosts == LARGE else 1 + 2 * hosts)
    assert len(rows_of(seen)) < 30
    assert len(seen.as_data()["instances"]) == 12 * (hosts - crowd.GATEWAYS) + 1
    assert len(plan.as_data()["hosts"]) == hosts  # type: ignore[arg-type]
