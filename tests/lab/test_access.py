"""Who reaches what on a converged host, asked from real addresses."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fiefdom import lab
from fiefdom.desired.account import UID
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, LAB_YAML, Site, await_true, tell

HOSTS = ("gw1", "app1", "app2")
OPEN, CLOSED = "open", "closed"
# From, to, port, and what is promised.
REACH = [
    ("gw1", "10.99.0.21", 8000, OPEN),
    ("gw1", "10.99.0.22", 8001, OPEN),
    ("app1", "10.99.0.22", 8000, CLOSED),
    ("app2", "10.99.0.21", 8000, CLOSED),
    ("app1", "10.99.0.22", 7946, OPEN),
    ("app1", "10.99.0.11", 7946, OPEN),
    ("app1", "10.99.0.11", 80, OPEN),
    ("app1", "10.99.0.11", 8404, CLOSED),
    ("app1", "10.99.0.22", 22, CLOSED),
    ("gw1", "10.99.0.21", 22, CLOSED),
    ("gw1", "10.99.0.21", 7373, CLOSED),
]


def reach(site: Site, source: str, address: str, port: int) -> str:
    probe = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/dev/null && echo open || echo closed"
    return site.ssh(source, probe)


def found(site: Site) -> list[tuple[str, str, int, str]]:
    """All asked at once: what is closed says so by silence, for 2 s each."""
    with ThreadPoolExecutor(len(REACH)) as pool:
        answers = list(pool.map(lambda way: reach(site, *way[:3]), REACH))
    return [(source, address, port, answer) for (source, address, port, _), answer in zip(REACH, answers, strict=True)]


def test_ports_are_open_to_those_who_should_reach_them_only(site: Site) -> None:
    assert found(site) == REACH


@pytest.mark.proof
@pytest.mark.parametrize("event", ["systemctl restart docker", "systemctl reload fiefdom-firewall"])
def test_that_holds_after(site: Site, event: str) -> None:
    for host in HOSTS:
        site.ssh(host, event)
    site.await_serving()
    assert found(site) == REACH


@pytest.mark.proof
def test_that_holds_after_a_reboot_of_every_host_and_nothing_is_to_be_done(site: Site) -> None:
    boots = {name: lab.boot_of(name) for name in HOSTS}
    for name in boots:
        site.ssh(name, "systemctl reboot", check=False)
    await_true(lambda: all(lab.boot_of(n) != b for n, b in boots.items()), what="a new boot of every host")
    lab.await_booted(boots)
    site.await_serving()
    assert found(site) == REACH
    assert site.plan() == (0, {name: [] for name in HOSTS})
    assert "no changes on 3 hosts" in site.apply()
    dry = site.run("pyinfra", "--json", "--dry", "inventories/lab.py", "deploys/site.py")
    assert [o["hosts_with_change"] for o in json.loads(dry.stdout)["plan"]] == [[]] * 6


def test_an_operators_key_of_the_inventory_opens_the_host(site: Site, tmp_path: Path) -> None:
    key = tmp_path / "colleague"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "colleague", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    site.apply(site.inventory("colleague", lambda d: d["ssh"].update(authorized_keys=[public])))

    def theirs(data: dict[str, Any]) -> None:
        data["ssh"].update(authorized_keys=[public], key=str(key))

    assert site.plan(site.inventory("theirs", theirs))[0] == 0
    site.apply()
    refused = site.fiefdom("plan", site.inventory("theirs", theirs))
    assert refused.returncode == 3
    assert refused.stdout.count("does not answer: Authentication error") == 3


@pytest.mark.proof
def test_a_login_that_no_longer_works_fails_the_run_while_the_old_session_is_open(site: Site) -> None:
    theirs = "/etc/ssh/sshd_config.d/00-theirs.conf"
    site.ssh("app1", f"echo 'AllowUsers nobody' > {theirs}; echo '#' >> /etc/ssh/sshd_config.d/10-fiefdom.conf")
    try:
        done = site.fiefdom("apply", LAB_YAML, "--yes")
    finally:
        inside = ["docker", "exec", lab.host("app1").container, "sh", "-c", f"rm {theirs}; systemctl reload ssh"]
        subprocess.run(inside, check=True)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: app1: the change of sshd was taken back: a new login to 10.99.0.21:22 failed: "
    )
    assert "a login as before fails as well" in done.stderr
    assert done.stderr.count("\n") == 1


TALK = """cp -a ~/.bashrc ~/.bashrc.kept 2>/dev/null
{ printf 'echo Welcome to $(hostname); printf "reverted\\tby nobody\\n"; printf "no line break"\n'
  printf 'printf "fiefdom-failed\\tx\\ty\\n{}" >&2\n'; cat ~/.bashrc.kept 2>/dev/null; } >~/.bashrc"""


@pytest.mark.proof  # the unit tests have shells that talk
def test_a_login_that_talks_changes_no_answer(site: Site) -> None:
    """What a `.bashrc` prints comes before every answer of a host: a change that is confirmed is not "taken back"."""
    try:
        for host in ("gw1", "app1", "app2"):
            site.ssh(host, TALK)
            assert "Welcome" in site.ssh(host, "true")
        inventory = site.inventory("talks", lambda data: data["network"].update(input_rules=["tcp dport 9999 accept"]))
        done = site.fiefdom("apply", inventory, "--yes", "--limit", "app1")
        assert done.returncode == 0, done.stderr
        assert site.fiefdom("plan", inventory, "--limit", "app1").returncode == 0
        done = site.fiefdom("apply", LAB_YAML, "--yes")
        assert done.returncode == 0, done.stderr
        # What gateways and the ledger say, files that are compared, images that are asked for.
        assert site.status()["serving"]
        for command in (("audit", LAB_YAML), ("plan", LAB_YAML, "--diff")):
            done = site.fiefdom(*command)
            assert done.returncode == 0, done.stdout + done.stderr
        dry = site.run("pyinfra", "--json", "--dry", "inventories/lab.py", "deploys/site.py")
        assert [o["hosts_with_change"] for o in json.loads(dry.stdout)["plan"]] == [[]] * 6
    finally:
        for host in ("gw1", "app1", "app2"):
            site.ssh(host, "mv -f ~/.bashrc.kept ~/.bashrc 2>/dev/null || rm -f ~/.bashrc")


@pytest.mark.proof
def test_hosts_behind_a_jump_host_of_the_cluster_at_names_of_the_operators_own(site: Site, tmp_path: Path) -> None:
    """Looked at and changed through a gateway, whose sshd forwards for that; ~/.ssh/config says where they are."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text("Host far-app1\n  HostName 10.99.0.21\n")

    def opened(data: dict[str, Any]) -> None:
        data["network"]["admin_cidrs"].append("10.99.0.11/32")
        data["hosts"]["gw1"]["ssh"] = {"tcp_forwarding": "local"}

    def behind(data: dict[str, Any]) -> None:
        opened(data)
        data["ssh"]["jump"] = "gw1"
        data["hosts"]["app1"]["ssh"] = {"address": "far-app1"}

    def changed(data: dict[str, Any]) -> None:
        behind(data)
        data["network"]["input_rules"] = ["tcp dport 9998 accept"]

    through = site.inventory("behind", behind)
    outside = {**os.environ, "HOME": str(home)}
    refused = site.run("fiefdom", "plan", through, "--limit", "app1", "--json", env=outside)
    assert refused.returncode == 3
    silent = json.loads(refused.stdout)["silent"]
    assert silent["app1"].startswith("the jump host gw1 may not forward to 10.99.0.21:22; its sshd needs ")
    try:
        site.apply(site.inventory("opened", opened))
        assert site.ssh("gw1", "sshd -T | grep -i ^allowtcpforwarding").lower() == "allowtcpforwarding local"
        looked = site.run("fiefdom", "plan", through, env=outside)
        assert looked.returncode == 0, looked.stdout + looked.stderr
        # A change that could cut the line, confirmed by a login through the gateway.
        done = site.run("fiefdom", "apply", site.inventory("further", changed), "--yes", "--limit", "app1", env=outside)
        assert done.returncode == 0, done.stdout + done.stderr
        came = site.ssh(
            "app1", "journalctl -u ssh -q --no-pager | grep -c 'Accepted publickey for root from 10.99.0.11 '"
        )
        assert int(came) >= 2
    finally:
        site.apply()
    assert site.ssh("gw1", "sshd -T | grep -i ^allowtcpforwarding").lower() == "allowtcpforwarding no"


