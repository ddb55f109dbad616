"""The order in which hosts change: side by side where nobody notices, in turn where a host may serve less."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from fiefdom.converge import carry_out as carry_out_module
from fiefdom.converge import claims, plan, steps
from fiefdom.converge.change import Change
from fiefdom.converge.snapshot import FoundContainer, Snapshot
from fiefdom.converge.waves import leaders
from fiefdom.desired.state import Container, File, HostState, Image
from fiefdom.errors import FiefdomError
from helpers.example import context

BARE = Snapshot(0, "debian", "trixie", docker="up")
SERVING = replace(BARE, containers={"old": FoundContainer(True, "sha256:1", "s", "instance", "1", True, "f")})
CONF = File("/etc/x.conf", b"x\n")

RULES = File("/etc/fiefdom/firewall.nft", b"rules\n")
CLUSTER = context().cluster


def of_role(role: str) -> HostState:
    container = Container(role, f"{role}.service", role, "team/web:7", ())
    return HostState(files=(CONF,), images=(Image("team/web:7"),), containers=(container,))


APP, GATEWAY = of_role("instance"), of_role("gateway")


@dataclass
class FakeHosts:
    """Records what it is asked for; the phase at ``fails`` goes wrong."""

    fails: tuple[str, str] | None = None
    log: list[str] = field(default_factory=list)
    together: list[list[str]] = field(default_factory=list)

    def snapshot_lines(self, _queries: Mapping[str, str]) -> dict[str, list[str]]:
        raise AssertionError("a plan is carried out as it is, without another look")

    def on_all(self, function: Callable[[str], object], names: Iterable[str] | None = None) -> Mapping[str, object]:
        self.together.append(list(names or ()))
        errors, results = [], {}
        for name in self.together[-1]:
            try:
                results[name] = function(name)
            except FiefdomError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return results

    def run(self, name: str, phase: steps.Phase) -> None:
        self.log.append(f"{name} {phase.name}")
        if (name, phase.name) == self.fails:
            raise FiefdomError(f"{name}: out of luck")


def plan_of(**hosts: tuple[HostState, Snapshot]) -> plan.Plan:
    return plan.merge(plan.of_host(name, state, now, {}) for name, (state, now) in hosts.items())


def carry_out(wanted: plan.Plan, hosts: FakeHosts) -> list[str]:
    said: list[str] = []
    try:
        carry_out_module.carry_out(wanted, hosts, CLUSTER, lambda who, what: said.append(f"{who} {what}"))
    finally:
        assert [line for line in said if not line.endswith((" done", " not finished"))] == hosts.log
    return hosts.log


def test_hosts_that_serve_take_turns_in_the_inventorys_order_gateways_first() -> None:
    """None begins before the one ahead of it is through with everything."""
    wanted = plan_of(
        zeta=(APP, SERVING), gw2=(GATEWAY, SERVING), alpha=(APP, SERVING), gw1=(GATEWAY, SERVING), mid=(APP, SERVING)
    )
    hosts = FakeHosts()
    log = carry_out(wanted, hosts)
    assert hosts.together[0] == ["zeta", "gw2", "alpha", "gw1", "mid"]
    assert not any(hosts.together[1:])
    assert [line for line in log if line.endswith(" containers")] == [
        f"{name} containers" for name in ("gw2", "gw1", "zeta", "alpha", "mid")
    ]


def test_a_turn_begins_when_the_host_before_serves_again_and_the_lock_is_still_this_runs() -> None:
    hosts = FakeHosts()
    carry_out_module.carry_out(
        plan_of(app1=(APP, SERVING), gw1=(GATEWAY, SERVING), app2=(APP, SERVING)),
        hosts,
        CLUSTER,
        lambda who, what: hosts.log.append(f"{who} through") if what == carry_out_module.DONE else None,
        gate=lambda name: hosts.log.append(f"{name} serves"),
        beat=lambda: hosts.log.append("held"),
    )
    turns = hosts.log[hosts.log.index("held") :]
    assert turns == [
        *("held", "gw1 containers", "gw1 through"),
        *("held", "app1 containers", "app1 through"),
        *("app1 serves", "held", "app2 containers", "app2 through"),
    ]


def test_who_is_to_run_a_service_comes_before_who_was() -> None:
    log = carry_out(plan_of(app1=(HostState(), SERVING), app2=(APP, SERVING)), FakeHosts())
    assert [line for line in log if line.endswith(" containers")] == ["app2 containers", "app1 containers"]


def test_hosts_that_serve_nothing_yet_go_side_by_side() -> None:
    hosts = FakeHosts()
    carry_out(plan_of(app1=(APP, BARE), gw1=(GATEWAY, BARE), app2=(APP, BARE)), hosts)
    assert hosts.together == [["app1", "gw1", "app2"], ["gw1"], ["app1", "app2"]]


def test_calm_hosts_do_not_wait_for_those_that_take_turns() -> None:
    hosts = FakeHosts()
    log = carry_out(plan_of(app1=(APP, SERVING), app2=(APP, BARE)), hosts)
    assert [name for group in hosts.together[1:] for name in group] == ["app2"]
    assert log.index("app2 containers") < log.index("app1 containers")


def test_every_host_has_its_files_and_images_before_the_first_container_changes() -> None:
    log = carry_out(plan_of(app1=(APP, SERVING), gw1=(GATEWAY, BARE)), FakeHosts())
    first = next(i for i, line in enumerate(log) if line.endswith(" containers"))
    assert sorted(log[:first]) == ["app1 files", "app1 images", "gw1 files", "gw1 images"]


def test_an_error_before_any_turn_leaves_all_containers_alone() -> None:
    hosts = FakeHosts(fails=("app2", "files"))
    with pytest.raises(FiefdomError, match=r"^app2: out of luck$"):
        carry_out(plan_of(app1=(APP, SERVING), app2=(APP, SERVING)), hosts)
    assert "app2 images" not in hosts.log
    assert not any(line.endswith(" containers") for line in hosts.log)


def test_the_first_error_ends_the_turns() -> None:
    hosts = FakeHosts(fails=("app1", "containers"))
    with pytest.raises(FiefdomError, match=r"^app1: out of luck$"):
        carry_out(plan_of(gw1=(GATEWAY, SERVING), app1=(APP, SERVING), app2=(APP, SERVING)), hosts)
    assert [line for line in hosts.log if line.endswith(("containers", "removal"))][-1] == "app1 containers"
    assert "app2 containers" not in hosts.log


def test_who_is_kept_from_the_end_by_the_error_of_another_one_is_named() -> None:
    said: list[tuple[str, str]] = []
    hosts = FakeHosts(fails=("app1", "containers"))
    wanted = plan_of(gw1=(GATEWAY, SERVING), app1=(APP, SERVING), app2=(APP, SERVING), app3=(HostState(), BARE))
    with pytest.raises(FiefdomError):
        carry_out_module.carry_out(wanted, hosts, CLUSTER, lambda who, what: said.append((who, what)))
    assert [who for who, what in said if what == carry_out_module.LEFT] == ["app2"]
    assert said[-1][0] == "app2"


def test_a_gateway_that_fails_keeps_app_hosts_from_changing() -> None:
    hosts = FakeHosts(fails=("gw1", "containers"))
    with pytest.raises(FiefdomError, match=r"^gw1: "):
        carry_out(plan_of(app1=(APP, BARE), gw1=(GATEWAY, BARE)), hosts)
    assert "app1 containers" not in hosts.log


def test_what_a_container_is_made_from_waits_for_its_hosts_turn() -> None:
    """Files that serve are placed with the restarts; the others before anyone's turn."""
    serving = File("/etc/fiefdom/containers/web", b"y\n", serves=True)
    state = replace(APP, files=(CONF, serving))
    placed = {
        p.name: [s[1] for s in p.steps if s[0] == "place"] for p in steps.phases(plan_of(a=(state, BARE)).hosts[0])
    }
    assert (placed["files"], placed["containers"]) == ([CONF.path], [serving.path])


