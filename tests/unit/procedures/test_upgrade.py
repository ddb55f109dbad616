"""An upgrade of Fiefdom on simulated hosts: the order, what is refused, and how it goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from packaging.version import Version

from fiefdom import RELEASE
from fiefdom.cluster import audit, ledger, locking, status
from fiefdom.converge import look, made_by
from fiefdom.converge.snapshot import Snapshot
from fiefdom.errors import FiefdomError
from fiefdom.procedures import upgrade
from helpers.clock import stopped
from helpers.released import APPS, NEW, known
from helpers.simulated import SimulatedHosts, converged, dying

BEFORE, AFTER = "0.0.9", "99.1.0"
GATEWAYS = ("gw1", "gw2")
ORDER = (*GATEWAYS, *APPS)


def made_by_version(hosts: SimulatedHosts, version: str, *names: str) -> None:
    """Own containers of ``names``, or of all hosts, are of another Fiefdom, whose images and specifications differ."""
    for name in names or hosts.names:
        now = hosts.hosts[name].now
        for container, found in now.containers.items():
            if found.role in made_by.OWN_ROLES:
                now.containers[container] = replace(found, version=version, spec="other", image_id=f"sha256:{version}")


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    found = converged(known(), tmp_path)
    made_by_version(found, BEFORE)
    return found


def turns_of(hosts: SimulatedHosts) -> list[str]:
    return [line.removesuffix(" containers") for line in hosts.log if line.endswith(" containers")]


def versions(hosts: SimulatedHosts) -> dict[str, str]:
    return {name: made_by.version_of(host.now) for name, host in hosts.hosts.items()}


def test_gateways_go_before_app_hosts_and_each_when_all_others_serve(
    hosts: SimulatedHosts, command: Callable[..., Result]
) -> None:
    done = command("upgrade", "--yes")
    assert done.exit_code == 0, done.output
    assert tuple(turns_of(hosts)) == ORDER
    assert set(versions(hosts).values()) == {RELEASE}
    assert f"Upgraded {len(ORDER)} hosts to Fiefdom {RELEASE}" in done.stdout
    found = ledger.read(hosts, GATEWAYS)
    (act,) = audit.acts(found.entries)
    assert (act.what, act.outcome, set(act.hosts), found.locks) == ("upgrade", "ok", set(ORDER), ())


def test_the_second_time_there_is_nothing_to_do(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    assert command("upgrade", "--yes").exit_code == 0
    hosts.log.clear()
    done = command("upgrade", "--yes")
    assert (done.exit_code, turns_of(hosts)) == (0, [])
    assert done.stdout == f"Every host is of Fiefdom {RELEASE} already.\n"
    assert command("plan").exit_code == 0


def test_nothing_is_done_unasked(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    done = command("upgrade")
    assert done.exit_code == 1 and done.stderr.endswith(
        "error: no terminal to ask on; say --yes to let it go on unasked\n"
    )
    assert not any("ledger take" in line or line.endswith((" files", " containers")) for line in hosts.log)


@pytest.mark.parametrize("act", ["upgrade", "apply"])
@pytest.mark.parametrize("answer", ["n", "y"])
def test_who_is_asked_has_seen_the_plan_also_where_a_document_is_wanted(
    hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Result], act: str, answer: str
) -> None:
    def confirm(question: str, **_: Any) -> bool:
        click.echo(question, err=True)
        return answer == "y"

    monkeypatch.setattr("fiefdom.cli.frame.is_terminal", lambda _: True)
    monkeypatch.setattr("click.confirm", confirm)
    done = command(act, "--json")
    before, asked, _ = done.stderr.partition(f"{act.capitalize()}?\n")
    assert asked
    assert "-/+ container serf-agent" in before
    assert done.exit_code == (0 if answer == "y" else 1)
    data = json.loads(done.stdout)
    assert data["hash"] in before
    assert data.get("error") == (None if answer == "y" else "nothing was done")


def test_who_keeps_releases_off_keeps_an_upgrade_off(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    locking.lock(hosts, GATEWAYS, "ann@desk", "the sale", pytest.fail)
    done = command("upgrade", "--yes", "--json")
    assert done.exit_code == 1 and "the sale" in json.loads(done.stdout)["error"]
    assert turns_of(hosts) == []


def test_what_is_no_upgrade_is_left_to_apply(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    made_by_version(hosts, RELEASE)
    assert command("apply", "--yes").exit_code == 0
    hosts.hosts["app1"].now.packages.pop("nftables")
    done = command("upgrade", "--yes")
    assert done.exit_code == 0 and "What `fiefdom plan inv.yaml` shows is for `fiefdom apply`." in done.stdout
    assert "nftables" not in hosts.hosts["app1"].now.packages


def test_dry_tells_from_which_fiefdom_and_in_which_order(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    done = command("upgrade", "--dry")
    assert done.exit_code == 0, done.output
    assert f"Fiefdom {BEFORE} -> {RELEASE}: {', '.join(sorted(hosts.names, key=hosts.names.index))}." in done.stdout
    assert f"Turns, each when all others serve: {', '.join(ORDER)}." in done.stdout
    assert "-/+ container serf-agent" in done.stdout and "Nothing was changed." in done.stdout
    assert turns_of(hosts) == [] and set(versions(hosts).values()) == {BEFORE}
    data = json.loads(command("upgrade", "--dry", "--json").stdout)
    assert (data["outcome"], data["dry"]) == ("ok", True)


@pytest.mark.parametrize("at", ORDER)
def test_a_run_that_dies_is_gone_on_with_by_the_same_command(
    hosts: SimulatedHosts, command: Callable[..., Result], at: str
) -> None:
    """The host that it was at has lost its own container and come no further."""
    run_phase = hosts.run

    def run(name: str, phase: Any) -> None:
        if (name, phase.name) == (at, "containers"):
            host = hosts.hosts[name]
            for container, found in list(host.now.containers.items()):
                if found.role in made_by.OWN_ROLES:
                    host.now.containers[container] = replace(found, running=False)
            hosts._gossip(name)
            raise FiefdomError(f"{name}: the power went off")
        run_phase(name, phase)

    hosts.run = run  # type: ignore[method-assign]
    died = command("upgrade", "--yes")
    assert died.exit_code == 1 and f"error: {at}: the power went off" in died.stderr
    left = ORDER[ORDER.index(at) :]
    assert {name for name, version in versions(hosts).items() if version == BEFORE} == set(left)
    hosts.run = run_phase  # type: ignore[method-assign]
    hosts.log.clear()
    done = command("upgrade", "--yes")
    assert done.exit_code == 0, done.output
    assert tuple(turns_of(hosts)) == left
    assert set(versions(hosts).values()) == {RELEASE}
    assert command("plan").exit_code == 0


@pytest.mark.parametrize("sick", ["app1", "app4"])
def test_a_cluster_that_is_not_whole_is_left_alone(
    hosts: SimulatedHosts, command: Callable[..., Result], sick: str
) -> None:
    dying(hosts, sick)
    refused = command("upgrade", "--yes")
    assert refused.exit_code == 1
    assert f"the cluster is degraded: predictor at {sick}:8000 is running, down at gw" in refused.stderr
    assert turns_of(hosts) == []
    assert command("upgrade", "--dry").exit_code == 1


def test_hosts_after_one_whose_stand_ins_died_are_left_alone(
    hosts: SimulatedHosts, command: Callable[..., Result]
) -> None:
    run_phase = hosts.run

    def run(name: str, phase: Any) -> None:
        run_phase(name, phase)
        if (name, phase.name) == ("app1", "containers"):
            dying(hosts, "app3")

    hosts.run = run  # type: ignore[method-assign]
    done = command("upgrade", "--yes")
    assert done.exit_code == 1 and "the cluster is degraded: predictor at app3:8000" in done.stderr
    assert tuple(turns_of(hosts)) == (*GATEWAYS, "app1")
    assert versions(hosts)["app2"] == BEFORE


def test_force_goes_on_where_others_do_not_serve(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    hosts.views["gw2"] = "gone"
    assert command("upgrade", "--dry").exit_code == 1
    assert command("upgrade", "--dry", "--force").exit_code == 0


def test_another_inventory_is_done_first(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    for changes, words in (
        ({"version": NEW}, "predictor 1.2.0 -> 1.3.0 on app1, app2, app3, app4"),
        (
            {"hosts": {"app1": APP1 | {"services": {"predictor": {"instances": 3}}}}},
            "predictor-8002 is to come to app1",
        ),
        (
            {"hosts": {"app1": APP1 | {"services": {"predictor": {"instances": 1}}}}},
            "predictor-8001 is to go from app1",
        ),
    ):
        hosts.known = known(**changes)
        refused = command("upgrade", "--yes")
        assert refused.exit_code == 1 and f"the inventory has changes of its own: {words}" in refused.stderr
        assert "--with-changes" in refused.stderr and turns_of(hosts) == []


APP1: dict[str, Any] = {"address": "10.1.0.30", "groups": ["app_hosts"]}


def test_with_changes_leaves_the_release_to_its_rollout(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    hosts.known = known(NEW)
    done = command("upgrade", "--yes", "--with-changes")
    assert done.exit_code == 0, done.output
    assert set(versions(hosts).values()) == {RELEASE}
    assert hosts.versions("predictor") == {name: {("1.2.0", True)} for name in APPS}


def test_a_host_that_is_bare_is_no_upgrade(hosts: SimulatedHosts) -> None:
    hosts.hosts["app4"].now.containers.clear()
    seen = look.make_plan(hosts.known, hosts.names, hosts)
    assert upgrade.of_inventory(seen) == ("app4 is not set up yet",)


@pytest.mark.parametrize("words", [("plan",), ("apply", "--yes"), ("upgrade", "--yes"), ("rollout", "--force")])
def test_a_cluster_of_a_newer_fiefdom_is_not_taken_back(
    hosts: SimulatedHosts, command: Callable[..., Result], words: tuple[str, ...]
) -> None:
    made_by_version(hosts, RELEASE)
    made_by_version(hosts, AFTER, "app2")
    hosts.known = known(NEW)
    done = command(*words)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 1
    assert f"app2: it is of Fiefdom {AFTER}, and this is {RELEASE}: it would be taken back" in line
    assert not any(line.endswith((" turn", " containers", " files")) for line in hosts.log)


def test_status_tells_who_is_of_another_fiefdom(hosts: SimulatedHosts) -> None:
    made_by_version(hosts, RELEASE, "gw1", "app1")
    made_by_version(hosts, AFTER, "app2")
    found = status.read(hosts.known.cluster, hosts.known.secrets, hosts)
    assert {host.name: host.fiefdom for host in found.hosts} == versions(hosts)
    told = [words for words in found.notices if "Fiefdom" in words]
    assert told == [
        f"gw2, app3, app4: of Fiefdom {BEFORE}, and this is {RELEASE}; `fiefdom upgrade` brings it there",
        f"app2: of Fiefdom {AFTER}, and this is {RELEASE}; install {AFTER}",
    ]
    assert found.serving


@pytest.mark.parametrize(
    ("version", "than", "newer"),
    [
        ("0.1.0", "0.1.0", False),
        ("0.1", "0.1.0", False),
        ("0.2.0", "0.1.9", True),
        ("0.10.0", "0.9.0", True),
        ("0.9.0", "0.10.0", False),
        ("1.0.0rc1", "1.0.0", False),
        ("1.0.0", "1.0.0rc1", True),
        ("1.0.0rc10", "1.0.0rc9", True),
        ("1.0.0rc1", "1.0.0b2", True),
        ("1.0.0b1", "1.0.0a2", True),
        ("1.0.0rc1", "0.9.9", True),
        ("1.0.0.post1", "1.0.0", True),
        ("1.0.1rc1", "1.0.0.post1", True),
        ("1.0.0+local", "1.0.0", False),
        ("1.0.1.dev3", "1.0.0", True),
        ("1.0.0rc2.dev3", "1.0.0", False),
        ("1.0.0", "1.0.0rc2.dev3", True),
        ("1.0.0rc1.post1.dev3+gabc", "1.0.0", False),
        ("0", "latest", True),
        ("", "0.1.0", False),
        ("latest", "0.1.0", False),
    ],
)
def test_which_version_comes_after_another(version: str, than: str, newer: bool) -> None:
    assert made_by.is_newer(version, than) == newer


def test_versions_come_in_the_order_that_pip_has() -> None:
    """All pairs of what PEP 440 knows; what is local is nobody's concern, for no host is told it."""
    stages = ("", "a1", "a2", "b1", "rc1", "rc2", "rc10", ".post1", ".post2", "rc1.post1", "rc2.post1")
    devs = ("", ".dev0", ".dev1", ".dev12", ".dev5+gabc")
    numbers = ("0.9", "0.9.0", "0.10.0")
    found = [f"{number}{stage}{dev}" for number in numbers for stage in stages for dev in devs]
    public = {version: Version(Version(version).public) for version in found}
    wrong = [
        (one, other)
        for one in found
        for other in found
        if made_by.is_newer(one, other) != (public[one] > public[other])
    ]
    assert wrong == []


def test_a_host_without_containers_is_nobodys() -> None:
    assert made_by.version_of(Snapshot(0, "debian", "trixie")) == ""
    assert list(made_by.findings(Snapshot(0, "debian", "trixie"))) == []


def test_plan_says_which_hosts_wait_for_an_upgrade(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    made_by_version(hosts, RELEASE, "gw1")
    done = command("plan")
    said = " ".join(done.stdout.split())
    for name in ORDER:
        words = f"warning: {name}: it is of Fiefdom {BEFORE}, and this is {RELEASE}; `fiefdom upgrade` brings it there"
        assert (words in said) == (name != "gw1"), said


def test_what_a_label_says_that_is_no_version_is_not_shown(hosts: SimulatedHosts) -> None:
    made_by_version(hosts, "\x1b[31m9.9", "app1")
    assert versions(hosts)["app1"] == ""
