"""Nobody gets in: what a host that is neither gateway, member nor admin finds open, at every moment."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fiefdom import lab
from fiefdom.lab import hosts
from helpers.operator_view import TRAFFIC, Site, await_true

STRANGER = "fiefdom-stranger"
PYTHON_IMAGE = "fiefdom/predictor:1.0.0"
SCRIPT = (Path(__file__).parents[1] / "helpers/stranger.py").read_text()

# The stranger's addresses: one in the cluster's network, two outside of it, and two of IPv6. One of them is a client.
INSIDE = "10.99.0.200"
OUTSIDE = "198.51.100.66"
CLIENT = "198.51.100.80"
ULA = "fd99::200"

HOSTS = {"gw1": "10.99.0.11", "app1": "10.99.0.21", "app2": "10.99.0.22"}
ULAS = {host: f"fd99::{address.rpartition('.')[2]}" for host, address in HOSTS.items()}
APPS = ("app1", "app2")
CONTROL, SOMEBODYS = 9, 5555
"""Two ports of one listener on every host: one that is open to all, and one that nobody opened."""
BY_HAND, BY_HAND_ELSEWHERE, BY_HAND_ON_HOST = 9999, 9997, 9998
"""Published on Docker's own bridge, on one with another name and network, and listening in the host's network."""
PORTS = [CONTROL, 22, 80, SOMEBODYS, 7373, 7946, 8000, 8001, 8404, BY_HAND_ELSEWHERE, BY_HAND_ON_HOST, BY_HAND]
ALL_PORTS = [[1, 65535]]
# An address of a container by hand on each app host, in a network of its own, which the stranger routes to the host.
CONTAINERS = {"app1": "192.168.71.5", "app2": "192.168.72.5"}
CONTAINER_PORT = 8000

Answers = dict[int, str]
Way = tuple[str, str]
"""From one of the stranger's addresses to one of a host's."""


@dataclass(frozen=True)
class Seen:
    """What the stranger saw: answers by way and port, and seconds from the last of each to the end."""

    rounds: int
    longest_round_s: float
    answers: list[tuple[str, str, int, str, int, float]]

    def of(self, way: Way) -> Answers:
        """The answer of each port that answered, the worst one where there are two."""
        found = sorted((port, kind) for source, address, port, kind, _, _ in self.answers if (source, address) == way)
        return dict(reversed(found))

    def open(self) -> set[tuple[str, str, int]]:
        return {(source, address, port) for source, address, port, kind, _, _ in self.answers if kind == "open"}

    def refused(self) -> set[tuple[str, str, int]]:
        return {(source, address, port) for source, address, port, kind, _, _ in self.answers if kind == "refused"}


def docker(*argv: str) -> str:
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{shlex.join(argv)}: {done.stderr}"
    return done.stdout.strip()


def console(host: str, command: str) -> str:
    return docker("exec", lab.host(host).container, "sh", "-euc", command)


def on_all(command: Callable[[str], object], hosts: tuple[str, ...] = tuple(HOSTS)) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(command, hosts))


def stranger_argv(program: str, *arguments: str) -> list[str]:
    own = [f"--network=container:{STRANGER}", "--user=0", "--cap-drop=ALL", "--cap-add=NET_RAW"]
    return ["docker", "run", "--rm", "-i", *own, "--entrypoint=python3", PYTHON_IMAGE, "-c", program, *arguments]


def _task(ways: dict[Way, list[Any]], rounds: int | None) -> str:
    rows = [{"source": source, "address": address, "ports": ports} for (source, address), ports in ways.items()]
    return json.dumps({"ways": rows, "rounds": rounds})


def scan(ways: dict[Way, list[Any]]) -> Seen:
    argv = stranger_argv(SCRIPT, _task(ways, rounds=2))
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return Seen(**json.loads(done.stdout))


@contextmanager
def watching(ways: dict[Way, list[Any]]) -> Iterator[list[Seen]]:
    """The stranger tries all the time; what it saw is in the list after the block."""
    argv = stranger_argv(SCRIPT, _task(ways, rounds=None))
    seen: list[Seen] = []
    watcher = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(1)
        yield seen
    finally:
        output, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, errors
    seen.append(Seen(**json.loads(output)))


# --- the stranger, and what somebody did by hand on the hosts ---------------------------------------------------------

_STRANGER = f"""
cd /proc/sys/net/ipv6/conf/eth0
echo 0 > accept_dad
echo 0 > disable_ipv6
ip addr add {OUTSIDE}/32 dev eth0
ip addr add {CLIENT}/32 dev eth0
ip addr add {ULA}/64 dev eth0 nodad
# A host that comes up is found within 20 ms, not a second.
ip ntable change name arp_cache dev eth0 retrans 20
ip ntable change name ndisc_cache dev eth0 retrans 20
ip route add 192.168.71.0/24 via 10.99.0.21
ip route add 192.168.72.0/24 via 10.99.0.22
"""

# The machine is the hosts' default gateway: it has to know the way back to where the stranger says that it comes from.
_WAYS_BACK = f"for a in {OUTSIDE} {CLIENT}; do ip route replace $a/32 via {INSIDE} dev {lab.NETWORK}; done"
_NO_WAYS_BACK = f"for a in {OUTSIDE} {CLIENT}; do ip route flush exact $a/32; done"

# As `network.input_rules` and `network.client_cidrs` would open them, without two careful applies of half a minute.
_BY_HAND = """
cd /etc/fiefdom
cp -p firewall.nft /root/firewall.nft
sed -i '/ tcp dport 22 accept$/i meta l4proto {{ tcp, udp }} th dport {control} accept' firewall.nft
sed -i '/ tcp dport {{ 80 }} accept$/i ip saddr {client} tcp dport 80 accept' firewall.nft
systemctl reload fiefdom-firewall
printf 'net.ipv6.conf.eth0.accept_dad = 0\nnet.ipv6.conf.eth0.disable_ipv6 = 0\n' > /etc/sysctl.d/99-by-hand.conf
sysctl -q -p /etc/sysctl.d/99-by-hand.conf
ip addr add {ula}/64 dev eth0 nodad
cd /etc/systemd/system
printf '[Socket]\nListenStream={control}\nListenStream={somebodys}\nAccept=yes\n[Install]\nWantedBy=sockets.target\n' \
  > by-hand.socket