@pytest.mark.parametrize(("free_kib", "enough"), [(None, True), (2 * 1024, True), (1000, False)])
def test_a_host_without_room_is_refused_before_any_host_changes(free_kib: int | None, enough: bool) -> None:
    wanted, hosts = plan_of(app1=(APP, BARE), app2=(APP, replace(BARE, free_kib=free_kib))), FakeHosts()
    if enough:
        assert carry_out(wanted, hosts)
    else:
        with pytest.raises(FiefdomError, match=r"^app2: /var/lib has 0 MiB free of about 1 "):
            carry_out(wanted, hosts)
        assert hosts.log == []


def test_a_plan_without_changes_touches_no_host() -> None:
    assert carry_out(plan_of(app1=(HostState(), BARE)), FakeHosts()) == []


def test_what_only_a_rollout_does_is_left_to_it() -> None:
    container = APP.containers[0]
    release = Change("container", "-/+", container.name, "1 -> 2", container, release="web")
    due = Change("file", "+", CONF.path, "mode 0644", CONF)
    made = replace(SERVING, made=claims.made(APP))
    hosts = FakeHosts()
    carry_out(plan.merge([plan.HostPlan("app1", (due, release), APP, made)]), hosts)
    assert hosts.log == ["app1 files"]
    assert carry_out(plan.merge([plan.HostPlan("app1", (release,), APP, made)]), FakeHosts()) == []


ACCESS = HostState(files=(RULES,))


def test_what_could_lock_out_goes_to_the_first_host_of_each_group_alone() -> None:
    wanted = plan_of(**dict.fromkeys(("gw1", "gw2", "app1", "app2"), (ACCESS + APP, BARE)))
    hosts = FakeHosts()
    log = carry_out(wanted, hosts)
    # app2 is the first of web_hosts, which app1 is not in.
    assert log[:3] == ["gw1 access", "app1 access", "app2 access"]
    assert log.index("gw2 access") > log.index("app2 access")
    assert log.index("gw1 files") > log.index("app2 access")


def test_a_host_with_another_kind_of_change_goes_alone_as_well() -> None:
    """That sshd takes its new configuration says nothing of the firewall's rules."""
    sshd = HostState(files=(File("/etc/ssh/sshd_config.d/10-fiefdom.conf", b"x"),))
    hosts = {"gw1": (sshd, BARE), "gw2": (sshd + ACCESS, BARE), "app1": (APP, BARE)}
    assert leaders(plan_of(**hosts), CLUSTER) == ("gw1", "gw2")
    assert leaders(plan_of(**{**hosts, "gw2": (sshd, BARE)}), CLUSTER) == ("gw1",)


def test_a_first_host_that_takes_it_back_keeps_all_others_from_changing() -> None:
    hosts = FakeHosts(fails=("gw1", "access"))
    with pytest.raises(FiefdomError, match=r"^gw1: out of luck$"):
        carry_out(plan_of(gw1=(ACCESS + GATEWAY, BARE), gw2=(ACCESS, BARE), app1=(ACCESS, BARE)), hosts)
    assert hosts.log == ["gw1 access"]
