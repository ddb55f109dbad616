"""Facts of a host's own life, from records of guest.sh, and the room that a wanted state makes for them."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import replace

import pytest

from fiefdom.converge import guest
from fiefdom.converge.guest import Guest, Listener
from fiefdom.desired import docker, network
from fiefdom.desired.concerns import state_of
from helpers.example import context


def passes(line: str) -> guest.Rule | None:
    found = guest.parse([("passes", line)]).passes
    return found[0] if found else None


@pytest.mark.parametrize(
    ("line", "protocol", "port", "source"),
    [
        ("-A ufw-user-input -p tcp -m tcp --dport 7946 -j ACCEPT", "tcp", 7946, "10.9.0.1"),
        ("-A ufw-user-input -p udp -m udp --dport 7946 -j ACCEPT", "udp", 7946, "10.9.0.1"),
        ("-A INPUT -s 10.9.0.0/24 -j ACCEPT", "udp", 7946, "10.9.0.1"),
        ("-A INPUT -s 10.9.0.1/32 -p tcp -m multiport --dports 80,8000:8010 -j ACCEPT", "tcp", 8004, "10.9.0.1"),
        ("tcp dport 7946 accept", "tcp", 7946, "10.9.0.1"),
        ("tcp dport { 80, 8000-8010 } counter packets 3 bytes 9 accept", "tcp", 8010, "10.9.0.1"),
        ("ip saddr 10.9.0.0/24 accept", "udp", 7946, "10.9.0.1"),
        ("ip saddr { 10.9.0.1, 10.9.0.2 } udp dport 7946 accept", "udp", 7946, "10.9.0.1"),
        ("meta l4proto { tcp, udp } th dport 7946 accept", "udp", 7946, "10.9.0.1"),
    ],
)
def test_a_rule_lets_pass(line: str, protocol: str, port: int, source: str) -> None:
    rule = passes(line)
    assert rule is not None
    assert rule.takes(protocol, port) and rule.has(ipaddress.IPv4Address(source))


@pytest.mark.parametrize(
    ("line", "protocol", "port", "source"),
    [
        ("-A INPUT -p tcp -m tcp --dport 7946 -j ACCEPT", "udp", 7946, "10.9.0.1"),
        ("-A INPUT -p tcp -m tcp --dport 7946 -j ACCEPT", "tcp", 7947, "10.9.0.1"),
        ("-A INPUT -s 10.8.0.0/24 -j ACCEPT", "tcp", 7946, "10.9.0.1"),
        ("tcp dport { 80, 8000-8010 } accept", "tcp", 8011, "10.9.0.1"),
        ("ip saddr 10.9.0.2 udp dport 7946 accept", "udp", 7946, "10.9.0.1"),
    ],
)
def test_a_rule_is_about_other_packets(line: str, protocol: str, port: int, source: str) -> None:
    rule = passes(line)
    assert rule is not None
    assert not (rule.takes(protocol, port) and rule.has(ipaddress.IPv4Address(source)))


@pytest.mark.parametrize(
    "line",
    [
        "-A INPUT -i lo -j ACCEPT",
        'iifname "lo" tcp dport 7946 accept',
        "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "ip saddr @trusted accept",
        "tcp dport ssh accept",
    ],
)
def test_what_says_nothing_of_a_port_is_passed_over(line: str) -> None:
    """A rule that cannot be read may be too narrow: the finding says which one would do."""
    assert passes(line) is None


def test_facts_of_a_host_with_a_life() -> None:
    daemon = base64.b64encode(b'{"registry-mirrors": ["https://mirror.example.org"]}').decode()
    found = guest.parse(
        [
            ("clock", "1796000000"),
            ("firewall", "ufw"),
            ("firewall", "iptables"),
            ("docker", "swarm"),
            ("daemon", daemon),
            ("data-root", "/srv/docker", "3"),
            ("listens", "tcp", "0.0.0.0:80", "nginx"),
            ("listens", "udp", "[::]:7946", "serf"),
            ("listens", "tcp", "nothing"),
            ("ssh-socket",),
            ("reboot", "linux-image-amd64 "),
            ("cloud-init-hosts", network.CLOUD_HOSTS),
            ("publishes", "web", "0.0.0.0:80->80/tcp, [::]:80->80/tcp, 10.1.0.21:7000-7001->7000-7001/udp, 90/tcp"),
            ("publishes", "old", ":::443->443/tcp"),
            ("publishes", "odd"),
            ("turns", "-A PREROUTING -d 10.1.0.21/32 -p tcp -m tcp --dport 8000 -j DNAT --to-destination 10.9.0.1:80"),
            ("turns", 'iifname "eth0" tcp dport { 80, 443 } dnat to 10.9.0.1'),
            ("turns", "-A PREROUTING -d 10.1.0.21/32 -j DNAT --to-destination 10.9.0.1"),
            ("named", "192.0.2.9", "app2"),
            ("named", "192.0.2.9"),
            ("upgrades", 'APT::Periodic::Unattended-Upgrade "1";'),
            ("a later one", "x"),
        ]
    )
    assert found == Guest(
        firewalls=("ufw", "iptables"),
        docker=frozenset({"swarm"}),
        daemon={"registry-mirrors": ["https://mirror.example.org"]},
        data_root="/srv/docker",
        containers=3,
        listeners=(Listener("tcp", 80, "0.0.0.0", "nginx"), Listener("udp", 7946, "::", "serf")),
        clock_s=1796000000,
        ssh_socket=True,
        reboot="linux-image-amd64",
        cloud_init_hosts=network.CLOUD_HOSTS,
        publishes=(
            Listener("tcp", 80, "0.0.0.0", "container web"),
            Listener("tcp", 80, "::", "container web"),
            Listener("udp", 7000, "10.1.0.21", "container web"),
            Listener("udp", 7001, "10.1.0.21", "container web"),
            Listener("tcp", 443, "::", "container old"),
        ),
        turns=(
            guest.Rule(frozenset({"tcp"}), (range(8000, 8001),), (ipaddress.IPv4Network("10.1.0.21"),)),
            guest.Rule(frozenset({"tcp"}), (range(80, 81), range(443, 444)), ()),
        ),
        named=(("192.0.2.9", "app2"),),
        upgrades=('APT::Periodic::Unattended-Upgrade "1";',),
    )


@pytest.mark.parametrize("text", ["", "!", "bm90IGpzb24=", "W10="])
def test_a_daemon_json_that_cannot_be_read_is_none(text: str) -> None:
    assert guest.parse([("daemon", text)]) == Guest()


@pytest.mark.parametrize("keeper", guest.TIMEKEEPERS)
def test_whoever_keeps_time_goes_on_keeping_it(keeper: str) -> None:
    state = guest.adapted(state_of(context("app1", time_servers=["10.9.0.1"])), {keeper}, Guest())
    assert network.TIMESYNCD_PACKAGE not in {p.name for p in state.packages}
    assert network.TIMESYNCD_UNIT not in {u.name for u in state.units}
    assert not any(
        "timesyncd" in path for path in (*(f.path for f in state.files), *(d.path for d in state.directories))
    )


def test_dockers_own_package_is_used_as_it_is() -> None:
    state = guest.adapted(state_of(context("app1")), {"docker-ce"}, Guest())
    assert {"docker.io", "docker-cli"}.isdisjoint(p.name for p in state.packages)
    assert "iptables" in {p.name for p in state.packages}
    assert docker.UNIT in {u.name for u in state.units}
    assert next(f for f in state.files if f.path == docker.CONFIG).precedes == ""


def test_nothing_changes_for_a_host_that_is_fiefdoms_alone() -> None:
    state = state_of(context("app1"))
    packages = {"docker.io", "systemd-timesyncd"}
    assert guest.adapted(state, packages, Guest(cloud_init_hosts=network.CLOUD_HOSTS)) == state
    # A template that nobody writes /etc/hosts from stays as it is.
    for other in (Guest(), Guest(cloud_init_hosts="")):
        adapted = guest.adapted(state, packages, other)
        assert [block.path for block in adapted.blocks] == [network.HOSTS]
        assert replace(adapted, blocks=state.blocks) == state
