"""The deployer's half of commit-confirm: what it keeps, when it confirms, and what it says of what was taken back."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from fiefdom.converge import guard, plan, steps
from fiefdom.converge.change import Change, Sign
from fiefdom.converge.snapshot import FoundFile, Snapshot
from fiefdom.desired import firewall, network, sshd
from fiefdom.desired.concerns import CUTTING
from fiefdom.desired.state import Container, Directory, File, HostState, Sysctl, Unit
from fiefdom.errors import FiefdomError
from helpers.clock import Clock, stopped

SSHD = File("/etc/ssh/sshd_config.d/10-fiefdom.conf", b"Port 22\n", check=("/usr/sbin/sshd", "-t", "-f", "{}"))
RULES = File("/etc/fiefdom/firewall.nft", b"rules\n")
LINK = File("/etc/systemd/network/10-fiefdom.network", b"[Match]\nName=eth7\n")
CALM = File("/etc/docker/daemon.json", b"{}\n")
STATE = HostState(
    files=(SSHD, RULES, LINK, CALM),
    sysctls=(Sysctl("net.ipv4.ip_forward", "1"),),
    units=(
        Unit("systemd-networkd.service", config=(LINK.path,)),
        Unit("fiefdom-firewall.service", config=(RULES.path,), on_change=("reload",)),
        Unit("docker.service", config=(CALM.path,)),
        Unit("ssh.service", config=(SSHD.path,), on_change=("reload",)),
    ),
    containers=(Container("web-1", "web@1.service", "instance", "web:1", ()),),
)
BARE = Snapshot(0, "debian", "trixie")
KEYS = "/etc/ssh/fiefdom_authorized_keys"
KEPT = guard.Backup("abc", "sshd", 60, ())
ARMED = ["done\tguard\tarm", "done\tguard\tapplied"]


@dataclass
class FakeLine:
    """A host whose logins go as ``logins`` says and whose answers are ``answers``, the last of each for ever."""

    logins: Sequence[str | None] = (None,)
    answers: Sequence[tuple[guard.Answer, str]] = (("confirmed", ""),)
    asked: Sequence[tuple[guard.Answer, str]] = (("waiting", ""),)
    heard: Sequence[str] = tuple(ARMED)
    became: guard.Answer = "reverted"
    """What it says after the way back was asked for."""
    reaches: bool = True
    returns: Sequence[str | None] = (None,)
    tried: str | None = None
    name: str = "app1"
    where: str = "10.1.0.21:22"
    log: list[str] = field(default_factory=list)
    took: Sequence[guard.Step] = ()

    def trial(self, config: str) -> str | None:
        self.log.append(f"trial of {config!r}")
        return self.tried

    def take(self, steps: Sequence[guard.Step], last: str) -> list[str]:
        self.took = steps
        self.log.append(f"take until {last.rsplit(maxsplit=1)[-1]}")
        return list(self.heard)

    def _next(self, what: str, values: Sequence[object]) -> object:
        done = sum(line == what for line in self.log)
        self.log.append(what)
        return values[min(done, len(values) - 1)]

    def login(self) -> str | None:
        return self._next("login", self.logins)  # type: ignore[return-value]

    def confirm(self, attempt: str) -> tuple[guard.Answer, str]:
        return self._next(f"confirm {attempt}", self.answers)  # type: ignore[return-value]

    def ask(self, attempt: str) -> tuple[guard.Answer, str]:
        if "revert" in self.log:
            self.log.append(f"ask {attempt}")
            return self.became, ""
        return self._next(f"ask {attempt}", self.asked)  # type: ignore[return-value]

    def revert(self) -> bool:
        self.log.append("revert")
        return self.reaches

    def back(self) -> str | None:
        return self._next("back", self.returns)  # type: ignore[return-value]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch)


def perform(line: FakeLine, kept: guard.Backup = KEPT) -> None:
    guard.perform(line, (), kept)


def test_a_change_is_confirmed_by_a_new_login_and_nothing_else(clock: Clock) -> None:
    line = FakeLine()
    perform(line)
    assert line.log == ["take until arm", "login", "confirm abc"]


def test_an_sshd_that_this_client_cannot_talk_to_is_not_let_live(clock: Clock) -> None:
    steps = (("stage", SSHD.path, "0600", "0", "0", base64.b64encode(SSHD.content).decode()),)
    line = FakeLine(tried="no algorithm in common")
    with pytest.raises(
        FiefdomError, match=r"^app1: nothing was changed, .*keep this client out: no algorithm in common$"
    ):
        guard.perform(line, steps, KEPT)
    assert line.log == ["trial of 'Port 22\\n'"]
    tried = FakeLine()
    guard.perform(tried, steps, KEPT)
    assert tried.log[:2] == ["trial of 'Port 22\\n'", "take until arm"]
    assert (line.took, tried.took) == ((), steps)


def test_a_login_that_fails_for_a_moment_is_tried_again(clock: Clock) -> None:
    """sshd refuses connections while it reloads."""
    line = FakeLine(logins=["Could not connect (refused)", "SSH error (banner)", None])
    perform(line)
    assert line.log.count("login") == 3
    assert "revert" not in line.log


def test_steps_that_are_still_under_way_are_waited_for(clock: Clock) -> None:
    line = FakeLine(answers=[("applying", ""), ("applying", ""), ("confirmed", "")])
    perform(line)
    assert line.log.count("confirm abc") == 3


def test_no_login_within_half_the_time_has_the_host_take_it_back(clock: Clock) -> None:
    line = FakeLine(logins=["Could not connect (timed out)"])
    says = "app1: the change of sshd was taken back: a new login to 10.1.0.21:22 failed: Could not connect (timed out)"
    with pytest.raises(FiefdomError, match=f"^{re.escape(says)}$"):
        perform(line)
    assert 30 <= clock.passed_s < 31
    assert line.log[-3:] == ["revert", "ask abc", "back"]


@pytest.mark.parametrize("reaches", [True, False])
def test_a_change_that_was_confirmed_while_its_word_was_lost_is_no_failure(clock: Clock, reaches: bool) -> None:
    perform(FakeLine(answers=[("applying", "")], became="confirmed", reaches=reaches))


@pytest.mark.parametrize(
    ("became", "says"),
    [
        ("unknown", "the host says no word of what became of the change of sshd: see with `fiefdom plan`"),
        ("waiting", "the host is not as before yet: it goes on taking back the change of sshd"),
    ],
)
def test_nothing_is_said_to_be_taken_back_that_the_host_does_not_say_is(
    clock: Clock, became: guard.Answer, says: str
) -> None:
    with pytest.raises(FiefdomError, match=re.escape(says)) as raised:
        perform(FakeLine(logins=["no route"], became=became))
    assert "was taken back" not in str(raised.value)


@pytest.mark.parametrize("reason", ["Authentication error (username=ann)", "root is out of reach: sudo: a password"])
def test_a_login_that_is_refused_is_not_tried_until_the_address_is_locked_out(clock: Clock, reason: str) -> None:
    line = FakeLine(logins=[reason])
    with pytest.raises(FiefdomError, match="taken back"):
        perform(line)
    assert line.log.count("login") == guard.LOGINS


def test_where_the_old_connection_is_dead_the_host_is_waited_for(clock: Clock) -> None:
    line = FakeLine(logins=["Could not connect (timed out)"], reaches=False, returns=["no route"] * 70 + [None])
    with pytest.raises(FiefdomError, match="was taken back"):
        perform(line)
    assert line.log.count("back") == 71


def test_a_host_that_never_answers_again_is_said_to(clock: Clock) -> None:
    line = FakeLine(logins=["Could not connect (timed out)"], reaches=False, returns=["no route"])
    with pytest.raises(FiefdomError, match=r"does not answer as before either.*: no route$"):
        perform(line)
    assert clock.passed_s == pytest.approx(KEPT.confirm_s + guard.BACK_S, abs=1)


def test_a_login_that_something_else_keeps_out_is_said_to_be_that(clock: Clock) -> None:
    """A file of the operator's own that sshd had not read before, for one."""
    line = FakeLine(logins=["Authentication error (ann)"], returns=["Authentication error (ann)"])
    with pytest.raises(FiefdomError, match=r"taken back: .*; a login as before fails as well \(Authentication error"):
        perform(line)


