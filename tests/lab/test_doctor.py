"""Hosts with a life of their own: what `doctor` tells of it, what `apply` refuses, and what it lives with."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from helpers.operator_view import LAB_YAML, Site, await_true

APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=60"


def diagnosis(site: Site, inventory: str = LAB_YAML) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Exit code, and by host level and kind of each finding."""
    done = site.fiefdom("doctor", inventory, "--json")
    hosts = json.loads(done.stdout)["hosts"]
    return done.returncode, {host: [(f["level"], f["what"]) for f in found] for host, found in hosts.items() if found}


@contextmanager
def has(site: Site, host: str, begin: str, end: str) -> Iterator[None]:
    try:
        site.ssh(host, begin)
        yield
    finally:
        site.ssh(host, end, check=False)


@contextmanager
def image_here(ref: str, architecture: str, size: int) -> Iterator[None]:
    """An image on the operator's machine, of one file; nothing in it could run."""
    layer = archive({"file": bytes(size)})
    described = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/file"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "COPY file /"}],
    }
    config = json.dumps(described).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [ref], "Layers": ["layer/layer.tar"]}]).encode()
    files = {name: config, "layer/layer.tar": layer, "manifest.json": manifest}
    subprocess.run(["docker", "load", "--quiet"], input=archive(files), capture_output=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "image", "rm", "--force", ref], capture_output=True, check=True)


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def one_more_service(image: str) -> dict[str, Any]:
    return {"image": image, "version": "1", "base_port": 9300, "route": {"path_prefix": "/more"}}


def test_a_host_that_is_fiefdoms_alone_has_nothing_in_the_way(site: Site) -> None:
    done = site.fiefdom("doctor", LAB_YAML)
    assert (done.returncode, done.stdout) == (0, "Nothing is in the way on 3 hosts.\n")


@pytest.mark.proof
def test_another_firewall_is_refused_until_it_lets_pass_what_has_to(site: Site) -> None:
    """With ufw's own words for it, taken from what doctor says."""
    begin = f"{APT} update && {APT} install -y ufw >/dev/null && ufw allow 22/tcp && ufw --force enable"
    with has(site, "app1", begin, f"ufw --force disable; {APT} purge -y ufw"):
        assert diagnosis(site) == (1, {"app1": [("refused", "firewall")]})
        site.ssh("app1", "touch /run/before-the-apply")
        done = site.fiefdom("apply", LAB_YAML, "--yes")
        assert done.returncode == 1
        assert "app1: ufw is active and drops 7946/tcp, 7946/udp" in done.stderr, done.stderr
        assert site.ssh("app1", "find /etc /var/lib/fiefdom -newer /run/before-the-apply -type f") == ""
        for other in ("10.99.0.11", "10.99.0.22"):
            site.ssh("app1", f"ufw allow from {other} to any port 7946")
        assert diagnosis(site) == (2, {"app1": [("warning", "firewall")]})
        assert site.fiefdom("apply", LAB_YAML, "--yes").returncode == 0
        site.ssh("app1", "systemctl restart fiefdom-serf-agent")
        site.await_serving()


ONE_WAY = {
    "tcp to a host": ("app1", "input", "ip saddr 10.99.0.11 tcp", "app1", "gw1", "no answer within 3 s"),
    "tcp to a gateway": ("gw1", "input", "ip saddr 10.99.0.21 tcp", "gw1", "app1", "no answer within 3 s"),
    "udp to a gateway": ("app1", "output", "ip daddr 10.99.0.11 udp", "gw1", "app1", "its answers get lost"),
}
"""Where a rule stands, and who is not reached from where by it, and how that shows."""


@pytest.mark.proof
@pytest.mark.parametrize("way", ONE_WAY)
def test_an_apply_names_the_direction_in_which_gossip_does_not_pass(site: Site, way: str) -> None:
    """A rule that no look at rules could judge: all members are alive still, by other ways."""
    host, hook, packets, port_of, start, why = ONE_WAY[way]
    chain = f"chain one {{ type filter hook {hook} priority -10; {packets} dport 7946 drop; }}"
    with has(site, host, f"nft 'table inet theirs {{ {chain}; }}'", "nft delete table inet theirs"):
        site.ssh("app2", "systemctl stop fiefdom-firewall")
        done = site.fiefdom("apply", LAB_YAML, "--yes")
        address = {"gw1": "10.99.0.11", "app1": "10.99.0.21"}
        assert done.returncode == 1 and "Converged" not in done.stdout, done.stdout + done.stderr
        assert done.stderr.splitlines()[-1] == (
            f"error: {port_of}: port 7946/{packets.split()[-1]} of {address[port_of]} cannot be reached from "
            f"{start} ({address[start]}): {why}"
        )
        # All else is done.
        assert site.plan()[0] == 0
        if "tcp" in packets:
            assert site.fiefdom("apply", LAB_YAML, "--yes").returncode == 1, "with nothing to do"
    site.await_serving()
    assert site.fiefdom("apply", LAB_YAML, "--yes").returncode == 0


