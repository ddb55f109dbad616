"""Findings of values: what is refused, what is a warning, and that a host which is Fiefdom's alone has none."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from fiefdom.converge import doctor
from fiefdom.converge.guest import Guest, Listener, parse
from fiefdom.converge.snapshot import FoundContainer, FoundUnit, Snapshot
from fiefdom.desired import docker, network
from fiefdom.desired.state import HostState, Unit
from fiefdom.errors import FiefdomError
from fiefdom.model.daemon_keys import DAEMON_KEYS, DAEMON_OWN
from helpers.certificates import issued
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


@pytest.mark.parametrize(
    ("since_days", "days", "says"),
    [
        (1, 22, None),
        (1, 20.9, "warning certificate: the certificate www (www.example.org) expires on {ends}, in 20 days"),
        (1, 0.5, "warning certificate: the certificate www (www.example.org) expires on {ends}, today"),
        (30, -1, "refused certificate: the certificate www (www.example.org) has expired on {ends}"),
        (-1, 90, "refused certificate: the certificate www is valid from {begins} UTC on"),
    ],
)
def test_certificates_that_are_over_soon_or_not_valid_yet(since_days: float, days: float, says: str | None) -> None:
    one = issued("www.example.org", since_days=since_days, days=days)
    tls = {"certificates": {"www": {"chain": "www.pem", "key": "www.key"}}}

    def found(name: str) -> list[doctor.Finding]:
        it = context(name, gateway={"tls": tls})
        known = replace(it.secrets, contents={"www.pem": one.pem, "www.key": one.key})
        return list(doctor.of_certificates(replace(it, secrets=known), time.time()))

    assert found("app1") == []
    begins, ends = one.certificate.not_valid_before_utc, one.certificate.not_valid_after_utc
    wanted = says and says.format(begins=f"{begins:%Y-%m-%d %H:%M}", ends=f"{ends:%Y-%m-%d}")
    assert [f"{f.level} {f.what}: {f.seen}" for f in found("gw1")] == ([wanted] if wanted else [])
    assert all("gateway.tls.certificates.www" in f.mend for f in found("gw1"))


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


def test_containers_of_somebody_else_that_publish_a_port_of_ours() -> None:
    """No socket of the host's tells of them: without a proxy, Docker has rules alone."""
    web = Guest(publishes=(Listener("tcp", 80, ANY, "container web"), Listener("tcp", 81, ANY, "container web")))
    assert found("gw1", guest=web) == ["refused port: container web publishes port 80"]
    assert found("app1", guest=web) == []
    # Its rules come before a socket: also one that is ours already gets nothing.
    assert found("gw1", running("gateway"), web) == ["refused port: container web publishes port 80"]
    both = Guest(publishes=tuple(Listener("tcp", 8000, at, "container x") for at in (ANY, "::")))
    assert found("app1", guest=both) == ["refused port: container x publishes port 8000"]
    # One of our names that was started by hand is the plan's to replace.
    assert found("app1", guest=Guest(publishes=(Listener("tcp", 8000, ANY, "container predictor-8000"),))) == []
    assert found("app1", guest=Guest(publishes=(Listener("tcp", 8000, "127.0.0.1", "container x"),))) == []


def test_a_nat_rule_that_turns_packets_to_a_port_of_ours() -> None:
    turns = "-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.0.1:80"
    said = "warning port: a NAT rule turns packets to port 80 elsewhere"
    assert found("gw1", running("gateway"), parse([("turns", turns)])) == [said]
    assert found("app1", guest=parse([("turns", turns)])) == []
    own = context("gw1").host.address
    for address, there in ((f"{own}/32", True), ("192.0.2.1/32", False)):
        rule = turns.replace("-A PREROUTING", f"-A PREROUTING -d {address}")
        assert found("gw1", guest=parse([("turns", rule)])) == [said] * there


def test_a_line_of_the_hosts_own_that_says_something_else_of_a_name() -> None:
    address = context("app2").host.address

    def of(*named: tuple[str, str]) -> list[str]:
        return found("app1", guest=Guest(named=named))

    assert of(("192.0.2.9", "app2")) == ["warning names: /etc/hosts has app2 at 192.0.2.9 as well"]
    assert of((address, "app2"), ("127.0.1.1", "app1"), ("::1", "app1"), ("192.0.2.9", "nas")) == []
    # What a copy of another host's disk brings along.
    assert of(("127.0.1.1", "app2")) == ["warning names: /etc/hosts has app2 at 127.0.1.1 as well"]
    assert len(of(("fe80::1%eth0", "app1"), ("192.0.2.8", "app1"))) == 2
    whole = replace(BARE, made=frozenset({("file", network.HOSTS)}))
    assert found("app1", whole, Guest(named=(("192.0.2.9", "app2"),))) == []


