"""Plans as tables: a state, what was found, what is to change; and that applying a plan leaves nothing to plan."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiefdom.converge import claims, differences, effect, plan, ports, steps, steps_script, turn_steps
from fiefdom.converge import steps as steps_module
from fiefdom.converge.change import Change
from fiefdom.converge.snapshot import FoundContainer, FoundFile, FoundUnit, Snapshot
from fiefdom.desired import docker, network, sshd
from fiefdom.desired.containers import CHECKS_LABEL, with_containers
from fiefdom.desired.state import (
    ANY_PACKAGE,
    Account,
    Container,
    Directory,
    File,
    HostState,
    Image,
    Offer,
    Package,
    Sysctl,
    Unit,
    spec_hash,
)
from fiefdom.errors import FiefdomError
from fiefdom.procedures import release
from helpers.simulated import LIVE, SimulatedHost

CONF = File("/etc/x.conf", b"x\n")
SECRET = File("/etc/secret", b"hunter2\n", mode=0o600, secret=True)
DAEMON = Unit("x.service", config=("/etc/x.conf",), on_change=("reload", "restart"), live=("nft", "list"))
IMAGE = "fiefdom/predictor:1.0.0"
INSTANCE = Container(
    "predictor-8000", "fiefdom-predictor@8000.service", "instance", IMAGE, ("--read-only",), version="1.0.0"
)
OFFER = Offer("predictor", "fiefdom-offer-predictor.service", "1.0.0;8000-8000", (INSTANCE.unit,))
AGENT = Container("serf-agent", "fiefdom-serf-agent.service", "agent", "fiefdom/serf:1", (), version="1")
FULL = HostState(
    hostname="app1",
    packages=(Package("curl"),),
    directories=(Directory("/etc/fiefdom"),),
    files=(CONF, SECRET, File("/etc/systemd/system/fiefdom-predictor@.service", b"[Unit]\n")),
    sysctls=(Sysctl("net.core.somaxconn", "4096"), Sysctl("net.ipv4.ip_local_port_range", "32768 60999")),
    units=(
        DAEMON,
        Unit("fiefdom-predictor@8000.service"),
        Unit("fiefdom-serf-agent.service"),
        Unit(OFFER.unit),
        Unit("old.service", False, False),
    ),
    images=(Image(IMAGE), Image("fiefdom/serf:1")),
    containers=(INSTANCE, AGENT),
    offers=(OFFER,),
)
IDENTITIES = {IMAGE: "context:abc"}


def bare() -> Snapshot:
    return Snapshot(0, "debian", "trixie", hostname="old", static_hostname="old")


def converged(state: HostState = FULL, identities: dict[str, str] = IDENTITIES) -> Snapshot:
    return apply_all(SimulatedHost(state, dict(identities))).now


def apply_all(host: SimulatedHost) -> SimulatedHost:
    wanted = plan.of_host("app1", host.state, copy.deepcopy(host.now), host.identities)
    for phase in steps.phases(wanted):
        host.take(phase)
    return host


def changes(state: HostState, now: Snapshot, identities: dict[str, str] = IDENTITIES) -> list[str]:
    wanted = plan.of_host("app1", state, now, identities)
    return [f"{c.sign} {c.kind} {c.name}: {c.why}" for c in wanted.changes]


def test_a_bare_host_needs_everything_in_a_stable_order() -> None:
    assert changes(FULL, bare()) == [
        "~ hostname app1: is old",
        "+ package curl: not installed",
        "+ directory /etc/fiefdom: mode 0755",
        "+ file /etc/secret: mode 0600",
        "+ file /etc/systemd/system/fiefdom-predictor@.service: mode 0644",
        "+ file /etc/x.conf: mode 0644",
        "~ sysctl net.core.somaxconn: unset -> 4096",
        "~ sysctl net.ipv4.ip_local_port_range: unset -> 32768 60999",
        "+ unit fiefdom-offer-predictor.service: enable",
        "+ unit fiefdom-predictor@8000.service: enable",
        "+ unit fiefdom-serf-agent.service: enable",
        "+ unit x.service: enable, start",
        f"+ image {IMAGE}: not on the host",
        "+ image fiefdom/serf:1: not on the host",
        f"+ container predictor-8000: image {IMAGE}",
        "+ container serf-agent: image fiefdom/serf:1",
        "+ offer predictor: 1.0.0 on 8000-8000",
        "~ record manifest: what Fiefdom made on this host",
    ]


def test_a_port_of_checks_stays_what_it_was_until_the_release() -> None:
    """What runs was started without one, or with another one, and gateways ask it until the host's turn."""

    def started_with(port: int | None) -> HostState:
        own = () if port is None else (f"--label={CHECKS_LABEL}={port}",)
        probe = f"http://10.1.0.21:{port or 8000}/health"
        changed = replace(INSTANCE, args=(*INSTANCE.args, *own), probe=probe, service="predictor")
        return replace(FULL, containers=(changed, AGENT))

    for before, after, distance, going in (
        (None, 9000, {}, ()),
        (9000, 9000, {"predictor": 1000}, ()),
        (9000, 9100, {"predictor": 1000}, (9000,)),
        (9000, None, {"predictor": 1000}, (9000,)),
    ):
        now, wanted = converged(started_with(before)), started_with(after)
        # Another version of the same, so that there is a release to wait for.
        other = replace(wanted.containers[0], image="fiefdom/predictor:2", version="2")
        wanted = replace(wanted, containers=(other, AGENT))
        instances = differences.of_instances(wanted, now, {})
        assert ports.running_checks(instances, now, {"predictor"}) == distance
        assert ports.running_checks(instances, now, ()) == {}
        assert ports.going_ports(wanted, now) == going
    gone = replace(FULL, containers=(AGENT,))
    now = converged(started_with(9000))
    assert ports.going_ports(gone, now) == (8000, 9000)
    # Nobody is sent to what is down, to what is no instance, or to somebody's own container.
    running = now.containers[INSTANCE.name]
    for other in (replace(running, running=False), replace(running, role="job"), replace(running, ours=False)):
        now.containers[INSTANCE.name] = other
        assert ports.going_ports(gone, now) == ()