printf '[Service]\nExecStart=/bin/cat\nStandardInput=socket\n' > by-hand@.service
systemctl daemon-reload
systemctl -q enable --now by-hand.socket
image=$(docker image ls --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep -m 1 -e /predictor: -e /gateway:)
# A first process that heeds no SIGTERM would hold up the host's reboot for 90 s: dockerd leaves it running.
serve='trap exit TERM; python3 -m http.server --bind :: $0 & wait'
run() {{ docker run -d --restart always --entrypoint sh "$@" > /dev/null; }}
docker network create --subnet {subnet}.0/24 -o com.docker.network.bridge.name=elsewhere0 by-hand > /dev/null
run --name by-hand -p {by_hand}:8000 "$image" -c "$serve" 8000
run --name by-hand-elsewhere --network by-hand --ip {subnet}.5 -p {elsewhere}:8000 "$image" -c "$serve" 8000
run --name by-hand-on-host --network host "$image" -c "$serve" {on_host}
"""

_BY_HAND_GONE = """
if [ -e /root/firewall.nft ]; then mv /root/firewall.nft /etc/fiefdom/firewall.nft; fi
systemctl reload-or-restart fiefdom-firewall
docker rm -f by-hand by-hand-elsewhere by-hand-on-host > /dev/null 2>&1 || :
docker network rm by-hand > /dev/null 2>&1 || :
cd /etc/systemd/system
systemctl disable -q --now by-hand.socket 2> /dev/null || :
rm -f by-hand.socket by-hand@.service /etc/sysctl.d/99-by-hand.conf
systemctl daemon-reload
echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6
"""


def _by_hand(host: str) -> None:
    subnet = CONTAINERS.get(host, "192.168.70.5").removesuffix(".5")
    ports = {"by_hand": BY_HAND, "elsewhere": BY_HAND_ELSEWHERE, "on_host": BY_HAND_ON_HOST}
    ports |= {"control": CONTROL, "somebodys": SOMEBODYS}
    console(host, _BY_HAND.format(ula=ULAS[host], subnet=subnet, client=CLIENT, **ports))


def _machine(command: str) -> None:
    image = f"{hosts.HOST_IMAGE}:trixie"
    docker("run", "--rm", "--network=host", "--cap-add=NET_ADMIN", "--entrypoint=/bin/sh", image, "-euc", command)


@contextmanager
def _the_stranger() -> Iterator[None]:
    subprocess.run(["docker", "rm", "--force", STRANGER], capture_output=True, check=False)  # of a run that was killed
    run = ["run", "--detach", f"--name={STRANGER}", "--label=fiefdom.lab=1", f"--network={lab.NETWORK}"]
    run += [f"--ip={INSIDE}", "--cap-add=NET_ADMIN", "--security-opt=systempaths=unconfined"]
    docker(*run, "--entrypoint=sleep", f"{hosts.HOST_IMAGE}:trixie", "infinity")
    try:
        docker("exec", STRANGER, "sh", "-euc", _STRANGER)
        _machine(_WAYS_BACK)
        yield
    finally:
        _machine(_NO_WAYS_BACK)
        docker("rm", "--force", STRANGER)


@pytest.fixture(scope="module")
def site(_site: Site) -> Iterator[Site]:
    """A converged cluster that opens one port to everybody, with what somebody added to its hosts by hand."""
    with _the_stranger():
        try:
            on_all(_by_hand)
            _site.await_serving()
            yield _site
        finally:
            lab.up(2)
            on_all(lambda host: console(host, _BY_HAND_GONE))
            _site.await_serving()
    assert _site.plan()[0] == 0


@pytest.fixture(scope="module")
def link_local(site: Site) -> dict[str, str]:
    """Each host's address of its own making, which it has again after a boot; under "" the stranger's."""
    show = "ip -6 -o addr show dev eth0 scope link | sed 's/.*inet6 //; s,/.*,,'"
    found = {host: console(host, show) for host in HOSTS}
    return {**found, "": docker("exec", STRANGER, "sh", "-euc", show)}


def promised(source: str, host: str) -> set[int]:
    """The ports that are open to an address of the stranger's."""
    found = {CONTROL}
    if host == "gw1" and source in (CLIENT, INSIDE):
        found.add(80)
    if source == INSIDE:
        found.add(7946)  # and there the key decides
    return found


