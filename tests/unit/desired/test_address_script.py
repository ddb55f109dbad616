"""The script around the address that moves, with a network that is three scripts here; real packets are the lab's."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from fiefdom.desired.programs import text_of

IP = """#!/bin/sh
cat "{root}/$(echo "$*" | tr -s ' /' '__')" 2>/dev/null || :
"""
CURL = """#!/bin/sh
for last; do :; done
grep -qxF "$last" {root}/healthy
"""
NFT = """#!/bin/sh
[ ! -e {root}/no-nft ] || exit 1
case $* in
*delete*) rm -f {root}/rules; wc -l <{root}/coming >{root}/missed ;;
list*)
    [ -e {root}/rules ] || exit 1
    read -r packets 2>/dev/null <{root}/coming || packets=7
    sed -i 1d {root}/coming
    printf '\t\tip daddr != 10.1.0.100 accept\n\t\tcounter packets %s bytes 420 drop\n' "$packets" ;;
*) cat >{root}/rules ;;
esac
"""
OWN = "-o_-4_address_show_to_10.1.0.11_32"
MOVING = "-o_-4_address_show_to_10.1.0.100_32"
ROUTES = "-4_route_show_table_all"
LOOPBACK = "1: lo    inet 10.1.0.100/32 scope host lo\n"
HELD = LOOPBACK + "2: ens3    inet 10.1.0.100/32 scope global ens3\n"


@dataclass
class Gateway:
    root: Path

    def says(self, *healthy: str) -> None:
        (self.root / "healthy").write_text("".join(f"http://{address}:8404/healthz\n" for address in healthy))

    def run(self, verb: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", str(self.root / "address"), verb],
            env={"PATH": path, **environment},
            umask=0o077,  # as the gateway's unit has it
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    @property
    def noted(self) -> str | None:
        path = self.root / "run/leaving"
        return path.read_text().strip() if path.exists() else None

    @property
    def rules(self) -> str | None:
        path = self.root / "rules"
        return path.read_text() if path.exists() else None


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    (tmp_path / "bin").mkdir()
    for name, text in {"ip": IP, "curl": CURL, "nft": NFT}.items():
        program = tmp_path / "bin" / name
        program.write_text(text.replace("{root}", str(tmp_path)))
        program.chmod(0o755)
    script = text_of("address").replace("/etc/fiefdom/address.conf", f"{tmp_path}/address.conf")
    script = script.replace("/run/fiefdom-address", f"{tmp_path}/run").replace("move_limit_s=10", "move_limit_s=2")
    script = script.replace("quiet_looks=10", "quiet_looks=3")
    script = script.replace("/proc/sys/net/ipv4/conf/all", str(tmp_path))
    (tmp_path / "arp_ignore").write_text("1\n")
    (tmp_path / "coming").touch()
    (tmp_path / "address").write_text(script)
    (tmp_path / "address.conf").write_text(
        "# x\naddress 10.1.0.100\nown 10.1.0.11\nport 8404\nother 10.1.0.12\nother 10.1.0.13\n"
    )
    (tmp_path / OWN).write_text("2: ens3    inet 10.1.0.11/24 brd 10.1.0.255 scope global ens3\n")
    (tmp_path / MOVING).write_text(HELD)
    found = Gateway(tmp_path)
    found.says("10.1.0.11", "10.1.0.12", "10.1.0.13")
    return found


def test_keepalived_is_told_the_interface_of_the_hosts_own_address(gateway: Gateway) -> None:
    assert gateway.run("interface").returncode == 0
    assert (gateway.root / "run/interface.conf").read_text() == "$INTERFACE=ens3\n"


def test_a_host_that_has_not_its_own_address_says_so(gateway: Gateway) -> None:
    (gateway.root / OWN).unlink()
    done = gateway.run("interface")
    assert done.returncode == 1
    assert "no interface has this host's own address 10.1.0.11" in done.stderr


def test_nobody_has_it_before_the_kernel_keeps_it_from_neighbours(gateway: Gateway) -> None:
    (gateway.root / "arp_ignore").write_text("0\n")
    done = gateway.run("interface")
    assert (done.returncode, "arp_ignore is 0" in done.stderr) == (1, True)


def test_a_routers_address_is_not_taken(gateway: Gateway) -> None:
    (gateway.root / ROUTES).write_text("default via 10.1.0.100 dev ens3\n")
    done = gateway.run("interface")
    assert (done.returncode, "10.1.0.100 is a router to this host" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("healthy", "noted", "serves"),
    [
        (["10.1.0.11"], None, True),
        (["10.1.0.12"], None, False),
        (["10.1.0.12"], "draining", True),
        (["10.1.0.11"], "left", False),
    ],
)
def test_who_serves_or_still_drains_is_fit_and_who_has_left_is_not(
    gateway: Gateway, healthy: list[str], noted: str | None, serves: bool
) -> None:
    gateway.says(*healthy)
    if noted:
        (gateway.root / "run").mkdir()
        (gateway.root / "run/leaving").write_text(f"{noted}\n")
    assert (gateway.run("serves").returncode == 0) == serves


@pytest.mark.parametrize(
    ("others", "heir"), [(["10.1.0.12", "10.1.0.13"], "10.1.0.12"), (["10.1.0.13"], "10.1.0.13"), ([], None)]
)
def test_who_holds_it_sends_new_connections_to_the_first_that_serves(
    gateway: Gateway, others: list[str], heir: str | None
) -> None:
    gateway.says("10.1.0.11", *others)
    assert gateway.run("yield", MAINPID="7").returncode == 0
    assert gateway.noted == "draining"
    assert (gateway.rules is None) == (heir is None)
    if heir is not None:
        assert f'dup to {heir} device "ens3"' in (gateway.rules or "")
    assert gateway.run("left").returncode == 0
    assert gateway.noted == "left"


@pytest.mark.parametrize(("verb", "noted"), [("yield", "draining"), ("left", "left")])
def test_what_was_noted_can_be_read_by_nobody(gateway: Gateway, verb: str, noted: str) -> None:
    """As whom keepalived asks; and what it cannot read, it takes for nothing."""
    gateway.says("10.1.0.11", "10.1.0.12")
    (gateway.root / MOVING).write_text(HELD)
    for each in ("yield",) if verb == "yield" else ("yield", verb):
        assert gateway.run(each, MAINPID="7").returncode == 0
    path = gateway.root / "run/leaving"
    assert gateway.noted == noted
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o644, 0o755)


def test_who_does_not_hold_it_only_keeps_from_getting_it(gateway: Gateway) -> None:
    (gateway.root / MOVING).write_text(LOOPBACK)
    assert gateway.run("yield", MAINPID="7").returncode == 0
    assert (gateway.noted, gateway.rules) == ("left", None)


def test_a_kernel_that_sends_nobody_on_gives_the_address_away_at_once(gateway: Gateway) -> None:
    (gateway.root / "no-nft").touch()
    done = gateway.run("yield", MAINPID="7")
    assert (done.returncode, gateway.noted) == (0, "left")
    assert "connections that are open break" in done.stdout


def test_a_gateway_that_ended_by_itself_changes_nothing(gateway: Gateway) -> None:
    for verb in ("yield", "left"):
        assert gateway.run(verb).returncode == 0
    assert (gateway.noted, gateway.rules) == (None, None)


def test_one_that_is_back_waits_until_the_address_is_where_its_clients_are(gateway: Gateway) -> None:
    gateway.run("yield", MAINPID="7")
    gateway.run("left")
    (gateway.root / MOVING).write_text(LOOPBACK)
    assert gateway.run("return").returncode == 0
    assert (gateway.noted, gateway.rules) == (None, None)


@pytest.mark.parametrize("counted", [["3", "4", "5", "6", "7"], ["3", "3", "3", "6", "7"], []])
def test_and_until_nobody_comes_here_any_more_whom_only_the_other_one_knows(
    gateway: Gateway, counted: list[str]
) -> None:
    gateway.run("yield", MAINPID="7")
    gateway.run("left")
    (gateway.root / MOVING).write_text(LOOPBACK)
    (gateway.root / "coming").write_text("".join(f"{packets}\n" for packets in counted))
    assert gateway.run("return").returncode == 0
    assert (gateway.noted, gateway.rules) == (None, None)
    assert (gateway.root / "missed").read_text().strip() == "0"


def test_who_sent_nobody_on_has_nobody_to_wait_for(gateway: Gateway) -> None:
    (gateway.root / MOVING).write_text(LOOPBACK)
    gateway.run("yield", MAINPID="7")
    (gateway.root / "coming").write_text("3\n4\n")
    assert gateway.run("return").returncode == 0
    assert (gateway.root / "coming").read_text() == "3\n4\n"


def test_and_does_not_wait_for_ever(gateway: Gateway) -> None:
    gateway.run("yield", MAINPID="7")
    gateway.run("left")
    assert gateway.run("return").returncode == 0
    assert (gateway.noted, gateway.rules) == (None, None)


@pytest.mark.parametrize("verb", ["", "no-such"])
def test_another_word_is_no_verb(gateway: Gateway, verb: str) -> None:
    done = gateway.run(verb)
    assert done.returncode == 1
    assert "usage: address interface|serves|yield|left|return|release" in done.stderr