@pytest.mark.proof
def test_another_keeper_of_time_goes_on_keeping_it(site: Site) -> None:
    begin = f"{APT} update && {APT} install -y chrony >/dev/null"
    with has(site, "app2", begin, f"{APT} purge -y chrony"):
        site.apply()
        assert site.plan()[0] == 0
        assert site.ssh("app2", "dpkg-query -W -f '${db:Status-Status}' systemd-timesyncd") != "installed"


@pytest.mark.proof
def test_somebody_who_has_a_port_of_ours_is_named(site: Site) -> None:
    # systemd-run makes one $ of two.
    listen = "$$s = IO::Socket::INET->new(LocalPort => 7946, Listen => 5, ReuseAddr => 1) or die; sleep 600"
    begin = f"systemctl stop fiefdom-serf-agent; systemd-run -q --unit=squatter perl -MIO::Socket::INET -e '{listen}'"
    with has(site, "app2", begin, "systemctl stop squatter; systemctl start fiefdom-serf-agent"):
        await_true(lambda: site.ssh("app2", "ss -Hltn sport = 7946"), what="the listener")
        assert diagnosis(site) == (1, {"app2": [("refused", "port")]})
        said = site.fiefdom("doctor", LAB_YAML, "--limit", "app2").stdout
        assert "perl listens on port 7946" in said and "serf.port" in said, said


def test_the_hosts_own_lines_of_etc_hosts_are_its_own(site: Site) -> None:
    """Beside the block, in any place; one that contradicts it is told, and none is lost with the marks."""
    own = "192.0.2.7 nas.example.com nas"
    keep, back = "cp -p /etc/hosts /root/hosts.before", "mv -T /root/hosts.before /etc/hosts"
    with has(site, "app1", f"{keep}; sed -i '1i {own}' /etc/hosts; echo '192.0.2.8 later' >>/etc/hosts", back):
        assert site.plan()[0] == 0 and diagnosis(site) == (0, {})
        outside = "sed '/^# fiefdom: begin/,/^# fiefdom: end/d' /etc/hosts"
        before = site.ssh("app1", outside)
        site.ssh("app1", "sed -i '/^# fiefdom: begin/d' /etc/hosts")
        code, changes = site.plan()
        assert (code, changes["app1"]) == (2, ["~ block /etc/hosts"])
        assert site.apply()
        assert site.plan()[0] == 0
        assert site.ssh("app1", outside) == before and own in before and "192.0.2.8 later" in before
        assert "10.99.0.22" in site.ssh("app1", "getent ahostsv4 app2")
        site.ssh("app1", "sed -i '1i 192.0.2.9 app2' /etc/hosts")
        assert site.plan()[0] == 0 and diagnosis(site) == (2, {"app1": [("warning", "names")]})
    assert site.plan()[0] == 0


@pytest.mark.proof
def test_where_cloud_init_writes_etc_hosts_its_template_has_the_block(site: Site) -> None:
    """So that a boot changes nothing; here a copy stands for what cloud-init does with its template."""
    begin = "cp -p /etc/hosts /root/hosts.before; mkdir -p /etc/cloud/cloud.cfg.d /etc/cloud/templates;"
    begin += "echo 'manage_etc_hosts: true' >/etc/cloud/cloud.cfg.d/01_theirs.cfg"
    with has(site, "app1", begin, "rm -rf /etc/cloud; mv -T /root/hosts.before /etc/hosts"):
        assert diagnosis(site) == (2, {"app1": [("warning", "cloud-init")]})
        site.ssh("app1", "printf '127.0.0.1 localhost\\n' >/etc/cloud/templates/hosts.debian.tmpl")
        assert diagnosis(site) == (0, {})
        code, changes = site.plan()
        template = "block /etc/cloud/templates/hosts.debian.tmpl"
        assert (code, changes["app1"]) == (2, [f"+ {template}", "~ record manifest"])
        site.apply()
        site.ssh("app1", "cp /etc/cloud/templates/hosts.debian.tmpl /etc/hosts")
        assert site.plan()[0] == 0
        assert "10.99.0.22" in site.ssh("app1", "getent ahostsv4 app2")
        # It goes again where cloud-init leaves the file alone, and leaves the template as it was.
        site.ssh("app1", "echo 'manage_etc_hosts: false' >/etc/cloud/cloud.cfg.d/01_theirs.cfg")
        assert f"- {template}" in site.plan()[1]["app1"]
        site.apply()
        assert site.ssh("app1", "cat /etc/cloud/templates/hosts.debian.tmpl") == "127.0.0.1 localhost"
    assert site.plan()[0] == 0


@pytest.mark.proof
def test_cloud_inits_sshd_drop_in_comes_after_fiefdoms(site: Site) -> None:
    theirs = "/etc/ssh/sshd_config.d/50-cloud-init.conf"
    end = f"rm -f {theirs}; systemctl reload ssh"
    with has(site, "app1", f"echo 'PasswordAuthentication yes' >{theirs}; systemctl reload ssh", end):
        assert site.plan()[0] == 0 and diagnosis(site) == (0, {})
        assert site.ssh("app1", "/usr/sbin/sshd -T | grep ^passwordauthentication") == "passwordauthentication no"


