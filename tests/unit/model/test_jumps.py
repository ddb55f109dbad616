"""Jump hosts that lead nowhere, and SSH addresses that are none."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from pydantic import ValidationError

from fiefdom.model import Cluster
from fiefdom.model.jumps import parts_of
from fiefdom.wording import dotted
from helpers.inventories import changed


def refusals(changes: dict[str, Any]) -> list[str]:
    """What is refused of the example with ``changes``; ssh.tcp_forwarding is `local` unless they say otherwise."""
    try:
        Cluster.model_validate(changed({"ssh": {"tcp_forwarding": "local"}, **changes}))
    except ValidationError as error:
        return [
            f"{dotted(key)}: {says}"
            for one in error.errors()
            for key, says in one.get("ctx", {}).get("all", [(one["loc"], one["msg"])])
        ]
    return []


def ways(**jumps: str) -> dict[str, Any]:
    return {f"hosts/{host}/ssh": {"jump": jump} for host, jump in jumps.items()}


ADDRESSES = {"app1": "10.0.0.21", "app2": "10.0.0.22"}


@pytest.mark.parametrize("app2", ["app2", "bob@app2", "app2:2222", ADDRESSES["app2"], f"bob@{ADDRESSES['app2']}"])
def test_a_loop_is_refused_however_its_hosts_are_written(app2: str) -> None:
    assert Cluster.model_validate(changed({})).hosts["app2"].address == ADDRESSES["app2"]
    first, second = refusals(ways(app1=app2, app2="app1"))
    assert first == f"hosts.app1.ssh.jump: {app2} is reached through app1; write the whole way, the nearest first"
    assert second == f"hosts.app2.ssh.jump: app1 is reached through {app2}; write the whole way, the nearest first"


def test_a_loop_of_three_is_refused() -> None:
    assert len(refusals(ways(app1="app2", app2="gw1", gw1="app1"))) == 3


@pytest.mark.parametrize("app1", ["app1", "bob@app1:22", ADDRESSES["app1"]])
def test_a_host_is_no_jump_to_itself(app1: str) -> None:
    assert refusals(ways(app1=app1)) == [f"hosts.app1.ssh.jump: {app1} is the host itself; take it out"]


def test_the_way_of_all_hosts_ends_at_the_jump_host_that_is_one_of_them() -> None:
    assert refusals({"ssh": {"tcp_forwarding": "local", "jump": "gw1"}}) == []
    says = "ssh.jump: bob@gw1 is gw1 itself; write gw1, or `none` to hosts.gw1.ssh.jump"
    assert refusals({"ssh": {"tcp_forwarding": "local", "jump": "bob@gw1"}}) == [says]
    assert refusals({"ssh": {"tcp_forwarding": "local", "jump": "bob@gw1"}, **ways(gw1="none")}) == []


@pytest.mark.parametrize("gw1", ["gw1", "bob@gw1", "gw1:2222", "10.0.0.11"])
def test_a_jump_host_of_the_cluster_must_forward(gw1: str) -> None:
    says = f"hosts.app1.ssh.jump: {gw1} would forward nothing; write `local` to hosts.gw1.ssh.tcp_forwarding"
    assert refusals({"ssh": {"tcp_forwarding": "none"}, **ways(app1=gw1)}) == [says]
    assert refusals(ways(app1=gw1)) == []


@pytest.mark.parametrize(
    ("jump", "says"),
    [
        ("none,b", "none is no host; write `none` alone where no jump host is meant"),
        ("b,NONE", "NONE is no host; write `none` alone where no jump host is meant"),
        ("NONE", "NONE is no host; write `none` alone where no jump host is meant"),
        ("b,c,b", "b stands there twice; take it out once"),
        ("b:0", "b:0 has no port from 1 to 65535; mend it"),
    ],
)
def test_what_leads_nowhere_is_refused(jump: str, says: str) -> None:
    assert refusals(ways(app1=jump)) == [f"hosts.app1.ssh.jump: {says}"]
    assert refusals({"ssh": {"jump": jump}}) == [f"ssh.jump: {says}"]


@pytest.mark.parametrize(
    ("jump", "parts"),
    [
        ("bastion", ("", "bastion", "")),
        ("ann@bastion.example.org:2222", ("ann", "bastion.example.org", "2222")),
        ("203.0.113.9:22", ("", "203.0.113.9", "22")),
        ("[2001:db8::1]", ("", "2001:db8::1", "")),
        ("[2001:db8::1]:2222", ("", "2001:db8::1", "2222")),
        ("ann@[::1]", ("ann", "::1", "")),
        ("ann@[::1]:22", ("ann", "::1", "22")),
        # As OpenSSH has it in known_hosts.
        ("[2001:DB8:0:0::0001]:2222", ("", "2001:db8::1", "2222")),
        ("[fe80::1%eth0]", ("", "fe80::1%eth0", "")),
        ("[::ffff:203.0.113.9]", ("", str(ipaddress.ip_address("::ffff:203.0.113.9")), "")),
    ],
)
def test_jump_hosts_are_written_as_ssh_takes_them(jump: str, parts: tuple[str, str, str]) -> None:
    assert refusals(ways(app1=jump)) == refusals({"ssh": {"jump": f"first,{jump}"}}) == []
    assert parts_of(jump) == parts


@pytest.mark.parametrize(
    ("jump", "says"),
    [
        # Which of the colons would be the port's?
        ("2001:db8::1", "'2001:db8::1' is not possible here; it must be what `ssh -J` takes, such as bastion, "),
        ("[2001:db8::1", "'[2001:db8::1' is not possible here"),
        ("[bastion]:22", "'[bastion]:22' is not possible here"),
        ("[::1]22", "'[::1]22' is not possible here"),
        ("[::1]:", "'[::1]:' is not possible here"),
        ("[:::]", "[:::] holds no IPv6 address; write one like [2001:db8::9], or a name"),
        ("b,ann@[1:2]:22", "[1:2] holds no IPv6 address"),
        ("[203.0.113.9]", "[203.0.113.9] holds no IPv6 address"),
        ("[::]", "[::] holds no IPv6 address"),
        ("[::1]:0", "[::1]:0 has no port from 1 to 65535; mend it"),
        ("[::1]:70000", "[::1]:70000 has no port from 1 to 65535; mend it"),
        ("[::1],b,[0::1]", "[0::1] stands there twice; take it out once"),
    ],
)
def test_what_is_no_way_by_an_ipv6_address_is_refused_in_one_line(jump: str, says: str) -> None:
    (said,) = refusals(ways(app1=jump))
    assert said.replace("Value error, ", "").startswith(f"hosts.app1.ssh.jump: {says}")


@pytest.mark.parametrize("address", ["300.1.1.1", "1.2.3", "1.2.3.4.5", "0.0.0.0", "5", ":::", "1:2"])
def test_an_address_of_digits_is_one(address: str) -> None:
    (says,) = refusals({"hosts/app1/ssh": {"address": address}})
    assert "is no address; write" in says


@pytest.mark.parametrize(
    "address", ["203.0.113.9", "2001:db8::1", "app1.example.org", "bastion", "3com.example", "fe80"]
)
def test_addresses_and_names_are_taken(address: str) -> None:
    assert refusals({"hosts/app1/ssh": {"address": address}}) == []