def test_what_the_host_took_back_meanwhile_is_told_with_its_reason(clock: Clock) -> None:
    line = FakeLine(answers=[("reverted", "the host rebooted before it was confirmed")])
    with pytest.raises(FiefdomError, match=r"sshd was taken back: the host rebooted before it was confirmed$"):
        perform(line)


def test_a_host_that_took_it_back_before_any_login_worked_is_not_waited_for(clock: Clock) -> None:
    """One that rebooted is back where it was, while the run still tries where it should be."""
    line = FakeLine(logins=["no route"], asked=[("unknown", ""), ("reverted", "the host rebooted")])
    with pytest.raises(FiefdomError, match=r"sshd was taken back: the host rebooted$"):
        perform(line)
    assert clock.passed_s < 2


@pytest.mark.parametrize(
    ("reverted", "says"),
    [
        ([], r"^app1: /etc/x: refused by sshd: line 3$"),
        (["fiefdom-reverted\tapp1"], r"^app1: the change of sshd was taken back: /etc/x: refused by sshd: line 3$"),
    ],
)
def test_a_step_that_fails_needs_no_login(clock: Clock, reverted: list[str], says: str) -> None:
    line = FakeLine(heard=["fiefdom-failed\t/etc/x\trefused by sshd: line 3", *reverted])
    with pytest.raises(FiefdomError, match=says):
        perform(line)
    assert line.log == ["take until arm"]


