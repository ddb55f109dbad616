"""Releases, reboots, hosts that come and go: three app hosts with four instances each, under every kind of traffic.

Each planned event runs under at least 10,000 requests, of which none may fail.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom import lab
from fiefdom.cluster import lock
from fiefdom.desired import gateway
from helpers.faults import cut_ssh
from helpers.load import Load
from helpers.operator_view import BIN, GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, ok, tell

URL = f"{GATEWAY_URL}/predict"
AT_LEAST = 10_000  # ten seconds: whatever an event takes, and what comes of it after its end
APP3 = {"address": "10.99.0.23", "groups": ["app_hosts"]}
# What the third host has of its own before Fiefdom comes, and how it looks.
OWN = """
mkdir -p /etc/docker
printf '{"log-level": "warn", "labels": ["rack=b2"]}\\n' >/etc/docker/daemon.json
chmod 0640 /etc/docker/daemon.json
printf '192.0.2.7 nas\\n' >>/etc/hosts
printf 'table inet theirs {\\n}\\n' >/etc/nftables.conf
"""
OWN_FILES = "/etc/docker/daemon.json /etc/nftables.conf"
LOOK = f"stat -c '%a %u:%g %s %y' {OWN_FILES} && stat -c '%a %u:%g %s' /etc/hosts && "
LOOK += f"sha256sum {OWN_FILES} /etc/hosts /etc/hostname && hostname"
INTERVAL_S = 1  # between two checks of an instance, by default
HOSTS = ("app1", "app2", "app3")


@dataclass
class Fleet:
    """The lab with a third app host and four instances on each, and what its inventory says now."""

    site: Site
    version: str = "1.0.0"
    before: str = ""
    released: int = 0
    found: str = ""
    """How the third host's own files looked before Fiefdom."""
    settings: dict[str, Any] = field(default_factory=dict)

    def inventory(self, version: str | None = None, **changes: Any) -> str:
        """Path of an inventory with this version; ``changes`` are set on the service."""
        version = version or self.version

        def change(data: dict[str, Any]) -> None:
            data["hosts"]["app3"] = APP3
            data["services"]["predictor"] |= {"instances": 4, "version": version} | changes
            data["rollout"] = {"soak_s": 2}
            data.update(self.settings)

        return self.site.inventory(f"fleet-{version}", change)

    def next(self) -> str:
        """A version that never ran."""
        self.released += 1
        return f"2.{self.released}.0"

    def release(self, *options: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Roll a new version out and make it the fleet's."""
        self.before, self.version = self.version, self.next()
        return self.rollout(self.inventory(**changes), *options)

    def rollout(self, inventory: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`fiefdom rollout`, whatever its exit code."""
        return self.site.fiefdom("rollout", inventory, *options)

    def versions(self) -> dict[str, set[str]]:
        """Versions that run, by host."""
        found: dict[str, set[str]] = {}
        for i in self.site.status(self.inventory())["instances"]:
            found.setdefault(i["host"], set()).add(i["version"])
        return found

    def all_serve(self, version: str) -> bool:
        """Whether every instance runs ``version`` and is up at the gateway."""
        return self.site.status(self.inventory())["serving"] and self.versions() == {h: {version} for h in HOSTS}


@pytest.fixture(scope="module")
def _fleet(first_converge: tuple[Site, str]) -> Iterator[Fleet]:
    """The third host joins under traffic: adding a host is an event like any other."""
    site, _ = first_converge
    fleet = Fleet(site)
    if not site.whole():
        site.converge()
    lab.up(3)
    four = fleet.inventory()
    with Load(URL, at_least=AT_LEAST) as load:
        site.ssh("app3", OWN)
        fleet.found = site.ssh("app3", LOOK)
        assert "block /etc/hosts " in (printed := site.apply(four, "--limit", "app3"))
        assert printed.count("found there, replaced (kept in /var/lib/fiefdom/originals)") == 1
        await_true(lambda: {"app3:8000", "app3:8003"} <= site.rotation(four), what="app3 in rotation")
        # The key that is nobody else's goes on beside Fiefdom's.
        assert site.ssh("app3", "docker info --format '{{.Labels}} {{.LiveRestoreEnabled}}'") == "[rack=b2] true"
        # Its own lines come first, and what is outside of the block is nobody's drift.
        assert site.ssh("app3", "grep -n -e nas -e fiefdom /etc/hosts | cut -d : -f 2").split()[0] == "192.0.2.7"
        site.ssh("app3", "sed -i '1i # of the house' /etc/hosts")
        assert site.plan(four, "--limit", "app3")[1]["app3"] == []
        site.ssh("app3", "sed -i '/^# of the house$/d' /etc/hosts")
    tell("a host added", load)
    assert load.failed == 0, load.report()
    assert any(origin.startswith("app3:") for origin, _ in load.answered)
    with Load(URL, at_least=AT_LEAST) as load:
        site.apply(four)
        site.await_serving(four)
    tell("two instances on each host become four", load)
    assert load.failed == 0, load.report()
    yield fleet


@pytest.fixture
def fleet(_fleet: Fleet) -> Iterator[Fleet]:
    """Whole again after every test, so that failures stay single."""
    yield _fleet
    _fleet.settings.clear()
    inventory = _fleet.inventory()
    if not _fleet.site.whole(inventory):
        lab.up(3)
    if not _fleet.site.whole(inventory):
        _fleet.site.fiefdom("unlock", inventory, "--take-over")
        _fleet.site.apply(inventory)
        ok(_fleet.rollout(inventory, "--force", "--take-over"))
        _fleet.site.await_serving(inventory)


@pytest.fixture
def hears_nothing(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Load]:
    """Traffic during the test, of which no request may fail."""
    with Load(URL, at_least=AT_LEAST) as load:
        yield load
    tell(request.node.name.removeprefix("test_").replace("_", " "), load)
    assert load.failed == 0, load.report()


def test_apply_leaves_a_healthy_instance_alone_and_names_the_command(fleet: Fleet) -> None:
    waiting = fleet.inventory("1.9.9")
    before = fleet.site.ssh("app1", "docker ps -q --no-trunc | sort")
    code, changes = fleet.site.plan(waiting)
    assert code == 2 and "-/+ container predictor-8000" in changes["app1"]
    printed = fleet.site.apply(waiting)
    assert f"fiefdom rollout {waiting} predictor" in printed
    assert fleet.site.ssh("app1", "docker ps -q --no-trunc | sort") == before
    beside = Path(waiting).with_suffix(".py")
    beside.write_text((ROOT / "inventories/lab.py").read_text())
    done = fleet.site.run("pyinfra", "--yes", str(beside), "deploys/site.py")
    assert done.returncode == 0, done.stderr
    assert fleet.site.ssh("app1", "docker ps -q --no-trunc | sort") == before
    assert fleet.site.ssh("app1", "docker inspect -f '{{.Config.Labels}}' predictor-8000").count(fleet.version)


def test_rollout_of_three_hosts_with_four_instances(fleet: Fleet, hears_nothing: Load) -> None:
    printed = ok(fleet.release())
    assert f"-> {fleet.version} on app1, app2, app3" in printed
    order = [line.split()[2] for line in printed.splitlines() if line.endswith(" drain")]
    assert order == list(HOSTS)
    assert fleet.all_serve(fleet.version)
    assert fleet.site.plan(fleet.inventory())[0] == 0


@pytest.mark.proof
def test_rollback_to_the_last_healthy_version(fleet: Fleet, hears_nothing: Load) -> None:
    if not fleet.released:
        ok(fleet.release())
    before = fleet.before
    ok(fleet.site.fiefdom("rollback", fleet.inventory(), "predictor", "--yes"))
    fleet.version = before
    assert fleet.all_serve(before)


def images(fleet: Fleet, host: str) -> set[str]:
    """Versions of the service whose image a host has."""
    return set(fleet.site.ssh(host, "docker image ls --format '{{.Tag}}' fiefdom/predictor").split())


@pytest.mark.proof
def test_old_images_go_with_the_release_that_made_them_old(fleet: Fleet) -> None:
    """But for what a rollback would choose, although one release alone is to be kept, and for what is somebody's."""
    fleet.settings["rollout"] = {"soak_s": 0, "keep_releases": 1}
    fleet.site.ssh("app1", f"docker tag fiefdom/predictor:{fleet.version} theirs/predictor:1")
    try:
        for _ in range(2):
            printed = ok(fleet.release())
            assert "old image" not in printed.replace("old images\n", ""), "a warning"
            assert [images(fleet, host) for host in HOSTS] == [{fleet.version, fleet.before}] * 3
            assert fleet.site.plan(fleet.inventory())[0] == 0
        assert fleet.site.ssh("app1", "docker image ls -q theirs/predictor") != ""
        assert f"brought\tfiefdom/predictor:{fleet.version}" in fleet.site.ssh("app1", "cat /var/lib/fiefdom/manifest")
        ok(fleet.site.fiefdom("rollback", fleet.inventory(), "predictor", "--yes"))
        fleet.version, fleet.before = fleet.before, fleet.version
        assert fleet.all_serve(fleet.version)
    finally:
        fleet.site.ssh("app1", "docker image rm theirs/predictor:1")


@pytest.mark.proof
def test_a_release_that_never_gets_healthy_is_undone(fleet: Fleet, hears_nothing: Load) -> None:
    bad = fleet.inventory(
        fleet.next(), environment={"FAIL_HEALTH": "1"}, health={"path": "/health", "start_timeout_s": 4}
    )
    done = fleet.rollout(bad)
    assert done.returncode == 1
    assert re.search(
        r"app1: fiefdom-predictor@800\d.service: answered 503, wanted 200-399, for 4 s at http://\S+\n", done.stdout
    )
    assert "put back: app1" in done.stdout and f"fiefdom rollout {bad}" in done.stdout
    assert fleet.versions() == {h: {fleet.version} for h in HOSTS}
    assert fleet.site.ssh("app1", "docker ps -a --format '{{.Names}}' --filter name=failed | sort").split() == [
        f"predictor-800{n}.failed" for n in range(4)
    ]
    # The next release, this one to two hosts at once, takes away what was kept aside.
    assert "1. app3, app1" in ok(fleet.rollout(fleet.inventory("1.9.7"), "--batch", "67%", "--order", "app3", "--dry"))
    printed = ok(fleet.release("--batch", "67%", "--order", "app3"))
    drains = [line.split()[2] for line in printed.splitlines() if line.endswith(" drain")]
    assert set(drains[:2]) == {"app1", "app3"} and drains[2:] == ["app2"]
    assert fleet.all_serve(fleet.version)
    assert fleet.site.ssh("app1", "docker ps -aq --filter name=failed") == ""


def test_a_release_that_answers_500_is_caught_in_the_soak(fleet: Fleet) -> None:
    """The new version's own 500s are all that anybody sees, and they are few."""
    version = fleet.next()
    bad = fleet.inventory(version, environment={"FAIL_PREDICT": "1"})
    with Load(URL, at_least=AT_LEAST) as load:
        done = fleet.rollout(bad)
    tell("a release that answers 500", load)
    assert done.returncode == 1
    assert "went wrong on the new version" in done.stdout and "put back: app1" in done.stdout
    assert fleet.all_serve(fleet.version)
    assert load.failed_apart_from(500, version) == 0, load.report()
    assert 0 < load.statuses[500, version] <= most_errors(load, done.stdout), load.report()


def most_errors(load: Load, printed: str) -> int:
    """How many 500s of a bad version on app1 clients may have seen, whatever the load was and however slow the machine.

    A gateway takes an instance out after so many errors in a row, and back at its next good check: once an interval
    while the version is there, from where its instances join until they have left again, which takes longer where the
    operator's machine is busy. Requests that are open as an instance goes out may be errors too, one of each client.
    A third of all requests would have been errors without that, five times as many as this where a thousand are sent.
    """
    said = [line.split() for line in printed.splitlines() if line.split()[1:3] == ["s", "app1"]]
    at_s = {words[3]: float(words[0]) for words in said}
    times = math.ceil((at_s["restore"] - at_s["join"]) / INTERVAL_S) + 1
    return times * (4 * gateway.MAX_ERRORS + len(load.traffic.kinds) * load.traffic.clients)


@pytest.mark.proof
def test_a_host_that_fails_late_undoes_those_before_it(fleet: Fleet, hears_nothing: Load) -> None:
    """app3 has an own setting that the new version cannot live with."""
    fleet.site.ssh("app3", "mkdir -p /etc/systemd/system/fiefdom-predictor@8002.service.d")
    fleet.site.ssh(
        "app3",
        "printf '[Service]\nExecStartPre=/bin/false\n' > /etc/systemd/system/fiefdom-predictor@8002.service.d/x.conf",
    )
    try:
        done = fleet.rollout(fleet.inventory(fleet.next()))
    finally:
        fleet.site.ssh("app3", "rm -r /etc/systemd/system/fiefdom-predictor@8002.service.d; systemctl daemon-reload")
    assert done.returncode == 1
    assert "put back: app2, app1" in done.stdout
    assert fleet.versions() | {"app3": set()} == {"app1": {fleet.version}, "app2": {fleet.version}, "app3": set()}
    ok(fleet.rollout(fleet.inventory(), "--force"))


@pytest.mark.proof
def test_a_service_takes_other_ports(fleet: Fleet, hears_nothing: Load) -> None:
    """The gateways hear of it first, which must not cost a host its traffic before it is its turn."""
    other = fleet.inventory(base_port=8500)
    fleet.site.apply(other)
    fleet.site.await_serving(other)
    assert fleet.site.rotation(other) == {f"{name}:{port}" for name in HOSTS for port in range(8500, 8504)}


@pytest.mark.proof
def test_a_service_moves_to_other_hosts(fleet: Fleet, hears_nothing: Load) -> None:
    """Who is to run it comes before who was, in whichever order the inventory has them."""
    data = yaml.safe_load(Path(fleet.inventory()).read_text())
    for name in HOSTS:
        data["hosts"][name]["groups"] = ["app_hosts", "west" if name == "app1" else "east"]
    data["services"]["other"] = data["services"]["predictor"] | {
        "instances": 1,
        "base_port": 9000,
        "route": {"port": 8088},
    }
    fleet.settings |= {"hosts": data["hosts"], "services": data["services"]}
    for group, hosts in (("west", ["app1"]), ("east", ["app2", "app3"])):
        data["services"]["predictor"]["groups"] = [group]
        moved = fleet.inventory()
        fleet.site.apply(moved)
        fleet.site.await_serving(moved)
        assert {at.partition(":")[0] for at in fleet.site.rotation(moved) if ":80" in at} == set(hosts)


@pytest.mark.proof
def test_a_canary_waits_until_it_is_told_to_go_on(fleet: Fleet, hears_nothing: Load) -> None:
    before = fleet.version
    printed = ok(fleet.release("--canary", "app2"))
    assert "app1, app3 keep the old version" in printed
    assert fleet.versions() == {"app1": {before}, "app2": {fleet.version}, "app3": {before}}
    refused = fleet.rollout(fleet.inventory())
    assert refused.returncode == 1 and "--continue" in refused.stderr
    ok(fleet.rollout(fleet.inventory(), "--continue"))
    assert fleet.all_serve(fleet.version)


@pytest.mark.proof
def test_a_deployer_that_dies_in_any_stage(fleet: Fleet, hears_nothing: Load) -> None:
    """Every host ends up wholly old or wholly new and serves, and the next rollout goes on."""
    for stages in (("image", "drain", "replace"), ("join", "soak")):
        before, fleet.version = fleet.version, fleet.next()
        for stage in stages:
            kill_at(fleet, stage)
            fleet.site.await_serving(fleet.inventory())
            assert all(len(found) == 1 and found <= {before, fleet.version} for found in fleet.versions().values())
        ok(once_silent(lambda: fleet.rollout(fleet.inventory(), "--take-over")))
        assert fleet.all_serve(fleet.version)


def kill_at(fleet: Fleet, stage: str) -> None:
    """Start a rollout and end it without a word when it comes to a stage."""

    def attempt() -> subprocess.CompletedProcess[str]:
        return during(fleet, stage, lambda _host, deployer: deployer.kill(), "--take-over")

    assert once_silent(attempt).returncode == -signal.SIGKILL, f"it never came to {stage}"


def during(
    fleet: Fleet, stage: str, happens: Callable[[str, subprocess.Popen[str]], object], *options: str
) -> subprocess.CompletedProcess[str]:
    """A rollout in which something happens when a host comes to a stage."""
    argv = [str(BIN / "fiefdom"), "rollout", fleet.inventory(), *options]
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    said = []
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=unbuffered
    ) as deployer:
        assert deployer.stdout is not None and deployer.stderr is not None
        for line in deployer.stdout:
            said.append(line)
            if line.rstrip().endswith(f" {stage}"):
                happens(line.split()[2], deployer)
        return subprocess.CompletedProcess(argv, deployer.wait(), "".join(said), deployer.stderr.read())


def once_silent(run: Callable[[], subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    """What a run comes to when the lock of the one that died may be taken over."""
    deadline = time.monotonic() + 2 * lock.SILENT_S
    while "so it is at work" in (done := run()).stderr:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(1)
    return done


@pytest.mark.proof
def test_the_ssh_link_drops_while_a_host_is_replaced(fleet: Fleet, hears_nothing: Load) -> None:
    """The release ends, the host goes back over another connection, and the next rollout carries on."""
    before, fleet.version = fleet.version, fleet.next()
    cut: list[str] = []

    def cut_once(host: str, _: object) -> None:
        if not cut:
            cut.append(host)
            cut_ssh(host)

    done = during(fleet, "replace", cut_once)
    assert cut == ["app1"]
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the connection broke off" in done.stdout and "put back: app1" in done.stdout
    assert fleet.versions() == {h: {before} for h in HOSTS}
    ok(fleet.rollout(fleet.inventory()))
    assert fleet.all_serve(fleet.version)


@pytest.mark.proof
def test_an_operator_who_interrupts_a_release(fleet: Fleet, hears_nothing: Load) -> None:
    """The host ends its turn alone; the lock is given back, so that the next rollout needs no flag."""
    before, fleet.version = fleet.version, fleet.next()
    done = during(fleet, "replace", lambda _, deployer: deployer.send_signal(signal.SIGINT))
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: interrupted; what was done stays")
    assert all(found <= {before, fleet.version} for found in fleet.versions().values())
    ok(fleet.rollout(fleet.inventory()))
    assert fleet.all_serve(fleet.version)
    acts = json.loads(ok(fleet.site.fiefdom("audit", fleet.inventory(), "--json")))["acts"]
    assert [(act["what"], act["outcome"]) for act in acts[-2:]] == [("rollout", "interrupted"), ("rollout", "ok")]


@pytest.mark.proof
def test_a_drain_that_runs_out_of_time_is_told(fleet: Fleet) -> None:
    """Requests of 4 s are open when a host that waits for 1 s leaves: by a rollout, and by a reboot."""
    fleet.settings["serf"] = {"key_file": str(lab.lab_root() / "gossip.key"), "drain_timeout_s": 1}
    ok(fleet.site.fiefdom("apply", fleet.inventory(), "--yes"))
    with Load(URL, kinds=("slow",), clients=12, slow_ms=(4000, 5000)) as load:
        released = ok(fleet.release())
        rebooted = ok(fleet.site.fiefdom("reboot", fleet.inventory(), "--limit", "app1"))
    tell("drains of 1 s under requests of 4 s", load)
    for printed in (released, rebooted):
        assert "app1     going on after 1 s: of 1 gateways 0 say" in printed, printed
    fleet.site.await_serving(fleet.inventory())


def test_rolling_reboot(fleet: Fleet, hears_nothing: Load) -> None:
    boots = {name: lab.boot_of(name) for name in HOSTS}
    ok(fleet.site.fiefdom("reboot", fleet.inventory()))
    assert all(lab.boot_of(name) != boots[name] for name in HOSTS)
    assert fleet.all_serve(fleet.version)
    assert fleet.site.plan(fleet.inventory())[0] == 0


# The engine that the host has, packed anew as the next version, in a repository of its own.
NEXT_ENGINE = r"""
cd "$(mktemp -d)" && mkdir -p /srv/engine && apt-get -qq update && apt-get -qq download docker.io
dpkg-deb -R docker.io_*.deb unpacked && sed -i 's/^Version: .*/&+fiefdom1/' unpacked/DEBIAN/control
dpkg-deb -Zgzip -z1 -b unpacked /srv/engine/docker.io.deb >/dev/null
{ dpkg-deb -f /srv/engine/docker.io.deb; echo 'Filename: ./docker.io.deb'; stat -c 'Size: %s' /srv/engine/docker.io.deb
  sha256sum </srv/engine/docker.io.deb | sed 's/ .*//; s/^/SHA256: /'; } >/srv/engine/Packages
echo 'deb [trusted=yes] file:/srv/engine ./' >/etc/apt/sources.list.d/engine.list
"""


@pytest.mark.proof
def test_an_upgrade_of_dockers_engine(fleet: Fleet, hears_nothing: Load) -> None:
    """It replaces and restarts dockerd and the runtime of the instances, so it waits until the host has left."""
    boot = lab.boot_of("app1")
    fleet.site.ssh("app1", NEXT_ENGINE)
    try:
        ok(fleet.site.fiefdom("reboot", fleet.inventory(), "--upgrade", "--limit", "app1"))
    finally:
        fleet.site.ssh("app1", "rm -r /srv/engine /etc/apt/sources.list.d/engine.list")
    assert fleet.site.ssh("app1", "dpkg-query -W -f '${Version}' docker.io").endswith("+fiefdom1")
    assert lab.boot_of("app1") != boot
    assert fleet.all_serve(fleet.version)
    assert fleet.site.plan(fleet.inventory())[0] == 0


@pytest.mark.proof  # a rolling reboot is everyday's
@pytest.mark.parametrize("name", ["app1", "app2", "app3"])
def test_systemctl_reboot_of(fleet: Fleet, hears_nothing: Load, name: str) -> None:
    boot = lab.boot_of(name)
    fleet.site.ssh(name, "systemctl reboot", check=False)
    await_true(lambda: lab.boot_of(name) != boot, what=f"a new boot of {name}")
    lab.await_booted([name])
    fleet.site.await_serving(fleet.inventory())


@pytest.mark.proof  # test_offers has it of all app hosts, and test_faults of a dockerd that is killed
@pytest.mark.parametrize("name", ["app1", "gw1"])
def test_dockerd_restarted_on(fleet: Fleet, hears_nothing: Load, name: str) -> None:
    containers = "docker ps --format '{{.Names}}' | sort | xargs docker inspect --format '{{.Name}} {{.State.Pid}}'"
    before = fleet.site.ssh(name, containers)
    fleet.site.ssh(name, "systemctl restart docker")
    fleet.site.await_serving(fleet.inventory())
    assert fleet.site.ssh(name, containers) == before


@pytest.mark.proof
def test_an_agent_restarted_within_a_second_with_other_tags(fleet: Fleet, hears_nothing: Load) -> None:
    """Serf sends no event then, so the gateway has to look by itself."""
    tags = "docker exec serf-agent serf members -name app1 -format json"

    def crash(edit: str) -> None:
        """The agent alone, without the farewell that its unit would send; another offer stands there by then."""
        said = "/run/fiefdom/offers/*.offer /run/fiefdom/offers/tags.json"
        fleet.site.ssh("app1", f"sed -i '{edit}' {said} && docker restart -t 0 serf-agent")

    crash("s/;8000-8003/;8000-8002/")
    await_true(lambda: "8000-8002" in fleet.site.ssh("app1", tags, check=False), what="other tags")
    await_true(lambda: "app1:8003" not in fleet.site.rotation(fleet.inventory()), what="app1:8003 out of rotation")
    crash("s/;8000-8002/;8000-8003/")
    fleet.site.await_serving(fleet.inventory())


@pytest.mark.proof  # test_gateway_container has it of one gateway
def test_serf_restarted_on_the_gateway(fleet: Fleet, hears_nothing: Load) -> None:
    fleet.site.ssh("gw1", "pkill -9 -x serf")
    await_true(lambda: fleet.site.status(fleet.inventory())["problems"] == [], what="Serf back")
    fleet.site.await_serving(fleet.inventory())


@pytest.mark.proof  # test_gateway_container has it of one gateway
def test_haproxys_static_configuration_changes(fleet: Fleet, hears_nothing: Load) -> None:
    fleet.settings["gateway"] = {"client_timeout_s": 55, "balance": "leastconn"}
    ok(fleet.site.fiefdom("apply", fleet.inventory(), "--yes"))
    assert "balance leastconn" in fleet.site.ssh("gw1", "cat /var/lib/fiefdom/gateway/haproxy.cfg")
    fleet.settings.clear()
    ok(fleet.site.fiefdom("apply", fleet.inventory(), "--yes"))


@pytest.mark.proof  # test_gateway_container has it of one gateway
def test_the_gateways_container_is_replaced(fleet: Fleet, hears_nothing: Load) -> None:
    """Port 80 never refuses a connection; twice, for the second one takes the sockets of one that took them itself."""
    for memory_mib in (600, 512):
        before = fleet.site.ssh("gw1", "docker inspect -f '{{.Id}}' gateway")
        fleet.settings["gateway"] = {"memory_mib": memory_mib}
        ok(fleet.site.fiefdom("apply", fleet.inventory(), "--yes"))
        assert fleet.site.ssh("gw1", "docker inspect -f '{{.Id}}' gateway") != before
        fleet.site.await_serving(fleet.inventory())
    fleet.settings.clear()


@pytest.mark.proof
def test_a_release_is_refused_where_it_would_do_harm(fleet: Fleet) -> None:
    inventory = fleet.inventory("1.9.8")
    before = fleet.versions()

    def refusal(*arguments: str) -> str:
        done = fleet.site.fiefdom("rollout", *arguments)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stdout + done.stderr
        return done.stderr

    assert "no service of this inventory" in refusal(inventory, "nosuch")
    assert "runs no predictor" in refusal(inventory, "--canary", "gw1")
    assert "--all-at-once" in refusal(inventory, "--batch", "3")
    assert "--batch" in refusal(inventory, "--batch", "none")
    unbuilt = fleet.inventory("7.7.7", image="fiefdom-test/nosuch", build=None)
    assert "is not on this machine" in refusal(unbuilt)
    unknown = fleet.site.fiefdom("rollback", inventory, "predictor", "9.9.9", "--json", "--yes")
    assert unknown.returncode == 1 and unknown.stderr.count("\n") == 1, unknown.stdout + unknown.stderr
    assert "predictor:9.9.9 is not on this machine, and app1, app2, app3 lack it as well" in unknown.stderr
    assert json.loads(unknown.stdout)["outcome"] == "refused"
    ok(fleet.site.fiefdom("lock", inventory, "--why", "the audit of the year"))
    assert "the audit of the year" in refusal(inventory)
    fleet.settings["serf"] = {"key_file": str(lab.lab_root() / "gossip.key"), "memory_mib": 96}
    beside = Path(fleet.inventory("1.9.6")).with_suffix(".py")
    beside.write_text((ROOT / "inventories/lab.py").read_text())
    done = fleet.site.run("pyinfra", "--yes", str(beside), "deploys/site.py")
    assert done.returncode != 0 and "the audit of the year" in done.stdout + done.stderr
    fleet.settings.clear()
    ok(fleet.site.fiefdom("unlock", inventory))
    fleet.site.ssh("app2", "systemctl stop fiefdom-predictor@8001")
    assert "predictor at app2:8001" in refusal(inventory)
    fleet.site.ssh("app2", "systemctl start fiefdom-predictor@8001")
    fleet.site.await_serving(inventory)
    assert fleet.versions() == before
    acts = json.loads(ok(fleet.site.fiefdom("audit", inventory, "--json")))["acts"]
    assert [act["what"] for act in acts[-2:]] == ["lock", "unlock"]


def test_a_host_retires(_fleet: Fleet) -> None:
    """The last test with three hosts: the third one leaves under traffic, and is what it was before Fiefdom."""
    before = _fleet.site.ssh("app3", LOOK)
    assert before != _fleet.found
    assert "container predictor-8000" in ok(_fleet.site.fiefdom("retire", _fleet.inventory(), "app3", "--dry"))
    assert _fleet.site.ssh("app3", LOOK) == before
    with Load(URL, at_least=AT_LEAST) as load:
        ok(_fleet.site.fiefdom("retire", _fleet.inventory(), "app3", "--yes"))
    tell("a host retired", load)
    assert load.failed == 0, load.report()
    folders = "/etc/fiefdom /var/lib/fiefdom /etc/systemd/system"
    find = f"docker ps -aq; ls {folders} 2>/dev/null | grep -i -e serf -e predictor || :"
    assert _fleet.site.ssh("app3", find) == ""
    assert _fleet.site.ssh("app3", LOOK) == _fleet.found
    assert _fleet.site.ssh("app3", "ls -d /var/lib/fiefdom 2>&1 || :").endswith("No such file or directory")
    account = "getent passwd _fiefdom; getent group _fiefdom; ls /etc/sysusers.d/fiefdom.conf 2>/dev/null"
    assert _fleet.site.ssh("app3", account, check=False) == ""
    members = _fleet.site.ssh("gw1", "docker exec gateway serf members -format json")
    assert "app3" not in members
    lab.remove("app3")


def test_the_lab_goes_back_to_what_the_inventory_of_the_repository_says(first_converge: tuple[Site, str]) -> None:
    """Fewer instances and an older version: what the tests after this file begin with."""
    site, _ = first_converge
    with Load(URL, at_least=AT_LEAST) as load:
        site.apply(LAB_YAML)
        ok(site.fiefdom("rollout", LAB_YAML))
        site.await_serving()
    tell("four instances become two, and an older version", load)
    assert load.failed == 0, load.report()
    assert site.plan()[0] == 0
