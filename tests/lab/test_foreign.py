"""Fiefdom as a library: another team's pyinfra repository, by pyinfra's own command, at real hosts.

app3 is in its inventory and in no cluster: it gets Fiefdom's sshd alone. The members get the site beside an operation
of the team's own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom import lab
from helpers.operator_view import BIN, GATEWAY_URL, LAB_YAML, ROOT, Site, undisturbed

OUTSIDE, MEMBERS = "app3", ("gw1", "app1", "app2")
ADDRESS = "10.99.0.23"
SSHD = "/etc/ssh/sshd_config.d/10-fiefdom.conf"
# What a host outside has to keep as it was.
OTHERS = "ls -d /etc/fiefdom /etc/docker /etc/modprobe.d/fiefdom.conf 2>&1; hostname; sysctl -n net.core.somaxconn"
DEPLOY = """
from io import StringIO

from pyinfra import host
from pyinfra.operations import files, server

from fiefdom import deploys as fiefdom

sshd = fiefdom.sshd()
server.shell(name="Tell of sshd", commands=["echo changed >>/run/theirs"], _if=sshd.did_change)
files.put(name="Ours", src=StringIO("of the team\\n"), dest="/etc/theirs.conf", mode="644")
if fiefdom.is_member(host):
    fiefdom.site()
"""
DIFFERS = """
from pyinfra import host
from pyinfra.operations import server

from fiefdom import deploys as fiefdom
from fiefdom.facts import Drift

if fiefdom.is_member(host) and host.get_fact(Drift):
    server.shell(name="Tell who differs", commands=[f"echo {host.name} >/run/differs"])