FULL_DISK = ("done\tguard\tarm", "fiefdom-failed\t/etc/x\tcannot be put into place: no space")


@pytest.mark.parametrize("asked", [("applying", ""), ("unknown", "")])
def test_a_step_that_fails_and_cannot_be_taken_back_is_no_harmless_failure(
    clock: Clock, asked: tuple[guard.Answer, str]
) -> None:
    line = FakeLine(heard=FULL_DISK, asked=[asked])
    words = (
        r"^app1: /etc/x: cannot be put into place: no space; and the host is not as before yet: .* change of sshd, so"
    )
    with pytest.raises(FiefdomError, match=words):
        perform(line)
    assert line.log == ["take until arm", "back", "ask abc"]


def test_a_way_back_that_was_only_not_heard_of_is_asked_for(clock: Clock) -> None:
    line = FakeLine(heard=FULL_DISK, returns=["no route", None], asked=[("reverted", "a step failed")])
    with pytest.raises(
        FiefdomError, match=r"^app1: the change of sshd was taken back: /etc/x: cannot be put into place"
    ):
        perform(line)
    assert line.log.count("back") == 2


def test_a_host_that_no_longer_answers_after_a_step_failed_is_said_to(clock: Clock) -> None:
    line = FakeLine(heard=FULL_DISK, returns=["no route"])
    with pytest.raises(FiefdomError, match=r"no space; and it does not answer as before either.*: no route$"):
        perform(line)
    assert clock.passed_s == pytest.approx(KEPT.confirm_s + guard.BACK_S, abs=1)


def access() -> steps.Phase:
    phases = {p.name: p for p in steps.phases(plan.of_host("app1", STATE, BARE, {}), confirm_s=45)}
    assert not {s[1] for s in phases["files"].steps if s[0] == "place"} & {SSHD.path, RULES.path, LINK.path}
    return phases["access"]


def test_all_is_checked_before_anything_is_kept_and_kept_before_anything_is_live() -> None:
    steps = access().steps
    verbs = [" ".join(step[:2]) if step[0] == "guard" else step[0] for step in steps]
    live = {"place", "sysctl", "unit", "remove-file", "remove-unit", "daemon-reload"}
    begin, arm, applied = (verbs.index(f"guard {what}") for what in ("begin", "arm", "applied"))
    assert verbs.index("check") < begin
    assert not live & set(verbs[:arm])
    assert live & set(verbs[arm:applied])
    assert not live & set(verbs[applied:])
    assert steps[arm][3] == "45"