@pytest.mark.parametrize(("config", "verbs"), [((CONF.path,), "reload,restart"), ((), "start")])
def test_a_unit_that_is_down_is_sure_to_read_its_configuration_when_it_comes_up(
    config: tuple[str, ...], verbs: str
) -> None:
    """Its package may have started it meanwhile, before its configuration was there: start would do nothing then."""
    state = HostState(files=(CONF,), units=(replace(DAEMON, config=config),))
    now = apply_all(SimulatedHost(state, {}, bare())).now
    now.units[DAEMON.name] = FoundUnit("loaded", "inactive", "dead", "enabled")
    (phase,) = steps.phases(plan.of_host("app1", state, now, {}))
    assert [step[:3] for step in phase.steps if step[0] == "unit"] == [("unit", DAEMON.name, verbs)]


def test_a_converged_host_needs_nothing() -> None:
    assert changes(FULL, converged()) == []


THEIRS = FoundFile("regular file", 0o644, 0, 0, "their digest")


def test_what_is_found_there_is_named_and_becomes_fiefdoms_own() -> None:
    state = HostState(files=(CONF, SECRET))
    now = replace(bare(), files={CONF.path: THEIRS, SECRET.path: replace(THEIRS, mode=0o600, digest=SECRET.digest)})
    replaced = f"~ file {CONF.path}: found there, replaced (kept in /var/lib/fiefdom/originals)"
    assert changes(state, now) == [replaced, "~ record manifest: what Fiefdom made on this host"]
    assert replaced.partition(": ")[2] in json.dumps(plan.merge([plan.of_host("app1", state, now, {})]).as_data())
    assert claims.claims(state, now) == {("file", CONF.path)}
    host = apply_all(SimulatedHost(state, now=now))
    # What only looks like Fiefdom's is the host's own, and goes on being so.
    assert host.now.made == {("file", CONF.path)}
    assert changes(state, host.now) == []
    host.now.files[CONF.path] = THEIRS
    assert changes(state, host.now) == [f"~ file {CONF.path}: content"]


def test_a_link_to_the_right_content_is_found_there_as_well() -> None:
    link = FoundFile("symbolic link", 0o777, 0, 0, CONF.digest)
    (change, _) = changes(HostState(files=(CONF,)), replace(bare(), files={CONF.path: link}))
    assert "found there, replaced" in change


def test_a_name_that_the_host_had_comes_back_when_fiefdom_goes() -> None:
    host = apply_all(SimulatedHost(HostState(hostname="app1")))
    assert changes(HostState(hostname="app1"), host.now) == []
    gone = plan.of_host("app1", HostState(), host.now, {})
    for step in turn_steps.farewell(gone, ("/etc/hosts", "/etc/hostname")):
        host.take_step(step)
    assert host.now.static_hostname == "old"


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_comes_back_is_told(by_hand: bool) -> None:
    now = replace(bare(), made=frozenset({("file", CONF.path)}), originals={CONF.path: by_hand})
    (change,) = changes(HostState(), now)
    assert change.startswith(f"- file {CONF.path}: no longer in the inventory, what was there before comes back")
    assert change.endswith("kept in /var/lib/fiefdom/originals.changed") is by_hand


