"""The account of containers: made before what belongs to it, refused where it is somebody else's, given to in turn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fiefdom.converge import plan, snapshot, steps, turn_steps
from fiefdom.converge.snapshot import FoundFile, FoundUnit, Snapshot
from fiefdom.desired.account import ENTRY, UID, with_account
from fiefdom.desired.state import Container, Directory, File, HostState, Image
from fiefdom.errors import FiefdomError
from helpers.simulated import SimulatedHost, answer

FORMER = 990
STATE_DIR = "/var/lib/fiefdom/serf"
KEY = File("/etc/fiefdom/serf/agent.json", b"{}\n", 0o400, UID, UID, secret=True, serves=True)
IMAGE = "fiefdom/serf:1"


def of_role(role: str, user: int = UID) -> HostState:
    """What a host with a container of this role should hold, where its user is this one."""
    name = "gateway" if role == "gateway" else "serf-agent"
    container = Container(name, f"{name}.service", role, IMAGE, (f"--user={user}:{user}",), version="1")  # type: ignore[arg-type]
    state = HostState(
        directories=(Directory("/etc/fiefdom"), Directory(STATE_DIR, 0o700, user, user, serves=True)),
        files=(File("/etc/x.conf", b"x\n"), replace(KEY, uid=user, gid=user)),
        images=(Image(IMAGE),),
        containers=(container,),
    )
    return state if user == FORMER else with_account(state)


AGENT = of_role("agent")


def bare() -> Snapshot:
    return Snapshot(0, "debian", "trixie", docker="up")


def converged(state: HostState, now: Snapshot | None = None) -> Snapshot:
    host = SimulatedHost(state, {}, now or bare())
    for phase in steps.phases(plan.of_host("app1", state, host.now, {})):
        host.take(phase)
    return host.now


def changes(now: Snapshot, state: HostState = AGENT) -> list[str]:
    return [f"{c.sign} {c.kind} {c.name}: {c.why}" for c in plan.of_host("app1", state, now, {}).changes]


def taken(now: Snapshot, state: HostState = AGENT) -> dict[str, list[tuple[str, ...]]]:
    return {p.name: list(p.steps) for p in steps.phases(plan.of_host("app1", state, now, {}))}


def test_it_is_there_before_what_belongs_to_it() -> None:
    own = [s for s in taken(bare())["files"] if s[0] != "record"]
    assert own[0][:2] == ("stage", ENTRY)
    assert own[1] == ("check", ENTRY, "systemd-sysusers", "--dry-run", "{}")
    assert own[2:4] == [("place", ENTRY), ("account", "_fiefdom", str(UID), ENTRY)]
    assert [s[:2] for s in own[4:]] == [
        *(("directory", path) for path in ("/etc/fiefdom", "/etc/sysusers.d", STATE_DIR)),
        ("stage", "/etc/x.conf"),
        ("place", "/etc/x.conf"),
    ]
    kinds = [c.kind for c in plan.of_host("app1", AGENT, bare(), {}).changes]
    assert kinds.index("account") < kinds.index("directory") < kinds.index("file")
    assert changes(converged(AGENT)) == []


def test_an_account_that_somebody_removed_is_drift_and_comes_back() -> None:
    now = converged(AGENT)
    now.users.clear()
    now.groups.clear()
    assert changes(now) == [f"+ account _fiefdom: uid and gid {UID}"]
    assert taken(now) == {"files": [("account", "_fiefdom", str(UID), ENTRY)]}
    now = converged(AGENT)
    now.groups.clear()
    assert changes(now) == ["+ account _fiefdom: its group is missing"]
    assert changes(converged(AGENT, now)) == []


@pytest.mark.parametrize(
    ("users", "groups", "made", "words"),
    [
        ({"sshd": (UID, 65534)}, {}, False, f"uid {UID} is the user sshd's"),
        ({}, {"staff": UID}, False, f"gid {UID} is the group staff's"),
        ({"_fiefdom": (1001, 1001)}, {"_fiefdom": 1001}, False, "a user _fiefdom .* uid 1001 and gid 1001.*--login"),
        ({"_fiefdom": (UID, 100)}, {}, False, f"a user _fiefdom is there with uid {UID} and gid 100"),
        ({}, {"_fiefdom": 1001}, False, "a group _fiefdom is there with gid 1001.*groupmod --new-name"),
        (
            {"_fiefdom": (999, UID)},
            {"_fiefdom": UID},
            True,
            f"a user _fiefdom .* uid 999 .*usermod --uid {UID} --gid {UID} ",
        ),
        ({"_fiefdom": (UID, UID), "toor": (UID, 0)}, {"_fiefdom": UID}, False, f"uid {UID} is the user toor's"),
    ],
)
def test_what_is_somebody_elses_is_refused(
    users: dict[str, tuple[int, int]], groups: dict[str, int], made: bool, words: str
) -> None:
    now = replace(bare(), users=users, groups=groups, made=frozenset({("account", "_fiefdom")} if made else ()))
    with pytest.raises(FiefdomError, match=f"^app1: {words}") as error:
        plan.of_host("app1", AGENT, now, {})
    assert "\n" not in str(error.value)
    # A host that has no such containers may have it as it likes.
    assert plan.of_host("app1", HostState(), now, {})


def test_one_that_was_there_before_is_not_fiefdoms_to_remove() -> None:
    theirs = converged(AGENT, replace(bare(), users={"_fiefdom": (UID, UID)}, groups={"_fiefdom": UID}))
    ours = converged(AGENT)
    gone = "- account _fiefdom: no longer in the inventory"
    assert (gone in changes(theirs, HostState()), gone in changes(ours, HostState())) == (False, True)
    removal = taken(ours, HostState())["removal"]
    assert removal.index(("remove-file", ENTRY)) < removal.index(("remove-account", "_fiefdom"))
    assert ("forget", "account", "_fiefdom") in removal
    farewell = turn_steps.farewell(plan.of_host("app1", HostState(), ours, {}), ("/etc/ssh/",))
    assert farewell.index(("remove-container", "serf-agent")) < farewell.index(("remove-account", "_fiefdom"))


def test_who_has_name_and_number_is_asked_and_told() -> None:
    assert "account\t_fiefdom\t65530\n" in snapshot.query([AGENT])
    lines = [
        "uid\t0",
        "user\t_fiefdom\t65530\t65530",
        "group\t_fiefdom\t65530",
        "group\tstaff\tmany",
        "user\tx\t1",
        "end",
    ]
    found = snapshot.parse("app1", [*lines, f"user\tx\t{'1' * 5000}\t1"])
    assert (found.users, found.groups) == ({"_fiefdom": (UID, UID)}, {"_fiefdom": UID})
    now = converged(AGENT)
    assert snapshot.parse("app1", answer(now)).users == now.users


# --- From one number to another


def of_old(role: str) -> Snapshot:
    """A converged host of the time when containers were 990."""
    before = of_role(role, FORMER)
    now = converged(before)
    (container,) = before.containers
    now.units[container.unit] = FoundUnit("loaded", "active", "running", "enabled")
    return now


@pytest.mark.parametrize(
    ("role", "unit", "verb"), [("agent", "serf-agent", "restart"), ("gateway", "gateway", "reload")]
)
def test_files_change_their_owner_in_the_hosts_own_turn(role: str, unit: str, verb: str) -> None:
    """Both containers read and write them meanwhile, and in the end the new one alone."""
    found = taken(of_old(role), of_role(role))
    assert not [s for s in found["files"] if STATE_DIR in s or KEY.path in s[:2]]
    turn = [s for s in found["containers"] if s[0] not in ("stage", "rest") and s[1] != "stop"]
    new, old = str(UID), str(FORMER)
    assert turn == [
        ("lend", STATE_DIR, old, new),
        ("lend", KEY.path, old, new),
        ("place", KEY.path),
        ("containers", verb, f"{unit}.service"),
        ("own", STATE_DIR, "0700", new, new),
        ("own", KEY.path, "0400", new, new),
    ]
    assert changes(converged(of_role(role), of_old(role)), of_role(role)) == []


def test_one_that_died_half_way_goes_on_and_shuts_nobody_out() -> None:
    now = of_old("agent")
    now.files[STATE_DIR] = FoundFile("directory", 0o770, FORMER, UID)
    now.files[KEY.path] = replace(now.files[KEY.path], mode=0o440, uid=FORMER, gid=UID)
    assert f"~ directory {STATE_DIR}: mode 0770 -> 0700, owner {FORMER}:{UID} -> {UID}:{UID}" in changes(now)
    lent = [s for s in taken(now)["containers"] if s[0] == "lend"]
    assert lent == [("lend", path, str(FORMER), str(UID)) for path in (STATE_DIR, KEY.path)]


def test_a_folder_that_somebody_gave_away_is_given_back_with_all_in_it() -> None:
    now = converged(AGENT)
    now.units["serf-agent.service"] = FoundUnit("loaded", "active", "running", "enabled")
    now.files[STATE_DIR] = FoundFile("directory", 0o700, 0, 0)
    assert changes(now) == [f"~ directory {STATE_DIR}: owner 0:0 -> {UID}:{UID}"]
    assert taken(now)["containers"][-1] == ("own", STATE_DIR, "0700", str(UID), str(UID))


def test_while_dockerd_is_down_what_runs_keeps_its_files() -> None:
    now = replace(of_old("agent"), docker="down", containers={})
    now.units["docker.service"] = FoundUnit("loaded", "inactive", "dead", "enabled")
    assert not [c for c in changes(now) if STATE_DIR in c or KEY.path in c]