def test_a_container_of_somebodys_that_publishes_a_port_of_ours_is_named(site: Site) -> None:
    """No process but Docker's own listens there: only the container itself tells of it."""
    more = site.inventory("published", lambda d: d["hosts"]["app1"].update(services={"predictor": {"instances": 3}}))
    with has(site, "app1", "docker run -d --name theirs -p 8002:8000 fiefdom/predictor:1.0.0", "docker rm -f theirs"):
        assert diagnosis(site) == (0, {})
        assert diagnosis(site, more) == (1, {"app1": [("refused", "port")]})
        refused = site.fiefdom("plan", more)
        assert refused.returncode == 1 and "container theirs publishes port 8002" in refused.stderr, refused.stderr
    assert diagnosis(site, more) == (0, {})


@pytest.mark.proof
def test_a_nat_rule_of_somebodys_on_a_port_of_ours_is_told(site: Site) -> None:
    # Of an interface that is not there, lest it turn anything.
    rule = 'iifname "nowhere0" ip daddr 10.99.0.11 tcp dport 80 redirect to :8404'
    table = f"table ip theirs {{ chain before {{ type nat hook prerouting priority -90; {rule}; }}; }}"
    with has(site, "gw1", f"nft '{table}'", "nft delete table ip theirs"):
        assert diagnosis(site) == (2, {"gw1": [("warning", "port")]})


@pytest.mark.proof
def test_docker_keeps_the_inventorys_keys(site: Site) -> None:
    """A mirror by the inventory stands in daemon.json and in what dockerd tells, and no container stopped for it."""
    ids = site.ssh("app1", "docker ps -q | sort")
    inventory = site.inventory(
        "mirror", lambda data: data.update(docker={"daemon": {"registry-mirrors": ["https://mirror.invalid"]}})
    )
    site.apply(inventory)
    assert "https://mirror.invalid/" in site.ssh("app1", "docker info --format '{{.RegistryConfig.Mirrors}}'")
    assert site.ssh("app1", "docker ps -q | sort") == ids
    assert site.plan(inventory)[0] == 0


def test_an_image_for_other_processors_is_refused_before_anything_is_locked(site: Site) -> None:
    inventory = site.inventory(
        "foreign", lambda data: data["services"].update(more=one_more_service("fiefdom-test/foreign"))
    )
    own = site.ssh("app1", "dpkg --print-architecture")
    audit = site.fiefdom("audit", LAB_YAML, "--json").stdout
    with image_here("fiefdom-test/foreign:1", "s390x", 10):
        refused = [("refused", "architecture")]
        assert diagnosis(site, inventory) == (1, {"app1": refused, "app2": refused})
        done = site.fiefdom("apply", inventory, "--yes")
        assert done.returncode == 1
        assert f"fiefdom-test/foreign:1 on this machine is for s390x, and the host is {own}" in done.stderr, done.stderr
        assert f"`docker build --platform linux/{own}`" in done.stderr
    assert site.fiefdom("audit", LAB_YAML, "--json").stdout == audit
    assert site.ssh("app1", "docker image ls -q fiefdom-test/foreign") == ""


def test_images_that_do_not_fit_are_refused_by_their_size(site: Site) -> None:
    """Where Docker is to have them by the inventory: a small disk, which app1 alone has there."""

    def change(data: dict[str, Any]) -> None:
        data["services"]["more"] = one_more_service("fiefdom-test/large")
        data["docker"] = {"daemon": {"data-root": "/srv/small/docker"}}

    inventory = site.inventory("large", change)
    own = site.ssh("app1", "dpkg --print-architecture")
    begin = "mkdir -p /srv/small && mount -t tmpfs -o size=16m tmpfs /srv/small"
    with image_here("fiefdom-test/large:1", own, 20 << 20), has(site, "app1", begin, "umount /srv/small"):
        code, found = diagnosis(site, inventory)
        # No host may leave its containers behind in the old place, either.
        assert code == 1
        assert found["app1"] == [("refused", "data-root"), ("refused", "disk")]
        assert found["app2"] == [("refused", "data-root")]
        done = site.fiefdom("apply", inventory, "--yes", "--limit", "app1")
        assert done.returncode == 1
        words = r"16 MiB are free where Docker has its images, and 4[0-2] MiB are needed: 2[01] MiB of layers, twice"
        assert re.search(words, done.stderr), done.stderr
    assert site.plan()[0] == 0


def test_status_tells_what_is_free_where_docker_keeps_images(site: Site) -> None:
    for host in site.status()["hosts"]:
        told = site.ssh(host["name"], "df -Pk /var/lib/docker | awk 'NR == 2 { print $2 }'")
        assert host["disk"]["size_kib"] == int(told)
        assert 0 < host["disk"]["free_kib"] <= host["disk"]["size_kib"]