FOUND = FoundFile("regular file", 0o644, 0, 0, CONF.digest)
DRIFTS = {
    "an edited file": (
        lambda n: n.files.update({"/etc/x.conf": replace(FOUND, digest="0")}),
        ["~ file /etc/x.conf: content", "~ unit x.service: restart: its configuration changes"],
    ),
    "a wrong mode": (
        lambda n: n.files.update({"/etc/x.conf": replace(FOUND, mode=0o666)}),
        ["~ file /etc/x.conf: mode 0666 -> 0644"],
    ),
    "a wrong owner": (
        lambda n: n.files.update({"/etc/x.conf": replace(FOUND, uid=5)}),
        ["~ file /etc/x.conf: owner 5:0 -> 0:0"],
    ),
    "a link in place of a file": (
        lambda n: n.files.update({"/etc/x.conf": FoundFile("symbolic link", 0o644, 0, 0, CONF.digest)}),
        ["~ file /etc/x.conf: content"],
    ),
    "a removed package": (lambda n: n.packages.clear(), ["+ package curl: not installed"]),
    "a changed sysctl": (
        lambda n: n.sysctls.update({"net/core/somaxconn": "128"}),
        ["~ sysctl net.core.somaxconn: 128 -> 4096"],
    ),
    "a stopped unit": (
        lambda n: n.units.update({"x.service": FoundUnit("loaded", "inactive", "dead", "enabled")}),
        ["~ unit x.service: start"],
    ),
    "a failed unit": (
        lambda n: n.units.update({"x.service": FoundUnit("loaded", "failed", "failed", "enabled")}),
        ["~ unit x.service: start again after its failure"],
    ),
    "a unit that its own condition keeps down": (
        lambda n: n.units.update(
            {"x.service": FoundUnit("loaded", "inactive", "dead", "enabled", condition_failed=True)}
        ),
        [],
    ),
    "a disabled unit": (
        lambda n: n.units.update({"x.service": FoundUnit("loaded", "active", "running", "disabled")}),
        ["~ unit x.service: enable"],
    ),
    "a restart that its run did not live to make": (
        lambda n: n.stamps.update({"x.service": f"older {LIVE}"}),
        ["~ unit x.service: restart: runs an older configuration"],
    ),
    "rules changed behind a unit's back": (
        lambda n: n.live.update({"x.service": "other"}),
        ["~ unit x.service: restart: changed behind its back"],
    ),
    "a stale unit file in systemd": (
        lambda n: n.units.update(
            {"fiefdom-predictor@8000.service": FoundUnit("loaded", "active", "running", "enabled", True)}
        ),
        ["~ unit fiefdom-predictor@8000.service: systemd has an older unit file loaded"],
    ),
    "a container made from an edited environment": (
        lambda n: n.container_stamps.update({"predictor-8000": f"{n.container_stamps['predictor-8000']} edited"}),
        ["-/+ container predictor-8000: made from an edited environment"],
    ),
    "a container started with another environment": (
        lambda n: n.containers.update({"predictor-8000": replace(n.containers["predictor-8000"], facts="others")}),
        ["-/+ container predictor-8000: started by hand with other settings"],
    ),
    "a container without our labels": (
        lambda n: n.containers.update({"predictor-8000": FoundContainer(True, "sha256:1", "", "", "", False, "f")}),
        ["-/+ container predictor-8000: started by hand"],
    ),
    "an older version": (
        lambda n: n.containers.update(
            {"predictor-8000": replace(n.containers["predictor-8000"], spec="old", version="0.9")}
        ),
        ["-/+ container predictor-8000: 0.9 -> 1.0.0"],
    ),
    "a stopped container": (
        lambda n: n.containers.update({"predictor-8000": replace(n.containers["predictor-8000"], running=False)}),
        ["~ container predictor-8000: not running"],
    ),
    "a container whose unit gave up": (
        lambda n: n.units.update(
            {"fiefdom-predictor@8000.service": FoundUnit("loaded", "failed", "failed", "enabled")}
        ),
        ["~ container predictor-8000: not running, its unit is failed"],
    ),
    "a container of ours that nobody asked for": (
        lambda n: n.containers.update({"predictor-8009": replace(n.containers["predictor-8000"])}),
        ["- container predictor-8009: no longer in the inventory"],
    ),
    "a file that the inventory no longer asks for": (
        lambda n: object.__setattr__(n, "made", n.made | {("file", "/etc/old.conf")}),
        ["- file /etc/old.conf: no longer in the inventory"],
    ),
    "a folder that the inventory no longer asks for": (
        lambda n: object.__setattr__(n, "made", n.made | {("directory", "/etc/old")}),
        ["- directory /etc/old: no longer in the inventory; stays if others have something in it"],
    ),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_is_seen_and_mended(name: str) -> None:
    spoil, expected = DRIFTS[name]
    now = converged()
    spoil(now)
    assert changes(FULL, now) == expected
    host = apply_all(SimulatedHost(FULL, IDENTITIES, now))
    assert changes(FULL, host.now) == []


DROP_IN = File(sshd.CONFIG, b"PasswordAuthentication no\n", mode=0o600, check=("sshd", sshd.CONFIG, "{}"))
YES = "PasswordAuthentication is yes for bob, wanted no: /etc/ssh/sshd_config line 12"


def test_a_drop_in_that_has_no_effect_is_drift_and_refused_before_anything_is_touched() -> None:
    state = HostState(files=(DROP_IN,))
    now = apply_all(SimulatedHost(state, {}, Snapshot(0, "debian", "trixie"))).now
    assert changes(state, now) == []
    broken = plan.of_host("app1", state, replace(now, sshd=(YES,)), {})
    assert [(c.sign, c.name, c.why) for c in broken.changes] == [("~", sshd.CONFIG, f"without effect: {YES}")]
    with pytest.raises(
        FiefdomError, match=r"^app1: .*10-fiefdom.conf has no effect there: PasswordAuth.* line 12; take"
    ):
        effect.require("app1", broken.state, broken.snapshot)
    # Nobody else is asked of it: a host whose sshd is not spoken of.
    effect.require("app1", HostState(), replace(now, sshd=(YES,)))


def test_logins_that_a_change_of_sshd_ends_are_named() -> None:
    loses = {"carol": "password", "bob": "password key"}
    now = Snapshot(0, "debian", "trixie", loses=loses)
    (change, *_) = plan.of_host("app1", HostState(files=(DROP_IN,)), now, {}).of("file")
    assert change.why == "mode 0600, ends the login of bob (by password key), carol (by password)"


def test_tunnels_that_a_change_of_sshd_ends_are_named_with_the_key_that_keeps_them() -> None:
    now = Snapshot(0, "debian", "trixie", unforwarded={"dave": "no", "bob": "no", "carol": "local"})
    (change, *_) = plan.of_host("app1", HostState(files=(DROP_IN,)), now, {}).of("file")
    assert change.why == (
        "mode 0600, ends tunnels of bob, dave, unless ssh.tcp_forwarding keeps them, ends tunnels to the operator "
        "(ssh -R) of carol, unless ssh.tcp_forwarding keeps them"
    )


@pytest.mark.parametrize(
    ("stands", "told"),
    [
        ({}, ""),
        ({"net.core.somaxconn": "/etc/sysctl.d/99-x.conf"}, "; at the next boot /etc/sysctl.d/99-x.conf sets it again"),
        ({"net/core/*": "/etc/sysctl.d/99-x.conf"}, "; at the next boot /etc/sysctl.d/99-x.conf sets it again"),
        ({"net.core.rmem_max": "/etc/sysctl.d/99-x.conf"}, ""),
    ],
)
def test_a_setting_that_another_file_sets_again_at_boot_is_told_with_that_file(
    stands: dict[str, str], told: str
) -> None:
    now = converged()
    now.sysctls["net/core/somaxconn"] = "128"
    assert changes(FULL, replace(now, sysctls_by=stands)) == [f"~ sysctl net.core.somaxconn: 128 -> 4096{told}"]


DAEMON_JSON = File(docker.CONFIG, b'{"bip": "172.31.255.1/24"}\n', precedes="docker.io")
DOCKERD = Unit(docker.UNIT, config=(docker.CONFIG,), on_change=("reload", "restart"))
WITH_DOCKER = HostState(packages=(Package("docker.io"),), files=(DAEMON_JSON,), units=(DOCKERD,))


def test_dockerd_finds_its_networks_when_its_package_starts_it() -> None:
    phases = steps.phases(plan.of_host("app1", WITH_DOCKER, Snapshot(0, "debian", "trixie"), {}))
    (packages,) = [p for p in phases if p.name == "packages"]
    verbs = [step[:3] if step[0] == "record" else step[:2] for step in packages.steps]
    # Noted before it is made; what is there already, or brings no daemon, is not hurried.
    assert verbs == [
        ("record", "file", docker.CONFIG),
        ("stage", docker.CONFIG),
        ("place", docker.CONFIG),
        ("packages", "docker.io"),
    ]
    here = Snapshot(0, "debian", "trixie", packages={"docker.io": "1"})
    assert [p.name for p in steps.phases(plan.of_host("app1", WITH_DOCKER, here, {}))] == ["files"]


def test_what_is_recorded_and_kept_of_one_host_is_so_in_one_stroke() -> None:
    taken = [
        ("guard", "begin"),
        *(("guard", "keep", "file", path) for path in ("/a", "/b")),
        ("guard", "keep", "unit", "x.service"),
        ("guard", "arm", "1", "60"),
        ("record", "file", "/a"),
        ("record", "brought", "web:1"),
        ("place", "/a"),
        ("record", "unit", "x.service"),
        ("keep", "file", "/a"),
        ("keep", "file", "/b"),
    ]
    assert steps_script.steps_text(taken).splitlines() == [
        "guard\tbegin",
        "guard\tkeep\tfile\t/a\tfile\t/b\tunit\tx.service",
        "guard\tarm\t1\t60",
        "record\tfile\t/a\tbrought\tweb:1",
        "place\t/a",
        "record\tunit\tx.service",
        "keep\tfile\t/a",
        "keep\tfile\t/b",
        "end",
    ]


def test_what_comes_before_any_package_does_so_only_where_one_comes() -> None:
    proxy = File("/etc/apt/apt.conf.d/zz-fiefdom-proxy", b"x\n", precedes=ANY_PACKAGE)
    state = HostState(packages=(Package("curl"), Package("nftables")), files=(proxy,))
    packages, files = steps.phases(plan.of_host("app1", state, Snapshot(0, "debian", "trixie"), {}))
    assert [step[0] for step in packages.steps] == ["record", "stage", "place", "packages"]
    assert (packages.name, packages.steps[-1], files.name) == ("packages", ("packages", "curl", "nftables"), "files")
    here = Snapshot(0, "debian", "trixie", packages={"curl": "1", "nftables": "1"})
    assert [p.name for p in steps.phases(plan.of_host("app1", state, here, {}))] == ["files"]


def test_a_proxy_that_is_no_longer_wanted_goes_before_a_package_would_come_through_it() -> None:
    here = Snapshot(
        0,
        "debian",
        "trixie",
        files={network.APT: THEIRS},
        made=frozenset({("file", network.APT)}),
    )
    wanted = plan.of_host("app1", HostState(packages=(Package("curl"),)), here, {})
    going = [("remove-file", network.APT), ("forget", "file", network.APT)]
    packages, *others = steps.phases(wanted)
    assert [*packages.steps] == [*going, ("packages", "curl")]
    assert not any(step in going for phase in others for step in phase.steps), "once"
    (removal,) = steps.phases(plan.of_host("app1", HostState(), here, {}))
    assert (removal.name, [*removal.steps]) == ("removal", going)


@pytest.mark.parametrize(
    ("precedes", "packages", "verbs"),
    [
        ("docker.io", {}, "enable,start"),
        ("docker.io", {"docker.io": "1"}, "enable,reload,restart"),  # who knows what it began with
        ("", {}, "enable,reload,restart"),
    ],
)
def test_what_its_package_starts_with_its_configuration_is_not_started_again(
    precedes: str, packages: dict[str, str], verbs: str
) -> None:
    state = replace(WITH_DOCKER, files=(replace(DAEMON_JSON, precedes=precedes),))
    wanted = plan.of_host("app1", state, Snapshot(0, "debian", "trixie", packages=packages), {})
    found = [step for phase in steps.phases(wanted) for step in phase.steps if step[:2] == ("unit", docker.UNIT)]
    assert found == [("unit", docker.UNIT, verbs, state.stamp((docker.CONFIG,)), "")]


@pytest.mark.parametrize(
    ("docker_is", "networks", "guarded"),
    [
        ("absent", b"", False),  # it starts on what is refused where the operator is in it
        ("up", b"", True),
        ("down", b"", True),
        ("up", b'{"bip":"172.31.254.1/24"}', True),
        ("up", b'{"default-address-pools":[{"base":"10.0.0.0/8","size":24}],"bip":"172.31.255.1/24"}', True),
        ("up", b'{"log-level":"warn",\n  "bip" : "172.31.255.1/24"}', False),
    ],
)
def test_only_other_networks_of_docker_could_cut_the_line(docker_is: str, networks: bytes, guarded: bool) -> None:
    now = Snapshot(0, "debian", "trixie", docker=docker_is, docker_networks=docker.networks(networks))
    wanted = plan.of_host("app1", replace(WITH_DOCKER, packages=()), now, {})
    found = steps.phases(wanted)
    phases = [p for p in found if ("place", docker.CONFIG) in p.steps]
    assert phases == [p for p in found if any(step[:2] == ("unit", docker.UNIT) for step in p.steps)]
    assert [p.name for p in phases] == ["access" if guarded else "files"]
    kept = phases[0].guarded
    assert (kept is not None) == guarded
    if kept:
        assert kept.about == "docker"
        assert {("file", docker.CONFIG), ("unit", docker.UNIT)} <= set(kept.items)


def test_a_change_of_sshd_is_looked_at_when_it_is_live_and_before_it_may_be_confirmed() -> None:
    wanted = plan.of_host("app1", HostState(files=(DROP_IN,)), Snapshot(0, "debian", "trixie"), {})
    (access,) = [p for p in steps.phases(wanted) if p.name == "access"]
    verbs = [step[:2] for step in access.steps]
    assert verbs.index(("place", sshd.CONFIG)) < verbs.index(("holds", sshd.CONFIG)) < verbs.index(("guard", "applied"))


def test_a_container_of_somebody_elses_is_refused_and_ours_that_was_started_by_hand_is_mended() -> None:
    now = converged()
    now.containers["predictor-8000"] = FoundContainer(True, "sha256:1", "", "", "", False, "f")
    assert "-/+ container predictor-8000: started by hand" in changes(FULL, now)
    strangers = replace(now, made=now.made - {("container", "predictor-8000")})
    with pytest.raises(
        FiefdomError, match=r"^app1: a container predictor-8000 is there that Fiefdom did not make; give"
    ):
        plan.of_host("app1", FULL, strangers, IDENTITIES)


def test_a_file_that_its_reader_refused_is_drift_until_it_is_another_one() -> None:
    now = converged()
    now.refused[CONF.path] = f"{CONF.digest} line 3"
    wanted = plan.of_host("app1", FULL, now, IDENTITIES)
    (change,) = wanted.changes
    assert (change.kind, change.name, change.why) == ("file", CONF.path, "refused, the last good one runs: line 3")
    # Placed again, whoever waits for its reader to take it up hears of it.
    assert ("place", CONF.path) in [step[:2] for phase in steps.phases(wanted) for step in phase.steps]
    now.refused[CONF.path] = f"{SECRET.digest} line 3"
    assert changes(FULL, now) == []


def test_a_new_build_of_an_image_replaces_its_containers_in_one_run() -> None:
    now, rebuilt = converged(), {IMAGE: "context:def"}
    assert changes(FULL, now, rebuilt) == [
        f"~ image {IMAGE}: abc -> def",
        "-/+ container predictor-8000: new image",
    ]
    assert changes(FULL, apply_all(SimulatedHost(FULL, rebuilt, now)).now, rebuilt) == []


def test_a_host_leaves_before_a_running_instance_is_replaced_and_joins_last() -> None:
    now = converged()
    changed = replace(FULL, containers=(replace(INSTANCE, args=("--memory=1g",)), AGENT))
    host = apply_all(SimulatedHost(changed, IDENTITIES, now))
    assert turned(host) == [
        ("rest", OFFER.unit),
        ("containers", "stop", OFFER.unit),
        ("instances", "fiefdom-predictor@8000.service"),
        ("offer", "start", OFFER.unit, "fiefdom-predictor@8000.service"),
    ]


def turned(host: SimulatedHost) -> list[steps_script.Step]:
    return [step for step in host.log if step[0] in ("rest", "containers", "instances", "offer")]


def test_an_agent_that_is_replaced_takes_nothing_of_its_offers_away() -> None:
    changed = replace(FULL, containers=(INSTANCE, replace(AGENT, args=("--memory=1g",))))
    host = apply_all(SimulatedHost(changed, IDENTITIES, converged()))
    assert turned(host) == [
        ("rest", AGENT.unit),
        ("containers", "stop", AGENT.unit),
        ("containers", "restart", AGENT.unit),
    ]


def test_another_word_is_said_of_what_stays_in_rotation() -> None:
    changed = replace(FULL, offers=(replace(OFFER, word="1.0.0;8000-8001"),))
    host = SimulatedHost(changed, IDENTITIES, converged())
    assert changes(changed, host.now) == ["~ offer predictor: 1.0.0 on 8000-8000 -> 1.0.0 on 8000-8001"]
    assert turned(apply_all(host)) == [("offer", "reload", OFFER.unit, "fiefdom-predictor@8000.service")]
    assert host.now.offers == {"predictor": "1.0.0;8000-8001"}


@pytest.mark.parametrize(
    ("unit", "why"),
    [
        ({"active": "failed", "says": "not offered: none of its 1 instances answers"}, None),
        ({"active": "inactive"}, "not made, its unit is inactive"),
        ({"active": "activating", "says": "waits for its instances"}, "waits for its instances"),
    ],
)
def test_an_offer_that_is_not_made_is_told_with_the_reason_of_its_unit(unit: dict[str, str], why: str | None) -> None:
    now = converged()
    now.offers.clear()
    now.units[OFFER.unit] = replace(now.units[OFFER.unit], **unit)
    assert changes(FULL, now) == [f"~ offer predictor: {why or unit['says']}"]
    assert turned(apply_all(SimulatedHost(FULL, IDENTITIES, now))) == [
        ("offer", "start", OFFER.unit, "fiefdom-predictor@8000.service")
    ]


def test_an_offer_goes_before_its_instances_and_these_before_the_agent() -> None:
    gone = HostState(files=FULL.files, packages=FULL.packages)
    now = converged()
    now = replace(now, made=now.made | {("unit", OFFER.unit), ("unit", AGENT.unit), ("unit", INSTANCE.unit)})
    host = apply_all(SimulatedHost(gone, IDENTITIES, now))
    assert [step[1] for step in host.log if step[0] == "remove-unit"] == [OFFER.unit, AGENT.unit, INSTANCE.unit]
    assert host.now.offers == {}


@pytest.mark.parametrize("goes", [False, True])
def test_a_units_package_stays_and_the_unit_ends_where_it_is_said_to(goes: bool) -> None:
    """Before its files go, for what ends it may be one of them."""
    conf = File("/etc/mover.conf", b"x")
    unit = Unit("mover.service", config=(conf.path,), goes=goes)
    before = HostState(files=(conf,), packages=(Package("mover"),), units=(unit,))
    host = apply_all(SimulatedHost(HostState(), now=apply_all(SimulatedHost(before, now=bare())).now))
    gone = [step for step in host.log if step[0] in ("remove-unit", "remove-file")]
    assert gone == [("remove-unit", unit.name)] * goes + [("remove-file", conf.path)]
    assert changes(HostState(), host.now) == []


def test_an_agent_that_is_no_longer_wanted_does_not_come_back() -> None:
    changed = replace(INSTANCE, args=("--memory=1g",))
    kept = tuple(u for u in FULL.units if u.name not in (AGENT.unit, OFFER.unit))
    unwanted = replace(FULL, containers=(changed,), units=kept, offers=())
    host = apply_all(SimulatedHost(unwanted, IDENTITIES, converged()))
    assert ("remove-unit", AGENT.unit) in host.log
    assert not [step for step in host.log if step[0] == "rest"]


def test_files_are_all_staged_and_checked_before_the_first_is_placed() -> None:
    checked = replace(CONF, check=("sshd", "-t", "-f", "{}"))
    host = apply_all(SimulatedHost(HostState(files=(checked, SECRET))))
    assert [step[0] for step in host.log] == ["record", "record", "stage", "stage", "check", "place", "place"]


def test_only_a_whole_state_removes_what_it_does_not_name() -> None:
    part = HostState(files=(CONF,))
    assert plan.of_host("app1", part, converged(), {}, complete=False).changes == ()
    assert plan.of_host("app1", part, converged(), {}).changes != ()


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [
        (Snapshot(0, "ubuntu", "noble"), "app1: is ubuntu noble; Fiefdom converges Debian 12"),
        (Snapshot(0, "debian", "bullseye"), "app1: is debian bullseye"),
        (Snapshot(1000, "debian", "trixie"), "app1: the login user is neither root nor allowed to use sudo"),
    ],
)
def test_hosts_that_cannot_be_converged_are_refused(snapshot: Snapshot, words: str) -> None:
    with pytest.raises(FiefdomError) as error:
        plan.require_supported("app1", snapshot)
    assert str(error.value).startswith(words)


