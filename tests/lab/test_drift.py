"""Harm done by hand to every kind of resource: seen by plan with exit 2, mended by apply, then gone."""

from __future__ import annotations

import pytest

from helpers.operator_view import LAB_YAML, Site

MODPROBE = "/etc/modprobe.d/fiefdom.conf"
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
    "a removed account": ("app1", "userdel --force _fiefdom", ["+ account _fiefdom"]),
    "a file replaced by a link": (
        "app1",
        f"mv {MODPROBE} {MODPROBE}.real && ln -s fiefdom.conf.real {MODPROBE}",
        [f"~ file {MODPROBE}"],
    ),
    "a line of a block in somebody's file": (
        "app1",
        "sed -i 's/^10.99.0.22.*app2$/10.99.0.99 app2/' /etc/hosts",
        ["~ block /etc/hosts"],
    ),
    "a mark of a block in somebody's file": ("app2", "sed -i '/^# fiefdom: end/d' /etc/hosts", ["~ block /etc/hosts"]),
    "a removed package": ("app2", "dpkg --purge --force-depends curl", ["+ package curl"]),
    "a changed kernel setting": (
        "app1",
        "sysctl -q -w net.core.somaxconn=128 || echo 128 > /proc/sys/net/core/somaxconn",
        ["~ sysctl net.core.somaxconn"],
    ),
    "another host name": ("app2", "hostname elsewhere", ["~ hostname app2"]),
    "a stopped unit": ("app1", "systemctl stop fiefdom-firewall", ["~ unit fiefdom-firewall.service"]),
    "a disabled unit": ("app2", "systemctl disable -q fiefdom-serf-agent", ["~ unit fiefdom-serf-agent.service"]),
    "firewall rules deleted behind the unit's back": (
        "app2",
        "nft delete table inet fiefdom",
        ["~ unit fiefdom-firewall.service"],
    ),
    "a stopped instance": ("app1", "systemctl stop fiefdom-predictor@8001", ["~ container predictor-8001"]),
    "a container started with another environment": (
        "app2",
        "systemctl stop fiefdom-predictor@8000; docker rm -f predictor-8000 >/dev/null 2>&1; "
        "docker run -d --name predictor-8000 -e PREDICT_DELAY_MS=9 -p 10.99.0.22:8000:8000 fiefdom/predictor:1.0.0",
        ["-/+ container predictor-8000"],
    ),
    "a container with our labels and another environment": (
        "app1",
        "systemctl stop fiefdom-predictor@8000; "
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


# Cases that share a run: none of them touches what another one does, or is mended by what mends another one. Writing
# a file of sysctls sets them, so that a changed setting is no neighbour of a changed file.
TOGETHER = {
    "files": (
        "an edited file",
        "a removed file",
        "a wrong mode",
        "a secret open to all",
        "a removed account",
        "a file replaced by a link",
        "a line of a block in somebody's file",
        "a mark of a block in somebody's file",
    ),
    "what runs": (
        "a removed package",
        "a changed kernel setting",
        "another host name",
        "a stopped unit",
        "a disabled unit",
        "firewall rules deleted behind the unit's back",
    ),
    "an instance that is down, and one that nobody knows": (
        "a stopped instance",
        "a container started with another environment",
    ),
    "instances that serve": (
        "a container with our labels and another environment",
        "a container's limit changed",
    ),
}


def test_every_case_has_its_turn() -> None:
    assert sorted(name for names in TOGETHER.values() for name in names) == sorted(HARM)


@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_harm_is_seen_and_mended(site: Site, names: tuple[str, ...]) -> None:
    for name in names:
        host, command, _ = HARM[name]
        site.ssh(host, command)
    try:
        code, changes = site.plan()
        assert code == 2
        assert seen(changes, names) == {name: HARM[name][2] for name in names}
        # And nothing but that.
        wanted = {host: [change for n in names if HARM[n][0] == host for change in HARM[n][2]] for host in changes}
        assert {host: sorted(found) for host, found in changes.items()} == {h: sorted(w) for h, w in wanted.items()}
    finally:
        site.apply()
        # What serves and is not what it should be, a rollout replaces.
        left = site.plan()[1]
        waiting = {name: found for name, found in seen(left, names).items() if found}
        if any(left.values()):
            released = site.quick("rollout", LAB_YAML, "--force")
            assert released.returncode == 0, released.stdout + released.stderr
    assert all("predictor-" in change for found in waiting.values() for change in found), waiting
    assert all("predictor-" in change for found in left.values() for change in found), left
    assert site.plan()[0] == 0
    site.await_serving()


def seen(changes: dict[str, list[str]], names: tuple[str, ...]) -> dict[str, list[str]]:
    """Of the changes that each case should bring, those that a plan has, in the plan's order."""
    return {name: [change for change in changes[HARM[name][0]] if change in HARM[name][2]] for name in names}


def test_a_kernel_setting_names_the_file_that_has_the_last_word_at_boot(site: Site) -> None:
    theirs = "/etc/sysctl.d/99-theirs.conf"
    try:
        site.ssh("app1", f"printf '# x\\n-net.core.somaxconn = 128\\n' >{theirs}; /usr/lib/systemd/systemd-sysctl")
        done = site.quick("plan", LAB_YAML)
        assert done.returncode == 2
        assert f"128 -> 8192; at the next boot {theirs} sets it again" in done.stdout
    finally:
        site.ssh("app1", f"rm -f {theirs}")
    site.apply()


def test_a_diff_shows_text_and_masks_secrets(site: Site) -> None:
    key = site.ssh("app1", "cat /etc/fiefdom/serf/agent.json").split('"encrypt_key": "')[1].split('"')[0]
    site.ssh(
        "app1", "sed -i '/^# fiefdom: end/i 192.0.2.1 by-hand' /etc/hosts; echo '{}' > /etc/fiefdom/serf/agent.json"
    )
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
    assert "- unit fiefdom-predictor@8002.service" in changes["app1"]
    assert "- container predictor-8002" in changes["app1"]
    site.apply()
    assert site.plan()[0] == 0
    left = site.ssh(
        "app1", "ls /etc/fiefdom/containers /etc/sysctl.d; docker ps -a --format '{{.Names}}'; docker rm -f theirs"
    )
    assert "predictor-8002" not in left
    assert {"99-theirs.conf", "theirs"} <= set(left.split())
    site.ssh("app1", "rm /etc/sysctl.d/99-theirs.conf")


def test_a_nameless_build_of_fiefdoms_goes_and_nobody_elses(site: Site) -> None:
    make = "tar -cT /dev/null | docker import -c 'LABEL {}' -"
    built, theirs = (site.ssh("app2", make.format(label)) for label in ("fiefdom.context=before", "a=b"))
    nameless = "docker image ls -q --no-trunc --filter dangling=true"
    try:
        assert site.plan()[1]["app2"] == [f"- image {built.removeprefix('sha256:')[:12]}"]
        site.apply()
        left = site.ssh("app2", nameless).split()
        assert theirs in left and built not in left
        assert site.plan()[0] == 0
    finally:
        site.ssh("app2", f"docker image rm {theirs}")