"""


@dataclass
class Theirs:
    """A repository with an inventory, group data and a deploy; `fiefdom` is one key of its data among others."""

    site: Site
    folder: Path

    def write(self) -> None:
        lab_data: dict[str, Any] = yaml.safe_load((ROOT / LAB_YAML).read_text())
        hosts = lab_data.pop("hosts")
        ssh = lab_data["ssh"]
        # How to log in is pyinfra's; what else there is stands in the namespace.
        files = {name: str((ROOT / "inventories" / ssh.pop(name)).resolve()) for name in ("key", "known_hosts")}
        everywhere = {
            "cluster": "k8s",
            "hosts": 4,
            "ssh_key": files["key"],
            "ssh_known_hosts_file": files["known_hosts"],
            "ssh_strict_host_key_checking": "yes",
            "fiefdom": {
                **lab_data,
                "base_dir": str(ROOT / "inventories"),
                "docker": {"log_max_size": "10m", "log_max_file": 3},
            },
        }
        own = {}
        for name, host in hosts.items():
            user = host.get("ssh", {}).get("user", "root")
            data = {"ssh_hostname": host["address"], "ssh_user": user, "_sudo": user != "root"}
            own[name] = data | ({} if name == "gw1" else {"fiefdom": {"groups": host["groups"]}})
        own[OUTSIDE] = {"ssh_hostname": ADDRESS, "ssh_user": "root"}
        inventory = f"all = ({list(own.items())!r}, {everywhere!r})\nedge = ['gw1']\n"
        (self.folder / "inventory.py").write_text(inventory)
        (self.folder / "deploy.py").write_text(DEPLOY)
        (self.folder / "group_data").mkdir()
        sysctls = {"net.ipv4.tcp_slow_start_after_idle": "0"}
        edge = f"colour = 'blue'\nfiefdom = { {'groups': ['gateways'], 'sysctls': sysctls}!r}\n"
        (self.folder / "group_data/edge.py").write_text(edge)

    def clean(self) -> None:
        for name in (*MEMBERS, OUTSIDE):
            self.site.ssh(name, "rm -f /etc/theirs.conf /run/theirs /run/differs")

    def pyinfra(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [str(BIN / "pyinfra"), "--json", *arguments]
        return subprocess.run(
            argv, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600
        )

    def changed(self) -> dict[str, set[str]]:
        """By operation that changed anything in a run, the hosts where it did."""
        done = self.pyinfra("--yes", "inventory.py", "deploy.py")
        assert done.returncode == 0, done.stdout + done.stderr
        operations = json.loads(done.stdout)["results"]["operations"]
        assert not any(o["error"] for o in operations)
        found = {o["name"]: {*o["success"]} - {*o["no_change"]} for o in operations}
        return {name: hosts for name, hosts in found.items() if hosts}


@pytest.fixture(scope="module")
def theirs(first_converge: tuple[Site, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    site, _ = first_converge
    if not site.whole():
        lab.up(2)
        site.converge()
        site.await_serving()
    lab.up(3)
    found = Theirs(site, tmp_path_factory.mktemp("theirs"))
    found.write()
    found.clean()  # an interrupted run leaves it
    yield found
    found.clean()


def test_sshd_outside_the_site_on_members_and_nothing_the_second_time(theirs: Theirs) -> None:
    site = theirs.site
    before = site.ssh(OUTSIDE, OTHERS)
    site.ssh(OUTSIDE, f"rm -f {SSHD}")
    site.ssh("app1", f"echo '# by hand' >>{SSHD}; echo '# by hand' >>/etc/modprobe.d/fiefdom.conf")
    with undisturbed("another repository's run", {"predictor": f"{GATEWAY_URL}/predict"}, 1_000, 50):
        changed = theirs.changed()
    assert changed["Ours"] == {*MEMBERS, OUTSIDE}
    assert changed["Fiefdom sshd | access"] == {"app1", OUTSIDE}
    assert changed["Fiefdom site | files"] == {"app1"}
    assert site.ssh(OUTSIDE, OTHERS) == before, "what is not sshd's stays as it was"
    assert "passwordauthentication no" in site.ssh(OUTSIDE, "sshd -T")
    assert theirs.changed() == {}, "the second run"
    assert [site.ssh(name, "cat /run/theirs 2>/dev/null || :") for name in ("app1", "app2", OUTSIDE)] == [
        "changed",
        "",
        "changed",
    ]
    code, said = site.plan()
    assert code == 0, f"what the lab's own inventory says of the members is the same: {said}"


def test_the_site_of_a_host_outside_is_one_sentence(theirs: Theirs) -> None:
    done = theirs.pyinfra("--dry", "--limit", OUTSIDE, "inventory.py", "fiefdom.deploys.site")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{OUTSIDE}: is in no cluster of Fiefdom's" in " ".join(done.stderr.split())


def test_the_facts_say_what_members_have_and_are_and_what_they_lack(theirs: Theirs) -> None:
    """By the command line, and in a deploy that does something only where a host differs."""
    site = theirs.site
    site.ssh("app1", "echo '# by hand' >>/etc/modprobe.d/fiefdom.conf")
    names = [f"fiefdom.facts.{name}" for name in ("Instances", "Member", "Drift")]
    done = theirs.pyinfra(*(f"--limit={name}" for name in MEMBERS), "inventory.py", "fact", *names)
    assert done.returncode == 0, done.stderr
    instances, members, drift = map(json.loads(done.stdout).get, names)
    assert instances["gw1"] == []
    assert [(one["port"], one["state"], one["offered"]) for one in instances["app2"]] == [
        (8000, "running", True),
        (8001, "running", True),
    ]
    assert {one["version"] for one in instances["app1"]} == {"1.0.0"}
    assert members["app1"] == {
        "member": True,
        "state": "alive",
        "name": "app1",
        "role": "app",
        "offers": {"predictor": "1.0.0"},
        "gateways": ["gw1"],
    }
    assert (members["gw1"]["role"], members["gw1"]["member"]) == ("gateway", True)
    assert drift["app1"][0].startswith("~ file /etc/modprobe.d/fiefdom.conf: ")
    assert drift["gw1"] == drift["app2"] == []
    (theirs.folder / "differs.py").write_text(DIFFERS)
    done = theirs.pyinfra("--yes", "inventory.py", "differs.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [site.ssh(name, "cat /run/differs 2>/dev/null; rm -f /run/differs") for name in (*MEMBERS, OUTSIDE)] == [
        "",
        "app1",
        "",
        "",
    ]
    assert theirs.changed()["Fiefdom site | files"] == {"app1"}


def test_the_facts_of_a_host_outside(theirs: Theirs) -> None:
    names = [f"fiefdom.facts.{name}" for name in ("Instances", "Member", "Drift")]
    done = theirs.pyinfra("--limit", OUTSIDE, "inventory.py", "fact", *names, "fiefdom.facts.Drift", "concern=sshd")
    found = json.loads(done.stdout)
    assert found[names[0]] == {OUTSIDE: []}
    assert found[names[1]][OUTSIDE]["state"] == "absent"
    assert found[names[2]] == {OUTSIDE: None}
    assert "is in no cluster of Fiefdom's" in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert found["fiefdom.facts.Drift (concern=sshd)"] == {OUTSIDE: []}, "the first test gave it Fiefdom's"