def test_a_folder_in_place_of_a_file_is_refused() -> None:
    now = bare()
    now.files["/etc/x.conf"] = FoundFile("directory", 0o755, 0, 0)
    with pytest.raises(FiefdomError, match=r"^app1: /etc/x\.conf is a folder"):
        plan.of_host("app1", FULL, now, {})


def test_neither_hash_nor_data_of_a_plan_depend_on_a_secret() -> None:
    def with_secret(content: bytes) -> plan.Plan:
        state = replace(FULL, files=(CONF, replace(SECRET, content=content)))
        return plan.merge([plan.of_host("app1", state, bare(), {})])

    one, two = with_secret(b"hunter2"), with_secret(b"correct horse")
    assert one.hash == two.hash
    assert "hunter2" not in f"{one}{one.as_data()}"


def test_the_hash_depends_on_content() -> None:
    def with_content(content: bytes) -> plan.Plan:
        return plan.merge([plan.of_host("app1", HostState(files=(replace(CONF, content=content),)), bare(), {})])

    assert with_content(b"1").hash == with_content(b"1").hash != with_content(b"2").hash


def test_spec_hash_covers_config_files() -> None:
    state = HostState(files=(CONF,))
    container = replace(INSTANCE, config=(CONF.path,))
    assert spec_hash(container, state) != spec_hash(container, HostState(files=(replace(CONF, mode=0o600),)))