def ways_to_hosts(link_local: dict[str, str]) -> dict[Way, str]:
    """Every way from the stranger to a host, and the host."""
    found = {(source, HOSTS[host]): host for host in HOSTS for source in (OUTSIDE, CLIENT, INSIDE)}
    found |= {(ULA, ULAS[host]): host for host in HOSTS}
    return found | {(link_local[""], link_local[host]): host for host in HOSTS}


def ways_to_containers() -> dict[Way, list[int]]:
    """By routing, to the port that the container listens on."""
    return {(source, address): [CONTAINER_PORT] for source in (OUTSIDE, INSIDE) for address in CONTAINERS.values()}


def instance_address(host: str) -> str:
    return console(host, "docker inspect predictor-8000 --format '{{.NetworkSettings.IPAddress}}'")


@contextmanager
def routed(address: str, host: str) -> Iterator[None]:
    """The stranger sends what is for a container's address to the host."""
    docker("exec", STRANGER, "ip", "route", "add", f"{address}/32", "via", HOSTS[host])
    try:
        yield
    finally:
        docker("exec", STRANGER, "ip", "route", "del", f"{address}/32")


# --- the tests -------------------------------------------------------------------------------------------------------


def test_without_the_rules_a_stranger_gets_in(site: Site, link_local: dict[str, str]) -> None:
    """The control: what the other tests find closed is there, and the stranger's packets do arrive."""
    site.ssh("app2", "systemctl stop fiefdom-firewall")
    try:
        address = instance_address("app2")
        with routed(address, "app2"):
            ways = {way: PORTS for way, host in ways_to_hosts(link_local).items() if host == "app2"}
            inner = {
                (source, a): [CONTAINER_PORT] for source in (OUTSIDE, INSIDE) for a in (address, CONTAINERS["app2"])
            }
            seen = scan({**ways, **inner})
    finally:
        site.ssh("app2", "systemctl start fiefdom-firewall")
    # Of what is published, IPv6 has nothing but ports that dockerd keeps for itself.
    own = dict.fromkeys([CONTROL, 22, SOMEBODYS, BY_HAND_ON_HOST], "open")
    published = dict.fromkeys([7946, 8000, 8001, BY_HAND_ELSEWHERE, BY_HAND], "open")
    nobodys = dict.fromkeys([80, 7373, 8404], "refused")
    for way in ways:
        found = seen.of(way)
        assert {**found, **own, **nobodys} == found
        assert ":" in way[0] or {**found, **published} == found
    assert {way: seen.of(way) for way in inner} == {way: {CONTAINER_PORT: "open"} for way in inner}