def test_cloud_inits_sshd_settings_matter_where_they_overrule_fiefdoms() -> None:
    other = "PasswordAuthentication is yes, wanted no: /etc/ssh/sshd_config line 1"
    assert found(snapshot=replace(BARE, sshd=(other,))) == []
    its = other.replace("sshd_config", "sshd_config.d/50-cloud-init.conf")
    (said,) = found(snapshot=replace(BARE, sshd=(other, its)))
    assert said == f"warning cloud-init: cloud-init's sshd settings overrule Fiefdom's: {its}"


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


def with_daemon(now: dict[str, Any] | None = None, mode: str = "644", **keys: Any) -> Guest:
    """A host whose own daemon.json says ``keys``, and the one that is there ``now``, where that is another."""
    own, there = (base64.b64encode(json.dumps(said).encode()).decode() for said in (keys, keys if now is None else now))
    return parse([("daemon", there), ("own-daemon", own, mode)])


CLAIMED = replace(BARE, made=frozenset({("file", docker.CONFIG)}))
MIRRORS = ["https://mirror.example.org"]


def test_keys_that_nobody_else_sets_are_kept_without_a_word() -> None:
    keys = {
        "registry-mirrors": MIRRORS,
        "dns": ["9.9.9.9"],
        "data-root": "/srv/docker",
        "ip-masq": True,
        "live-restore": True,
    }
    assert found(guest=with_daemon(**keys)) == found(snapshot=CLAIMED, guest=with_daemon(**keys)) == []


@pytest.mark.parametrize(
    ("key", "value", "effect"),
    [
        ("iptables", False, "no packet would reach a container's port"),
        ("iptables", 1, "no packet would reach a container's port"),
        ("ip-masq", False, "containers would reach nobody outside of the host"),
        ("bridge", "br0", "Docker takes it or the bip that Fiefdom sets, not both, and dockerd would not start"),
        ("userns-remap", "default", "containers would run as other users than those that Fiefdom's files are for"),
        ("live-restore", False, "a restart of dockerd would stop every container without it"),
        ("proxies", {"no-proxy": "x"}, "dockerd of Debian 12 does not know it and would not start"),
        ("DNS", [], "dockerd of Debian 12 does not know it and would not start"),
        ("mtu", 10, "dockerd would not start, for it must be a whole number from 68 to 65535"),
    ],
)
def test_what_would_break_fiefdom_or_the_host_is_refused_until_it_is_fiefdoms(
    key: str, value: Any, effect: str
) -> None:
    now = replace(BARE, codename="bookworm", guest=with_daemon(**{key: value}))
    (finding,) = doctor.findings(replace(context("app1"), codename="bookworm"), now)
    assert finding == doctor.Finding(
        "refused",
        "daemon.json",
        f"{docker.CONFIG} sets {key} to {json.dumps(value)}",
        effect,
        "take it out there, or give it another value",
    )
    assert found(snapshot=replace(now, made=CLAIMED.made)) == []


def test_a_value_that_the_inventory_replaces_breaks_nothing() -> None:
    told = found(guest=with_daemon(mtu=10), docker={"daemon": {"mtu": 1400}})
    assert told == [f"warning daemon.json: {docker.CONFIG} sets mtu to 10"]


def test_a_value_of_the_hosts_own_that_comes_back_is_judged_then() -> None:
    """The inventory held it back until now, and so nobody has."""
    there = with_daemon({"mtu": 1400}, mtu=10)
    assert found(snapshot=CLAIMED, guest=there, docker={"daemon": {"mtu": 1400}}) == []
    assert found(snapshot=CLAIMED, guest=there) == [
        "refused daemon.json: the host's own daemon.json of before sets mtu to 10"
    ]


@pytest.mark.parametrize(("key", "value"), [("iptables", True), ("bridge", ""), ("userns-remap", "")])
def test_a_value_that_does_no_harm_is_no_finding(key: str, value: Any) -> None:
    assert found(guest=with_daemon(**{key: value})) == []


def test_a_key_that_nobody_knows_is_dockers_own_to_judge_where_it_can() -> None:
    def of(*packages: str) -> list[str]:
        now = replace(BARE, docker="up", packages=dict.fromkeys(packages, "1"), guest=with_daemon(tomorrow=1, mtu=10))
        return [f.seen for f in doctor.findings(replace(context("app1"), codename="trixie"), now)]

    assert of() == [f"{docker.CONFIG} sets tomorrow to 1"]
    assert of("docker.io") == of("docker-ce") == []