# --- What is a rollout's to make

HELD = {"predictor"}


def serving(version: str = "1.0.0", count: int = 3, image: str = "fiefdom/predictor", **more: object) -> HostState:
    """Instances of `predictor` with all that they are made from, and an agent."""
    state = HostState(
        units=(
            *(Unit(f"fiefdom-predictor@{8000 + i}.service") for i in range(count)),
            Unit("fiefdom-serf-agent.service"),
            Unit(OFFER.unit),
        ),
        images=(Image(f"{image}:{version}"), Image(AGENT.image)),
        offers=(replace(OFFER, word=f"{version};8000-{7999 + count}"),),
    )
    instances = [
        replace(
            INSTANCE,
            name=f"predictor-{8000 + i}",
            unit=f"fiefdom-predictor@{8000 + i}.service",
            image=f"{image}:{version}",
            config=(f"/etc/fiefdom/containers/predictor-{8000 + i}.env",),
            version=version,
            service="predictor",
            **more,
        )
        for i in range(count)
    ]
    files = tuple(File(c.config[0], f"V={version}\n".encode(), mode=0o600, secret=True) for c in instances)
    return with_containers(replace(state, files=files), *instances, AGENT)


def held(state: HostState, host: SimulatedHost, hold: set[str] = HELD) -> plan.HostPlan:
    instances = differences.of_instances(state, host.now, host.identities)
    for version in plan.running_versions(instances, host.now, hold).values():
        # What a host says of itself until its release: see `look.plan_of`.
        offers = tuple(replace(o, word=f"{version};{o.word.partition(';')[2]}") for o in state.offers)
        state = replace(state, offers=offers)
    return plan.of_host("app1", state, copy.deepcopy(host.now), host.identities, hold=hold)