def test_every_other_port_is_silent(site: Site, link_local: dict[str, str]) -> None:
    """All 65,535 of each host, by IPv4 and IPv6."""
    everything: dict[Way, str] = {
        (CLIENT, HOSTS["gw1"]): "gw1",
        (OUTSIDE, HOSTS["app1"]): "app1",
        (link_local[""], link_local["app2"]): "app2",
    }
    seen = scan(dict.fromkeys(everything, ALL_PORTS))
    found = {way: seen.of(way) for way in everything}
    assert found == {way: dict.fromkeys(promised(way[0], host), "open") for way, host in everything.items()}


def test_each_way_leads_to_what_it_is_promised_only(site: Site, link_local: dict[str, str]) -> None:
    ways = ways_to_hosts(link_local)
    seen = scan({**dict.fromkeys(ways, PORTS), **ways_to_containers()})
    found = {way: seen.of(way) for way in ways}
    assert found == {way: dict.fromkeys(promised(way[0], host), "open") for way, host in ways.items()}
    assert [seen.of(way) for way in ways_to_containers()] == [{}] * 4


@pytest.mark.parametrize("host", APPS)
def test_an_instances_own_address_is_silent(site: Site, host: str) -> None:
    address = instance_address(host)
    with routed(address, host):
        seen = scan({(source, address): [CONTAINER_PORT] for source in (OUTSIDE, INSIDE)})
    assert seen.answers == []


def test_a_host_forwards_for_its_containers_only(site: Site) -> None:
    """The control port of app2 would answer; and a container by hand gets out, whatever its bridge is called."""
    connect = f"import socket; socket.create_connection(('{HOSTS['gw1']}', 80), 3)"
    for name in ("by-hand", "by-hand-elsewhere"):
        site.ssh("app1", f'docker exec {name} python3 -c "{connect}"')
    way = (OUTSIDE, HOSTS["app2"])
    assert scan({way: [CONTROL]}).of(way) == {CONTROL: "open"}
    with routed(HOSTS["app2"], "app1"):
        assert scan({way: [CONTROL]}).of(way) == {}


# A neighbour on a bridge that bears an address of the host's own, as where a host's uplink is a bridge.
_NEIGHBOUR = """
ip link add br-lan type bridge
ip addr add 192.168.99.1/24 dev br-lan
ip link set br-lan up
ip netns add neighbour
ip link add to-neighbour type veth peer name eth0 netns neighbour
ip link set to-neighbour master br-lan up
ip -n neighbour addr add 192.168.99.9/24 dev eth0
ip -n neighbour link set eth0 up
ip -n neighbour route add default via 192.168.99.1
"""
_NO_NEIGHBOUR = "ip netns del neighbour; ip link del br-lan; ip link del to-neighbour 2>/dev/null || :"