def test_all_that_changes_is_kept() -> None:
    kept = access().guarded
    assert kept is not None
    places = {s[1] for s in access().steps if s[0] == "place"}
    assert {("file", path) for path in places} <= set(kept.items)
    assert [step[2:] for step in access().steps if step[:2] == ("guard", "keep")] == list(kept.items)
    assert ("link", "eth7") in kept.items
    assert ("sysctl", "/proc/sys/net/ipv4/ip_forward") in kept.items
    assert kept.about == "network, firewall, sshd"


def test_originals_come_and_go_with_the_change_that_is_taken_back() -> None:
    """One that is kept for it is not there before; one that it gives back is to be kept again."""
    theirs = FoundFile("regular file", 0o644, 0, 0, "their digest")
    (arrives,) = _guarded(HostState(files=(RULES,)), replace(BARE, files={RULES.path: theirs}))
    ours = replace(BARE, made=frozenset({("file", RULES.path)}), originals={RULES.path: False})
    (leaves,) = _guarded(HostState(), replace(ours, units_before=frozenset({"x.service"})))
    kept = ("file", f"/var/lib/fiefdom/originals{RULES.path}")
    assert kept in arrives and kept in leaves
    assert ("file", "/var/lib/fiefdom/originals.units") in leaves


def _guarded(state: HostState, found: Snapshot) -> list[tuple[tuple[str, str], ...]]:
    phases = steps.phases(plan.of_host("app1", state, found, {}))
    return [phase.guarded.items for phase in phases if phase.name == "access" and phase.guarded]


def test_what_the_host_has_noted_of_it_is_kept_as_well() -> None:
    """Its manifest would name what is gone again; a unit as before would look as if it ran what was taken back."""
    kept = access().guarded
    assert kept is not None
    units = ("systemd-networkd.service", "fiefdom-firewall.service", "ssh.service")
    noted = [name for kind, name in kept.items if kind == "file" and name.startswith("/var/lib/fiefdom/")]
    assert noted == ["/var/lib/fiefdom/manifest", *(f"/var/lib/fiefdom/stamps/{unit}" for unit in units)]


def test_the_unit_of_an_address_that_goes_is_kept_for_the_way_back() -> None:
    """Nothing of it changes: without its file, it gives the interface up, and it must take it again."""
    gone = replace(BARE, made=frozenset({("file", LINK.path)}))
    unit = network.NETWORKD_UNIT
    kept = guard.backup(plan.of_host("app1", HostState(), gone, {}), 60)
    assert kept.items == (
        ("file", LINK.path),
        ("file", "/var/lib/fiefdom/manifest"),
        ("file", f"/var/lib/fiefdom/stamps/{unit}"),
        ("unit", unit),
    )
    other = replace(BARE, made=frozenset({("file", RULES.path)}))
    assert ("unit", unit) not in guard.backup(plan.of_host("app1", HostState(), other, {}), 60).items


def test_folders_that_a_change_may_make_are_kept_as_what_is_not_there() -> None:
    """The host's manifest of before it does not name them, so nobody would ever remove them."""
    deep = File(f"{KEYS}/ann", b"key\n")
    assert kept_directories(BARE, deep) == [KEYS, "/etc/fiefdom"]


def test_a_folder_whose_mode_changes_is_kept() -> None:
    assert kept_directories(replace(BARE, files={KEYS: FoundFile("directory", 0o777, 0, 0)})) == [KEYS, "/etc/fiefdom"]


def kept_directories(found: Snapshot, *files: File) -> list[str]:
    state = HostState(files=(RULES, *files), directories=(Directory(KEYS),))
    (phase,) = (p for p in steps.phases(plan.of_host("app1", state, found, {})) if p.name == "access")
    assert phase.guarded is not None
    return [name for kind, name in phase.guarded.items if kind == "directory"]