def shown(changes: tuple[Change, ...]) -> list[str]:
    return [f"{c.sign} {c.kind} {c.name.rpartition('/')[2]}" for c in changes]


def on(state: HostState) -> SimulatedHost:
    host = apply_all(SimulatedHost(state, {}))
    host.now = replace(host.now, docker="up")
    return host


OTHERS = {
    "another version": serving("2.0.0"),
    "other settings": serving(args=("--memory=1g",)),
    "another image": serving(image="fiefdom/other"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_would_replace_healthy_instances_is_pending_with_all_it_is_made_from(name: str) -> None:
    found = held(OTHERS[name], on(serving()))
    assert found.due.changes == ()
    assert {c.name for c in found.of("container")} == {"predictor-8000", "predictor-8001", "predictor-8002"}
    assert {c.release for c in found.changes} == HELD
    assert {c.name.rpartition("/")[2] for c in found.of("file")} >= {"predictor-8000.conf"}
    assert found.pending == {"predictor": ("1.0.0", OTHERS[name].containers[0].version)}


def test_an_instance_that_was_started_by_hand_is_pending() -> None:
    host = on(serving())
    host.now.containers["predictor-8001"] = FoundContainer(True, "sha256:1", "", "", "", False, "f")
    found = held(serving(), host)
    assert (shown(found.changes), shown(found.due.changes)) == (["-/+ container predictor-8001"], [])


def test_what_is_down_beside_healthy_siblings_comes_back_as_what_they_are() -> None:
    host, wanted = on(serving()), serving("2.0.0")
    host.containers("stop", "fiefdom-predictor@8001.service")
    found = held(wanted, host)
    assert shown(found.due.changes) == ["~ container predictor-8001"]
    host.state = wanted
    for phase in steps.phases(found.due):
        host.take(phase)
    assert {c.version for n, c in host.now.containers.items() if n.startswith("predictor")} == {"1.0.0"}
    assert held(wanted, host).due.changes == ()


def test_where_no_sibling_is_healthy_apply_replaces_them() -> None:
    host = on(serving())
    host.containers("stop", *(f"fiefdom-predictor@{8000 + i}.service" for i in range(3)))
    found = held(serving("2.0.0"), host)
    assert found.due == found and len(found.of("container", "-/+")) == 3


def test_more_instances_come_with_their_image_and_fewer_go_at_once() -> None:
    more = held(serving("2.0.0", count=4), on(serving()))
    assert shown(more.due.of("container", "+")) == ["+ container predictor-8003"]
    assert shown(more.due.of("image")) == ["+ image predictor:2.0.0"]
    assert {c.name for c in more.due.of("file", "~")} == set()
    fewer = held(serving("2.0.0", count=2), on(serving()))
    assert shown(fewer.due.of("container")) == ["- container predictor-8002"]


def test_a_service_that_is_not_held_is_replaced() -> None:
    assert held(serving("2.0.0"), on(serving()), hold={"web"}).pending == {}
    assert len(held(serving("2.0.0"), on(serving()), hold={"web"}).due.of("container", "-/+")) == 3


def test_while_dockerd_is_down_nothing_changes_what_its_containers_are_made_from() -> None:
    host = on(serving())
    host.now = replace(host.now, docker="down")
    found = held(serving("2.0.0"), host)
    assert [c for c in found.changes if c.kind in ("file", "image", "container")] == []


def test_a_pending_release_is_in_hash_and_data_but_not_in_the_counts() -> None:
    whole = plan.merge([held(serving("2.0.0"), on(serving()))])
    assert not whole.clean and whole.due.clean
    assert set(whole.counts.values()) == {0}
    data = whole.as_data()
    assert data["pending"] == [{"service": "predictor", "from": "1.0.0", "to": "2.0.0", "hosts": ["app1"]}]
    assert {c["release"] for c in data["hosts"]["app1"]} == HELD  # type: ignore[index]
    unheld = plan.merge([held(serving("2.0.0"), on(serving()), hold=set())])
    assert whole.hash != unheld.hash != whole.due.hash
    json.dumps(data)


sizes = st.integers(1, 3)
choices = st.builds(serving, version=st.sampled_from(["1.0.0", "2.0.0"]), count=sizes)


@pytest.mark.long
@given(before=choices, after=choices, down=st.sets(st.integers(8000, 8002)), by_hand=st.sets(st.integers(8000, 8002)))
@settings(max_examples=100, deadline=None)
def test_apply_leaves_exactly_what_is_pending_and_a_turn_leaves_nothing(
    before: HostState, after: HostState, down: set[int], by_hand: set[int]
) -> None:
    host = on(before)
    for port in down:
        if f"predictor-{port}" in host.now.containers:
            host.containers("stop", f"fiefdom-predictor@{port}.service")
    for port in by_hand:
        if found := host.now.containers.get(f"predictor-{port}"):
            host.now.containers[f"predictor-{port}"] = replace(found, ours=False, spec="", version="")
    wanted = held(after, host)
    waiting = {c.name for c in wanted.changes if c.release and c.kind == "container"}
    host.state = wanted.state
    for phase in steps.phases(wanted.due):
        host.take(phase)
    left = held(after, host)
    assert left.due.changes == ()
    assert {c.name for c in left.of("container")} <= waiting
    turn = release.release_of(held(after, host, hold=set()), HELD)
    host.state = after
    if turn.changes:
        host.take(steps.Phase("images", images=tuple(c.name for c in turn.of("image"))))
        for step in turn_steps.turn(turn):
            host.take_step(step)
    assert held(after, host, hold=set()).changes == ()


names = st.sampled_from(["a", "b", "c", "d"])
files = st.builds(
    File,
    path=names.map("/etc/{}".format),
    content=st.binary(max_size=20),
    mode=st.sampled_from([0o644, 0o600, 0o755]),
    uid=st.sampled_from([0, 990]),
)
owners = st.sampled_from([(0, 0), (990, 990), (65530, 65530)])
units = st.builds(
    Unit,
    name=names.map("{}.service".format),
    enabled=st.booleans(),
    active=st.booleans(),
    on_change=st.sampled_from([("restart",), ("reload",), ("reload", "restart")]),
    live=st.sampled_from([(), ("nft", "list")]),
)


@st.composite
def states(draw: st.DrawFn) -> HostState:
    """Any state whose names are each used once, with units that read some of its files."""
    chosen = draw(st.lists(files, unique_by=lambda f: f.path, max_size=4))
    paths = tuple(f.path for f in chosen)
    with_config = [
        replace(u, config=draw(st.sampled_from([(), paths])) if paths else ())
        for u in draw(st.lists(units, unique_by=lambda u: u.name, max_size=3))
    ]
    instances = draw(st.sets(st.integers(8000, 8004), max_size=3))
    accounts = draw(st.sampled_from([(), (Account("web", 65530, "/etc/sysusers.d/web.conf"),)]))
    containers = [
        replace(INSTANCE, name=f"p-{p}", unit=f"p@{p}.service", args=(draw(st.sampled_from(["-x", "-y"])),))
        for p in sorted(instances)
    ]
    return HostState(
        hostname=draw(st.sampled_from([None, "app1", "app2"])),
        packages=tuple(Package(n) for n in draw(st.sets(names))),
        directories=tuple(
            Directory(f"/var/{n}", 0o750, *draw(owners), draw(st.booleans())) for n in draw(st.sets(names))
        ),
        files=(*chosen, *(File(a.entry, b"u\n") for a in accounts)),
        accounts=accounts,
        sysctls=tuple(Sysctl(f"net.{n}", draw(st.sampled_from(["0", "1"]))) for n in draw(st.sets(names))),
        units=(*with_config, *(Unit(c.unit) for c in containers)),
        images=(Image(IMAGE),) if containers else (),
        containers=(*containers, *((AGENT,) if containers else ())),
    ) + HostState(images=(Image(AGENT.image),) if containers else ())


@pytest.mark.long
@given(before=states(), after=states())
@settings(max_examples=300, deadline=None)
def test_applying_a_plan_leaves_nothing_to_plan(before: HostState, after: HostState) -> None:
    now = apply_all(SimulatedHost(before, dict(IDENTITIES))).now
    host = apply_all(SimulatedHost(after, dict(IDENTITIES), now))
    assert changes(after, host.now) == []


@pytest.mark.long
@given(before=states(), after=states(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_run_that_dies_anywhere_is_finished_by_the_next(
    before: HostState, after: HostState, data: st.DataObject
) -> None:
    uninterrupted = apply_all(SimulatedHost(after, dict(IDENTITIES), converged(before))).now
    host = SimulatedHost(after, dict(IDENTITIES), converged(before))
    phases = steps_module.phases(plan.of_host("app1", after, copy.deepcopy(host.now), IDENTITIES))
    steps = [(p, s) for p in phases for s in (p.steps or ((),))]
    for phase, step in steps[: data.draw(st.integers(0, len(steps)))]:
        host.take(replace(phase, steps=(step,) if step else (), images=phase.images if not step else ()))
    host.staged.clear()
    assert changes(after, apply_all(host).now) == []
    assert host.now == uninterrupted
