"""The network concern by value."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fiefdom.desired import network
from fiefdom.desired.state import ANY_PACKAGE, HostState, Sysctl
from helpers.example import context


def sysctls(host: str, **changes: object) -> dict[str, str]:
    return {s.key: s.value for s in network.desired(context(host, **changes)).sysctls}


def kept(state: HostState) -> set[Sysctl]:
    lines = state.file(network.SYSCTLS).content.decode().splitlines()
    return {Sysctl(*line.split(" = ")) for line in lines if " = " in line}


def test_only_the_network_namespaces_own_keys_are_set() -> None:
    # Anything else would be set for the whole machine by a host that is a container.
    assert all(key.startswith(("net.core.somaxconn", "net.ipv4.")) for key in network.SYSCTL_VALUES)


def test_what_is_live_is_what_is_kept_over_a_reboot() -> None:
    state = network.desired(context())
    assert kept(state) == set(state.sysctls)


def test_a_host_with_several_networks_answers_who_comes_in_by_one_and_is_answered_by_another() -> None:
    """Strict is two keys away: the kernel takes the greater of `all` and an interface's own."""
    everywhere, later = "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"
    for host in ("gw1", "app1"):
        values = sysctls(host)
        assert (values[everywhere], values[later]) == ("2", "2")
    strict = sysctls("app2", hosts={"app2": {"sysctls": {everywhere: 1, later: 1}}})
    assert (strict[everywhere], strict[later]) == ("1", "1")


def test_the_ports_of_our_own_processes_are_reserved() -> None:
    key = "net.ipv4.ip_local_reserved_ports"
    assert sysctls("app1")[key] == "7373,7946,8000-8003"
    assert sysctls("app2")[key] == "7373,7946,8000-8001,9000"
    assert sysctls("gw1")[key] == "80,7373,7946,8080,8404"


def test_a_gateway_opens_the_ports_from_its_lowest_route_to_ordinary_users() -> None:
    key = "net.ipv4.ip_unprivileged_port_start"
    assert sysctls("gw1")[key] == "80"
    assert sysctls("app1")[key] == "1024"
    high = {"predictor": {"route": {"port": 8000}}}
    assert sysctls("gw1", services=high)[key] == "1024"


def test_the_inventorys_sysctls_win_in_either_spelling() -> None:
    values = sysctls("app1")
    assert values["net.core.somaxconn"] == "1024"
    assert values["net.ipv4.conf.eth0/100.rp_filter"] == "2"
    assert sysctls("app2", hosts={"app2": {"sysctls": {"net.ipv4.tcp_rmem": "4096\t131072  6291456"}}})[
        "net.ipv4.tcp_rmem"
    ] == ("4096 131072 6291456")


def test_the_hosts_file_names_every_host_by_address() -> None:
    hosts, template = network.desired(context()).blocks
    assert (hosts.path, template.path) == (network.HOSTS, network.CLOUD_HOSTS)
    assert hosts.content == template.content == b"10.1.0.11\tgw1\n10.1.0.12\tgw2\n10.1.0.21\tapp1\n10.1.0.22\tapp2\n"
    assert network.names_in(hosts)["app2"] == "10.1.0.22"
    # A host that has no such file gets what programs expect of one; a template that is not there, nobody reads.
    assert hosts.around.startswith(b"127.0.0.1 localhost\n") and template.around == b""


def test_addressing_and_time_are_left_alone_unless_asked_for() -> None:
    state = network.desired(context("app2", time_servers=None))
    assert {f.path for f in state.files} == {network.SYSCTLS, network.MODPROBE}
    assert [unit.name for unit in state.units] == ["systemd-timesyncd.service"]


def test_apt_has_a_proxy_before_the_first_package_where_one_is_named() -> None:
    assert network.APT not in {f.path for f in network.desired(context()).files}
    file = network.desired(context(packages={"proxy": "http://10.1.0.5:3142"})).file(network.APT)
    assert file.content.decode().splitlines()[1:] == ['Acquire::http::Proxy "http://10.1.0.5:3142";']
    assert (file.precedes, file.mode) == (ANY_PACKAGE, 0o644)


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="no apt here")
def test_apt_reads_what_it_is_told(tmp_path: Path) -> None:
    file = network.desired(context(packages={"proxy": "https://proxy.example.org:3142/"})).file(network.APT)
    told = tmp_path / "conf"
    told.write_bytes(file.content)
    argv = ["apt-config", "-c", str(told), "dump", "--format", "%f=%v%n", "Acquire::http::Proxy"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Acquire::http::Proxy=https://proxy.example.org:3142/"]


def test_a_static_address_without_name_servers_keeps_the_hosts_own() -> None:
    state = network.desired(context(hosts={"app1": {"static": {"dns": []}}}))
    assert network.RESOLV_CONF not in {f.path for f in state.files}
    assert b"DNS=" not in state.file(network.NETWORKD).content


def test_protocols_that_nobody_speaks_are_not_loaded() -> None:
    text = network.desired(context()).file(network.MODPROBE).content.decode()
    refused = [line.split()[1] for line in text.splitlines() if line.endswith("/bin/true")]
    assert refused == ["dccp", "rds", "sctp", "tipc"]


def test_the_hostname_is_the_inventorys() -> None:
    assert network.desired(context("gw2")).hostname == "gw2"
