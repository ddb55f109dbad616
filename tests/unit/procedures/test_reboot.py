"""Reboots and retirements on simulated hosts: what is refused, in which order hosts go, and what is left of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fiefdom.cluster import audit, ledger
from fiefdom.converge.snapshot import FoundFile
from fiefdom.desired.sshd import CONFIG, UNIT_DROP_IN
from fiefdom.errors import FiefdomError
from fiefdom.procedures import reboot as reboot_module
from fiefdom.procedures import retire as retire_module
from fiefdom.procedures.retire import _STAYS
from helpers.clock import stopped
from helpers.released import Said, known
from helpers.simulated import BROKEN_OFF, SimulatedHosts, Trouble, broken_off, converged, dying


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(known(), tmp_path)


class Rebooting:
    """Answers of a host's shell: another boot id once it was told to reboot and asked to be connected anew."""

    journal = ""

    def __init__(self, hosts: SimulatedHosts, stuck: str = "") -> None:
        self.hosts, self.stuck, self.boots = hosts, stuck, dict.fromkeys(hosts.names, 0)
        self.script_of_ledger = hosts.script
        hosts.script = self.script  # type: ignore[method-assign]
        hosts.connect_anew = self.connect_anew  # type: ignore[attr-defined]

    def script(self, name: str, text: str, *arguments: Any, **more: Any) -> tuple[bool, str, str]:
        if text.startswith("date"):
            return True, "1700000000\n", ""
        if "journalctl" in text:
            assert arguments == (("1700000000", "fiefdom-offer-predictor.service", "fiefdom-serf-agent.service"),)
            return True, self.journal, ""
        if "boot_id" in text:
            return True, f"boot {self.boots[name]}\n", ""
        if "reboot" in text:
            self.hosts.log.append(f"{name} reboot")
            self.boots[name] += name != self.stuck
            host = self.hosts.hosts[name]
            host.containers("start", *(c.unit for c in host.state.containers), *(o.unit for o in host.state.offers))
            self.hosts._gossip(name)
            raise broken_off(name, "the host went down while it answered")
        return self.script_of_ledger(name, text, *arguments, **more)

    def connect_anew(self, _name: str) -> str | None:
        return None


def reboot(hosts: SimulatedHosts, *names: str, said: Said | None = None, **options: Any) -> None:
    tell = said if said is not None else []
    asked = {"upgrade": False, "force": False, "take_over": False} | options
    reboot_module.reboot(hosts.known, hosts, names, say=lambda *words: tell.append(words), **asked)


def test_hosts_reboot_one_after_the_other_under_the_lock(hosts: SimulatedHosts) -> None:
    Rebooting(hosts)
    said: Said = []
    reboot(hosts, "app2", "app1", said=said)
    assert [line for line in hosts.log if line.endswith("reboot")] == ["app2 reboot", "app1 reboot"]
    assert said == [(name, what) for name in ("app2", "app1") for what in ("reboot", "join", "done")]
    (act,) = audit.acts(ledger.read(hosts, ("gw1", "gw2")).entries)
    assert (act.what, act.outcome, act.hosts) == ("reboot", "ok", ("app2", "app1"))


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_host_whose_stand_ins_died_meanwhile_is_left_alone(hosts: SimulatedHosts, upgrade: bool) -> None:
    Rebooting(hosts)

    def tell(who: str, what: str) -> None:
        if (who, what) == ("app2", "done"):
            dying(hosts, "app2", "app3", "app4")

    with pytest.raises(FiefdomError, match=r"^app1: gw1 has predictor up nowhere else; it was left alone"):
        reboot_module.reboot(
            hosts.known, hosts, ["app2", "app1"], upgrade=upgrade, force=False, take_over=False, say=tell
        )
    assert [line for line in hosts.log if line.endswith((" turn", " reboot"))] == [
        *["app2 turn"] * upgrade,
        "app2 reboot",
    ]


def test_what_a_reboots_drain_went_on_without_is_told(hosts: SimulatedHosts) -> None:
    Rebooting(hosts).journal = 'going on after 60 s: of 2 gateways 1 say "drained": \x1b[31m\n'
    said: Said = []
    reboot(hosts, "app1", said=said)
    note = 'going on after 60 s: of 2 gateways 1 say "drained": \\x1b[31m'
    assert said == [("app1", what) for what in ("reboot", "join", note, "done")]


