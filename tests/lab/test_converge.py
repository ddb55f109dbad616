"""From bare hosts to a serving cluster, and nothing to change after that, by every way to ask."""

from __future__ import annotations

import json
import os
import re

import pytest

from helpers.operator_view import ADDRESSES, LAB_YAML, Site, answers

EVERY_INSTANCE = {"app1:8000", "app1:8001", "app2:8000", "app2:8001"}
HOSTS = ("gw1", "app1", "app2")


def test_one_run_takes_bare_hosts_into_service(first_converge: tuple[Site, str]) -> None:
    site, printed = first_converge
    if os.environ.get("FIEFDOM_TEST_KEEP_LAB"):
        pytest.skip("FIEFDOM_TEST_KEEP_LAB: the hosts were not bare")
    assert "Converged 3 hosts in" in printed
    assert site.rotation() == EVERY_INSTANCE


@pytest.mark.parametrize("host", HOSTS)
def test_dockerd_never_was_on_a_network_of_its_own_choice(first_converge: tuple[Site, str], host: str) -> None:
    site, _ = first_converge
    told = site.ssh(host, f"cat {ADDRESSES}")
    if os.environ.get("FIEFDOM_TEST_KEEP_LAB") and "docker0" not in told:
        pytest.skip("FIEFDOM_TEST_KEEP_LAB: the hosts were not bare")
    assert set(re.findall(r"docker0\s+inet (\S+)", told)) == {"172.31.255.1/24"}


@pytest.mark.parametrize("host", HOSTS)
def test_dockerd_was_started_by_its_package_and_by_nobody_again(first_converge: tuple[Site, str], host: str) -> None:
    if os.environ.get("FIEFDOM_TEST_KEEP_LAB"):
        pytest.skip("FIEFDOM_TEST_KEEP_LAB: the hosts were not bare")
    site, _ = first_converge
    started = "journalctl -q -o cat -u docker.service | grep '^Started docker.service'"
    assert len(site.ssh(host, started).splitlines()) == 1
    # And it has read what Fiefdom wrote.
    assert site.ssh(host, "docker info --format '{{.LiveRestoreEnabled}} {{.LoggingDriver}}'") == "true local"


def test_round_robin_reaches_every_instance_equally(site: Site) -> None:
    assert answers(40) == dict.fromkeys(EVERY_INSTANCE, 10)


def test_a_second_run_has_nothing_to_do_by_plan_and_apply(site: Site) -> None:
    first, second = site.fiefdom("plan", LAB_YAML), site.fiefdom("plan", LAB_YAML)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == second.stdout, "the same input gives the same bytes"
    assert "no changes on 3 hosts" in first.stdout
    applied = site.fiefdom("apply", LAB_YAML)
    assert applied.returncode == 0, "with nothing to ask about, no terminal is needed"
    assert applied.stdout == first.stdout


def test_a_second_run_has_nothing_to_do_by_pyinfras_own_json(site: Site) -> None:
    dry = site.run("pyinfra", "--json", "--dry", "inventories/lab.py", "deploys/site.py")
    assert dry.returncode == 0, dry.stderr
    operations = json.loads(dry.stdout)["plan"]
    assert [o["hosts_with_change"] for o in operations] == [[]] * 6
    real = site.run("pyinfra", "--json", "--yes", "inventories/lab.py", "deploys/site.py")
    assert real.returncode == 0, real.stderr
    results = json.loads(real.stdout)["results"]["operations"]
    assert [(o["success"], o["error"], o["no_change"]) for o in results] == [([], [], sorted(HOSTS))] * 6


@pytest.mark.parametrize("concern", ["docker", "network", "sshd", "serf", "services", "gateway"])
def test_every_concern_runs_alone_and_finds_nothing(site: Site, concern: str) -> None:
    limits = ("--limit", "gw1", "--limit", "app1")
    done = site.run("pyinfra", "--json", "--dry", "--diff", "inventories/lab.py", f"deploys/{concern}.py", *limits)
    assert done.returncode == 0, done.stderr
    # network is two of Fiefdom's deploys, which the others are one each of.
    count = 12 if concern == "network" else 6
    assert [o["hosts_with_change"] for o in json.loads(done.stdout)["plan"]] == [[]] * count


def test_the_inventory_for_pyinfra_gives_the_same_plan(site: Site) -> None:
    assert site.fiefdom("plan", "inventories/lab.py").stdout == site.fiefdom("plan", LAB_YAML).stdout


def test_apply_without_terminal_and_consent_touches_nothing(site: Site) -> None:
    site.ssh("app1", "echo '# by hand' >> /etc/modprobe.d/fiefdom.conf")
    done = site.fiefdom("apply", LAB_YAML)
    assert (done.returncode, done.stderr) == (1, "error: no terminal to ask on; say --yes to let it go on unasked\n")
    assert site.plan()[1]["app1"] == ["~ file /etc/modprobe.d/fiefdom.conf"]