def test_a_neighbour_on_a_bridge_is_no_container(site: Site) -> None:
    """Not even where the bridge is called like one of Docker's; and what is on one bridge together goes on talking."""
    host = "app1"
    ways = [f"{HOSTS[host]}:8000", *(f"192.168.99.1:{port}" for port in (BY_HAND, BY_HAND_ELSEWHERE))]
    ways += [f"{address}:{CONTAINER_PORT}" for address in (instance_address(host), CONTAINERS[host])]

    def reached() -> list[str]:
        ask = "nsenter --net=/run/netns/neighbour curl -s -o /dev/null -m 2 http://"
        return [way for way in ways if site.ssh(host, f"{ask}{way} && echo reached || :") == "reached"]

    console(host, _NEIGHBOUR)
    try:
        assert reached() == []
        site.ssh(host, "systemctl stop fiefdom-firewall")
        assert reached() == ways
    finally:
        site.ssh(host, "systemctl start fiefdom-firewall")
        console(host, _NO_NEIGHBOUR)
    beside = "docker run --rm --network by-hand --entrypoint python3"
    image = "$(docker inspect by-hand --format '{{.Config.Image}}')"
    connect = f"import socket; socket.create_connection(('{CONTAINERS[host]}', {CONTAINER_PORT}), 3)"
    site.ssh(host, f'{beside} {image} -c "{connect}"')


_UDP = """
import json, socket, sys, time
asked = json.loads(sys.argv[1])
sockets, answers = [], ["silent"] * len(asked)
for source, address, port in asked:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((source, 0))
    udp.connect((address, port))
    udp.setblocking(False)
    sockets.append(udp)
for _ in range(3):
    for number, udp in enumerate(sockets):
        try:
            udp.send(bytes(range(64)))
        except ConnectionRefusedError:
            answers[number] = "refused"
    time.sleep(0.3)
    for number, udp in enumerate(sockets):
        try:
            udp.recv(2048)
            answers[number] = "open"
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            answers[number] = "refused"
print(json.dumps([[*key, answer] for key, answer in zip(asked, answers)]))
"""


def udp(asked: list[tuple[str, str, int]]) -> dict[tuple[str, str, int], str]:
    """What a datagram of nonsense is answered: refused is what the kernel says of a port that is let through."""
    argv = stranger_argv(_UDP, json.dumps(asked))
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return {(source, address, port): answer for source, address, port, answer in json.loads(done.stdout)}


def test_datagrams_reach_no_port(site: Site) -> None:
    """123 and 5353 stand for what Debian may listen on, 8000 for an instance."""
    asked = [(s, a, port) for s in (OUTSIDE, INSIDE) for a in HOSTS.values() for port in (123, 5353, 8000, CONTROL)]
    assert udp(asked) == {key: "refused" if key[2] == CONTROL else "silent" for key in asked}


def test_gossip_fails_at_the_key_and_from_outside_before_it(site: Site) -> None:
    """Its port is open to the cluster's network. What arrives there without the key is told in the agent's log."""
    agents = {"gw1": "gateway", "app1": "serf-agent", "app2": "serf-agent"}
    udp([(source, address, 7946) for source in (INSIDE, CLIENT, OUTSIDE) for address in HOSTS.values()])

    def logs() -> dict[str, str]:
        return {host: site.ssh(host, f"docker logs --since 1m {agent} 2>&1") for host, agent in agents.items()}

    await_true(
        lambda: all(f"from={INSIDE}:" in log for log in logs().values()), 10, "the datagram in every agent's log"
    )
    assert not [host for host, log in logs().items() if f"from={OUTSIDE}:" in log or f"from={CLIENT}:" in log]