def test_a_gateway_reboots_only_while_another_one_answers(hosts: SimulatedHosts) -> None:
    Rebooting(hosts)

    def tell(who: str, what: str) -> None:
        if (who, what) == ("app1", "done"):
            hosts.views["gw1"] = "gone"

    with pytest.raises(FiefdomError, match=r"^gw2: no other gateway answers"):
        reboot_module.reboot(hosts.known, hosts, ["app1", "gw2"], upgrade=False, force=False, take_over=False, say=tell)


def test_a_host_that_does_not_come_back_ends_it(hosts: SimulatedHosts) -> None:
    Rebooting(hosts, stuck="app1")
    with pytest.raises(
        FiefdomError, match=r"^app1: not back 600 s after its reboot: .*the other hosts were left alone$"
    ):
        reboot(hosts, "app1", "app2")
    assert "app2 reboot" not in hosts.log
    assert ledger.read(hosts, ("gw1", "gw2")).locks == ()


def test_an_upgrade_waits_until_the_host_has_left(hosts: SimulatedHosts) -> None:
    Rebooting(hosts)
    reboot(hosts, "app1", upgrade=True)
    steps = hosts.hosts["app1"].log
    assert steps[-4:] == [
        ("say", "drain"),
        ("containers", "stop", "fiefdom-serf-agent.service"),
        ("say", "upgrade"),
        ("upgrade", "fiefdom-serf-agent.service"),
    ]


@pytest.mark.parametrize("kind", ["fail", "killed"])
def test_an_upgrade_that_fails_brings_the_host_back_in_and_reboots_nothing(hosts: SimulatedHosts, kind: str) -> None:
    Rebooting(hosts)
    hosts.trouble["app1"] = Trouble(kind, 3)
    with pytest.raises(FiefdomError, match=r"^app1: "):
        reboot(hosts, "app1", "app2", upgrade=True)
    assert not any(line.endswith("reboot") for line in hosts.log)
    assert "app1" in hosts.tags


def test_a_degraded_cluster_or_the_only_host_of_a_service_is_refused(hosts: SimulatedHosts) -> None:
    Rebooting(hosts)
    hosts.hosts["app3"].containers("stop", "fiefdom-predictor@8001.service")
    with pytest.raises(FiefdomError, match="the cluster is degraded: predictor at app3:8001 is stopped"):
        reboot(hosts, "app1")
    assert not any(line.endswith(("reboot", "take")) for line in hosts.log)


def retire(hosts: SimulatedHosts, name: str, **options: Any) -> None:
    asked = {"force": False, "take_over": False} | options
    retire_module.retire(hosts.known, hosts, name, say=lambda *_: None, **asked)


def test_a_retired_host_keeps_what_lets_its_operator_in_and_nothing_else(hosts: SimulatedHosts) -> None:
    retire(hosts, "app2")
    left = hosts.hosts["app2"].now
    assert left.containers == {}
    assert all(path.startswith(_STAYS) for path, f in left.files.items() if f.kind != "directory")
    assert any(path.startswith("/etc/ssh/") for path in left.files)
    steps = [step[:3] for step in hosts.hosts["app2"].log]
    drained = steps.index(("containers", "stop", "fiefdom-serf-agent.service"))
    assert all(steps.index(step) > drained for step in steps if step[0].startswith("remove-"))
    assert steps[-1] == ("erase",)
    assert "app2" not in hosts.tags


def test_a_retired_host_gets_back_what_it_held_before_but_for_the_operators_way_in(hosts: SimulatedHosts) -> None:
    host = hosts.hosts["app2"]
    theirs = FoundFile("regular file", 0o640, 0, 4, "their digest")
    for path in ("/etc/docker/daemon.json", "/etc/hosts", CONFIG):
        host.originals[path] = theirs, b"theirs"
        host.now = replace(host.now, made=host.now.made | {("file", path)})
    by_hand = {"/etc/docker/daemon.json": True, "/etc/hosts": False, CONFIG: False}
    host.now = replace(host.now, originals=by_hand, units_before=frozenset({"docker.service", "ssh.service"}))
    said: list[str] = []
    retire_module.retire(
        hosts.known, hosts, "app2", force=False, take_over=False, say=lambda _, words: said.append(words)
    )
    assert host.now.files["/etc/docker/daemon.json"] == host.now.files["/etc/hosts"] == theirs
    assert host.now.files[CONFIG] != theirs
    assert [line for line in said if "before" in line] == [
        "/etc/docker/daemon.json: what was there before Fiefdom comes back; it was changed by hand since, which is "
        "kept in /var/lib/fiefdom/originals.changed",
        f"{CONFIG} stays as it is, for it lets you in; what was there before is /var/lib/fiefdom/originals{CONFIG}",
    ]
    assert {("reload", "docker.service"), ("unit-back", "docker.service")} <= set(host.log)
    assert ("unit-back", "ssh.service") not in host.log


