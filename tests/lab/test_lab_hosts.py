"""The lab's hosts behave like machines: pinned keys, real reboots, power cuts, hangs and partitions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from fiefdom import lab
from fiefdom.lab import boot
from helpers.operator_view import await_true

pytestmark = pytest.mark.lab
HOSTS = ("app1", "app2")  # Debian 12 and 13


@pytest.fixture(scope="module", autouse=True)
def _the_lab() -> Iterator[None]:
    lab.up(2)
    yield
    lab.up(2)  # mends what a failed test left broken


def ssh(name: str, *command: str) -> str:
    run = subprocess.run(lab.ssh_argv(name, command), capture_output=True, text=True, timeout=60, check=True)
    return run.stdout.strip()


def systemd(name: str) -> str:
    return next(h.systemd for h in lab.status() if h.name == name)


def test_second_up_leaves_good_hosts_alone() -> None:
    boots = [lab.boot_of(h.name) for h in lab.hosts_of(2)]
    assert lab.up(2).hosts[:3] == lab.hosts_of(2)
    assert [lab.boot_of(h.name) for h in lab.hosts_of(2)] == boots


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_are_the_debian_they_say_and_share_no_identity(name: str) -> None:
    assert ssh(name, ". /etc/os-release; echo $VERSION_CODENAME") == lab.host(name).codename
    identity = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub /proc/sys/kernel/random/boot_id"
    assert not set(ssh(name, identity).split("\n")) & set(ssh("gw1", identity).split("\n"))


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_cannot_change_the_machines_own_settings(name: str) -> None:
    assert ssh(name, "test -w /proc/sys/vm/swappiness && echo open || echo closed") == "closed"
    assert ssh(name, "test -w /proc/sys/net/ipv4/ip_forward && echo open || echo closed") == "open"


@pytest.mark.parametrize("name", HOSTS)
def test_a_reboot_is_real_and_keeps_what_was_written(name: str) -> None:
    line = "192.0.2.7 kept-over-a-reboot"
    ssh(name, f"cp -p /etc/hosts /root/hosts.before; echo '{line}' >> /etc/hosts; mv -T /etc/hosts /etc/hosts.new")
    ssh(name, "mv -T /etc/hosts.new /etc/hosts")  # a rename over it is what a bind mount would refuse
    boot, boot_id = lab.boot_of(name), ssh(name, "cat /proc/sys/kernel/random/boot_id")
    ssh(name, "systemctl --no-block reboot")
    await_true(lambda: lab.boot_of(name) != boot)
    lab.await_booted([name])
    assert ssh(name, "cat /proc/sys/kernel/random/boot_id") != boot_id
    assert line in ssh(name, "cat /etc/hosts")
    ssh(name, "mv -T /root/hosts.before /etc/hosts")


@pytest.mark.parametrize("name", [pytest.param("app1", marks=pytest.mark.proof), "app2"])
def test_power_cut_hang_and_partition_silence_a_host_until_they_end(name: str) -> None:
    h = lab.host(name)
    lab.freeze(name)
    assert boot._banner(h) == ""
    lab.thaw(name)
    lab.await_booted([name])

    lab.disconnect(name)
    assert boot._banner(h) == ""
    assert systemd(name) == "running"
    lab.reconnect(name)
    lab.await_booted([name])

    lab.power_cut(name)
    assert [s.state for s in lab.status() if s.name == name] == ["stopped"]
    lab.power_on(name)
    lab.await_booted([name])
