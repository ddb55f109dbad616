"""Facts of a host's own life, from records of guest.sh, and the room that a wanted state makes for them."""

from __future__ import annotations

import base64
import ipaddress
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fiefdom.converge import guest
from fiefdom.converge.guest import Guest, Listener
from fiefdom.converge.snapshot import GUEST
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


# --- The script's own words, on files of a folder


def said(root: Path, function: str, names: str = "", **programs: str) -> list[tuple[str, ...]]:
    """Records that a function of guest.sh prints, where all paths of a host lie in ``root``, asked for ``names``."""
    for name, text in programs.items():
        (root / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / name).chmod(0o755)
    script = GUEST.replace("/etc/", f"{root}/etc/").replace("/var/lib/", f"{root}/var/lib/")
    # As snapshot.sh has them.
    own = "tab='\t' newline='\n' firewalld='' ssh_socket='' docker=$(command -v docker)"
    manifest = root / "var/lib/fiefdom/manifest"
    found = manifest.read_text().rstrip("\n") if manifest.exists() else ""
    script = f"set -u\nPATH={root}:$PATH\n{own}\nasked_name=$1 manifest=$2\n{script}\n{function}\n"
    words = ["sh", "-c", script, "fiefdom", names, found]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def test_lines_of_names_outside_of_the_block_are_told(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert said(tmp_path, "guest_names", "app1") == []
    block = network.desired(context()).blocks[0].text.decode()
    text = f"127.0.1.1\tApp1.example.com App1 # app2\n# 192.0.2.9 app2\n{block}192.0.2.9 nas app2\n"
    (tmp_path / "etc/hosts").write_text(text)
    rows = [("guest", "named", "127.0.1.1", "app1"), ("guest", "named", "192.0.2.9", "app2")]
    assert said(tmp_path, "guest_names", "app1\napp2") == rows
    assert said(tmp_path, "guest_names") == []


DAEMON = "etc/docker/daemon.json"
MANIFEST = "var/lib/fiefdom/manifest"
ORIGINAL = "the original"


def original(root: Path) -> Path:
    """Where a host whose paths all lie in ``root`` keeps what was at that path before Fiefdom."""
    return Path(f"{root}/var/lib/fiefdom/originals{root}/{DAEMON}")


@pytest.mark.parametrize(
    ("there", "own"),
    [
        ({}, None),
        ({DAEMON: "live"}, "live"),
        ({DAEMON: ""}, None),
        ({DAEMON: "live", MANIFEST: "file\t/etc/hosts\n"}, "live"),
        # Fiefdom's, on a host that had none.
        ({DAEMON: "ours", MANIFEST: f"file\t/{DAEMON}\n"}, None),
        ({DAEMON: "ours", MANIFEST: f"file\t/{DAEMON}\n", ORIGINAL: "kept"}, "kept"),
        ({MANIFEST: f"file\t/{DAEMON}\n", ORIGINAL: "kept"}, "kept"),
        # A run that died between the two.
        ({DAEMON: "live", ORIGINAL: "kept"}, "kept"),
        ({DAEMON: "ours", MANIFEST: f"file\t/{DAEMON}\n", ORIGINAL: ""}, None),
    ],
)
def test_the_daemon_json_of_the_host_itself_is_the_one_before_fiefdoms(
    tmp_path: Path, there: dict[str, str], own: str | None
) -> None:
    for path, text in there.items():
        file = original(tmp_path) if path == ORIGINAL else tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("/etc/", f"{tmp_path}/etc/"))
        file.chmod(0o640)
    told = [fields for fields in said(tmp_path, "guest_docker", docker="exit 1") if fields[1] == "own-daemon"]
    encoded = base64.b64encode((own or "").encode()).decode()
    assert told == ([("guest", "own-daemon", encoded, "640")] if own else [])


@pytest.mark.parametrize("link", ["../theirs.json", "absolute"])
def test_a_daemon_json_that_was_a_link_is_what_it_led_to(tmp_path: Path, link: str) -> None:
    (tmp_path / DAEMON).parent.mkdir(parents=True)
    original(tmp_path).parent.mkdir(parents=True)
    theirs = tmp_path / "etc/theirs.json"
    theirs.write_text('{\n"data-root" :\n"/srv/docker", "mtu": 1}')
    theirs.chmod(0o600)
    original(tmp_path).symlink_to(theirs if link == "absolute" else link)
    (tmp_path / DAEMON).write_text("ours")
    told = said(tmp_path, "guest_docker", docker="exit 1")
    assert ("guest", "own-daemon", base64.b64encode(theirs.read_bytes()).decode(), "600") in told
    assert said(tmp_path, "own_data_root") == [("/srv/docker",)]
    theirs.unlink()
    assert all(fields[1] != "own-daemon" for fields in said(tmp_path, "guest_docker", docker="exit 1"))
    assert said(tmp_path, "own_data_root") == []