def test_units_come_back_in_the_order_that_lets_the_operator_in() -> None:
    kept = access().guarded
    assert kept is not None
    assert [name for kind, name in kept.items if kind == "unit"] == [
        "systemd-networkd.service",
        "fiefdom-firewall.service",
        "ssh.service",
    ]


def test_an_interface_is_left_alone_where_no_address_changes() -> None:
    state = HostState(files=(SSHD,), units=(Unit("ssh.service", config=(SSHD.path,)),))
    (phase,) = (p for p in steps.phases(plan.of_host("app1", state, BARE, {})) if p.name == "access")
    assert phase.guarded is not None
    assert not [name for kind, name in phase.guarded.items if kind == "link"]


def test_a_file_of_the_line_that_is_no_longer_wanted_goes_in_the_guarded_phase() -> None:
    """Keys that go can lock out as well as keys that come."""
    keys = "/etc/ssh/fiefdom_authorized_keys/ann"
    now = Snapshot(0, "debian", "trixie", made=frozenset({("file", keys)}))
    phases = {p.name: p for p in steps.phases(plan.of_host("app1", HostState(), now, {}))}
    assert ("remove-file", keys) in phases["access"].steps
    assert "removal" not in phases


def test_systemd_forgets_a_unit_of_the_line_that_goes_before_it_may_be_confirmed() -> None:
    now = replace(BARE, made=frozenset({("file", firewall.SERVICE)}))
    (phase,) = steps.phases(plan.of_host("app1", HostState(), now, {}))
    verbs = [step for step in phase.steps if step[0] in ("remove-file", "daemon-reload") or step[1:] == ("applied",)]
    assert verbs == [("remove-file", firewall.SERVICE), ("daemon-reload",), ("guard", "applied")]


@pytest.mark.parametrize(
    ("kind", "sign", "name", "topic"),
    [
        ("file", "~", "/etc/systemd/network/10-fiefdom.network", "network"),
        ("sysctl", "~", "vm.swappiness", "network"),
        ("unit", "-", "fiefdom-firewall.service", "firewall"),
        ("file", "-", "/etc/fiefdom/firewall-base.nft", "firewall"),
        ("directory", "~", "/etc/systemd/system/nftables.service.d", "firewall"),
        ("directory", "-", "/etc/systemd/system/nftables.service.d", ""),  # nothing is in it any more
        ("file", "-", "/etc/ssh/sshd_config.d/05-of-an-older-fiefdom.conf", "sshd"),
        ("directory", "~", "/etc/ssh", "sshd"),
        ("unit", "+", "fiefdom-sshd-keys.service", "sshd"),
        ("directory", "+", "/etc/fiefdom", ""),
        ("block", "~", "/etc/hosts", ""),
        ("block", "-", "/etc/ssh/sshd_config", "sshd"),
        ("unit", "~", "ssh@8000.service", ""),
        ("container", "-", "ssh.service", ""),
    ],
)
def test_a_change_is_of_the_concern_that_says_so(kind: str, sign: Sign, name: str, topic: str) -> None:
    """Also one that takes away what no concern makes any more, of which there is only a name."""
    change = Change(kind, sign, name, "")
    assert (guard.topic(change), guard.cuts_line(change)) == (topic, bool(topic))


def test_the_hosts_half_takes_back_at_boot_before_any_unit_of_the_line_comes_up() -> None:
    found = re.search(r"^Before=(.*)$", guard.SCRIPT, re.MULTILINE)
    assert found is not None
    units = {unit for cutting in CUTTING.values() for unit in cutting.units}
    # It makes a key that the former sshd does not ask for.
    assert units - set(found[1].split()) == {sshd.KEYS_UNIT}


@pytest.mark.parametrize(
    "special", [f'"$1" = {network.NETWORKD_UNIT} ]', f"{firewall.UNIT}) systemctl reload-or-restart"]
)
def test_the_hosts_half_knows_units_by_the_names_that_are_kept(special: str) -> None:
    assert special in guard.SCRIPT
