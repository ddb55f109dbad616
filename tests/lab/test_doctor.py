"""Hosts with a life of their own: what `doctor` tells of it, what `apply` refuses, and what it lives with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from helpers.operator_view import LAB_YAML, Site, await_true

APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=60"


def diagnosis(site: Site) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Exit code, and by host level and kind of each finding."""
    done = site.fiefdom("doctor", LAB_YAML, "--json")
    hosts = json.loads(done.stdout)["hosts"]
    return done.returncode, {host: [(f["level"], f["what"]) for f in found] for host, found in hosts.items() if found}


@contextmanager
def has(site: Site, host: str, begin: str, end: str) -> Iterator[None]:
    try:
        site.ssh(host, begin)
        yield
    finally:
        site.ssh(host, end, check=False)


def test_a_host_that_is_fiefdoms_alone_has_nothing_in_the_way(site: Site) -> None:
    done = site.fiefdom("doctor", LAB_YAML)
    assert (done.returncode, done.stdout) == (0, "Nothing is in the way on 3 hosts.\n")


@pytest.mark.proof
def test_another_firewall_is_refused_until_it_lets_pass_what_has_to(site: Site) -> None:
    """With ufw's own words for it, taken from what doctor says."""
    begin = f"{APT} update && {APT} install -y ufw >/dev/null && ufw allow 22/tcp && ufw --force enable"
    with has(site, "app1", begin, f"ufw --force disable; {APT} purge -y ufw"):
        assert diagnosis(site) == (1, {"app1": [("refused", "firewall")]})
        before = site.ssh("app1", "find /etc /var/lib/fiefdom -newermt '-5 seconds' -type f")
        done = site.fiefdom("apply", LAB_YAML, "--yes")
        assert done.returncode == 1
        assert "app1: ufw is active and drops 7946/tcp, 7946/udp" in done.stderr, done.stderr
        assert site.ssh("app1", "find /etc /var/lib/fiefdom -newermt '-5 seconds' -type f") == before == ""
        for other in ("10.99.0.11", "10.99.0.22"):
            site.ssh("app1", f"ufw allow from {other} to any port 7946")
        assert diagnosis(site) == (2, {"app1": [("warning", "firewall")]})
        assert site.fiefdom("apply", LAB_YAML, "--yes").returncode == 0
        site.ssh("app1", "systemctl restart fiefdom-serf-agent")
        site.await_serving()


@pytest.mark.proof
def test_another_keeper_of_time_goes_on_keeping_it(site: Site) -> None:
    begin = f"{APT} update && {APT} install -y chrony >/dev/null"
    with has(site, "app2", begin, f"{APT} purge -y chrony"):
        site.apply()
        assert site.plan()[0] == 0
        assert site.ssh("app2", "dpkg-query -W -f '${db:Status-Status}' systemd-timesyncd") != "installed"


@pytest.mark.proof
def test_somebody_who_has_a_port_of_ours_is_named(site: Site) -> None:
    # systemd-run makes one $ of two.
    listen = "$$s = IO::Socket::INET->new(LocalPort => 7946, Listen => 5, ReuseAddr => 1) or die; sleep 600"
    begin = f"systemctl stop fiefdom-serf-agent; systemd-run -q --unit=squatter perl -MIO::Socket::INET -e '{listen}'"
    with has(site, "app2", begin, "systemctl stop squatter; systemctl start fiefdom-serf-agent"):
        await_true(lambda: site.ssh("app2", "ss -Hltn sport = 7946"), what="the listener")
        assert diagnosis(site) == (1, {"app2": [("refused", "port")]})
        said = site.fiefdom("doctor", LAB_YAML, "--limit", "app2").stdout
        assert "perl listens on port 7946" in said and "serf.port" in said, said


@pytest.mark.proof
def test_docker_keeps_the_inventorys_keys(site: Site) -> None:
    """A mirror by the inventory stands in daemon.json and in what dockerd tells, and no container stopped for it."""
    ids = site.ssh("app1", "docker ps -q | sort")
    inventory = site.inventory(
        "mirror", lambda data: data.update(docker={"daemon": {"registry-mirrors": ["https://mirror.invalid"]}})
    )
    site.apply(inventory)
    assert "https://mirror.invalid/" in site.ssh("app1", "docker info --format '{{.RegistryConfig.Mirrors}}'")
    assert site.ssh("app1", "docker ps -q | sort") == ids
    assert site.plan(inventory)[0] == 0