@pytest.mark.parametrize(
    ("path", "line", "writes"),
    [
        ("etc/cloud/cloud.cfg", "manage_etc_hosts: true", True),
        ("etc/cloud/cloud.cfg.d/01_debian_cloud.cfg", "manage_etc_hosts: True", True),
        ("etc/cloud/cloud.cfg.d/01_x.cfg", "manage_etc_hosts: 'template'", True),
        ("var/lib/cloud/instance/vendor-cloud-config.txt", "manage_etc_hosts: true", True),
        # It puts the host's own name in and leaves all else.
        ("etc/cloud/cloud.cfg", "manage_etc_hosts: localhost", False),
        ("etc/cloud/cloud.cfg", "manage_etc_hosts: false", False),
        ("etc/cloud/cloud.cfg", "# manage_etc_hosts: true", False),
        ("etc/cloud/cloud.cfg.d/README", "manage_etc_hosts: true", False),
    ],
)
def test_whether_cloud_init_writes_etc_hosts_from_its_template(
    tmp_path: Path, path: str, line: str, writes: bool
) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(f"users:\n{line}\n")
    assert said(tmp_path, "guest_cloud_init") == [("guest", "cloud-init-hosts", "")] * writes
    template = tmp_path / network.CLOUD_HOSTS.lstrip("/")
    template.parent.mkdir(parents=True)
    template.write_text("127.0.0.1 localhost\n")
    assert said(tmp_path, "guest_cloud_init") == [("guest", "cloud-init-hosts", str(template))] * writes


NFT = """cat <<'END'
table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy drop;
		tcp dport 80 accept
	}
}
table ip nat {
	chain DOCKER {
		tcp dport 80 dnat to 172.17.0.2:80
	}
}
table inet fiefdom {
	chain forward {
		ct status dnat tcp dport 8000 accept
	}
}
table ip theirs {
	chain before {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "eth0"   tcp dport 443 redirect to :8443
		tcp dport 22 accept
	}
	chain first {
		type filter hook input priority filter; policy drop;
	}
}
END
"""
IPTABLES = """[ "$2" = nat ] || exec cat <<'END'
:INPUT DROP [0:0]
-A INPUT -p tcp -m tcp --dport 7946 -j ACCEPT
-A INPUT -p tcp -m tcp --dport 80 -j DROP
-A FORWARD -p tcp -m tcp --dport 81 -j ACCEPT
-A DOCKER -p tcp -m tcp --dport 82 -j ACCEPT
END
cat <<'END'
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80
-A CNI-DN-1 -p tcp -m tcp --dport 8000 -j DNAT --to-destination 10.42.0.9:80
END
"""


def test_rules_that_turn_packets_are_told_but_for_dockers_and_fiefdoms(tmp_path: Path) -> None:
    found = said(tmp_path, "guest_firewall", **{"iptables-save": IPTABLES, "nft": NFT})
    assert [fields[2].strip() for fields in found if fields[1] == "turns"] == [
        "-A CNI-DN-1 -p tcp -m tcp --dport 8000 -j DNAT --to-destination 10.42.0.9:80",
        'iifname "eth0" tcp dport 443 redirect to :8443',
    ]


def test_another_firewall_is_told_with_what_it_lets_pass(tmp_path: Path) -> None:
    found = said(tmp_path, "guest_firewall", **{"iptables-save": IPTABLES, "nft": NFT})
    assert [fields[2].strip() for fields in found if fields[1] == "passes"] == [
        "-A INPUT -p tcp -m tcp --dport 7946 -j ACCEPT",
        "tcp dport 22 accept",
    ]
    assert [fields[2] for fields in found if fields[1] == "firewall"] == ["iptables", "nftables table ip theirs"]


@pytest.mark.parametrize(("lines", "told"), [(199, 199), (201, 200)])
def test_of_the_rules_of_each_program_so_many_are_told(tmp_path: Path, lines: int, told: int) -> None:
    rule, other = "-A INPUT -s 10.9.0.1/32 -j ACCEPT", "tcp dport 22 accept"
    rules = f"[ $2 = filter ] && yes -- '{rule}' | head -n {lines}"
    table = f"echo 'table ip x {{'; yes '{other}' | head -n {lines}"
    found = said(tmp_path, "guest_firewall", **{"iptables-save": rules, "nft": table})
    assert [fields[2] for fields in found] == [rule] * told + [other] * told


def test_what_listens_is_told_once_and_in_order(tmp_path: Path) -> None:
    lines = [f"tcp LISTEN 0 4096 10.1.0.21:{port} 0.0.0.0:*" for port in (9000, 80, 80, *range(1000, 1400))]
    named = 'udp UNCONN 0 0 *:53 *:* users:(("named",pid=1,fd=3))'
    (tmp_path / "sockets").write_text("\n".join([*lines, named]))
    found = said(tmp_path, "guest_part", ss=f"cat {tmp_path}/sockets")
    ports = [fields[3].rpartition(":")[2] for fields in found if fields[1] == "listens"]
    assert ports == sorted({"9000", "80", *map(str, range(1000, 1400))})[:300]
    (tmp_path / "sockets").write_text("\n".join([*lines[:1] * 2, named]))
    found = said(tmp_path, "guest_part", ss=f"cat {tmp_path}/sockets")
    assert [fields[2:] for fields in found if fields[1] == "listens"] == [
        ("tcp", "10.1.0.21:9000", "somebody"),
        ("udp", "*:53", "named"),
    ]