_TALK = """
import socket, sys
source, address, port = sys.argv[1:]
talk = socket.create_connection((address, int(port)), timeout=10, source_address=(source, 0))
print("open", flush=True)
sys.stdin.readline()
talk.settimeout(3)
talk.sendall(bytes(range(64)))
try:
    talk.recv(1)
    print("heard")
except ConnectionResetError:
    print("heard")
except TimeoutError:
    print("not heard")
"""


@pytest.mark.parametrize("member", [True, False], ids=["a member", "a member no more"])
def test_who_is_no_member_any_more_is_not_heard_on_the_connection_that_it_has(site: Site, member: bool) -> None:
    """As where `known_hosts_only` closes gossip to a host that left the inventory."""
    rules = "/etc/fiefdom/firewall.nft"
    site.ssh("app1", f"grep -q 'saddr {{ 10.99.0.0/24 }} tcp dport 7946' {rules}")
    left = "" if member else f"sed '/dport 7946 accept/s,10.99.0.0/24,{HOSTS['gw1']}/32,' {rules} | nft -f -"
    argv = stranger_argv(_TALK, INSIDE, HOSTS["app1"], "7946")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as talk:
        try:
            assert talk.stdout is not None and talk.stdin is not None
            assert talk.stdout.readline() == "open\n"
            site.ssh("app1", left or ":")
            answer, _ = talk.communicate("go on\n", timeout=30)
        finally:
            talk.kill()
            site.ssh("app1", f"nft -f {rules}")
    assert answer == ("heard\n" if member else "not heard\n")


# --- while something happens ------------------------------------------------------------------------------------------


@contextmanager
def nobody_gets_in(event: str, link_local: dict[str, str], lab_boots: bool = False) -> Iterator[None]:
    """No packet of the stranger's is answered that should not be, at any time in the block, and it did ask.

    A lab host has its address before its first process runs, so while one boots (``lab_boots``) its kernel refuses
    what nobody listens on yet.
    """
    ways = ways_to_hosts(link_local)
    with watching({**dict.fromkeys(ways, PORTS), **ways_to_containers()}) as seen:
        yield
        time.sleep(0.5)
    (watched,) = seen
    allowed = {(*way, port) for way, host in ways.items() for port in promised(way[0], host)}
    closed = len(ways) * len(PORTS) + len(ways_to_containers()) - len(allowed)
    TRAFFIC.append(
        f"a stranger while {event}: {len(watched.open() - allowed)} of {closed} closed ports open, each asked "
        f"{watched.rounds} times, with pauses of at most {watched.longest_round_s * 1000:.0f} ms"
    )
    assert watched.open() == allowed
    assert lab_boots or watched.refused() <= allowed
    assert watched.rounds > 20
    assert watched.longest_round_s < 1
    ends = {(s, a): last_s for s, a, port, kind, _, last_s in watched.answers if (port, kind) == (CONTROL, "open")}
    assert set(ends) == set(ways)
    assert max(ends.values()) < 1, "the control ended before the watch"


EVENTS = {
    "dockerd restarts": "systemctl restart docker",
    "rules are loaded anew": "for i in 1 2 3 4 5 6; do systemctl reload fiefdom-firewall; done; "
    "for i in 1 2 3 4 5 6; do systemctl restart fiefdom-firewall; done; systemctl restart nftables",
    "somebody publishes by hand": "docker restart -t 0 by-hand by-hand-elsewhere by-hand-on-host > /dev/null",
}


@pytest.mark.parametrize("event", EVENTS)
def test_nobody_gets_in_while(site: Site, link_local: dict[str, str], event: str) -> None:
    with nobody_gets_in(event, link_local):
        on_all(lambda host: site.ssh(host, EVENTS[event]))


_OWN_RULES = """
cat >/etc/nftables.conf <<EOF
#!/usr/sbin/nft -f
flush ruleset
table inet theirs { chain input { type filter hook input priority 0; policy accept; tcp dport 9999 drop; }; }
EOF
systemctl -q enable nftables
"""
_NO_OWN_RULES = "rm /etc/nftables.conf; systemctl -q disable nftables; nft delete table inet theirs 2>/dev/null; :"