def test_a_retirement_that_is_only_shown_tells_why_it_all_goes_and_what_stays(hosts: SimulatedHosts) -> None:
    host = hosts.hosts["app2"]
    made = host.now.made | {("directory", "/etc/docker"), ("file", "/etc/docker/daemon.json")}
    host.now = replace(host.now, made=made, units_before=frozenset({"docker.service", "ssh.service"}))
    gone, told = retire_module.foresee(hosts.known, hosts, "app2", force=False)
    why = {(change.kind, change.name): change.why for change in gone.changes}
    assert all(words.startswith("the host is to be retired") for words in why.values())
    folder = "the host is to be retired; stays if others have something in it"
    assert why["directory", "/etc/docker"] == folder
    assert why["file", "/etc/docker/daemon.json"] == "the host is to be retired"
    assert told == [
        "Fiefdom's files for your way in, addresses, names and time stay: /etc/ssh/fiefdom_authorized_keys/root, "
        f"{CONFIG}, /etc/systemd/timesyncd.conf.d/10-fiefdom.conf",
        "Debian's packages stay, Docker among them, and so do all images",
        "kernel settings stay as they are until the next boot",
        "on or off at boot as before Fiefdom: docker.service; what runs of it goes on",
    ]


def test_what_stays_at_its_original_is_told_once(hosts: SimulatedHosts) -> None:
    host = hosts.hosts["app2"]
    host.now = replace(host.now, originals={CONFIG: False})
    _, told = retire_module.foresee(hosts.known, hosts, "app2", force=False)
    assert [line for line in told if CONFIG in line] == [
        f"{CONFIG} stays as it is, for it lets you in; what was there before is /var/lib/fiefdom/originals{CONFIG}"
    ]


def test_a_retired_host_still_waits_at_boot_for_the_address_that_its_sshd_listens_at(tmp_path: Path) -> None:
    listens = {"address": "10.1.0.31", "groups": ["app_hosts"], "ssh": {"listen": ["10.1.0.31"]}}
    hosts = converged(known(hosts={"app2": listens}), tmp_path)
    retire(hosts, "app2")
    assert {UNIT_DROP_IN, CONFIG} <= set(hosts.hosts["app2"].now.files)


def test_a_farewell_that_breaks_off_says_to_run_it_again(hosts: SimulatedHosts) -> None:
    hosts.trouble["app2"] = Trouble("killed", 4)
    with pytest.raises(FiefdomError, match=r"^app2: .*run it again$"):
        retire(hosts, "app2")


def test_a_host_that_is_not_there_is_refused(hosts: SimulatedHosts) -> None:
    with pytest.raises(FiefdomError, match=r"^'app9' is no host of this inventory; it has gw1, gw2, app1, "):
        retire(hosts, "app9")


def test_a_host_is_not_retired_while_the_others_do_not_serve(hosts: SimulatedHosts) -> None:
    """The inventory says that others run the service; the gateways say whether they do."""
    dying(hosts, "app1", "app3", "app4")
    with pytest.raises(FiefdomError, match=r"^app2: gw1 has predictor up nowhere else; mend the others first"):
        retire(hosts, "app2")
    assert "app2 turn" not in hosts.log and ledger.read(hosts, ("gw1", "gw2")).locks == ()
    awaited = [hosts.log.index(f"{name} awaited") for name in hosts.names]
    assert max(awaited) > hosts.log.index("gw2 ledger take")
    retire(hosts, "app2", force=True)
    assert "app2" not in hosts.tags


def test_a_retirement_is_in_the_audit_with_its_plan(hosts: SimulatedHosts) -> None:
    retire(hosts, "app2")
    (act,) = audit.acts(ledger.read(hosts, ("gw1", "gw2")).entries)
    assert (act.what, act.outcome, act.hosts) == ("retire", "ok", ("app2",))
    assert len(act.plan) == 12


@pytest.mark.parametrize("view", ["dockerd hangs", BROKEN_OFF])
def test_a_gateway_that_does_not_answer_has_not_forgotten_a_host(hosts: SimulatedHosts, view: Any) -> None:
    follow = hosts.follow

    def falls_silent(name: str, steps: Any, hear: Any) -> None:
        follow(name, steps, hear)
        hosts.views["gw2"] = view

    hosts.follow = falls_silent  # type: ignore[method-assign]
    with pytest.raises(FiefdomError, match=r"^app2: is out of service, but gw2 may still list it"):
        retire(hosts, "app2")
