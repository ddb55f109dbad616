"""The lab's decisions: which hosts, with what arguments, and what is written for ssh."""

from __future__ import annotations

from pathlib import Path

import pytest

from fiefdom import lab
from fiefdom.errors import FiefdomError
from fiefdom.lab import Lab, bases, hosts
from fiefdom.lab.hosts import LabHost

APP1 = LabHost("app1", "10.99.0.21", "bookworm")
ALL_BITS = (1 << 41) - 1
SYS_RESOURCE = 1 << 24


def test_hosts_are_one_gateway_and_app_hosts_of_both_releases() -> None:
    assert lab.hosts_of(3) == (
        LabHost("gw1", "10.99.0.11", "trixie"),
        APP1,
        LabHost("app2", "10.99.0.22", "trixie"),
        LabHost("app3", "10.99.0.23", "bookworm"),
    )


@pytest.mark.parametrize("app_hosts", [-1, 0, 10])
def test_hosts_refuses_a_count_that_the_lab_has_no_addresses_for(app_hosts: int) -> None:
    with pytest.raises(FiefdomError, match="--app-hosts takes 1 to 9"):
        lab.hosts_of(app_hosts)


def test_every_host_has_a_name_and_an_address_of_its_own() -> None:
    everyone = lab.hosts_of(hosts.MAX_APP_HOSTS)
    assert len({h.name for h in everyone}) == len({h.address for h in everyone}) == 10
    assert lab.OPERATOR_ADDRESS not in {h.address for h in everyone}


def test_host_knows_the_hosts_by_name() -> None:
    assert lab.host("app1") == APP1
    with pytest.raises(FiefdomError, match="no host 'app10'"):
        lab.host("app10")


def test_capabilities_are_those_that_the_machine_has() -> None:
    assert "SYS_RESOURCE" in lab.capabilities(ALL_BITS)
    assert "SYS_RESOURCE" not in lab.capabilities(ALL_BITS & ~SYS_RESOURCE)
    assert lab.capabilities(0b1001) == ["CHOWN", "FOWNER"]


def test_capabilities_never_reach_the_machines_clock_or_modules_nor_names_docker_20_10_lacks() -> None:
    given = set(lab.capabilities(ALL_BITS))
    assert given.isdisjoint({"SYS_TIME", "SYS_MODULE", "SYS_RAWIO", "SYSLOG"})
    assert given.isdisjoint({"BPF", "PERFMON", "CHECKPOINT_RESTORE"})
    assert {"SYS_ADMIN", "NET_ADMIN", "SYS_BOOT"} <= given


def test_run_argv() -> None:
    assert hosts.run_argv(APP1, Path("/src/.lab"), 0b1, ["192.0.2.1", "192.0.2.2"]) == [
        "run",
        "--detach",
        "--name=fiefdom-lab-app1",
        "--hostname=app1",
        "--label=fiefdom.lab=1",
        "--label=fiefdom.lab.root=/src/.lab",
        "--network=fiefdom-lab",
        "--ip=10.99.0.21",
        "--restart=always",
        "--stop-signal=SIGRTMIN+3",
        "--stop-timeout=60",
        "--cgroupns=private",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--cap-add=CHOWN",
        "--volume=fiefdom-lab-app1-docker:/var/lib/docker",
        "--env=LAB_NAMESERVERS=192.0.2.1 192.0.2.2",
        "fiefdom/lab-host:bookworm",
    ]


@pytest.mark.parametrize(
    ("command", "remote"),
    [
        ([], []),
        (["systemctl status x | head"], ["--", "systemctl status x | head"]),
        (["cat", "a b", "$HOME"], ["--", "cat 'a b' '$HOME'"]),
    ],
)
def test_ssh_argv(command: list[str], remote: list[str]) -> None:
    expected = ["ssh", "-F", "/src/.lab/ssh_config", "app1", *remote]
    assert lab.ssh_argv("app1", command, root=Path("/src/.lab")) == expected


def test_ssh_config_names_every_host_and_trusts_only_the_labs_own_files() -> None:
    text = hosts.ssh_config_text(Lab(Path("/my src/.lab"), (APP1,)))
    assert text == (
        "Host app1\n"
        "  HostName 10.99.0.21\n"
        "\n"
        "Host app1\n"
        "  User root\n"
        '  IdentityFile "/my src/.lab/id_ed25519"\n'
        "  IdentitiesOnly yes\n"
        '  UserKnownHostsFile "/my src/.lab/known_hosts"\n'
        "  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
        "  BatchMode yes\n"
        "  ConnectTimeout 10\n"
    )


def test_known_hosts_pins_keys_by_name_and_address() -> None:
    keys = {lab.host("gw1"): ["ssh-ed25519 GGG root@gw1"], APP1: ["ssh-rsa RRR", "ssh-ed25519 EEE x y"]}
    assert hosts.known_hosts_text(keys) == (
        "app1,10.99.0.21 ssh-rsa RRR\napp1,10.99.0.21 ssh-ed25519 EEE\ngw1,10.99.0.11 ssh-ed25519 GGG\n"
    )


@pytest.mark.parametrize(
    ("resolv_conf", "found"),
    [
        ("nameserver 192.0.2.1\nsearch x\n nameserver\t192.0.2.2\n", ["192.0.2.1", "192.0.2.2"]),
        ("nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\n", []),
        ("# nameserver 192.0.2.1\n", []),
        ("", []),
    ],
)
def test_nameservers_are_those_that_a_host_can_reach(resolv_conf: str, found: list[str]) -> None:
    assert hosts.nameservers(resolv_conf) == found


ROUTES = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("eth0 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0", None),  # default route
        ("eth0 0002A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0", None),  # 192.168.2.0/24
        ("fiefdom-lab 0000630A 00000000 0001 0 0 0 00FFFFFF 0 0 0", None),
        ("tun0 0000000A 00000000 0001 0 0 0 000000FF 0 0 0", ("10.0.0.0/8", "tun0")),
        ("br-1 8000630A 00000000 0001 0 0 0 80FFFFFF 0 0 0", ("10.99.0.128/25", "br-1")),
    ],
)
def test_foreign_route(row: str, found: tuple[str, str] | None) -> None:
    assert hosts.foreign_route(ROUTES + row + "\n", "fiefdom-lab") == found


def test_lab_root_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIEFDOM_LAB_DIR", str(tmp_path / "elsewhere"))
    assert lab.lab_root() == tmp_path / "elsewhere"
    monkeypatch.delenv("FIEFDOM_LAB_DIR")
    assert lab.lab_root() == Path(__file__).resolve().parents[3] / ".lab"


def test_down_deletes_no_folder_that_up_did_not_make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.write_text("years of work")
    monkeypatch.setenv("FIEFDOM_LAB_DIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(FiefdomError, match="Docker does not answer"):
        lab.down()
    assert precious.exists()


def test_context_digest_sees_content_mode_and_base(tmp_path: Path) -> None:
    script = tmp_path / "run"
    script.write_text("a")
    first = bases._context_digest(tmp_path, "base-1")
    assert bases._context_digest(tmp_path, "base-1") == first
    assert bases._context_digest(tmp_path, "base-2") != first
    script.chmod(0o755)
    executable = bases._context_digest(tmp_path, "base-1")
    script.write_text("b")
    assert len({first, executable, bases._context_digest(tmp_path, "base-1")}) == 3
