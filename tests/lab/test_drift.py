"""Harm done by hand, one kind of resource after the other: seen by plan with exit 2, mended by apply, then gone."""

from __future__ import annotations

import pytest

from helpers.operator_view import LAB_YAML, Site

HARM = {
    "an edited file": (
        "app1",
        "echo '# by hand' >> /etc/sysctl.d/60-fiefdom.conf",
        ["~ file /etc/sysctl.d/60-fiefdom.conf"],
    ),
    "a removed file": (
        "app2",
        "rm /etc/ssh/sshd_config.d/10-fiefdom.conf",
        ["+ file /etc/ssh/sshd_config.d/10-fiefdom.conf", "~ unit ssh.service"],
    ),
    "a wrong mode": ("app1", "chmod 0666 /etc/docker/daemon.json", ["~ file /etc/docker/daemon.json"]),
    "a secret open to all": (
        "app2",
        "chmod 0644 /etc/fiefdom/serf/agent.json",
        ["~ file /etc/fiefdom/serf/agent.json"],
    ),
    "a file replaced by a link": (
        "app1",
        "mv /etc/hosts /etc/hosts.real && ln -s hosts.real /etc/hosts",
        ["~ file /etc/hosts"],
    ),
    "a removed package": ("app2", "dpkg --purge --force-depends curl", ["+ package curl"]),
    "a changed kernel setting": (
        "app1",
        "sysctl -q -w net.core.somaxconn=128 || echo 128 > /proc/sys/net/core/somaxconn",
        ["~ sysctl net.core.somaxconn"],
    ),
    "another host name": ("app2", "hostname elsewhere", ["~ hostname app2"]),
    "a stopped unit": ("app1", "systemctl stop fiefdom-firewall", ["~ unit fiefdom-firewall.service"]),
    "a disabled unit": ("app2", "systemctl disable -q serf-agent", ["~ unit serf-agent.service"]),
    "firewall rules deleted behind the unit's back": (
        "app2",
        "nft delete table inet fiefdom",
        ["~ unit fiefdom-firewall.service"],
    ),
    "a stopped instance": ("app1", "systemctl stop predictor@8001", ["~ container predictor-8001"]),
    "a container started with another environment": (
        "app2",
        "systemctl stop predictor@8000; docker rm -f predictor-8000 >/dev/null 2>&1; "
        "docker run -d --name predictor-8000 -e PREDICT_DELAY_MS=9 -p 10.99.0.22:8000:8000 fiefdom/predictor:1.0.0",
        ["-/+ container predictor-8000"],
    ),
    "a container with our labels and another environment": (
        "app1",
        "systemctl stop predictor@8000; "
        # By file: what a label says may hold spaces.
        "docker inspect predictor-8000 --format "
        "'{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}{{println}}{{end}}' >/run/labels; "
        "docker rm -f predictor-8000 >/dev/null; "
        "docker run -d --name predictor-8000 --label-file /run/labels -e X=1 -p 10.99.0.21:8000:8000 "
        "fiefdom/predictor:1.0.0; rm /run/labels",
        ["-/+ container predictor-8000"],
    ),
    "a container's limit changed": (
        "app2",
        "docker update --memory 1g --memory-swap 1g predictor-8001",
        ["-/+ container predictor-8001"],
    ),
}


@pytest.mark.parametrize("name", HARM)
def test_harm_is_seen_and_mended(site: Site, name: str) -> None:
    host, command, expected = HARM[name]
    site.ssh(host, command)
    try:
        code, changes = site.plan()
        assert (code, changes[host]) == (2, expected)
        assert all(not found for other, found in changes.items() if other != host)
    finally:
        site.apply()
        # What serves and is not what it should be, a rollout replaces.
        waiting = [change for found in site.plan()[1].values() for change in found]
        assert all("predictor-" in change for change in waiting)
        if waiting:
            site.converge()
    assert site.plan()[0] == 0
    site.await_serving()


def test_a_diff_shows_text_and_masks_secrets(site: Site) -> None:
    key = site.ssh("app1", "cat /etc/fiefdom/serf/agent.json").split('"encrypt_key": "')[1].split('"')[0]
    site.ssh("app1", "echo '192.0.2.1 by-hand' >> /etc/hosts; echo '{}' > /etc/fiefdom/serf/agent.json")
    shown = site.fiefdom("plan", LAB_YAML, "--diff")
    assert shown.returncode == 2
    assert "-192.0.2.1 by-hand" in shown.stdout
    assert "(secret: content not shown)" in shown.stdout
    dry = site.run("pyinfra", "--dry", "--diff", "-vv", "inventories/lab.py", "deploys/site.py")
    assert "-192.0.2.1 by-hand" in dry.stdout + dry.stderr
    applied = site.run("pyinfra", "--yes", "-vv", "inventories/lab.py", "deploys/site.py")
    assert applied.returncode == 0, applied.stderr
    for printed in (shown, dry, applied):
        assert key not in printed.stdout + printed.stderr
    assert site.plan()[0] == 0


def test_what_is_no_longer_wanted_goes_and_what_is_not_ours_stays(site: Site) -> None:
    site.ssh("app1", "touch /etc/sysctl.d/99-theirs.conf; docker run -d --name theirs fiefdom/predictor:1.0.0")
    more = site.inventory("more", lambda d: d["hosts"]["app1"].update(services={"predictor": {"instances": 3}}))
    site.apply(more)
    site.await_serving(more)
    assert "app1:8002" in site.rotation(more)
    code, changes = site.plan()
    assert code == 2
    assert "- unit predictor@8002.service" in changes["app1"]
    assert "- container predictor-8002" in changes["app1"]
    site.apply()
    assert site.plan()[0] == 0
    left = site.ssh(
        "app1", "ls /etc/fiefdom/containers /etc/sysctl.d; docker ps -a --format '{{.Names}}'; docker rm -f theirs"
    )
    assert "predictor-8002" not in left
    assert {"99-theirs.conf", "theirs"} <= set(left.split())
    site.ssh("app1", "rm /etc/sysctl.d/99-theirs.conf")