def test_whose_value_takes_the_place_of_the_hosts_own_is_told_until_it_has() -> None:
    keys = {"icc": True, "dns": ["9.9.9.9"], "mtu": 1400, "bip": "172.30.9.1/24"}
    given = {"daemon": {"dns": ["9.9.9.10"], "mtu": 1400}}
    icc, dns = f"{docker.CONFIG} sets icc to true", f'{docker.CONFIG} sets dns to ["9.9.9.9"]'
    findings = doctor.findings(context("app1", docker=given), replace(BARE, guest=with_daemon(**keys)))
    bip = docker.daemon_config(context("app1"))["bip"]
    words = {f.seen: (f.level, f.effect, f.mend) for f in findings}
    assert words.pop(f'{docker.CONFIG} sets bip to "172.30.9.1/24"', None) == (
        "warning", f'it becomes "{bip}", as Fiefdom has it', "see docker.bridge_address",
    )  # fmt: skip
    assert words == {
        dns: (
            "warning",
            'it becomes ["9.9.9.10"], by the inventory',
            "take it out of docker.daemon to keep the host's",
        ),
        icc: ("warning", "it becomes false, as Fiefdom has it", "nothing, unless something there needs it so"),
    }
    converged = {**keys, **docker.daemon_config(context("app1", docker=given))}
    assert found(snapshot=CLAIMED, guest=with_daemon(converged, **keys), docker=given) == []
    # What the inventory gives later is told when it is about to come.
    later = {"daemon": given["daemon"] | {"mtu": 1500}}
    told = found(snapshot=CLAIMED, guest=with_daemon(converged, **keys), docker=later)
    assert told == [f"warning daemon.json: {docker.CONFIG} sets mtu to 1400"]


@pytest.mark.parametrize(("key", "value"), [("hosts", ["tcp://0.0.0.0:2375"]), ("fixed-cidr", "10.9.0.0/24")])
def test_what_fiefdom_leaves_out_is_told_while_it_is_there(key: str, value: Any) -> None:
    told = [f"warning daemon.json: {docker.CONFIG} sets {key} to {json.dumps(value)}"]
    assert found(guest=with_daemon(**{key: value})) == told
    assert found(snapshot=CLAIMED, guest=with_daemon({}, **{key: value})) == []


@pytest.mark.parametrize("text", ["[1]", '{"dns": [', '{"mtu": NaN}', '{"mtu": 1e999}', "[" * 40_000])
def test_a_daemon_json_that_says_nothing_is_refused_in_one_line(text: str) -> None:
    guest = parse([("own-daemon", base64.b64encode(text.encode()).decode(), "644")])
    assert found(guest=guest) == [f"refused daemon.json: {docker.CONFIG} holds no JSON object"]
    assert found(snapshot=CLAIMED, guest=guest) == []


def test_no_password_of_a_hosts_own_is_in_a_finding() -> None:
    keys = {
        "registry-mirrors": ["https://ann:pass@m.example.org"],
        "log-opts": {"splunk-token": "pass"},
        "dns": ["9.9.9.9"],
    }
    given = {"daemon": {"registry-mirrors": ["https://bob:pass@m.example.org"]}}
    findings = doctor.findings(context("app1", docker=given), replace(BARE, guest=with_daemon(**keys)))
    assert [f.seen.partition(" to ")[2] for f in findings] == ["(a secret: not shown)"] * 2
    assert "pass" not in json.dumps([f.as_data() for f in findings])


def test_another_data_root_forgets_no_container() -> None:
    there = Guest(data_root="/srv/docker", containers=3)
    assert found(guest=there) == ["refused data-root: 3 containers lie in /srv/docker"]
    assert found(guest=replace(there, containers=0)) == []
    assert found(guest=there, docker={"daemon": {"data-root": "/srv/docker"}}) == []
    # Where Fiefdom set Docker up, its own daemon.json says it.
    ours = replace(running("predictor-8000"), made=frozenset({("file", docker.CONFIG)}))
    moved = {"docker": {"daemon": {"data-root": "/srv/docker"}}}
    assert found(snapshot=ours, guest=with_daemon(), **moved) == [
        "refused data-root: 1 container lies in /var/lib/docker"
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
        cloud_init_hosts="",
        upgrades=('APT::Periodic::Unattended-Upgrade "1";',),
    )
    assert {said.partition(":")[0] for said in found(guest=guest)} == {
        "warning ssh.socket",
        "warning reboot",
        "warning cloud-init",
        "warning upgrades",
    }
    # One whose template holds the block is no trouble.
    assert found(guest=Guest(cloud_init_hosts=network.CLOUD_HOSTS)) == []
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


@pytest.mark.parametrize(("enabled", "told"), [("masked", True), ("masked-runtime", True), ("enabled", False)])
def test_a_unit_of_ours_that_somebody_masked_is_named_with_its_mend(enabled: str, told: bool) -> None:
    state = HostState(units=(Unit("fiefdom-web@8000.service", enabled=True), Unit("plain.service", enabled=False)))
    units = {unit.name: FoundUnit(enabled=enabled) for unit in state.units}
    found = [str(one) for one in doctor.of_masked(state, Snapshot(0, "debian", "trixie", units=units))]
    assert found == told * [
        "fiefdom-web@8000.service is masked: it does not start any more; `systemctl unmask fiefdom-web@8000.service` "
        "there, then `fiefdom apply`"
    ]