@contextmanager
def own_rules(site: Site, host: str) -> Iterator[None]:
    """Rules of the host's own, as Debian has them loaded at boot: nothing of Fiefdom's minds, nor is minded by them."""
    tables = "nft list tables | sort"
    before, changes = site.ssh(host, tables), site.plan()[1]
    site.ssh(host, _OWN_RULES)
    try:
        assert site.plan()[1] == changes
        for verb in ("start", "restart", "reload", "stop"):
            site.ssh(host, f"systemctl {verb} nftables", check=False)
            assert site.ssh(host, tables) == before
        yield
        assert set(site.ssh(host, tables).splitlines()) == {*before.splitlines(), "table inet theirs"}
        assert site.ssh(host, "systemctl is-enabled nftables") == "enabled"
        assert site.plan()[1] == changes
    finally:
        site.ssh(host, _NO_OWN_RULES)


def test_nobody_gets_in_while_hosts_boot(site: Site, link_local: dict[str, str]) -> None:
    boots = {host: lab.boot_of(host) for host in HOSTS}
    with own_rules(site, "app1"), nobody_gets_in("hosts boot", link_local, lab_boots=True):
        on_all(lambda host: site.ssh(host, "systemctl --no-block reboot", check=False))
        on_all(lambda host: await_true(lambda: lab.boot_of(host) != boots[host], what=f"a new boot of {host}"))
        lab.await_booted(HOSTS)
        on_all(lambda host: console(host, f"ip addr add {ULAS[host]}/64 dev eth0 nodad"))
        site.await_serving()


@pytest.mark.parametrize("host", HOSTS)
def test_the_rules_stand_before_the_network(site: Site, host: str) -> None:
    """And before every ordinary service, sockets included. In its own words, and by the clock of the last boot."""
    after = ["sysinit.target", "network-pre.target", "docker.service", "ssh.service", "by-hand.socket"]
    unit = "fiefdom-firewall.service"
    show = "systemctl show -p Id -p Before -p ActiveEnterTimestampMonotonic -p InactiveExitTimestampMonotonic"
    told = site.ssh(host, f"{show} {unit} {' '.join(after)}").split("\n\n")
    facts = {f["Id"]: f for f in (dict(line.split("=", 1) for line in one.splitlines()) for one in told)}
    stood_us = int(facts[unit]["ActiveEnterTimestampMonotonic"])
    began_us = {one: int(facts[one]["InactiveExitTimestampMonotonic"]) for one in after}
    assert stood_us > 0
    assert {one: began > stood_us for one, began in began_us.items()} == dict.fromkeys(after, True)
    assert {"network-pre.target", "sysinit.target", "docker.service"} <= set(facts[unit]["Before"].split())


# A rule that is right once wg0 is up, past the model and the check of an apply.
_TOO_EARLY = """
cp -p /etc/fiefdom/firewall.nft /root/whole.nft
sed -i '/ tcp dport 22 accept$/i iif wg0 tcp dport 9100 accept' /etc/fiefdom/firewall.nft
"""
_MENDED = "if [ -e /root/whole.nft ]; then mv /root/whole.nft /etc/fiefdom/firewall.nft; fi"


