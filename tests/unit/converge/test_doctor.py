"""Findings of values: what is refused, what is a warning, and that a host which is Fiefdom's alone has none."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from fiefdom.converge import doctor
from fiefdom.converge.guest import Guest, Listener, parse
from fiefdom.converge.snapshot import FoundContainer, Snapshot
from fiefdom.desired import docker
from fiefdom.errors import FiefdomError
from fiefdom.model.daemon_keys import DAEMON_KEYS, DAEMON_OWN
from helpers.example import context

BARE = Snapshot(0, "debian", "trixie")
ANY = "0.0.0.0"


def found(name: str = "app1", snapshot: Snapshot = BARE, guest: Guest | None = None, **changes: Any) -> list[str]:
    """Findings as `level what: seen`."""
    now = snapshot if guest is None else replace(snapshot, guest=guest)
    return [f"{f.level} {f.what}: {f.seen}" for f in doctor.findings(context(name, **changes), now)]


@pytest.mark.parametrize("name", ["gw1", "app1"])
def test_a_bare_host_has_nothing_in_the_way(name: str) -> None:
    assert found(name) == []


def running(*names: str) -> Snapshot:
    container = FoundContainer(True, "sha256:1", "", "", "", True, "")
    return replace(BARE, containers=dict.fromkeys(names, container))


def test_who_listens_where_a_container_of_ours_is_to() -> None:
    nginx = Guest(listeners=(Listener("tcp", 80, ANY, "nginx"), Listener("tcp", 81, ANY, "nginx")))
    assert found("gw1", guest=nginx) == ["refused port: nginx listens on port 80"]
    assert found("app1", guest=nginx) == []
    assert found("gw1", running("gateway"), nginx) == []
    for address, there in (("127.0.0.1", False), ("[::]", True), (context("app1").host.address, True)):
        serf = Guest(listeners=(Listener("udp", 7946, address.strip("[]"), "consul"),))
        assert bool(found("app1", guest=serf)) is there, address
    # A port that Docker publishes is a container's, and ours may stand there under another name still.
    docker_itself = Guest(listeners=(Listener("tcp", 7946, ANY, "dockerd"), Listener("tcp", 7946, ANY, "serf")))
    assert found("app1", guest=docker_itself) == ["refused port: serf listens on port 7946"]
    assert found("app1", running("gateway"), docker_itself) == []
    rpc = Guest(listeners=(Listener("tcp", 7373, "127.0.0.1", "serf"),))
    assert found("app1", guest=rpc) == ["refused port: serf listens on port 7373"]


def ufw(*rules: str) -> Guest:
    return parse([("firewall", "ufw"), *(("passes", rule) for rule in rules)])


def test_a_firewall_that_drops_gossip_is_refused_with_what_to_add() -> None:
    (finding,) = doctor.findings(context("app1"), replace(BARE, guest=ufw()))
    assert finding.level == "refused"
    assert finding.seen == "ufw is active and drops 7946/tcp, 7946/udp"
    assert "7946/udp from " in finding.mend and "`ufw allow 7946/tcp`" in finding.mend
    with pytest.raises(FiefdomError, match=r"^app1: ufw is active and drops"):
        doctor.require_none_refused("app1", [finding])


def test_ufw_is_one_firewall_although_its_rules_are_iptables() -> None:
    both = parse([("firewall", "ufw"), ("firewall", "iptables")])
    assert found(guest=both) == ["refused firewall: ufw is active and drops 7946/tcp, 7946/udp"]


def test_a_firewall_that_lets_pass_what_has_to_is_lived_with() -> None:
    both = (
        "-A ufw-user-input -p tcp -m tcp --dport 7946 -j ACCEPT",
        "-A ufw-user-input -p udp -m udp --dport 7946 -j ACCEPT",
    )
    assert found(guest=ufw(*both)) == ["warning firewall: ufw is active and lets Fiefdom's ports pass"]
    assert found(guest=ufw(both[0])) == ["refused firewall: ufw is active and drops 7946/udp"]
    # From one of the others only is not from all.
    first = "-A INPUT -s 10.1.0.9/32 -j ACCEPT"
    assert found(guest=ufw(first)) == ["refused firewall: ufw is active and drops 7946/tcp, 7946/udp"]


def test_a_gateway_needs_its_clients_ports_as_well() -> None:
    gossip = ("-A INPUT -p tcp -m tcp --dport 7946 -j ACCEPT", "-A INPUT -p udp -m udp --dport 7946 -j ACCEPT")
    (said,) = found("gw1", guest=ufw(*gossip))
    assert said.startswith("refused firewall: ufw is active and drops 80/tcp")


def with_daemon(**keys: Any) -> Guest:
    return parse([("daemon", base64.b64encode(json.dumps(keys).encode()).decode())])


def test_keys_of_a_daemon_json_are_not_dropped_in_silence() -> None:
    mirrors = {"registry-mirrors": ["https://mirror.example.org"]}
    assert found(guest=with_daemon(**mirrors)) == [f"refused daemon.json: {docker.CONFIG} sets registry-mirrors"]
    assert found(guest=with_daemon(**mirrors), docker={"daemon": mirrors}) == []
    other = found(guest=with_daemon(**mirrors), docker={"daemon": {"registry-mirrors": ["https://other.example.org"]}})
    assert other == [f"warning daemon.json: {docker.CONFIG} sets registry-mirrors in another way"]
    # What Fiefdom itself wrote is no finding, whatever it was.
    ours = replace(BARE, made=frozenset({("file", docker.CONFIG)}))
    assert found(snapshot=ours, guest=with_daemon(**mirrors)) == []


def test_another_data_root_forgets_no_container() -> None:
    there = Guest(data_root="/srv/docker", containers=3)
    assert found(guest=there) == ["refused data-root: 3 containers lie in /srv/docker"]
    assert found(guest=replace(there, containers=0)) == []
    assert found(guest=there, docker={"daemon": {"data-root": "/srv/docker"}}) == []
    # Where Fiefdom set Docker up, its own daemon.json says it.
    ours = replace(running("predictor-8000"), made=frozenset({("file", docker.CONFIG)}))
    moved = {"docker": {"daemon": {"data-root": "/srv/docker"}}}
    assert found(snapshot=ours, guest=with_daemon(), **moved) == [
        "refused data-root: 1 containers lie in /var/lib/docker"
    ]
    assert found(snapshot=ours, guest=with_daemon(**{"data-root": "/srv/docker"}), **moved) == []


def test_every_key_that_fiefdom_sets_is_its_own() -> None:
    assert docker.daemon_config(context("app1")).keys() == DAEMON_OWN.keys()
    assert not DAEMON_OWN.keys() & DAEMON_KEYS.keys()


@pytest.mark.parametrize("word", ["snap", "podman", "swarm"])
def test_dockers_that_fiefdom_cannot_set_are_refused(word: str) -> None:
    (said,) = found(guest=Guest(docker=frozenset({word})))
    assert said.startswith("refused docker: ")


def test_a_key_for_a_newer_docker_is_refused_where_debians_is_older() -> None:
    proxies = {"daemon": {"proxies": {"http-proxy": "http://proxy.example.org:3128"}}}
    bookworm = replace(BARE, codename="bookworm")

    def of(codename: str, *packages: str) -> list[str]:
        now = replace(bookworm, packages=dict.fromkeys(packages, "1"))
        return [f.seen for f in doctor.findings(replace(context("app1", docker=proxies), codename=codename), now)]  # type: ignore[arg-type]

    assert of("bookworm") == ["docker.daemon.proxies is for a newer Docker than Debian 12 has"]
    assert of("bookworm", "docker-ce") == of("trixie") == []


def test_warnings() -> None:
    guest = Guest(
        ssh_socket=True,
        reboot="linux-image-amd64",
        cloud_init_hosts=True,
        upgrades=('APT::Periodic::Unattended-Upgrade "1";',),
    )
    assert {said.partition(":")[0] for said in found(guest=guest)} == {
        "warning ssh.socket",
        "warning reboot",
        "warning cloud-init",
        "warning upgrades",
    }
    spared = (*guest.upgrades, 'Unattended-Upgrade::Package-Blacklist:: "docker";')
    assert found(guest=Guest(upgrades=spared)) == []
    assert found(guest=Guest(upgrades=('APT::Periodic::Unattended-Upgrade "0";',))) == []
    chrony = replace(BARE, packages={"chrony": "4.6"})
    assert found(snapshot=chrony, time_servers=[]) == []
    assert found(snapshot=chrony, time_servers=["10.9.0.1"]) == ["warning time: chrony keeps the time"]


@pytest.mark.parametrize(
    ("off_s", "says"),
    [(None, None), (3, None), (-30, None), (61, "its clock is 1 minute ahead"), (-45, "its clock is 45 s behind")],
)
def test_a_clock(off_s: float | None, says: str | None) -> None:
    assert [f.seen for f in doctor.of_clock(off_s)] == ([says] if says else [])