def test_the_keys_of_hosts_are_shown_and_kept(site: Site, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    inventory = site.inventory("unknown", lambda d: d["ssh"].update(known_hosts=str(known)))
    unknown = site.fiefdom("plan", inventory, "--json")
    assert unknown.returncode == 3
    silent = json.loads(unknown.stdout)["silent"]
    assert set(silent) == set(HOSTS)
    assert all(reason.endswith("; `fiefdom trust` shows and keeps the keys of new hosts") for reason in silent.values())
    done = site.fiefdom("trust", inventory, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    printed = site.ssh("app1", "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert f"app1 at 10.99.0.21:22 shows ssh-ed25519 {printed}" in done.stderr
    assert site.fiefdom("plan", inventory).returncode == 0


@pytest.mark.proof
def test_who_knows_a_host_by_its_ecdsa_key_alone_is_not_locked_out(site: Site, tmp_path: Path) -> None:
    """Fiefdom's sshd does not show that one: the first login after the change would find a stranger."""
    known = tmp_path / "known_hosts"
    lines = (lab.lab_root() / "known_hosts").read_text().splitlines()
    known.write_text("".join(f"{line}\n" for line in lines if "10.99.0.21 " not in line or " ecdsa-" in line))
    assert "10.99.0.21 ecdsa-" in known.read_text()
    inventory = site.inventory("ecdsa", lambda d: d["ssh"].update(known_hosts=str(known)))
    site.ssh("app1", "rm /etc/ssh/sshd_config.d/10-fiefdom.conf && systemctl reload ssh")
    try:
        done = site.fiefdom("apply", inventory, "--yes", "--limit", "app1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert known.read_text().splitlines()[-1].startswith("10.99.0.21 ssh-ed25519 ")
        assert site.fiefdom("plan", inventory, "--limit", "app1").returncode == 0
    finally:
        site.apply()


def test_a_new_daemon_setting_stops_no_container(site: Site) -> None:
    processes = "docker inspect $(docker ps -q) --format '{{.Name}} {{.State.Pid}}' | sort"
    before = {name: site.ssh(name, processes) for name in HOSTS}
    changed = site.inventory("daemon", lambda d: d.update(docker={"nofile": 8192}))
    with Load(f"{GATEWAY_URL}/predict") as load:
        site.apply(changed)
    tell("daemon.json changed everywhere", load)
    assert {name: site.ssh(name, processes) for name in before} == before
    limit = "docker run --rm --entrypoint sh fiefdom/predictor:1.0.0 -c 'ulimit -n'"
    assert [site.ssh(name, limit) for name in ("app1", "app2")] == ["8192", "8192"]
    assert load.failed == 0, load.report()


def test_container_addresses_are_not_reached_by_routing(site: Site) -> None:
    address = site.ssh("app1", "docker inspect predictor-8000 --format '{{.NetworkSettings.IPAddress}}'")
    site.ssh("app2", f"ip route add {address}/32 via 10.99.0.21")
    try:
        assert reach(site, "app2", address, 8000) == CLOSED
    finally:
        site.ssh("app2", f"ip route del {address}/32")


def test_sshd_takes_keys_only(site: Site) -> None:
    for host in HOSTS:
        effective = dict(line.split(" ", 1) for line in site.ssh(host, "sshd -T").splitlines() if " " in line)
        wanted = {
            "passwordauthentication": "no",
            "kbdinteractiveauthentication": "no",
            "permitemptypasswords": "no",
            "pubkeyauthentication": "yes",
            "x11forwarding": "no",
            "permitrootlogin": "without-password",
        }
        assert {key: effective[key] for key in wanted} == wanted


def test_containers_run_without_privileges(site: Site) -> None:
    form = (
        "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} "
        "{{.HostConfig.Privileged}} {{.HostConfig.SecurityOpt}}"
    )
    for host in HOSTS:
        for line in site.ssh(host, f"docker inspect $(docker ps -q) --format '{form}'").splitlines():
            user, read_only, rest = line.split(" ", 2)
            assert user.split(":")[0] not in ("", "0", "root")
            assert read_only == "true"
            assert rest in ("[ALL] [] false [no-new-privileges]", "[ALL] <no value> false [no-new-privileges]"), rest


def test_secrets_are_for_root_alone(site: Site) -> None:
    listing = "stat -c '%a %u %n' /etc/fiefdom/containers/*.env /etc/fiefdom/*/agent.json"
    for host in ("gw1", "app1"):
        for line in site.ssh(host, listing).splitlines():
            mode, uid, path = line.split()
            assert (mode, uid) == (("600", "0") if path.endswith(".env") else ("400", str(UID))), line


def test_nothing_secret_is_in_processes_units_or_journal(site: Site) -> None:
    key = site.ssh("app1", "cat /etc/fiefdom/serf/agent.json").split('"encrypt_key": "')[1].split('"')[0]
    for host in ("gw1", "app1"):
        seen = site.ssh(
            host,
            "ps axww -o args; cat /etc/systemd/system/*.service; journalctl -q --no-pager -o cat; "
            "docker inspect $(docker ps -aq)",
        )
        assert key not in seen