def test_a_host_that_cannot_load_its_rules_keeps_what_stands_and_boots_with_the_base(
    site: Site, link_local: dict[str, str]
) -> None:
    host, unit = "app2", "fiefdom-firewall"
    table = "nft -s list table inet fiefdom"
    ways = {way: PORTS for way, at in ways_to_hosts(link_local).items() if at == host and ":" not in way[0]}
    before, boot = site.ssh(host, table), lab.boot_of(host)
    site.ssh(host, _TOO_EARLY)
    try:
        for verb in ("reload", "restart"):
            assert site.ssh(host, f"systemctl {verb} {unit} 2>/dev/null || echo failed") == "failed"
            assert site.ssh(host, table) == before
        site.ssh(host, "systemctl --no-block reboot", check=False)
        await_true(lambda: lab.boot_of(host) != boot, what=f"a new boot of {host}")
        lab.await_booted([host])
        console(host, f"ip addr add {ULAS[host]}/64 dev eth0 nodad")
        assert site.ssh(host, f"systemctl is-failed {unit}") == "failed"
        # The base knows nothing of the port that was opened by hand, and is as closed as ever.
        seen = scan(ways)
        assert {way: seen.of(way) for way in ways} == {
            way: dict.fromkeys(promised(way[0], host) - {CONTROL}, "open") for way in ways
        }
        assert f"~ unit {unit}.service" in site.plan()[1][host]
    finally:
        site.ssh(host, f"{_MENDED}; systemctl reload-or-restart {unit}")
    assert site.ssh(host, f"systemctl is-active {unit}") == "active"
    assert site.ssh(host, table) == before
    site.await_serving()


def test_a_rule_that_cannot_be_loaded_at_boot_is_refused_before_anything_is_touched(site: Site) -> None:
    """The name is known to the host, but not without a network."""
    rule = "ip saddr deb.debian.org tcp dport 9100 accept"
    own = site.inventory("name", lambda data: data["network"].update(input_rules=[rule]))
    done = site.fiefdom("apply", own, "--yes", "--limit", "app2")
    assert done.returncode == 1
    assert "/etc/fiefdom/firewall.nft: refused by unshare: " in done.stderr
    assert "Could not resolve hostname" in done.stderr
    assert rule not in site.ssh("app2", "cat /etc/fiefdom/firewall.nft")


# --- on the host itself ----------------------------------------------------------------------------------------------


# Every process of Fiefdom's containers as the kernel has it, one per line: what it may do, and the options of its root.
_PROCESSES = """
for id in $(docker ps -q --filter label=fiefdom.name); do
  for pid in $(docker top $id -eo pid | tail -n +2); do
    printf '%s' "$(docker inspect $id --format '{{.Name}}')"
    sed -En 's/^(Uid|Gid|Cap...|NoNewPrivs|Seccomp):[[:space:]]*/ \\1=/p' /proc/$pid/status | tr '\\t\\n' ', '
    printf ' Root=%s' "$(awk '$5 == "/" {print $6}' /proc/$pid/mountinfo)"
    printf ' Sockets=%s\\n' "$(grep -c -e docker.sock -e containerd.sock /proc/$pid/mountinfo)"
  done
done
"""


def test_no_process_of_a_container_may_do_anything_special(site: Site) -> None:
    """What Docker was asked for, test_access tells; here is what the processes have."""
    wanted = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16)
    wanted |= {"NoNewPrivs": "1", "Seccomp": "2", "Sockets": "0"}
    for host, least in (("gw1", 4), ("app1", 3), ("app2", 3)):
        lines = site.ssh(host, _PROCESSES).splitlines()
        assert len(lines) >= least
        for line in lines:
            name, *pairs = line.split()
            found = dict(pair.split("=", 1) for pair in pairs)
            assert {key: found.get(key) for key in wanted} == wanted, name
            assert "0" not in (found["Uid"] + "," + found["Gid"]).split(","), name
            assert found["Root"].split(",")[0] == "ro", name


def test_the_docker_socket_is_for_root_alone(site: Site) -> None:
    for host in HOSTS:
        assert site.ssh(host, "stat -c '%A %U %G' /run/docker.sock") == "srw-rw---- root docker"
        assert site.ssh(host, "getent group docker").endswith(":"), "somebody is in Docker's group"
        assert site.ssh(host, "ss -tlnH '( sport = 2375 or sport = 2376 )'") == ""
        for user in ("operator", "nobody"):
            for path in ("/run/docker.sock", "/run/containerd/containerd.sock"):
                tried = site.ssh(
                    host, f"runuser -u {user} -- curl -sS --unix-socket {path} http://localhost/ 2>&1; echo $?"
                )
                assert tried.endswith("7"), tried
